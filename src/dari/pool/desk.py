"""The desk: where jobs are handed in, cancelled, helped and refused. Each method is a section under the pool's lock.

**One lock, short sections.** A worker that ends a job takes the next in the same section (`workers`), so a job costs
two sections: one to hand it in, one to end it. Splitting the lock would cost more than it saves under the GIL. What
happens inside of a section is the `ledger`'s.

**The seam for engines.** `take_next` gives the next job to whoever can start one now, and `finish` ends it later:
order, bound, statistics and closing are decided here, whatever runs the jobs. The engine is told by `Crew.call` that
there is something to take. Threads are the first engine; they make one section of both (`workers`).
"""

from __future__ import annotations

from functools import partial
from itertools import chain, islice
from threading import Thread
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, final

from dari._kernel.outcome import Error, Value
from dari.drivers.blocking import way_out
from dari.exceptions import BlockingCallError, QueueFull
from dari.pool.calls import spawn
from dari.pool.job import CANCELLED, ENDED, FAILED, QUEUED, RUNNING, SCHEDULED, Job, JobState, Seat, here, run
from dari.pool.salvage import Salvage
from dari.pool.stats import PoolStats, Tally, WorkerStats, frozen

if TYPE_CHECKING:
    from collections.abc import Callable

    from dari.pool.places import Place

__all__ = ["Desk"]

_AT_ONCE = 100  # jobs that are cancelled in one section: 0.3 ms
_NEEDED = 25  # frames to begin with a job, run it and end it, those of its function aside
_DEEPEST = 50  # jobs on one stack; each costs it some six frames of the 1000 that Python allows


def _need_frames(number: int) -> None:
    """Raise RecursionError if there are not so many left: before anything is begun that could not be ended."""
    if number:
        _need_frames(number - 1)


@final
class Desk(Salvage):
    def offer(self, job: Job[Any]) -> bool:
        """Let the job in if there is a place for it (there is always one for a job that a worker hands in)."""
        if self.inside and self._is_interrupted():
            return self._offer_from_within(job)
        return bool(self.perform(self._offer, job))

    def stand(self, place: Place[Any]) -> None:
        """Let its job in now, or put it in line. Raises PoolClosed."""
        self.perform(self._stand, place)

    def withdraw(self, place: Place[Any]) -> None:
        """It waits no more. What was let in already stays."""
        self.perform(self._withdraw, place)

    def cancel(self, job: Job[Any], *, abandon: bool = False) -> bool:
        """End it if nobody has begun with it; else leave a request, or abandon it. Is it cancelled now?"""
        self.perform(self._cancel, job, abandon)
        return job._state is CANCELLED

    def help(self, job: Job[Any]) -> bool:
        """In one of the pool's workers: run it here and now, if that can be. Is there any use in asking again?

        After each 50 on one stack, which has an end, the next has a new one: a thread which this one waits for.
        """
        seat = here.seat
        if seat is None or seat.keeper is not self:
            return False
        _need_frames(_NEEDED)
        if job in seat.stack():
            raise BlockingCallError(f"{job!r} waits for itself: that would never end")
        if not self.perform(self._begin_helping, job, seat):
            return job._rare is not None and job._rare.plan is not None
        deep = len(seat.below) % _DEEPEST == _DEEPEST - 1
        state = self.crew.run_on_a_new_stack(job, seat) if deep else run(job)
        self.perform(self._end_helping, job, state, seat)
        del job, seat  # as in `Job._wait`
        return True

    def call_when_queued(self, job: Job[Any], call: Callable[[], object]) -> bool:
        """Make `call()`, which must not block, when it could be run later. False: it could now, or has ended."""
        with self.lock:
            rare = job._rarely()
            if job._waiters is ENDED:
                return False
            helpers = rare.helpers
            if job._state is QUEUED:
                seat = here.seat
                if rare.limit is None or rare.limit.free > 0 or (seat and rare.limit.held_by(seat.stack())):
                    return False
                helpers = rare.limit.helpers
            helpers.append(call)
            return True

    def forget_when_queued(self, job: Job[Any], call: Callable[[], object]) -> None:
        with self.lock:
            rare = job._rarely()
            for helpers in (rare.helpers, rare.limit.helpers if rare.limit is not None else rare.helpers):
                if call in helpers:
                    helpers.remove(call)

    def close(self, *, cancel: bool, ask: bool = False, at_once: bool = True) -> None:
        """Let nobody in any more. `cancel` ends what is queued; `ask` leaves a request with what runs.

        A hundred thousand jobs take their time, which a loop or a scheduler that runs here has not got: unless it must
        be `at_once`, the first are cancelled here then, and the rest by a thread. None of them is begun any more.
        """
        self.perform(self._close, cancel, ask)
        if not cancel:
            return
        more = self.perform(self._cancel_some)
        if more is None:  # a signal handler in the midst of a section: none of them comes between
            self.perform(self._cancel_all)
        elif more and not at_once and way_out(task="", loop="") is not None:
            rest = partial(Thread, target=self._cancel_rest, name=f"{self.name}-canceller", daemon=True)
            spawn(rest, lambda _: self._cancel_rest())
        elif more:
            self._cancel_rest()

    def _cancel_rest(self) -> None:
        while self.perform(self._cancel_some):
            sleep(0)  # others may have the interpreter

    def resize(self, max_workers: int) -> None:
        self.perform(self.crew.resize, max_workers)

    def take_next(self) -> Job[Any] | None:
        """For an engine that can start a job now: the next one, which is RUNNING by that. None: there is none."""
        while True:
            job, again = self.perform(self._take_or_look_again) or (None, False)
            if not again:
                return job

    def finish(self, job: Job[Any], state: JobState) -> None:
        """For the engine that took it: it has ended, in the `state` that `job.run` gave, and `job._result`."""
        self.perform(self.end, job, state)

    def when_idle(self, call: Callable[[], object]) -> None:
        """Make `call()`, which must not block, when nothing is queued or running; at once, if so it is."""
        self.perform(self._tell_when_idle, call)

    def forget_idle(self, call: Callable[[], object]) -> None:
        with self.lock:
            if call in self._when_idle:
                self._when_idle.remove(call)

    def tally(self, priority: int) -> Tally:
        """The counts of `priority`, made when it is first used."""
        tally = self.tallies.get(priority)
        return self.tallies.setdefault(priority, Tally(priority)) if tally is None else tally

    def stats(self) -> PoolStats:
        if self.in_doubt:
            self.perform(bool)  # a section that does nothing, and so is right
        with self.lock:
            now = monotonic()
            _, idle = self.crew.count()
            readings = {
                priority: tally.read(self._head_waits(priority, now))
                for priority, tally in list(self.tallies.items())  # `tally` adds to them without the lock
            }
            workers = {seat.name: WorkerStats(seat.completed, seat.failed) for seat in self.crew.at_work()}
            abandoned = self.abandoned()
        return frozen(workers, idle, abandoned, readings)

    # ---- steps: each is a section ---------------------------------------------------------------------------------

    def _take_or_look_again(self) -> tuple[Job[Any] | None, bool]:
        job, again = self.take(), self.looks_again
        self.looks_again = False
        return job, again

    def _tell_when_idle(self, call: Callable[[], object]) -> None:
        (self._when_idle if self.unfinished else self.calls).append(call)

    def _offer(self, job: Job[Any]) -> bool:
        seat = here.seat
        if seat is not None and seat.keeper is self:
            self._let_in_from_inside(job)
        elif not self.open:
            raise self._closed()
        elif self.room <= 0:
            return False
        else:
            self._enqueue(job)
        return True

    def _let_in_from_inside(self, job: Job[Any]) -> None:
        """A worker of the pool never waits for a place: nobody else might free one. Raises PoolClosed."""
        if not (self.open or self.draining):
            raise self._closed()
        if job._rare is not None:
            job._rare.nested = True
        self._enqueue(job)
        if job._state is QUEUED:
            self.watch.add(job, job._queued_at)

    def _is_interrupted(self) -> bool:
        """Is it this thread that is inside of a section? Then a signal handler, or a destructor, came in its midst."""
        if not self.lock.acquire(False):
            return False
        try:
            return self.inside
        finally:
            self.lock.release()

    def _offer_from_within(self, job: Job[Any]) -> bool:
        if not self.open:
            raise self._closed()
        if self.room <= len(self.later):
            raise QueueFull(f"the queue of pool {self.name!r} is full, and a signal handler in its midst cannot wait")
        self.later.append(partial(self._let_in_late, job))
        return True

    def _let_in_late(self, job: Job[Any]) -> None:
        if self.open:
            self._enqueue(job)
        elif job._state is None:
            self._end_refused(job, FAILED, Error(self._closed()))

    def _stand(self, place: Place[Any]) -> None:
        job = place.job
        if self._offer(job):
            self._settle(place, Value(job))
        else:
            self.crowded = True
            self._places.push(job._tally.priority, place)

    def _withdraw(self, place: Place[Any]) -> None:
        if not place.settled:
            self._end_refused(place.job, CANCELLED)
            self._settle(place, None)
            self._places.left(place.job._tally.priority)

    def _cancel(self, job: Job[Any], abandon: bool) -> None:
        state = job._state
        if state is QUEUED or state is SCHEDULED:
            self._end_unrun(job, CANCELLED)
            self._let_in()
        elif state is None:  # it waits for a place: `run_sync`
            self._end_refused(job, CANCELLED)
            self._places.left(job._tally.priority)
        elif state is RUNNING:
            rare = job._rarely()
            rare.cancel_requested = True
            if abandon:
                self._abandon(job, rare, CANCELLED)

    def _begin_helping(self, job: Job[Any], seat: Seat) -> bool:
        if job._state is None:
            # It waits for a place, which else might never come free: let in over the bound, as what a worker hands in.
            self._enqueue(job)
            self._places.left(job._tally.priority)
        if job._state is not QUEUED or self.cancelling:
            return False
        rare = job._rare
        limit = None if rare is None else rare.limit
        if limit is not None and not limit.held_by(seat.stack()) and not limit.take(rare):
            return False
        self._claim_out_of_turn(job)
        if seat.job is not None:
            seat.below.append(seat.job)
        seat.job = job
        return True

    def _end_helping(self, job: Job[Any], state: JobState, seat: Seat) -> None:
        self.end(job, state)
        seat.count(state)
        seat.job = seat.below.pop() if seat.below else None

    def _close(self, cancel: bool, ask: bool) -> None:
        self.draining = (self.open or self.draining) and not cancel
        self.open = False
        self._refuse_places()
        if cancel:
            self.cancelling = self.crew.shrinking = True
        if ask:
            self.given_up = min(self.given_up, monotonic())
            for seat in self.crew.at_work():
                for running in seat.stack():
                    running._rarely().cancel_requested = True
        self.crew.dismiss()
        if not self.unfinished:
            self.watch.dismiss()
        self.clock.dismiss()

    def _cancel_some(self) -> bool:
        """A few of a hundred thousand, so that others get the lock in between. Are there more?"""
        some = list(islice(chain(self._queued(), self.scheduled), _AT_ONCE))
        for job in some:
            self._end_unrun(job, CANCELLED)
        return len(some) == _AT_ONCE

    def _cancel_all(self) -> None:
        while self._cancel_some():
            pass

    def _head_waits(self, priority: int, now: float) -> float:
        """How long the first that is queued at `priority` has waited until now."""
        lines = [self._line, *(limit.aside for limit in self.limits.values())]
        return max((now - head._queued_at for line in lines if (head := line.head(priority)) is not None), default=0.0)
