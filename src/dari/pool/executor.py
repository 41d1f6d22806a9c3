"""A pool with the face of `concurrent.futures`: for code that wants an `Executor`, and for asyncio's default one.

**One truth.** The job is what happens; the future only tells of it, and has no state of its own.
Its callbacks may do anything: the worker takes no other job before they are made (`Listener`).
A future is cancelled by cancelling its job, which frees the payload at once, and a job that runs gets a
request: `asyncio.to_thread` whose task is cancelled can be asked for that by `current_job().check_cancelled()`.

**By class only.** asyncio takes a `ThreadPoolExecutor` and nothing else for its default executor, so this is one, but
the base class is never initialised: of its fields nothing exists, of its methods none is used but those of `Executor`.
"""

from __future__ import annotations

import os
from _thread import get_ident
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from threading import Condition, Event
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, ParamSpec, Protocol, TypeVar, final
from weakref import WeakSet

from dari._kernel.outcome import Error
from dari.drivers.blocking import way_out
from dari.exceptions import PoolClosed
from dari.pool.hooks import call_hook
from dari.pool.job import CANCELLED, COMPLETED, ENDED, RUNNING, Listener, here
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
        self._at_large: Final[set[_JobFuture[Any]]] = set()  # handed in here, and not told yet
        _faces.add(self)

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
        future: _JobFuture[T] = _JobFuture(job, self)
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
        if future._told:
            self._at_large.discard(future)
        elif not self._is_open() and future.cancel():  # shut down by another thread, meanwhile
            raise self._refusal()
        return future

    def _is_open(self) -> bool:
        return self._open

    def _refusal(self) -> RuntimeError:
        return RuntimeError(f"{self!r} takes no more jobs")

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more jobs through this face; the pool goes on.

        `wait` until those handed in here have ended, and their callbacks were called; not in such a callback, which
        would wait for its own end.
        """
        self._open = False
        futures = list(self._at_large)
        if cancel_futures:
            for future in futures:
                if not future.running():
                    future.cancel()
        if not wait:
            return
        for future in futures:
            future._wait_for_end(None)
        if self._view._desk.later:
            self._view._desk.perform(bool)  # a section that does nothing: what was put off is done after it
        if not any(future._teller == get_ident() for future in futures):
            for future in futures:
                future._wait_until_told()


_faces: Final[WeakSet[Face]] = WeakSet()


def _forget_the_parent_s() -> None:
    """In the child of a fork its jobs have ended, and nobody calls their callbacks."""
    for face in _faces:
        for future in face._at_large:
            future._made_condition = _SETTLED  # a thread that did not come along may hold the other
        face._at_large.clear()


os.register_at_fork(after_in_child=_forget_the_parent_s)


class _Settled:
    """Instead of a Condition: nobody had made one when the job ended."""


_SETTLED: Final = _Settled()


@final
class _JobFuture(Future[T], Listener):
    """A job, as `concurrent.futures` sees it; called when that has ended.

    `Future.__init__` is not called: it makes a Condition, which costs as much as the whole job, and a state of its own.
    Here the state is the job's, read anew each time, and the Condition is made when somebody has to wait, or when the
    functions of `concurrent.futures` look for it (`wait`, `as_completed`: `_condition`, `_state`, `_waiters`). Nobody
    is forgotten for that: who waits makes the Condition, and looks at the state then; who ends the job has settled the
    state, and looks for a Condition then.

    `concurrent.futures` reads `_state`, twice, and adds itself to `_waiters`, all while it holds the Condition, and
    relies on it that nothing ends meanwhile. So `_state` says that the job has ended when those in `_waiters` are told:
    under the Condition, or when `_SETTLED` has taken its place because nobody had made one.
    """

    _teller = 0
    """The thread that calls the callbacks, from then on."""
    _told = False
    """Have those been called that were added before the job's end?"""
    _notified = False
    _made_condition: Condition | _Settled | None = None

    def __init__(self, job: Job[T], face: Face) -> None:  # deliberately without super().__init__()
        self._job: Final = job
        self._face: Final = face
        self._done_callbacks: list[Callable[[Future[T]], object]] = []

    # ---- what concurrent.futures looks for -----------------------------------------------------------------------

    @property
    def _state(self) -> str:  # type: ignore[override] # there it is a field, and so are the next
        job = self._job
        if self._notified or self._made_condition is _SETTLED:
            return "CANCELLED_AND_NOTIFIED" if job._state is CANCELLED else "FINISHED"
        return "RUNNING" if job._state is RUNNING else "PENDING"

    @property
    def _condition(self) -> Condition:  # type: ignore[override]
        made: Condition | _Settled = self.__dict__.setdefault("_made_condition", Condition())
        if isinstance(made, _Settled):  # the end is over, and whoever comes now finds that under any Condition
            late: Condition = self.__dict__.setdefault("_late_condition", Condition())
            return late
        return made

    @property
    def _waiters(self) -> list[Any]:  # type: ignore[override]
        made: list[Any] = self.__dict__.setdefault("_made_waiters", [])
        return made

    @property
    def _result(self) -> T | None:  # type: ignore[override]
        return self._job._result if self._job._state is COMPLETED else None

    @property
    def _exception(self) -> BaseException | None:  # type: ignore[override]
        outcome = self._job.outcome() if self.done() else None
        return outcome.error if isinstance(outcome, Error) else None

    # ---- what users ask ------------------------------------------------------------------------------------------

    def done(self) -> bool:
        return self._job._waiters is ENDED

    def cancelled(self) -> bool:
        return self.done() and self._job._state is CANCELLED

    def running(self) -> bool:
        return not self.done() and self._job._state is RUNNING

    def cancel(self) -> bool:
        """Cancel the job, if nobody has begun with it. False: it runs, and was asked to end; or it has ended."""
        return self._job.cancel()

    def result(self, timeout: float | None = None) -> T:
        """As of any future; but in a job of the same pool one that is still queued is run here and now."""
        try:
            job = self._job
            if job._waiters is not ENDED:
                self._wait_for_end(timeout)
            outcome = job.outcome()
            if outcome is None:
                raise CancelledError
            return outcome.unwrap()
        finally:
            del self  # the frame is in the error's traceback: without this, error → frame → self → error is a cycle

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """As of any future; but in a job of the same pool one that is still queued is run here and now."""
        self._wait_for_end(timeout)
        if self.cancelled():
            raise CancelledError
        return self._exception

    def add_done_callback(self, fn: Callable[[Future[T]], object]) -> None:
        """As of any future: called on the thread that ends the job; at once, if it has ended."""
        job = self._job
        # What asyncio leaves here only wakes a loop: a worker that has taken another job meanwhile may call it, too.
        # Known by its module for speed, for other callbacks cost a section of the pool's lock.
        if getattr(fn, "__module__", None) == "asyncio.futures":
            self._done_callbacks.append(fn)
            if job._waiters is not ENDED:
                return
            try:
                self._done_callbacks.remove(fn)
            except ValueError:
                return  # who ended the job calls it
        else:
            with job._keeper.lock:
                if job._waiters is not ENDED:
                    self.loud = True
                    self._done_callbacks.append(fn)
                    return
        call_hook("done callback", fn, self)

    # ---- inside --------------------------------------------------------------------------------------------------

    def _wait_for_end(self, timeout: float | None) -> None:
        """Block until the job has ended, or run it; TimeoutError after `timeout` seconds."""
        job = self._job
        if job._waiters is ENDED:
            return
        if here.seat is not None and here.seat.keeper is job._keeper and (timeout is None or timeout > 0):
            job._wait_and_help(None if timeout is None else monotonic() + timeout)
        else:
            with self._condition:
                self._condition.wait_for(self.done, timeout)
        if job._waiters is not ENDED:
            raise TimeoutError

    def _wait_until_told(self) -> None:
        """Block until the callbacks of the job, which has ended, were called."""
        told: Event = self.__dict__.setdefault("_telling", Event())
        if not self._told:
            told.wait()

    def __call__(self) -> None:
        """The job has ended. (Called again, if the end of the stack kept a callback from being begun.)"""
        try:
            if not self._notified:
                if self.__dict__.setdefault("_made_condition", _SETTLED) is not _SETTLED:
                    self._notify()
                self._notified = True
            if self._done_callbacks:
                self._teller = get_ident()
                self._call_back()
        except RecursionError:
            raise
        except BaseException:  # Ctrl-C
            self._be_told()
            raise
        self._be_told()

    def _notify(self) -> None:
        with self._condition:
            for waiter in self._waiters:
                if self.cancelled():
                    waiter.add_cancelled(self)
                elif self._exception is not None:
                    waiter.add_exception(self)
                else:
                    waiter.add_result(self)
            self._notified = True
            self._condition.notify_all()

    def _call_back(self) -> None:
        callbacks = self._done_callbacks
        while callbacks:
            try:
                callback = callbacks.pop(0)
            except IndexError:
                return  # who added it calls it
            try:
                call_hook("done callback", callback, self)
            except RecursionError:
                callbacks[:0] = (callback,)  # it was not begun: see `make`
                raise

    def _be_told(self) -> None:
        self._told = True
        self._face._at_large.discard(self)
        telling: Event | None = self.__dict__.get("_telling")
        if telling is not None:
            telling.set()
