"""How a task waits for another: by one callback on its end, and one undo.

Who waits, owns; who looks, takes itself off.
"""

from __future__ import annotations

from typing import Any

from dari._kernel.outcome import Error

__all__ = ["check_home", "join"]


def check_home(target: Any, kernel: Any) -> None:
    """Refuse a task whose scheduler lives elsewhere: it ends on that thread, in the middle of that one's work."""
    if target.kernel is not kernel and target.kernel.driver.home() != kernel.driver.home():
        raise RuntimeError(
            f"{target!r} belongs to a scheduler in another event loop or thread: wait for it there, or start it by"
            " create_task_threadsafe and wait for the future that this gives"
        )


def join(target: Any, task: Any, *, owns: bool) -> None:
    """Make `task` wait for the end of `target`."""
    if target is task:
        task.fail(RuntimeError(f"{target!r} waits for itself: that would never end"))
        return
    check_home(target, task.kernel)
    if target._outcome is not None:
        target.kernel.observed(target)
        outcome = target._seen_from_outside()
        if isinstance(outcome, Error):
            task.fail_with(outcome)
        else:
            task.resume(outcome.value)
        return
    wait = task.block(target, _cancel_it if owns else _look_away)
    if target._on_end is None:
        target._on_end = [wait.ended]
    else:
        target._on_end.append(wait.ended)


def _cancel_it(wait: Any) -> bool:
    wait.what.kernel.cancel_awaited(wait.what)
    return False


def _look_away(wait: Any) -> bool:
    target = wait.what
    if target._on_end is None:
        return False  # it has ended, and is telling so: another one heard of it first, and cancelled this one
    target._on_end.remove(wait.ended)
    return True
