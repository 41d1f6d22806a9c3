"""A pool with the face of `concurrent.futures`: for code that wants an `Executor`, and for asyncio's default one.

**One truth.** The job is what happens; the future only tells of it, when the job has ended and its state is settled.
Its own callbacks may do anything: the worker takes no other job before they are made (`Listener`).
A future is therefore cancelled by cancelling its job, which frees the payload at once, and a job that runs gets a
request: `asyncio.to_thread` whose task is cancelled can be asked for that by `current_job().check_cancelled()`.

**By class only.** asyncio takes a `ThreadPoolExecutor` and nothing else for its default executor, so this is one, but
the base class is never initialised: of its fields nothing exists, of its methods none is used but those of `Executor`.
"""

from __future__ import annotations

from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, ParamSpec, Protocol, TypeVar, final

from dari._kernel.outcome import Error
from dari.drivers.blocking import way_out
from dari.exceptions import PoolClosed, WorkerLost
from dari.pool.job import COMPLETED, Listener, here
from dari.pool.places import Place

if TYPE_CHECKING:
    from collections.abc import Callable

    from dari.pool.desk import Desk
    from dari.pool.job import Job

__all__ = ["Face"]

P = ParamSpec("P")
T = TypeVar("T")


class View(Protocol):
    """The pool, as its other face sees it."""

    @property
    def _desk(self) -> Desk: ...
    @property
    def _on_full(self) -> str: ...
    def _job(self, fn: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any], /) -> Job[T]: ...
    def _wait_for_place(self, job: Job[Any], /) -> None: ...


@final
class Face(ThreadPoolExecutor):
    """An executor whose work is done by a pool. Made by `pool.as_executor()`."""

    def __init__(self, view: View) -> None:  # deliberately without super().__init__()
        self._view: Final = view
        self._open = True
        self._at_large: Final[set[_JobFuture[Any]]] = set()  # handed in here, not ended yet

    def __repr__(self) -> str:
        state = "open" if self._open else "shut down"
        return f"<executor of pool {self._view._desk.name!r}, {state}>"

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Let the pool call `fn(*args, **kwargs)`. RuntimeError after a shutdown, of this face or of the pool.

        When the queue is full this waits for a place, or raises QueueFull with `on_full="raise"`; where a loop or a
        scheduler runs on this thread it does not wait: the job stands in line for a place, and the future is pending.
        """
        if not self._open:
            raise self._refusal()
        view = self._view
        job = view._job(fn, args, kwargs)
        future: _JobFuture[T] = _JobFuture(job, self._at_large)
        job._waiters = future
        try:
            if not view._desk.offer(job):
                if view._on_full == "wait" and way_out(task="", loop="") is not None:
                    Place(view._desk, job).enter()
                else:
                    view._wait_for_place(job)
        except PoolClosed as error:
            raise RuntimeError(str(error)) from error
        # Without a lock: each side writes first and looks then, so one of `submit` and `shutdown` sees the other.
        self._at_large.add(future)
        if future.told:
            self._at_large.discard(future)
        elif not self._is_open() and future.cancel():  # shut down by another thread, meanwhile
            raise self._refusal()
        return future

    def _is_open(self) -> bool:
        return self._open

    def _refusal(self) -> RuntimeError:
        return RuntimeError(f"{self!r} takes no more jobs")

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more jobs through this face; the pool goes on. `wait` until those handed in here have ended."""
        self._open = False
        futures = list(self._at_large)
        if cancel_futures:
            for future in futures:
                if not future.running():
                    future.cancel()
        if wait:
            for future in futures:
                try:
                    future.exception()
                except CancelledError:
                    pass


@final
class _JobFuture(Future[T], Listener):
    """Tells of a job: called when that has ended."""

    def __init__(self, job: Job[T], at_large: set[_JobFuture[Any]]) -> None:
        super().__init__()
        self._job: Final = job
        self._at_large: Final = at_large
        self.told = False

    def add_done_callback(self, fn: Callable[[Future[T]], object]) -> None:
        """As of any future: called on the thread that ends the job; at once, if it has ended."""
        # What asyncio leaves here only wakes a loop. Known by its module for speed: a job in `to_thread` then costs one
        # section of the pool's lock and not two. A callback that is not known is only slower.
        if not self.loud and not self.told and getattr(fn, "__module__", None) != "asyncio.futures":
            job = self._job
            with job._keeper.lock:
                self.loud = not job.done()
            if not self.loud and _lost(job) is None:  # who ended it may have taken another job: be told first
                wait_for((self,))
        super().add_done_callback(fn)

    def cancel(self) -> bool:
        """Cancel the job, if nobody has begun with it. False: it runs, and was asked to end; or it has ended."""
        if not self._job.cancel():
            return False
        super().cancel()  # for who asks next: the one that really cancelled it may not have told yet
        return True

    def running(self) -> bool:
        return self._job.running() and not self.done()

    def result(self, timeout: float | None = None) -> T:
        """As of any future; but in a job of the same pool one that is still queued is run here and now."""
        try:
            lost, timeout = self._hasten(timeout)
            return super().result(timeout) if lost is None else lost.unwrap()
        finally:
            del self  # the frame is in the error's traceback: without this, error → frame → self → error is a cycle

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """As of any future; but in a job of the same pool one that is still queued is run here and now."""
        lost, timeout = self._hasten(timeout)
        return super().exception(timeout) if lost is None else lost.error

    def _hasten(self, timeout: float | None) -> tuple[Error | None, float | None]:
        """Run it here, if that can be.

        Gives the error of a job that was lost, of which nobody is told after a fork; and how much of `timeout` is left.
        """
        job = self._job
        if self.told:
            return None, timeout
        if here.seat is not None and here.seat.keeper is job._keeper and (timeout is None or timeout > 0):
            deadline = None if timeout is None else monotonic() + timeout
            job._wait_and_help(deadline)
            timeout = None if deadline is None else max(0.0, deadline - monotonic())
        return _lost(job), timeout

    def __call__(self) -> None:
        job = self._job
        if job._state is COMPLETED:
            self.set_result(job._result)
        elif isinstance(outcome := job.outcome(), Error):
            self.set_exception(outcome.error)
        else:
            super().cancel()
            self.set_running_or_notify_cancel()
        self.told = True
        self._at_large.discard(self)


def _lost(job: Job[Any]) -> Error | None:
    outcome = job.outcome() if job.done() else None
    return outcome if isinstance(outcome, Error) and isinstance(outcome.error, WorkerLost) else None
