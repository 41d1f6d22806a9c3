"""A task as other threads see it: a `concurrent.futures.Future`.

What the standard's own future lacks is added: `cancel` asks a task that runs to end, and the future ends when the task
has really ended; and who would wait for it on a thread that must not block is told what to do instead.
"""

from __future__ import annotations

from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar, final

from dari._kernel.outcome import Value
from dari.drivers.blocking import refuse_to_block
from dari.exceptions import SchedulerClosed

if TYPE_CHECKING:
    from collections.abc import Callable

    from dari._kernel.task import Task

__all__ = ["TaskFuture"]

T = TypeVar("T")


@final
class TaskFuture(Future[T]):
    """`post(function)` lets it be called on the scheduler's thread, where the task is made and cancelled."""

    def __init__(self, post: Callable[[Callable[[], object]], object]) -> None:
        super().__init__()
        self._post = post
        self._task: Task[T] | None = None

    def start(self, create: Callable[[], Task[T]]) -> None:
        """On the scheduler's thread: make the task; what keeps it from being made is the result."""
        try:
            self._task = create()
        except BaseException as error:  # noqa: BLE001 - who asked for the task gets it, on whatever thread
            self.set_exception(error)
        else:
            if self._task._on_end is None:
                self._task._on_end = []
            self._task._on_end.append(self._ended)

    def _ended(self, task: Task[T]) -> None:
        outcome = task._outcome
        assert outcome is not None
        if task.cancelled():
            super().cancel()
            self.set_running_or_notify_cancel()  # tells `concurrent.futures.wait` and `as_completed`
        elif isinstance(outcome, Value):
            self.set_result(outcome.value)
        else:
            self.set_exception(outcome.error)

    def cancel(self) -> bool:
        """Ask the task to end. False if it has ended already. Wait for the future to know that it has."""
        if self.done():
            return self.cancelled()
        try:
            self._post(self._cancel)
        except SchedulerClosed:
            return False
        return True

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel("cancelled from another thread")

    def running(self) -> bool:
        return self._task is not None and not self.done()

    def result(self, timeout: float | None = None) -> T:
        """As the standard's; BlockingCallError where that would block a scheduler or an event loop."""
        self._may_wait(timeout)
        return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """As the standard's; BlockingCallError where that would block a scheduler or an event loop."""
        self._may_wait(timeout)
        return super().exception(timeout)

    def _may_wait(self, timeout: float | None) -> None:
        if timeout != 0 and not self.done():
            refuse_to_block(
                f"the result of {self._name()} is not there yet",
                task="yield the future",
                loop="await asyncio.wrap_future(future)",
            )

    def _name(self) -> Any:
        return "a task that was posted" if self._task is None else self._task.label
