"""What tasks of ours wait for of trio: coroutines and other awaitables, run as tasks in the nursery of a guest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, final

import trio

from dari._kernel.outcome import Error, Value
from dari.drivers.guests import context_in
from dari.drivers.links import HostAwaitable, runs_for
from dari.exceptions import TaskCancelledError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Generator

    from dari._kernel.outcome import Outcome

__all__ = ["TrioAwaitable", "step_as_host_task"]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


@final
class TrioAwaitable(HostAwaitable[T_co]):
    """Runs an awaitable as a task of trio, and waits for it."""

    __slots__ = ("scope",)

    def __init__(self, awaitable: Awaitable[T_co]) -> None:
        super().__init__(awaitable)
        self.scope = trio.CancelScope()

    def begin(self, task: Any) -> None:
        guest = task.kernel.driver
        self.wait = task.block(self, self._undo)
        context_in(guest, task._context).run(guest.nursery.start_soon, _run, self)

    def _undo(self, _: object) -> bool:
        self.scope.cancel()
        return False

    def ended(self, outcome: Outcome[T_co] | None) -> None:
        """The coroutine has; None: it was cancelled."""
        wait, self.wait = self.wait, None
        assert wait is not None
        if outcome is None:
            wait.wake_cancelled(TaskCancelledError(f"{self.awaitable!r} was cancelled"))
        else:
            wait.wake(outcome)


async def _run(operation: TrioAwaitable[Any]) -> None:
    """What the host's task runs."""
    outcome: Outcome[Any] | None = None
    try:
        with operation.scope:
            outcome = Value(await operation.awaitable)
    except trio.Cancelled:  # of all that trio runs
        operation.ended(None)
        raise
    except BaseException as error:  # noqa: BLE001 - the task that waits gets it
        outcome = Error(error)
    operation.ended(outcome)


runs_for(_run)


def step_as_host_task(coroutine: Awaitable[T]) -> Generator[Any, Any, T]:
    return (yield TrioAwaitable(coroutine))  # type: ignore[no-any-return] # a `yield` has no type
