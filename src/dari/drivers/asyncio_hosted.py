"""What tasks of ours wait for of the host's: futures, coroutines, other awaitables.

**Coroutines are tasks of the host.** What is yielded or given as a coroutine runs as an asyncio task under a kernel
handle, so that all of asyncio, anyio, aiohttp works in it. They are started between advances, never inside one.

**Two turns, not three.** A callback of the host's task comes a turn of the loop after its end, and the slice that it
asks for one more turn later. So the coroutine runs inside one of ours, which tells the waiter as its last act: the
slice comes in the turn after the end (12.5 -> 11.1 us in uvloop: benchmarks/guest.py), and a thousand coroutines that
end in one turn still ask for one slice. That is the short way, for what went well; errors, cancels, and what ends
before its first step go by the callback, which gives asyncio's own account of how the task ended. What is seen of it:
a stack of the host's task begins with a frame of ours.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar, final

from dari._kernel.contract import Operation
from dari._kernel.outcome import Error, Value
from dari.drivers.guests import context_in
from dari.drivers.links import HostAwaitable, runs_for
from dari.exceptions import TaskCancelledError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Coroutine, Generator

    from dari._kernel.outcome import Outcome
    from dari._kernel.task import TaskWait

__all__ = ["AsyncioAwaitable", "AsyncioFuture", "step_as_host_task"]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


@final
class AsyncioFuture(Operation[T_co]):
    """Waits for an asyncio future. Who waits, owns: cancelling the waiter cancels it, and awaits its end."""

    may_be_dropped = True

    __slots__ = ("_future",)

    def __init__(self, future: asyncio.Future[T_co]) -> None:
        self._future = future

    def __repr__(self) -> str:
        return repr(self._future)

    def begin(self, task: Any) -> None:
        future = self._future
        loop = task.kernel.driver.loop
        if future.get_loop() is not loop:
            raise RuntimeError(f"{future!r} belongs to another event loop than the one this scheduler is a guest of")
        if getattr(future, "_asyncio_future_blocking", False):
            future._asyncio_future_blocking = False
            raise RuntimeError(
                f"{future!r} came from inside of foreign code: yield the coroutine itself, or dari.host(coroutine)"
            )

        def undo(_: object) -> bool:
            future.cancel()
            return False

        wait = task.block(self, undo)
        future.add_done_callback(lambda future: _settle(wait, future), context=task.kernel.driver.context)


@final
class AsyncioAwaitable(HostAwaitable[T_co]):
    """Runs an awaitable as a task of the host, and waits for it."""

    __slots__ = ("_asked", "_host_task", "_starting")

    def __init__(self, awaitable: Awaitable[T_co]) -> None:
        super().__init__(awaitable)
        self._host_task: asyncio.Task[T_co] | None = None
        self._starting = self._asked = False

    def begin(self, task: Any) -> None:
        self.wait = task.block(self, self._undo)
        task.kernel.driver.start_later(self._start)

    def _undo(self, _: object) -> bool:
        if self._starting:  # an eager task factory: its first step runs, before the task is known here
            self._asked = True
            return False
        if self._host_task is None:
            self.wait = None
            self.dropped()
            return True
        self._host_task.cancel()
        return False

    def _start(self) -> None:
        wait = self.wait
        if wait is None:  # it was cancelled in the turn in which it began
            return
        guest = wait.task.kernel.driver
        coroutine: Any = _run(self)
        known: Any = self.awaitable if hasattr(self.awaitable, "__qualname__") else type(self.awaitable)
        coroutine.__name__, coroutine.__qualname__ = known.__name__, known.__qualname__
        self._starting = True
        try:
            host_task = guest.loop.create_task(coroutine, context=context_in(guest, wait.task._context))
        except Exception as error:  # noqa: BLE001 - of a task factory: the task that waits gets it
            coroutine.close()
            self.dropped()
            self._wake(Error(error))
            return
        finally:
            self._starting = False
        self._host_task = host_task
        if self._asked:
            host_task.cancel()
        host_task.add_done_callback(self._host_task_ended, context=guest.context)

    def went_well(self, outcome: Value[T_co]) -> None:
        """The coroutine is about to end with `outcome`. If its task may still end otherwise, leave it to that."""
        host_task = self._host_task
        if host_task is not None and not host_task.cancelling():
            host_task.remove_done_callback(self._host_task_ended)
            self._wake(outcome)

    def _host_task_ended(self, host_task: asyncio.Task[T_co]) -> None:
        self.dropped()  # if its task ended before the first step, nobody has begun it
        self._host_task = None
        wait, self.wait = self.wait, None
        if wait is not None:
            _settle(wait, host_task)

    def _wake(self, outcome: Outcome[T_co]) -> None:
        wait, self.wait = self.wait, None
        if wait is not None:
            wait.wake(outcome)


async def _run(operation: AsyncioAwaitable[T]) -> T:
    """What the host's task runs."""
    value = await operation.awaitable
    operation.went_well(Value(value))
    return value


runs_for(_run)


def _settle(wait: TaskWait, future: asyncio.Future[Any]) -> None:
    error = None if future.cancelled() else future.exception()
    if future.cancelled() or isinstance(error, asyncio.CancelledError):  # a cancelled `gather` has it as its error
        if not wait.asked and wait.task.kernel.driver.is_ending():
            wait.task.cancel("its event loop is ending")
        wait.wake_cancelled(TaskCancelledError(f"{future!r} was cancelled"))
        return
    if error is None:
        wait.wake(Value(future.result()))
        return
    traceback = error.__traceback__
    if traceback is not None and traceback.tb_frame.f_code is _run.__code__:
        error.__traceback__ = traceback.tb_next  # users see their code only
    wait.wake(Error(error))


def step_as_host_task(coroutine: Coroutine[Any, Any, T]) -> Generator[Any, Any, T]:
    return (yield AsyncioAwaitable(coroutine))  # type: ignore[no-any-return] # a `yield` has no type
