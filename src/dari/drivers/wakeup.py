"""Waiting for what ends in another thread, from every world, by one rule: who waits, owns.

A `Remote` (a pool's job, a `concurrent.futures.Future`) says when it has ended, on any thread; this is how the news
reaches a generator task (through its driver's mailbox), a coroutine of asyncio or trio (`asyncio_wait`, `trio_wait`,
loaded where those run), or fails with a name to use instead. Cancelling the waiter asks the remote thing to end, and
waits until it has.
"""

from __future__ import annotations

import sys
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar, cast, final

from dari._kernel.contract import Operation
from dari._kernel.outcome import Error, Value
from dari._kernel.world import world
from dari.drivers.ending import Ending
from dari.drivers.hosts import asyncio_loop, in_trio, running_loop
from dari.exceptions import SchedulerClosed, TaskCancelledError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from concurrent.futures import Future

    from dari._kernel.outcome import Outcome
    from dari._kernel.task import TaskWait

__all__ = ["ConcurrentFuture", "Remote", "remote_of", "way_home"]

T_co = TypeVar("T_co", covariant=True)


class Remote(Ending[T_co], Operation[T_co]):
    """Something that ends in another thread."""

    __slots__ = ()

    may_be_dropped = True

    def begin(self, task: Any) -> None:
        """`yield it` in a generator task."""
        if self.ended():
            outcome = self.outcome()
            if outcome is None:
                task.fail(self.cancelled_error())
            elif isinstance(outcome, Error):
                task.fail_with(outcome)
            else:
                task.resume(outcome.value)
            return

        def undo(_: object) -> bool:
            self.request_end()
            return False  # its real end is awaited

        def settle() -> None:
            task.kernel.outside -= 1
            outcome = self.outcome()
            if outcome is None:
                wait.wake_cancelled(self.cancelled_error())
            else:
                wait.wake(outcome)

        def ended() -> None:
            try:
                task.kernel.driver.post(settle)
            except SchedulerClosed:
                pass  # the scheduler ended before; the task can hear nothing any more

        wait: TaskWait = task.block(self, undo)
        task.kernel.outside += 1
        self.call_when_ended(ended)

    def only_look(self) -> Operation[T_co]:
        """What `dari.shield` waits with: cancelling the waiter ends the wait, and nothing else."""
        return Onlooker(self)

    def _outside(self) -> Generator[Any, Any, T_co]:
        """`await it` in a coroutine that dari does not step."""
        if in_trio():
            from dari.drivers.trio_wait import wait_for_remote_in_trio

            return wait_for_remote_in_trio(self)
        loop = asyncio_loop()
        if loop is not None:
            return _wait_in_asyncio()(self, loop)
        return super()._outside()


@cache  # an import statement costs 0.6 µs each time, of the 16 that an `await` of a job takes
def _wait_in_asyncio() -> Callable[[Remote[Any], Any], Generator[Any, Any, Any]]:
    from dari.drivers.asyncio_wait import wait_for_remote

    return wait_for_remote


@final
class Onlooker(Operation[T_co]):
    """Waits for something remote without owning it. Each wait is a look of its own."""

    __slots__ = ("_remote",)

    def __init__(self, remote: Remote[T_co]) -> None:
        self._remote = remote

    def __repr__(self) -> str:
        return f"shield({self._remote!r})"

    def begin(self, task: Any) -> None:
        _Look(self._remote).begin(task)

    def _outside(self) -> Generator[Any, Any, T_co]:
        return _Look(self._remote)._outside()


@final
class _Look(Remote[T_co]):
    """One look at something remote: it ends with that, or when its waiter is cancelled, whichever comes first."""

    __slots__ = ("_call", "_left", "_remote")

    def __init__(self, remote: Remote[T_co]) -> None:
        self._remote = remote
        self._call: list[Callable[[], object]] = []  # none or one: whoever pops it, on whichever thread, makes it
        self._left = False

    def __repr__(self) -> str:
        return f"shield({self._remote!r})"

    def call_when_ended(self, call: Callable[[], object]) -> None:
        self._call.append(call)
        self._remote.call_when_ended(self._tell)

    def _tell(self) -> None:
        try:
            call = self._call.pop()
        except IndexError:
            return  # the other one was first
        call()

    def request_end(self) -> None:
        self._left = True
        self._remote.forget(self._tell)  # who looks again and again must not leave a call behind each time
        self._tell()

    def ended(self) -> bool:
        return self._left or self._remote.ended()

    def outcome(self) -> Outcome[T_co] | None:
        return None if self._left else self._remote.outcome()

    def cancelled_error(self) -> Exception:
        return self._remote.cancelled_error()


@final
class ConcurrentFuture(Remote[T_co]):
    """A `concurrent.futures.Future`, waited for. One that runs cannot be cancelled: then its end is awaited."""

    __slots__ = ("_future",)

    def __init__(self, future: Future[T_co]) -> None:
        self._future = future

    def __repr__(self) -> str:
        return repr(self._future)

    def call_when_ended(self, call: Callable[[], object]) -> None:
        self._future.add_done_callback(lambda _: call())

    def request_end(self) -> object:
        return self._future.cancel()

    def ended(self) -> bool:
        return self._future.done()

    def outcome(self) -> Outcome[T_co] | None:
        if self._future.cancelled():
            return None
        error = self._future.exception()
        return Value(self._future.result()) if error is None else Error(error)

    def cancelled_error(self) -> Exception:
        return TaskCancelledError(f"{self._future!r} was cancelled")


def way_home() -> Callable[[Callable[[], object]], object] | None:
    """How other threads post a call to the scheduler or the loop that runs here; None: none does, call it anywhere."""
    if world.kernel is not None:
        post: Callable[[Callable[[], object]], object] = world.kernel.driver.post
        return post
    loop = running_loop()
    if loop is None:
        return None
    if in_trio():
        post = loop.run_sync_soon
    else:
        from dari.drivers.asyncio_wait import mailbox_of

        post = mailbox_of(loop).put
    return post


def remote_of(foreign: object) -> Remote[Any] | None:
    """The operation that waits for `foreign`, if it is a `concurrent.futures.Future`."""
    futures = sys.modules.get("concurrent.futures")  # where that is not loaded, nothing can be one
    if futures is not None and isinstance(foreign, futures.Future):
        return ConcurrentFuture(cast("Future[Any]", foreign))
    return None
