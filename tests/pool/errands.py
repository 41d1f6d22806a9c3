"""Errands: jobs that write down what happens to them, so that a model can say where each must be, and how often it ran.

Nothing in them sleeps. A run waits for a permit, and the machine (`test_machine.py`) gives permits when it likes. What
must not be seen from inside a job is checked where it would be seen, and told at the machine's next look.
"""

from __future__ import annotations

import threading
from weakref import ref

from dari.exceptions import Cancelled, JobCancelled, JobTimeout, PoolClosed
from dari.pool import JobState, Retry, current_job

from .conftest import PATIENCE

HOURS = 10_000.0
ENDED = (JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED, JobState.TIMED_OUT)
_FREE = 1_000_000  # permits of those that wait for none


class Payload:
    """What a job is handed; the model looks whether it is alive."""


class ErrandError(Exception):
    """What an errand raises as it was told to."""


class Errand:
    """One job: what it is to do, and what was seen of it."""

    def __init__(self, machine, wish, nests=0):
        self.machine, self.wish, self.nests = machine, wish, nests
        self.runs = 0
        self.ends = []  # of its runs: COMPLETED, FAILED, CANCELLED
        self.told = 0  # done callbacks
        self.last_run = None  # it was asked to end, or cancelled: no later run may there be
        self.dropped = False  # cancelled while it waited
        self.abandoned = None  # the state that it ended in for all others, while it ran
        self.waited_for = None  # by another errand
        self.thread = None  # that ran it last
        self._waits = None  # for a permit, or for another errand
        self._permits = threading.Semaphore(0 if wish["held"] else _FREE)
        self._permitted = 0 if wish["held"] else _FREE

    def __repr__(self):
        return f"<errand {self.job!r}: {self.runs} runs, ends {[end.value for end in self.ends]}, {self.wish}>"

    def hand_in(self, pool):
        wish, payload = self.wish, Payload()
        self.payload = ref(payload)
        retry = Retry(wish["tries"] - 1, ErrandError, wait_initial=wish["wait"], wait_max=HOURS, wait_jitter=0.0)
        view = pool.options(
            priority=wish["priority"],
            delay=wish["delay"],
            retry=retry if wish["tries"] > 1 else None,
            key=wish["key"],
            timeout=HOURS if wish["timed"] else None,
        )
        self.job = view.submit(self.run, payload)
        with self.machine.lock:
            self.machine.errands.append(self)
        self.job.add_done_callback(self._hears)

    def permit(self):
        with self.machine.lock:
            self._permitted += 1
        self._permits.release()

    # ---- what the pool calls -------------------------------------------------------------------------------------

    def run(self, payload):
        del payload  # the frames in an error's traceback must not be what keeps it
        machine, end = self.machine, JobState.FAILED
        with machine.lock:
            self.runs += 1
            self.thread = threading.get_ident()
            machine.enters(self)
            machine.check(len(self.ends) == self.runs - 1, "it runs twice at once", self)
            machine.check(self.runs == current_job().attempt, "it ran more often than its job knows", self)
            machine.check(self.last_run is None or self.runs <= self.last_run, "it was cancelled, and runs", self)
        try:
            if self.nests:
                self._waits_for_another()
            self._waits = "permit"
            machine.check(self._permits.acquire(timeout=PATIENCE), "it was not permitted to go on", self)
            self._waits = None
            if self.wish["listens"]:
                current_job().check_cancelled()
            if self.runs <= self.wish["fails"]:
                raise ErrandError
            end = JobState.COMPLETED
            return self.runs
        except Cancelled:
            end = JobState.CANCELLED
            raise
        finally:
            with machine.lock:
                self.ends.append(end)
                machine.leaves(self)

    def _waits_for_another(self):
        dream = self.machine.dream()
        if self.wish["key"] is not None:
            dream = {**dream, "key": self.wish["key"]}  # keys that wait for each other are a deadlock, as locks are
        other = Errand(self.machine, dream, self.nests - 1)
        other.waited_for = self
        try:
            other.hand_in(self.machine.pool)
            self.machine.check(not self.machine.refuses, "a pool that was closed with cancel_futures took it", other)
            self._waits = other
            self.machine.check(other.job.result() == other.runs, "it gave something else", other)
        except (ErrandError, JobCancelled, JobTimeout, PoolClosed):
            pass
        except BaseException as error:  # noqa: BLE001 - QueueFull, say: a job always has a place
            self.machine.check(False, f"a job that waits for another got {error!r}", self)
        self._waits = None

    def _hears(self, job):
        self.told += 1

    # ---- what the model says, when nothing moves -------------------------------------------------------------------

    def moves(self):
        """Does it run, and not wait for anything?"""
        if len(self.ends) == self.runs:
            return False
        if self._waits == "permit":
            return len(self.ends) < self._permitted
        other = self._waits
        return other is None or (other.state() in ENDED and not (other.thread == self.thread and other.is_inside()))

    def state(self):
        """Where its job must be."""
        if self.dropped:
            return JobState.CANCELLED
        if self.abandoned is not None:
            return self.abandoned
        if self.is_inside():
            return JobState.RUNNING
        if self.ends:
            if self.ends[-1] is not JobState.FAILED or self.runs == self.wish["tries"] or self.last_run is not None:
                return self.ends[-1]
            return JobState.SCHEDULED if self.wish["wait"] == HOURS else JobState.QUEUED
        return JobState.SCHEDULED if self.wish["delay"] == HOURS else JobState.QUEUED

    def is_inside(self):
        return len(self.ends) < self.runs

    def attempt(self):
        return self.runs if self.is_inside() or (self.ends and self._is_over()) else self.runs + 1

    def retried(self):
        earlier = self.ends if self.abandoned is None else self.ends[: self.runs - 1]
        return earlier.count(JobState.FAILED) - (self.state() is JobState.FAILED)

    def _is_over(self):
        return self.state() in ENDED and not self.dropped
