"""Async context managers held by generator tasks: `connection = yield dari.enter(pool.acquire())`.

A generator has no `async with`. So a *holder* has it in the task's stead: a coroutine of the host's, which enters the
context manager, gives the task its value, and waits until the task's code has ended. Then it leaves, by the task's own
error if there is one, so that a transaction is rolled back. The task has ended when its holders have, the last one
first; that is the sure exit.

The holder stands under a shield of its own: whoever cancels everything does not take a resource from a task that is
still cleaning up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar, final

from dari._kernel.contract import Operation
from dari._kernel.outcome import Error, Value
from dari._kernel.scope import CancelScope
from dari.exceptions import Cancelled, TaskCancelledError
from dari.sync.event import Event

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable
    from contextlib import AbstractAsyncContextManager

    from dari._kernel.outcome import Outcome
    from dari._kernel.task import Task, TaskWait

__all__ = ["enter"]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


def enter(manager: AbstractAsyncContextManager[T, Any]) -> Operation[T]:
    """Enter an async context manager, and give what it gives; it is left when the task's code has ended.

    `connection = yield from dari.enter(pool.acquire())`. Left in the reverse order, before the task counts as ended; by
    the task's error, if it failed; by a cancel, if it was cancelled. An error of the exit becomes the task's. A manager
    that ends before (a timeout, a task group whose child failed) cancels the task, and its error becomes the task's.
    What it suppresses ends there: the task's own error stays what it is. Cancelling the wait cancels the entering.
    """
    if not hasattr(type(manager), "__aenter__"):
        way = "use `with`" if hasattr(type(manager), "__enter__") else "it has no __aenter__"
        raise TypeError(f"enter takes an async context manager, not {manager!r}: {way}")
    return _Enter(manager)


@final
class _Enter(Operation[T_co]):
    __slots__ = ("_manager",)

    def __init__(self, manager: AbstractAsyncContextManager[T_co, Any]) -> None:
        self._manager = manager

    def __repr__(self) -> str:
        return f"enter({self._manager!r})"

    def begin(self, task: Any) -> None:
        _Holding(task, self._manager).begin(repr(self))

    def _outside(self) -> Generator[Any, Any, T_co]:
        raise RuntimeError(f"{self!r} is for generator tasks: in a coroutine, `async with` does it")


@final
class _Holding(Generic[T]):
    """One context manager that one task holds, and the holder that has it."""

    def __init__(self, task: Task[Any], manager: AbstractAsyncContextManager[T, Any]) -> None:
        self._waiter = task  # who waits for the holder: see `_kernel.waiting`
        self._manager = manager
        self._scope = CancelScope(shield=True)  # of the holder
        self._holder: Task[None] | None = None
        self._wait: TaskWait | None = None  # the task's, for the entering and then for the exit
        self._given = False  # the task has got what the manager gave
        self._released = Event()
        self._error: Exception | None = None  # by which the manager is left
        self._outcome: Outcome[Any] | None = None  # of the task's code, which has ended
        self._then: Callable[[Outcome[Any]], None] | None = None

    def __repr__(self) -> str:
        return f"{'enter' if not self._given else 'exit' if self._then else 'use'} of {self._manager!r}"

    def waits_for(self) -> Iterable[Task[Any]]:
        return () if self._holder is None else (self._holder,)

    def begin(self, name: str) -> None:
        task = self._waiter
        # In the context of the task, as all that it starts.
        self._holder = task._context.run(task.kernel.create_task, self._hold, (), None, name, None, self._holder_ended)
        self._wait = task.block(self, self._undo)

    def release(self, outcome: Outcome[Any], then: Callable[[Outcome[Any]], None]) -> None:
        """The code of the task has ended: leave, and then call `then` with how the task ends."""
        self._outcome, self._then = outcome, then
        assert self._holder is not None
        if self._holder.done():
            self._left()
            return
        self._wait = self._waiter.block(self, self._undo)
        if isinstance(outcome, Value):
            self._released.set()
        elif isinstance(outcome.error, Exception):
            self._error = outcome.error
            self._released.set()
        else:
            self._scope.cancel("the task that had entered it was cancelled")

    def _undo(self, _: object) -> bool:
        self._scope.cancel("the task that entered it was cancelled")
        return False

    def _hold(self) -> Generator[Any, Any, None]:
        """The holder: a task of ours, which runs the coroutine wherever coroutines run here."""
        with self._scope:
            yield from self._waiter.kernel.driver.steps_of(self._have())

    async def _have(self) -> None:
        async with self._manager as value:
            assert self._wait is not None
            if self._wait.asked:
                return  # the task was cancelled, and the manager let itself be entered all the same
            self._given = True
            rare = self._waiter._rarely()
            rare.held = [*(rare.held or ()), self]
            self._wait.wake(Value(value))
            await self._released.wait()
            if self._error is not None:
                raise self._error

    def _holder_ended(self, holder: Task[None]) -> None:
        outcome = holder._outcome
        assert outcome is not None
        if self._then is not None:
            self._left()
        elif self._given:
            self._waiter.cancel(f"{self._manager!r}, which it had entered, has ended")
        elif isinstance(outcome, Error):
            assert self._wait is not None
            self._wait.ended(holder)
        else:
            assert self._wait is not None
            self._wait.wake_done()  # it was cancelled

    def _left(self) -> None:
        """The holder has ended: so does the task, by its own outcome, or by what went wrong here."""
        assert self._holder is not None
        assert self._outcome is not None
        assert self._then is not None
        outcome, left = self._outcome, self._holder._outcome
        self._waiter._wait = None
        if isinstance(left, Error) and not isinstance(left.error, (Cancelled, TaskCancelledError)):
            outcome = left  # the task's own error, if it was let through
        self._then(outcome)
