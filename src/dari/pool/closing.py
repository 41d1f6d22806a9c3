"""Waiting for the end of a pool's jobs: `join`, `shutdown`, and leaving a `with` block of either kind.

Nothing here decides what closing means (that is `Desk.close`); here it is only waited for, in a thread by a bare lock,
in asyncio and in a task by `Drained`, and never for ever when the block was left by an error.
"""

from __future__ import annotations

from _thread import allocate_lock
from threading import TIMEOUT_MAX, Timer, current_thread
from time import monotonic
from typing import TYPE_CHECKING, Final, final

from dari._kernel.outcome import Value
from dari.drivers.blocking import refuse_to_block
from dari.drivers.wakeup import Remote
from dari.exceptions import BlockingCallError, JobCancelled
from dari.pool.job import here

if TYPE_CHECKING:
    from collections.abc import Callable
    from threading import Thread

    from dari.pool.desk import Desk

__all__ = ["Drained", "refuse_to_wait", "wait_until_idle", "wait_until_left"]


def refuse_to_wait(desk: Desk, what: str) -> None:
    """Raise BlockingCallError if this thread must not wait until all jobs of the pool have ended."""
    seat = here.seat
    if seat is not None and seat.keeper is desk:
        raise BlockingCallError(f"{what} inside a job of the same pool would wait for that very job")
    refuse_to_block(
        f"{what} would have to wait for {desk.unfinished} jobs of pool {desk.name!r}",
        task="wait for them by `yield job` first, or use `async with Pool()` in an async def task",
        loop="use `async with Pool()`, or wait for them by `await job` first",
    )


def wait_until_idle(desk: Desk, timeout: float | None) -> bool:
    """Block this thread until nothing is queued or running, at most `timeout` seconds. Was it ever so?"""
    if desk.later:
        desk.perform(bool)  # a section that does nothing: what was put off is done after it
    if desk.unfinished and (timeout is None or timeout > 0):
        lock = allocate_lock()
        lock.acquire()
        desk.when_idle(lock.release)
        try:
            if lock.acquire(True, -1 if timeout is None else min(timeout, TIMEOUT_MAX)):
                return True  # by now there may be other jobs
        finally:
            desk.forget_idle(lock.release)
    return not desk.unfinished


def wait_until_left(threads: list[Thread], timeout: float | None) -> bool:
    """Block this thread until `threads` have ended, at most `timeout` seconds in all."""
    deadline = None if timeout is None else monotonic() + timeout
    for thread in threads:
        if thread is not current_thread():
            thread.join(None if deadline is None else max(0.0, deadline - monotonic()))
    return not any(thread.is_alive() for thread in threads)


@final
class Drained(Remote[None]):
    """Waits until nothing is queued or running, at most `limit` seconds.

    Cancelled, it cancels what is queued, asks what runs to end, and waits for `patience` seconds more.
    """

    __slots__ = ("_call", "_desk", "_limit", "_patience", "_settled", "_timers")

    def __init__(self, desk: Desk, limit: float | None, patience: float) -> None:
        self._desk: Final = desk
        self._limit = limit
        self._patience: Final = patience
        self._settled = False
        self._call: Callable[[], object] | None = None
        self._timers: list[Timer] = []

    def __repr__(self) -> str:
        return f"the end of pool {self._desk.name!r}"

    def call_when_ended(self, call: Callable[[], object]) -> None:
        self._call = call
        if self._limit is not None:
            self._give_up_after(self._limit)
        self._desk.when_idle(self._settle)

    def request_end(self) -> object:
        self._give_up_after(self._patience)
        self._desk.close(cancel=True, ask=True, at_once=False)
        return None

    def ended(self) -> bool:
        return self._settled or not self._desk.unfinished

    def outcome(self) -> Value[None]:
        return Value(None)

    def cancelled_error(self) -> JobCancelled:
        return JobCancelled(f"waiting for {self!r} was given up")

    def _settle(self) -> None:
        with self._desk.lock:
            settled, self._settled = self._settled, True
        if not settled:
            self._desk.forget_idle(self._settle)
            for timer in self._timers:
                timer.cancel()
            assert self._call is not None
            self._call()

    def _give_up_after(self, seconds: float) -> None:
        # A thread of its own, which is dear, but there is no loop that all worlds share, and blocks are rarely left so.
        timer = Timer(seconds, self._settle)
        timer.daemon = True
        self._timers.append(timer)
        timer.start()
