"""For which task of ours does a coroutine of the host run? So that circles through coroutines are seen, too.

A coroutine that runs for a task of ours (it was given as one, or yielded by one) is no task of the kernel, but a link
between two: that task waits for the coroutine, and the coroutine for the one whose *face* it awaits. A circle is
refused at the `await` that would close it, as at a `yield`. What still leaks: a wait that the host puts into a task of
its own (`asyncio.gather(task)`, `asyncio.shield(task)`) is not followed.

Nothing is written down for that: such a coroutine runs inside one of ours (`runs_for`), and that has the operation by
which it is waited for in its frame. (A table of weak references cost each yielded coroutine 0.9 us of 12.)
"""

from __future__ import annotations

from types import CodeType, CoroutineType
from typing import TYPE_CHECKING, Any

from dari._kernel.waiting import cycle, deadlock

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from dari._kernel.task import Task

__all__ = ["runs_for", "waiter_in"]

_runners: set[CodeType] = set()


def runs_for(runner: Callable[[Any], Coroutine[Any, Any, Any]]) -> None:
    """`runner(operation)` is what a task of the host runs. `operation.wait` is the wait of our task that it ends."""
    _runners.add(runner.__code__)


def waiter_in(coroutine: object, task: Task[Any]) -> Task[Any] | None:
    """The task of ours that waits for `coroutine` of a task of the host, which is about to await `task`.

    Refuses what would never end.
    """
    if type(coroutine) is not CoroutineType or coroutine.cr_code not in _runners:
        return None
    frame = coroutine.cr_frame
    assert frame is not None  # it has not ended: its host task runs
    wait = frame.f_locals["operation"].wait
    waiter: Task[Any] | None = None if wait is None else wait.task
    if waiter is task:
        raise RuntimeError(f"{task!r} waits for itself: that would never end")
    if waiter is not None and (circle := cycle(waiter, task)):
        raise deadlock(circle)
    return waiter
