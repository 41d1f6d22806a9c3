"""What becomes of all jobs at once when something breaks: no worker can be had, a fork, a broken off section."""

from __future__ import annotations

import sys
from time import monotonic
from typing import Any

from dari._kernel.outcome import Error
from dari.exceptions import WorkerLost
from dari.pool.job import ENDED, FAILED, QUEUED, Job
from dari.pool.ledger import Ledger, since

__all__ = ["Salvage"]


class Salvage(Ledger):
    def fail_queue(self, cause: BaseException) -> None:
        """Nobody will ever run what is queued, or waits for a place."""
        self._refuse_places(cause)
        for job in tuple(self._queued()):
            self._end_unrun(job, FAILED, Error(self._never(job, cause)))
        if self.failure is not None:
            self._fail_scheduled(cause)

    def mend(self) -> None:
        """A section was broken off: only what stands in a line, is scheduled or runs can be trusted. Count it anew."""
        queued = sorted(self._queued(), key=since)
        for job in [*self.watch.queued]:
            if job._state is not QUEUED:
                del self.watch.queued[job]
        at_work = [job for seat in self.crew.at_work() for job in seat.stack()]
        for limit in self.limits.values():
            limit.recount(at_work, self._new_line)
            self.calls += limit.helpers
            limit.helpers.clear()
        self._line = self._new_line()
        for tally in list(self.tallies.values()):
            tally.queued = tally.scheduled = tally.running = 0
        for job in queued:
            if job._rare is not None:
                job._rare.aside = False
            self._line.push(job._tally.priority, job)
            job._tally.queued += 1
            self.crew.call()
        for job in self.scheduled:
            job._tally.scheduled += 1
            rare = job._rarely()
            if rare.alarm is None:
                rare.alarm = self.clock.set(job, monotonic())
        running = [job for job in at_work if job._waiters is not ENDED]
        for job in running:
            job._tally.running += 1
        self.unfinished = len(queued) + len(self.scheduled) + len(running)
        bound = sys.maxsize if self.max_queue is None else self.max_queue
        self.room = bound - len(queued) - len(self.scheduled)
        self._let_in()
        if not self.unfinished:
            self._rest()

    def lose_everything(self) -> None:
        """In the child of a fork: no worker came along, and nobody to tell. The lock is new, nobody holds it."""
        self.calls.clear()
        self._when_idle = []
        jobs = [job for seat in self.crew.at_work() for job in seat.stack()]
        jobs += self._queued()
        jobs += self.scheduled
        self.scheduled = {}
        self.inside = False
        self.later.clear()
        self.clock.forget_everything()
        self.watch.forget_everything()
        for limit in self.limits.values():
            limit.recount((), self._new_line)
            limit.helpers.clear()
        while (place := self._places.next()) is not None:
            jobs.append(place.job)
            place.answer, place.call, place.settled = Error(_lost(place.job)), None, True
        for job in jobs:
            job._result = Error(_lost(job))
            job._state = FAILED
            job._waiters = ENDED
            if job._rare is not None:
                job._rare.alarm = None
                job._rare.callbacks.clear()
                job._rare.holds = False
                job._rare.helpers.clear()
        self._line = self._new_line()
        self._places = self._new_places()
        self.tallies = {}
        self.unfinished = 0
        self.room = sys.maxsize if self.max_queue is None else self.max_queue


def _lost(job: Job[Any]) -> WorkerLost:
    return WorkerLost(f"{job!r} belongs to the process that this one was forked from, and runs there")
