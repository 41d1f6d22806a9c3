"""What tasks of trio await of a task of ours: its face, which wakes them when the task has really ended.

Who waits, owns: a scope of trio that is cancelled around the `await` asks the task to end, and the `await` ends when it
has: as cancelled, if it was. If it gave a result all the same, its waiter gets that, and meets the cancel at its next
checkpoint: trio's cancel is a state and is not lost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, final

from trio import lowlevel

from dari._kernel.outcome import Error, Outcome
from dari.drivers.links import waiter_in

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from dari._kernel.task import Task

__all__ = ["Face", "await_task"]

T = TypeVar("T")


def await_task(task: Task[T]) -> Generator[Any, Any, T]:
    """`await task` in a task of trio."""
    return _await_task(task).__await__()


async def _await_task(task: Task[T]) -> T:
    if task.done():
        await lowlevel.checkpoint()
        return task.result()
    current = lowlevel.current_task()
    face = Face(task, current, waiter_in(current.coro, task))
    await lowlevel.wait_task_rescheduled(face.abort)
    try:
        if face.raise_cancel is not None and task.cancelled():
            face.raise_cancel()
        assert face.outcome is not None
        value: T = face.outcome.unwrap()
        return value
    finally:
        del face, task  # this frame is in the traceback of the error that they hold


@final
class Face:
    """One wait of one task of trio."""

    __slots__ = ("_trio_task", "_waiter", "outcome", "raise_cancel", "task")

    def __init__(self, task: Task[Any], trio_task: lowlevel.Task, waiter: Task[Any] | None) -> None:
        self.task = task
        self.outcome: Outcome[Any] | None = None
        self.raise_cancel: Callable[[], Any] | None = None  # the wait was cancelled
        self._trio_task = trio_task
        self._waiter = waiter
        if waiter is not None and waiter._wait is not None:
            waiter._wait.what.face = self  # type: ignore[attr-defined] # see `links`
        if task._on_end is None:
            task._on_end = []
        task._on_end.append(self._ended)

    def done(self) -> bool:
        return self.outcome is not None

    def abort(self, raise_cancel: Callable[[], Any]) -> lowlevel.Abort:
        if self.task.kernel.driver.mailbox.closed:
            return lowlevel.Abort.SUCCEEDED  # nobody drives it any more
        self.raise_cancel = raise_cancel
        self.task.cancel("cancelled by who waited for it")
        return lowlevel.Abort.FAILED  # its real end is awaited

    def _ended(self, task: Task[Any]) -> None:
        outcome = task._seen_from_outside()
        self._settle(outcome)

    def refuse(self, error: BaseException) -> None:
        self._settle(Error(error))

    def _settle(self, outcome: Outcome[Any]) -> None:
        """Wake who waits, unless it was refused before: the wait would have closed a circle."""
        if self.outcome is None:
            self.outcome = outcome
            lowlevel.reschedule(self._trio_task)
