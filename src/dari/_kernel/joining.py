"""How a task waits for another: by one callback on its end, and one undo. Who waits, owns; who looks, takes itself off.

A wait that would close a circle of waiters would never end, so it is refused at the `yield` that would close it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dari._kernel.outcome import Error
from dari._kernel.waiting import cycle
from dari.exceptions import DeadlockError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["join"]


def join(target: Any, task: Any, *, owns: bool) -> None:
    """Make `task` wait for the end of `target`."""
    if target is task:
        task.fail(RuntimeError(f"{target!r} waits for itself: that would never end"))
        return
    if target._outcome is not None:
        target.kernel.observed(target)
        outcome = target._seen_from_outside()
        if isinstance(outcome, Error):
            task.fail_with(outcome)
        else:
            task.resume(outcome.value)
        return
    if target._wait is not None and (circle := cycle(task, target)):
        names = " waits for ".join(repr(member.name) for member in (task, *circle))
        task.fail(DeadlockError(f"this would never end: {names}"))
        return

    def undo(wait: Any) -> bool:
        if owns:
            target.kernel.cancel_awaited(target)
            return False
        if target._on_end is None:
            return False  # it has ended, and is telling so: another one heard of it first, and cancelled this one
        target._on_end.remove(ended)
        return True

    def ended(target: Any) -> None:
        if target.cancelled():
            wait.wake_cancelled(target._cancelled_error())
        else:
            wait.wake(target._outcome)

    wait = task.block(target, undo)
    listeners: list[Callable[[Any], object]] = target._on_end or []
    listeners.append(ended)
    target._on_end = listeners
