"""The ledger: the states of all jobs of a pool, and all counts. Nothing but their changes, as steps of `sections`.

Long: each transition is one method, and they share their small steps.
"""

from __future__ import annotations

import sys
from functools import partial
from math import inf
from operator import attrgetter
from time import monotonic
from typing import TYPE_CHECKING, Any

from dari._kernel.outcome import Error, Value
from dari.exceptions import PoolClosed, WorkerLost
from dari.pool.clock import Clock
from dari.pool.hooks import Hooks, call_hook
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
    name_of,
)
from dari.pool.limits import Limits
from dari.pool.line import Line
from dari.pool.sections import Sections
from dari.pool.stats import Tally
from dari.pool.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from dari.pool.crew import Crew
    from dari.pool.limits import Limit
    from dari.pool.places import Place

__all__ = ["Ledger"]


def _shed(job: Job[Any], *_payload: object) -> None:
    """Of the payload only the name stays. Called outside of the lock: destructors run here."""
    if not isinstance(job._fn, str):
        job._fn = name_of(job._fn)


def _job_stands(job: Job[Any]) -> bool:
    return job._state is QUEUED


since: Callable[[Job[Any]], float] = attrgetter("_queued_at")


def _place_stands(place: Place[Any]) -> bool:
    return place.job._state is None and not place.settled


_AT_ONCE = 64  # jobs that are set aside in one section, 0.1 ms; then others may have the lock


class Ledger(Sections):
    def __init__(
        self,
        name: str,
        max_queue: int | None,
        starvation_limit: int | None,
        exit_timeout: float,
        limits: Mapping[str, int],
        hooks: Hooks | None,
    ) -> None:
        super().__init__()
        self.name = name
        self.max_queue = max_queue
        self.exit_timeout = exit_timeout
        self.hooks = hooks
        self.crew: Crew  # set by the pool, once
        self.open = True
        self.failure: BaseException | None = None  # what broke the pool
        self.unfinished = 0  # scheduled, queued and running
        self.room = sys.maxsize if max_queue is None else max_queue  # below 0: workers handed in over the bound
        self.cancelling = False  # closed, and nothing of what is queued is begun any more
        self.given_up = inf  # when it was closed in a hurry: what runs has `exit_timeout` from then on
        self.draining = False  # closed, but jobs that run may still hand in what they need to end
        self.looks_again = False  # `take` found none, but has not seen all
        self.last_end = 0.0
        self._starvation_limit = starvation_limit
        self._line = self._new_line()
        self.limits = Limits(limits, self._new_line)
        self.scheduled: dict[Job[Any], None] = {}  # they have their place, and wait for their time
        self._places = self._new_places()
        self.crowded = False  # somebody may stand there
        self.clock = Clock(self)
        self.watch = Watch(self)
        self.tallies: dict[int, Tally] = {}
        self._when_idle: list[Callable[[], object]] = []

    def _new_line(self) -> Line[Job[Any]]:
        return Line(self._starvation_limit, _job_stands)

    def _new_places(self) -> Line[Place[Any]]:
        return Line(self._starvation_limit, _place_stands)

    def take(self) -> Job[Any] | None:
        """The next job, for whoever starts it now. None: there is none; or, if `looks_again`, not among the first."""
        looks = 0
        while (job := self._line.next()) is not None:
            rare = job._rare
            if rare is None or rare.limit is None or rare.limit.take(rare):
                self._claim(job)
                if self.crowded:
                    self._let_in()
                return job
            rare.aside = True
            rare.limit.aside.put_back(job._tally.priority, job, since)
            looks += 1
            if looks == _AT_ONCE:
                self.looks_again = True
                break
        return None

    def take_nested(self) -> Job[Any] | None:
        """The best of those that were handed in from inside, for a worker that came because these are not begun."""
        for job in self._line.standing():
            if job not in self.watch.queued:
                continue
            if job._rare is None or job._rare.limit is None or job._rare.limit.take(job._rare):
                self._claim_out_of_turn(job)
                return job
        return None

    def end(self, job: Job[Any], state: JobState) -> bool:
        """What was taken has ended, in `state` (and `job._result`). False: callbacks of users are among the calls."""
        rare = job._rare
        if rare is not None and rare.holds:
            self._give_place_back(rare)
        now = self.last_end = monotonic()
        if job._waiters is ENDED:
            self._end_late(job)
            return True
        job._ended_at = now
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
            return self.hooks is None or self.hooks.on_retry is None
        # What follows is `_tell` and `_one_less`, inlined for speed: 0.2 µs of 2.5 a job (benchmarks/pool.py).
        if job._waiters is None and rare is None and self.hooks is None:
            job._state = state
            job._waiters = ENDED
            quiet = True
        else:
            quiet = self._tell(job, state)
        self.unfinished -= 1
        if not self.unfinished and (self._when_idle or not self.open):
            self._rest()
        return quiet

    def abandoned(self) -> int:
        """Threads that still run what has run out of its time."""
        return sum(any(job._waiters is ENDED for job in seat.stack()) for seat in self.crew.at_work())

    def clock_stands(self, error: BaseException) -> None:
        """No thread can be had that would keep the times: what waits for one would wait for ever."""
        self._fail_scheduled(error)

    def expired(self, job: Job[Any] | Watch) -> bool:
        """The time has come that its state waits for."""
        if isinstance(job, Watch):
            job.look(monotonic())
            return True
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
            self._let_in()
            return told
        return self._abandon(job, rare, TIMED_OUT)

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

    def _queued(self) -> Iterator[Job[Any]]:
        """All that stand in line, or were set aside."""
        yield from self._line.standing()
        for limit in self.limits.values():
            yield from limit.aside.standing()

    def _line_of(self, job: Job[Any]) -> Line[Job[Any]]:
        """Where it stands, being queued."""
        rare = job._rare
        return self._line if rare is None or rare.limit is None or not rare.aside else rare.limit.aside

    def _give_place_back(self, rare: Rare) -> None:
        """It ran in a place of its key."""
        limit = rare.limit
        assert limit is not None
        rare.holds = False
        limit.free += 1
        self._bring_back(limit)

    def _bring_back(self, limit: Limit) -> None:
        """A place came free, or one of the key left the line without taking one: the best that was set aside goes back.

        So while some are set aside, at least as many of the key stand in the line as it has free places. And workers
        that wait for any of the key may run it: they could be all that there are.
        """
        if limit.free <= 0:
            return
        self.calls += limit.helpers
        limit.helpers.clear()
        job = limit.aside.next()
        if job is not None:
            job._rarely().aside = False
            self._line.put_back(job._tally.priority, job, since)
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
        if rare.nested:
            self.watch.add(job, now)
        self.calls += rare.helpers
        rare.helpers.clear()
        self.crew.call()

    def _claim(self, job: Job[Any]) -> None:
        """QUEUED → RUNNING, and a place comes free: the one transition behind a worker's turn and an inline run."""
        now = job._started_at = monotonic()
        job._state = RUNNING
        if self.watch.queued:
            self.watch.queued.pop(job, None)
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

    def _claim_out_of_turn(self, job: Job[Any]) -> None:
        """As `_claim`, of one that still stands in its line."""
        line, rare = self._line_of(job), job._rare
        if rare is not None and rare.attempts is not None:
            line.take_out(job._tally.priority, job)  # a mark would stand for it when it is queued again
            self._claim(job)
        else:
            self._claim(job)
            line.left(job._tally.priority)
        if rare is not None and rare.limit is not None:
            if not (rare.aside or rare.holds):
                self._bring_back(rare.limit)
            rare.aside = False
        self._let_in()

    def _try_again(self, job: Job[Any], rare: Rare, now: float) -> JobState:
        """RUNNING → SCHEDULED. It takes its place back, over the bound if need be; or it ends as FAILED after all."""
        assert rare.attempts is not None
        if rare.cancel_requested or not (self.open or self.draining):
            job._tally.failed += 1
            self._drop_payload(job)
            return FAILED
        rare.attempts.number += 1
        job._tally.retried += 1
        del job._ended_at
        self.room -= 1
        self._stop_waiting(rare)
        self._schedule(job, rare, now + rare.attempts.wait)
        if self.hooks is not None and self.hooks.on_retry is not None:
            error = job._result.error
            self.calls.append(partial(call_hook, "on_retry", self.hooks.on_retry, job, error, rare.attempts.wait))
        return SCHEDULED

    def _stop_waiting(self, rare: Rare) -> None:
        """It leaves the state that had a time."""
        if rare.alarm is not None:
            self.clock.clear(rare.alarm)
            rare.alarm = None

    def _abandon(self, job: Job[Any], rare: Rare, state: JobState) -> bool:
        """It ends for all others now. Its thread goes on, and counts as one, until the function has returned."""
        now = job._ended_at = monotonic()
        rare.cancel_requested = True
        tally = job._tally
        tally.running -= 1
        if state is TIMED_OUT:
            tally.timed_out += 1
        else:
            tally.cancelled += 1
        tally.runs.append(now - job._started_at)
        told = self._tell(job, state)
        self._one_less()
        return told

    def _end_late(self, job: Job[Any]) -> None:
        """What has ended before, for all others, has really ended now: it was abandoned, or this is a forked child."""
        if job._state is not FAILED:
            self.calls.append(partial(_shed, job, job._args, job._context, getattr(job, "_result", None)))
            job._args = job._context = job._result = None

    def _let_in(self) -> None:
        """Places came free: they go to who waits, by priority."""
        while self.room > 0:
            place = self._places.next()
            if place is None:
                self.crowded = False
                return
            self._enqueue(place.job)
            self._settle(place, Value(place.job))

    def _settle(self, place: Place[Any], answer: Any) -> None:
        place.answer = answer
        place.settled = True
        if place.call is not None:
            self.calls.append(place.call)
            place.call = None

    def _refuse_places(self, cause: BaseException | None = None) -> None:
        while (place := self._places.next()) is not None:
            refusal = Error(self._never(place.job, cause))
            self._end_refused(place.job, FAILED, refusal)
            self._settle(place, refusal)

    def _end_unrun(self, job: Job[Any], state: JobState, result: Error | None = None) -> bool:
        """End what is scheduled or queued."""
        job._ended_at = monotonic()
        tally = job._tally
        was = job._state
        if was is SCHEDULED:
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
        if state is CANCELLED and job._rare is not None and job._rare.attempts is not None:
            self.calls.append(partial(_shed, job, getattr(job, "_result", None)))  # what it failed with before
            job._result = None
        if result is not None:
            job._result = result
        told = self._tell(job, state)
        self._one_less()
        if was is QUEUED:
            line, rare = self._line_of(job), job._rare
            line.left(job._tally.priority)
            if rare is not None and rare.limit is not None and not rare.aside:
                self._bring_back(rare.limit)
            self.watch.queued.pop(job, None)
        self._drop_payload(job)
        return told

    def _end_refused(self, job: Job[Any], state: JobState, result: Error | None = None) -> None:
        """End what was never let in: it counts nowhere."""
        if result is not None:
            job._result = result
        self._tell(job, state)
        self._drop_payload(job)

    def _drop_payload(self, job: Job[Any]) -> None:
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
        if rare is not None:
            self._stop_waiting(rare)
            if rare.callbacks:
                self.calls += [partial(callback, job) for callback in rare.callbacks]
                rare.callbacks.clear()
                quiet = False
        if self.hooks is not None and self.hooks.on_end is not None:
            self.calls.append(partial(call_hook, "on_end", self.hooks.on_end, job))
            quiet = False
        return quiet

    def _one_less(self) -> None:
        """After the job's own callbacks: who waits for the whole pool finds them made."""
        self.unfinished -= 1
        if not self.unfinished and (self._when_idle or not self.open):
            self._rest()

    def _rest(self) -> None:
        """Nothing is left to do: tell who waits for that, and let the workers of a closed pool go."""
        self.calls += self._when_idle
        self._when_idle = []
        if not self.open:
            self.crew.dismiss()
            self.watch.dismiss()

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
