"""The ledger: the states of all jobs of a pool, and all counts. Nothing but their changes; the caller holds the lock.

**Settle first, tell afterwards.** Inside a section no foreign code runs: no callback, no destructor of a payload, no
start of a thread; any of them might come back and want the lock. What is to be done goes into `calls`, and whoever
releases the lock makes them (`make`). So everybody who is told of something finds it true.
"""

from __future__ import annotations

import sys
from _thread import allocate_lock
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any

from dari._kernel.outcome import Error, Value
from dari.exceptions import PoolClosed, WorkerLost
from dari.pool.clock import Clock
from dari.pool.job import (
    CANCELLED,
    COMPLETED,
    ENDED,
    FAILED,
    QUEUED,
    RUNNING,
    SCHEDULED,
    TIMED_OUT,
    Job,
    JobState,
    Listener,
    Rare,
    Waiters,
    callbacks_of,
    name_of,
)
from dari.pool.line import Line
from dari.pool.stats import Tally

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dari.pool.crew import Crew
    from dari.pool.places import Place

__all__ = ["Ledger"]


def _shed(job: Job[Any], *_payload: object) -> None:
    """Of the payload only the name stays. Called outside of the lock: destructors run here."""
    if not isinstance(job._fn, str):
        job._fn = name_of(job._fn)


def _job_stands(job: Job[Any]) -> bool:
    return job._state is QUEUED


def _place_stands(place: Place[Any]) -> bool:
    return place.job._state is None and not place.settled


class Ledger:
    def __init__(self, name: str, max_queue: int | None, starvation_limit: int | None, exit_timeout: float) -> None:
        self.lock = allocate_lock()
        self.name = name
        self.max_queue = max_queue
        self.exit_timeout = exit_timeout
        self.crew: Crew  # set by the pool, once
        self.open = True
        self.failure: BaseException | None = None  # what broke the pool
        self.unfinished = 0  # scheduled, queued and running
        self.room = sys.maxsize if max_queue is None else max_queue  # below 0: workers handed in over the bound
        self.calls: list[Callable[[], object]] = []
        self.draining = False  # closed, but jobs that run may still hand in what they need to end
        self._starvation_limit = starvation_limit
        self._line: Line[Job[Any]] = Line(starvation_limit, _job_stands)
        self.scheduled: dict[Job[Any], None] = {}  # they have their place, and wait for their time
        self.clock = Clock(self)
        self._places: Line[Place[Any]] = Line(starvation_limit, _place_stands)
        self.tallies: dict[int, Tally] = {}
        self._when_idle: list[Callable[[], object]] = []

    def leave(self) -> Sequence[Callable[[], object]]:
        """The last thing in a section: what is to be `make`d after it. Never the list that others go on filling."""
        if not self.calls:
            return ()
        calls, self.calls = self.calls, []
        return calls

    def take(self) -> Job[Any] | None:
        """The next job, for whoever starts it now."""
        job = self._line.pop()
        if job is not None:
            self._claim(job)
            if self._places:
                self._let_in()
        return job

    def end(self, job: Job[Any], state: JobState) -> bool:
        """What was taken has ended, in `state` (and `job._result`). False: callbacks of users are among the calls."""
        if job._waiters is ENDED:
            self._end_late(job)
            return True
        now = job._ended_at = monotonic()
        tally = job._tally
        tally.running -= 1
        if state is COMPLETED:
            tally.completed += 1
        elif state is FAILED:
            tally.failed += 1
        elif state is CANCELLED:
            tally.cancelled += 1
        else:
            state = self._try_again(job, job._rarely(), now)
        tally.runs.append(now - job._started_at)
        if state is SCHEDULED:
            return True
        # What follows is `_one_less` and `_tell`, inlined for speed: 0.2 µs of 2.5 a job (benchmarks/pool.py).
        self.unfinished -= 1
        if not self.unfinished and (self._when_idle or not self.open):
            self._rest()
        if job._waiters is None and job._rare is None:
            job._state = state
            job._waiters = ENDED
            return True
        return self._tell(job, state)

    def abandoned(self) -> int:
        """Threads that still run what has run out of its time."""
        return sum(any(job._state is TIMED_OUT for job in seat.stack()) for seat in self.crew.at_work())

    def fail_queue(self, cause: BaseException) -> None:
        """Nobody will ever run what is queued, or waits for a place."""
        self._refuse_places(cause)
        while (job := self._line.pop()) is not None:
            self._end_unrun(job, FAILED, Error(self._never(job, cause)))
        if self.failure is not None:
            self._fail_scheduled(cause)

    def clock_stands(self, error: BaseException) -> None:
        """No thread can be had that would keep the times: what waits for one would wait for ever."""
        self._fail_scheduled(error)

    def expired(self, job: Job[Any]) -> bool:
        """The time has come that its state waits for."""
        rare = job._rarely()
        rare.alarm = None
        state = job._state
        if state is SCHEDULED:
            del self.scheduled[job]
            job._tally.scheduled -= 1
            self._queue_late(job, rare)
            return True
        if state is QUEUED:
            told = self._end_unrun(job, TIMED_OUT)
            self._line.left(job._tally.priority)
            self._let_in()
            return told
        return self._abandon(job, rare)

    def lose_everything(self) -> None:
        """In the child of a fork: no worker came along, and nobody to tell. The lock is new, nobody holds it."""
        self.calls = []
        self._when_idle = []
        jobs = [job for seat in self.crew.at_work() for job in seat.stack()]
        while (queued := self._line.pop()) is not None:
            jobs.append(queued)
        jobs += self.scheduled
        self.scheduled = {}
        self.clock.forget_everything()
        while (place := self._places.pop()) is not None:
            jobs.append(place.job)
            place.answer, place.call, place.settled = Error(_lost(place.job)), None, True
        for job in jobs:
            job._result = Error(_lost(job))
            job._state = FAILED
            job._waiters = ENDED
            if job._rare is not None:
                job._rare.callbacks = job._rare.alarm = None
                job._rare.helpers.clear()
        self._line = Line(self._starvation_limit, _job_stands)
        self._places = Line(self._starvation_limit, _place_stands)
        self.tallies = {}
        self.unfinished = 0
        self.room = sys.maxsize if self.max_queue is None else self.max_queue

    def _enqueue(self, job: Job[Any]) -> None:
        tally = job._tally
        now = job._queued_at = monotonic()
        self.room -= 1
        self.unfinished += 1
        if job._rare is not None and self._is_delayed(job, job._rare, now):
            return
        job._state = QUEUED
        self._line.push(tally.priority, job)
        tally.queued += 1
        self.crew.call()

    def _is_delayed(self, job: Job[Any], rare: Rare, now: float) -> bool:
        """It was let in: begin with what its plan says about that."""
        plan = rare.plan
        if plan is None:
            return False
        rare.submitted_at = now
        if plan.delay:
            self._schedule(job, rare, now + plan.delay)
            return True
        if plan.queue_timeout is not None:
            rare.alarm = self.clock.set(job, now + plan.queue_timeout)
        return False

    def _schedule(self, job: Job[Any], rare: Rare, when: float) -> None:
        """It has its place, and is queued at `when`."""
        job._state = SCHEDULED
        job._tally.scheduled += 1
        self.scheduled[job] = None
        rare.alarm = self.clock.set(job, when)

    def _queue_late(self, job: Job[Any], rare: Rare) -> None:
        """SCHEDULED → QUEUED."""
        now = job._queued_at = monotonic()
        job._state = QUEUED
        job._tally.queued += 1
        if rare.plan is not None and rare.plan.queue_timeout is not None and job.started_at is None:
            rare.alarm = self.clock.set(job, now + rare.plan.queue_timeout)
        self._line.push(job._tally.priority, job)
        self.calls += rare.helpers
        rare.helpers.clear()
        self.crew.call()

    def _claim(self, job: Job[Any]) -> None:
        """QUEUED → RUNNING, and a place comes free: the one transition behind a worker's turn and an inline run."""
        now = job._started_at = monotonic()
        job._state = RUNNING
        self.room += 1
        tally = job._tally
        tally.queued -= 1
        tally.running += 1
        waited = now - job._queued_at
        tally.waits.append(waited)
        if waited > tally.longest_wait:
            tally.longest_wait = waited
        rare = job._rare
        if rare is not None and rare.plan is not None:
            self._stop_waiting(rare)
            if rare.plan.timeout is not None:
                rare.alarm = self.clock.set(job, now + rare.plan.timeout)

            if rare.attempts is not None and rare.attempts.number == 1:
                rare.attempts.began = now

    def _try_again(self, job: Job[Any], rare: Rare, now: float) -> JobState:
        """RUNNING → SCHEDULED. It takes its place back, over the bound if need be; or it ends as FAILED after all."""
        assert rare.attempts is not None
        if rare.cancel_requested or not (self.open or self.draining):
            job._tally.failed += 1
            self._drop_payload(job, None)
            return FAILED
        rare.attempts.number += 1
        job._tally.retried += 1
        del job._ended_at
        self.room -= 1
        self._stop_waiting(rare)
        self._schedule(job, rare, now + rare.attempts.wait)
        return SCHEDULED

    def _stop_waiting(self, rare: Rare) -> None:
        """It leaves the state that had a time."""
        if rare.alarm is not None:
            self.clock.clear(rare.alarm)
            rare.alarm = None

    def _abandon(self, job: Job[Any], rare: Rare) -> bool:
        """It runs for too long: that is told now. Its thread goes on, and counts as one, until the job lets it go."""
        now = job._ended_at = monotonic()
        rare.cancel_requested = True
        tally = job._tally
        tally.running -= 1
        tally.timed_out += 1
        tally.runs.append(now - job._started_at)
        self._one_less()
        return self._tell(job, TIMED_OUT)

    def _end_late(self, job: Job[Any]) -> None:
        """What has ended before, for all others, has really ended now: it was abandoned, or this is a forked child."""
        if job._state is TIMED_OUT:
            self.calls.append(partial(_shed, job, job._args, job._context, getattr(job, "_result", None)))
            job._args = job._context = job._result = None

    def _let_in(self) -> None:
        """Places came free: they go to who waits, by priority."""
        while self.room > 0 and (place := self._places.pop()) is not None:
            self._enqueue(place.job)
            self._settle(place, Value(place.job))

    def _settle(self, place: Place[Any], answer: Any) -> None:
        place.answer = answer
        place.settled = True
        if place.call is not None:
            self.calls.append(place.call)
            place.call = None

    def _refuse_places(self, cause: BaseException | None = None) -> None:
        while (place := self._places.pop()) is not None:
            refusal = Error(self._never(place.job, cause))
            self._end_refused(place.job, FAILED, refusal)
            self._settle(place, refusal)

    def _end_unrun(self, job: Job[Any], state: JobState, result: Error | None = None) -> bool:
        """End what is scheduled or queued. Takes it out of the counts, not out of the line."""
        job._ended_at = monotonic()
        tally = job._tally
        if job._state is SCHEDULED:
            tally.scheduled -= 1
            del self.scheduled[job]
        else:
            tally.queued -= 1
        if state is CANCELLED:
            tally.cancelled += 1
        elif state is TIMED_OUT:
            tally.timed_out += 1
        else:
            tally.failed += 1
        self.room += 1
        self._one_less()
        if state is CANCELLED and job._rare is not None and job._rare.attempts is not None:
            self.calls.append(partial(_shed, job, getattr(job, "_result", None)))  # what it failed with before
            job._result = None
        self._drop_payload(job, result)
        return self._tell(job, state)

    def _end_refused(self, job: Job[Any], state: JobState, result: Error | None = None) -> None:
        """End what was never let in: it counts nowhere."""
        self._drop_payload(job, result)
        self._tell(job, state)

    def _drop_payload(self, job: Job[Any], result: Error | None) -> None:
        if result is not None:
            job._result = result
        self.calls.append(partial(_shed, job, job._args, job._context))
        job._args = job._context = None

    def _tell(self, job: Job[Any], state: JobState) -> bool:
        """The state is settled here, and nowhere else. False: callbacks of users are among the calls."""
        job._state = state
        waiters = job._waiters
        job._waiters = ENDED
        quiet = True
        if waiters is not None:
            if isinstance(waiters, Waiters):
                self.calls += waiters
                quiet = not any(isinstance(call, Listener) and call.loud for call in waiters)
            elif not isinstance(waiters, tuple):
                self.calls.append(waiters)
                quiet = not (isinstance(waiters, Listener) and waiters.loud)
        rare = job._rare
        if rare is None:
            return quiet
        self._stop_waiting(rare)
        if rare.callbacks is None:
            return quiet
        self.calls += callbacks_of(job)
        return False

    def _one_less(self) -> None:
        self.unfinished -= 1
        if not self.unfinished and (self._when_idle or not self.open):
            self._rest()

    def _rest(self) -> None:
        """Nothing is left to do: tell who waits for that, and let the workers of a closed pool go."""
        self.calls += self._when_idle
        self._when_idle = []
        if not self.open:
            self.crew.dismiss()

    def _fail_scheduled(self, cause: BaseException) -> None:
        for job in tuple(self.scheduled):
            failed = job.started_at is not None  # then it keeps what it failed with
            self._end_unrun(job, FAILED, None if failed else Error(self._never(job, cause)))

    def _never(self, job: Job[Any], cause: BaseException | None) -> Exception:
        if not self.open:
            return self._closed()
        error = WorkerLost(f"{job!r} has no worker to run it: {cause!r}")
        error.__cause__ = cause
        return error

    def _closed(self) -> PoolClosed:
        if self.failure is None:
            return PoolClosed(f"pool {self.name!r} was shut down and takes no more jobs")
        error = PoolClosed(f"pool {self.name!r} is broken, its initializer failed: {self.failure!r}")
        error.__cause__ = self.failure
        return error


def _lost(job: Job[Any]) -> WorkerLost:
    return WorkerLost(f"{job!r} belongs to the process that this one was forked from, and runs there")
