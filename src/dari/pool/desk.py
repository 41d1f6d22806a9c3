"""The desk: where jobs are handed in, cancelled, helped and refused. Each method is a section under the pool's lock.

**One lock, short sections.** A worker that ends a job takes the next in the same section (`workers`), so a job costs
two sections: one to hand it in, one to end it. Splitting the lock would cost more than it saves under the GIL. What
happens inside of a section is the `ledger`'s.

**The seam for engines.** `take` gives the next job to whoever can start one now, and `end` finishes it later: order,
bound, statistics and closing are decided here, whatever runs the jobs. The engine is told by `Crew.call` that there is
something to take. Threads are the first engine.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Any, final

from dari._kernel.outcome import Value
from dari.exceptions import BlockingCallError
from dari.pool.calls import make
from dari.pool.job import CANCELLED, ENDED, QUEUED, RUNNING, SCHEDULED, Job, here, run
from dari.pool.ledger import Ledger
from dari.pool.stats import PoolStats, Tally, frozen

if TYPE_CHECKING:
    from collections.abc import Callable

    from dari.pool.places import Place

__all__ = ["Desk"]


@final
class Desk(Ledger):
    def offer(self, job: Job[Any]) -> bool:
        """Let the job in if there is a place for it (there is always one for a job that a worker hands in)."""
        with self.lock:
            if self.open and self.room > 0:
                self._enqueue(job)
            elif not self._let_in_anyway(job):
                return False
            calls = self.leave()
        make(calls)
        return True

    def stand(self, place: Place[Any]) -> None:
        """Let its job in now, or put it in line. Raises PoolClosed."""
        with self.lock:
            job = place.job
            if self.open and self.room > 0:
                self._enqueue(job)
                self._settle(place, Value(job))
            elif self._let_in_anyway(job):
                self._settle(place, Value(job))
            else:
                self._places.push(job._tally.priority, place)
            calls = self.leave()
        make(calls)

    def withdraw(self, place: Place[Any]) -> None:
        """It waits no more. What was let in already stays."""
        with self.lock:
            if not place.settled:
                self._end_refused(place.job, CANCELLED)
                self._settle(place, None)
                self._places.left(place.job._tally.priority)
            calls = self.leave()
        make(calls)

    def cancel(self, job: Job[Any]) -> bool:
        """End it if nobody has begun with it; else leave a request. Was it, or is it now, cancelled?"""
        with self.lock:
            state = job._state
            if state is QUEUED:
                self._end_unrun(job, CANCELLED)
                self._line.left(job._tally.priority)
                self._let_in()
            elif state is SCHEDULED:
                self._end_unrun(job, CANCELLED)
                self._let_in()
            elif state is None:  # it waits for a place: `run_sync`
                self._end_refused(job, CANCELLED)
                self._places.left(job._tally.priority)
            elif state is RUNNING:
                job._rarely().cancel_requested = True
            calls = self.leave()
        make(calls)
        return job._state is CANCELLED

    def help(self, job: Job[Any]) -> None:
        """If this thread is one of the pool's workers, and `job` is still queued: run it here and now."""
        seat = here.seat
        if seat is None or seat.keeper is not self:
            return
        with self.lock:
            if job in seat.stack():
                raise BlockingCallError(f"{job!r} waits for itself: that would never end")
            if job._state is not QUEUED:
                return
            self._claim(job)
            if job._rare is not None and job._rare.attempts is not None:
                self._line.remove(job._tally.priority, job)  # a mark would stand for it when it is queued again
            else:
                self._line.left(job._tally.priority)
            outer, seat.job = seat.job, job
            if outer is not None:
                seat.below.append(outer)
            self._let_in()
            calls = self.leave()
        make(calls)
        state = run(job)
        with self.lock:
            self.end(job, state)
            seat.job = seat.below.pop() if outer is not None else None
            calls = self.leave()
        make(calls)

    def call_when_queued(self, job: Job[Any], call: Callable[[], object]) -> bool:
        """Make `call()`, which must not block, when it is queued later. False: it is queued now, or has ended."""
        with self.lock:
            if job._state is QUEUED or job._waiters is ENDED:
                return False
            job._rarely().helpers.append(call)
            return True

    def forget_when_queued(self, job: Job[Any], call: Callable[[], object]) -> None:
        with self.lock:
            helpers = job._rarely().helpers
            if call in helpers:
                helpers.remove(call)

    def close(self, *, cancel: bool, ask: bool = False) -> None:
        """Let nobody in any more. `cancel` ends what is queued; `ask` leaves a request with what runs."""
        with self.lock:
            self.draining = (self.open or self.draining) and not cancel
            self.open = False
            self._refuse_places()
            if cancel:
                while (job := self._line.pop()) is not None:
                    self._end_unrun(job, CANCELLED)
                for job in tuple(self.scheduled):
                    self._end_unrun(job, CANCELLED)
            if ask:
                for seat in self.crew.at_work():
                    for running in seat.stack():
                        running._rarely().cancel_requested = True
            self.crew.dismiss()
            self.clock.dismiss()
            calls = self.leave()
        make(calls)

    def when_idle(self, call: Callable[[], object]) -> None:
        """Make `call()`, which must not block, when nothing is queued or running; at once, if so it is."""
        with self.lock:
            if self.unfinished:
                self._when_idle.append(call)
                return
        call()

    def forget_idle(self, call: Callable[[], object]) -> None:
        with self.lock:
            if call in self._when_idle:
                self._when_idle.remove(call)

    def tally(self, priority: int) -> Tally:
        """The counts of `priority`, made when it is first used."""
        tally = self.tallies.get(priority)
        return self.tallies.setdefault(priority, Tally(priority)) if tally is None else tally

    def stats(self) -> PoolStats:
        with self.lock:
            now = monotonic()
            workers, idle = self.crew.count()
            priorities = {
                priority: tally.read(0.0 if (head := self._line.head(priority)) is None else now - head._queued_at)
                for priority, tally in list(self.tallies.items())  # `tally` adds to them without the lock
            }
            abandoned = self.abandoned()
        return frozen(workers, idle, abandoned, priorities)

    # ---- inside a section ---------------------------------------------------------------------------------------

    def _let_in_anyway(self, job: Job[Any]) -> bool:
        """A worker of the pool never waits for a place: nobody else might free one. Raises PoolClosed."""
        seat = here.seat
        if seat is not None and seat.keeper is self and (self.open or self.draining):
            self._enqueue(job)
            return True
        if not self.open:
            raise self._closed()
        return False
