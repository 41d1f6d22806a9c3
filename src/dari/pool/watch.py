"""Waits that nobody can see: a job that waits for something which only another job of the same pool will do.

`result()` of a job is seen: the waiter runs that job itself (`Desk.help`). But who waits for an event that another job
is to set holds a worker, and if all are held so, the other job never gets one. That cannot be told from slow work, so
time decides: when jobs that were handed in from inside of the pool's workers are queued, and no job has ended for half
a second, one more worker is started, for such jobs only, and again each half second. (The idea: Java's
ForkJoinPool.ManagedBlocker; there who waits has to say so.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol, final

if TYPE_CHECKING:
    from dari.pool.clock import Alarm, Clock
    from dari.pool.crew import Crew
    from dari.pool.job import Job

__all__ = ["Watch"]

_PATIENCE = 0.5  # seconds


class House(Protocol):
    """The pool, as its watch sees it."""

    clock: Clock
    crew: Crew
    last_end: float


@final
class Watch:
    """Used under the pool's lock only."""

    __slots__ = ("_alarm", "_house", "_since", "queued")

    def __init__(self, house: House) -> None:
        self._house: Final = house
        self._alarm: Alarm | None = None
        self._since = 0.0
        self.queued: dict[Job[Any], None] = {}  # handed in from inside

    def add(self, job: Job[Any], now: float) -> None:
        self.queued[job] = None
        if self._alarm is None:
            self._look_later(now)

    def forget_everything(self) -> None:
        self.queued.clear()
        self._alarm = None

    def dismiss(self) -> None:
        """Nothing is left to wait for."""
        if self._alarm is not None:
            self._house.clock.clear(self._alarm)
            self._alarm = None

    def look(self, now: float) -> None:
        """The time has come to look whether anything moves."""
        self._alarm = None
        if not self.queued:
            return
        moved = max(self._house.last_end, self._since)
        if now >= moved + _PATIENCE:
            self._house.crew.compensate(self._house.crew.max_workers)
            moved = now
        self._look_later(moved)

    def _look_later(self, since: float) -> None:
        self._since = since
        self._alarm = self._house.clock.set(self, since + _PATIENCE)
