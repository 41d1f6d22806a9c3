"""A model of the pool: whatever is done to it, every job is where the model says, and ran as often as that says.

The machine hands in errands (see `errands.py`), cancels, abandons, resizes, closes and gives permits, at any moment or
calmly, that is when nothing moves. What is to be seen then is known exactly: the states, the counts of each priority,
who ran how often, what the hooks were told, and that nobody keeps what an ended job was handed. Never do more of a key
run than it has places.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from functools import partial
from itertools import count

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from dari.exceptions import PoolClosed, QueueFull
from dari.pool import JobState, Pool

from .conftest import PATIENCE
from .errands import ENDED, HOURS, Errand

SMALL = st.integers(0, 7)
WORKERS = st.integers(1, 3)
LIMITS = {"narrow": 1, "wide": 2}
WISHES = st.fixed_dictionaries(
    {
        "priority": st.sampled_from([None, -2, 0, 1]),
        "delay": st.sampled_from([0.0, 0.0, 0.0, 0.0003, HOURS]),
        "fails": st.integers(0, 3),
        "tries": st.integers(1, 3),
        "wait": st.sampled_from([0.0, 0.0003, HOURS]),
        "held": st.booleans(),
        "listens": st.booleans(),
        "key": st.sampled_from([None, None, "narrow", "wide"]),
        "timed": st.booleans(),
    }
)
names = count()


class Machine(RuleBasedStateMachine):
    @initialize(
        workers=WORKERS,
        max_queue=st.sampled_from([None, 1, 4]),
        idle_timeout=st.sampled_from([0.0, 10.0]),
        starvation=st.sampled_from([1, 64, None]),
        dreams=st.lists(WISHES, min_size=1, max_size=4),
        hooked=st.booleans(),
        harshly=st.booleans(),
    )
    def begin(self, workers, max_queue, idle_timeout, starvation, dreams, hooked, harshly):
        self.name = f"machine{next(names)}"
        self.pool = Pool(
            workers,
            max_queue=max_queue,
            on_full="raise",
            idle_timeout=idle_timeout,
            starvation_limit=starvation,
            limits=LIMITS,
            on_start=partial(self.hears, "start") if hooked else None,
            on_retry=partial(self.hears, "retry") if hooked else None,
            on_end=partial(self.hears, "end") if hooked else None,
            thread_name_prefix=self.name,
        )
        self.lock = threading.Lock()  # guards what errands write
        self.errands = []
        self.problems = []
        self.inside = {}  # the errands that each thread is in
        self.told = Counter() if hooked else None  # calls of the hooks
        self.workers = self.limit = workers
        self.max_queue = max_queue
        self.calls = 0  # of `submits`; a precondition must not look at what threads do
        self.closed = self.refuses = False  # `refuses`: jobs that run, too
        self._dreams = dreams
        self._harshly = harshly  # is it to end

    # ---- what errands use, with the lock held ----------------------------------------------------------------------

    def check(self, holds, what, errand):
        if not holds:
            self.problems.append(f"{what}: {errand!r}")

    def enters(self, errand):
        self.inside.setdefault(threading.get_ident(), []).append(errand)
        self.check(len(self.inside) <= self.limit, f"{len(self.inside)} threads, of {self.limit}", None)
        key = errand.wish["key"]
        self.check(key is None or self.holders(key) <= LIMITS[key], f"more run than {LIMITS} allow", errand)

    def leaves(self, errand):
        stack = self.inside[threading.get_ident()]
        self.check(stack.pop() is errand, "it left before those that it waited for", errand)
        if not stack:
            del self.inside[threading.get_ident()]

    def holders(self, key):
        """How many places are taken. One for each thread: who waits for one of the own key lends it the own place."""
        return sum(any(errand.wish["key"] == key for errand in stack) for stack in self.inside.values())

    def hears(self, what, job, *_):
        with self.lock:
            self.told[what, job.id] += 1

    def dream(self):
        """What a job that hands in another wants of it."""
        return self._dreams[len(self.errands) % len(self._dreams)]

    # ---- moves -----------------------------------------------------------------------------------------------------

    @rule(wish=WISHES, nests=st.sampled_from([0, 0, 1, 2]), calmly=st.booleans())
    def submits(self, wish, nests, calmly):
        if calmly:
            self.settles()
        self.calls += 1
        waiting = len(self.waiting())
        errand = Errand(self, wish, nests)
        answer = None
        try:
            errand.hand_in(self.pool)
        except (QueueFull, PoolClosed) as error:
            answer = type(error)
        if answer is not None:
            assert errand.payload() is None
        if self.closed:
            assert answer is PoolClosed
        elif calmly:
            assert answer is (QueueFull if self.max_queue is not None and waiting >= self.max_queue else None)
        else:
            assert answer is not PoolClosed

    @rule(number=SMALL)
    def permits(self, number):
        for errand in self.errands[: -1 - number : -1][-1:]:
            errand.permit()

    @rule()
    def permits_all(self):
        for errand in tuple(self.errands):
            errand.permit()

    @rule(number=SMALL, calmly=st.booleans())
    def cancels(self, number, calmly):
        if calmly:
            self.settles()
        for errand in self.errands[: -1 - number : -1][-1:]:
            state = errand.state()
            cancelled = errand.job.cancel()
            assert not calmly or cancelled == (state in (JobState.SCHEDULED, JobState.QUEUED, JobState.CANCELLED))
            if not cancelled:
                self.was_asked(errand, calmly)
            elif JobState.CANCELLED not in errand.ends and errand.abandoned is None:
                self.was_dropped(errand)

    @rule(number=SMALL, wish=WISHES, nests=st.sampled_from([0, 1]), late=st.booleans())
    def abandons(self, number, wish, nests, late):
        """Its time is over (the clock's part is played here), or who waited for it is cancelled."""
        self.submits({**wish, "held": True, "delay": 0.0}, nests, True)
        self.settles()
        desk = self.pool._desk
        for errand in self.running()[: -1 - number : -1][-1:]:
            errand.last_run = errand.runs
            if late and errand.wish["timed"]:
                errand.abandoned = JobState.TIMED_OUT
                desk.clock.clear(errand.job._rare.alarm)
                desk.perform(desk.expired, errand.job)
            else:
                errand.abandoned = JobState.CANCELLED
                assert desk.cancel(errand.job, abandon=True)

    @rule(workers=WORKERS, calmly=st.booleans())
    def resizes(self, workers, calmly):
        if calmly:
            self.settles()
        with self.lock:
            self.workers, self.limit = workers, max(workers, self.limit)
        self.pool.resize(workers)

    @rule()
    def joins(self):
        self.settles()
        assert self.pool.join(timeout=0) == all(errand.state() in ENDED for errand in self.errands)

    @precondition(lambda self: self.calls > 5)
    @rule(cancel=st.booleans(), timeout=st.sampled_from([0, 0.0005]))
    def shuts_down(self, cancel, timeout):
        self.settles()
        waiting, running = self.waiting(), self.running()
        goes_on = bool(running or (waiting and not cancel))
        stays = bool(self.inside)  # abandoned threads, too
        awakes = cancel and any(errand.waited_for for errand in waiting)  # who waits for one that is cancelled
        left = self.pool.shutdown(cancel_futures=cancel, timeout=timeout if stays or goes_on else PATIENCE)
        self.closed = True
        self.refuses |= cancel
        if cancel:
            for errand in waiting:
                self.was_dropped(errand)
            for errand in running:
                self.was_asked(errand, not awakes)
        assert awakes or left is not (goes_on or (stays and timeout > 0))

    def was_dropped(self, errand):
        errand.dropped, errand.last_run = True, errand.runs
        assert errand.job.cancelled()
        assert errand.payload() is None

    def was_asked(self, errand, calmly):
        """It runs, or has ended; if not calmly, a run of it may have been claimed and not begun."""
        with self.lock:
            if errand.last_run is None:
                errand.last_run = errand.runs + (not calmly)

    # ---- what must hold --------------------------------------------------------------------------------------------

    @invariant()
    def nothing_was_seen_that_must_not_be(self):
        assert not getattr(self, "problems", None), self.problems

    @rule()
    def settles(self):
        """Until nothing moves; then all is as the model says."""
        deadline = time.monotonic() + PATIENCE
        while not self.at_rest():
            assert time.monotonic() < deadline, f"no rest: {self.pool.stats()}\n{self.errands}"
            time.sleep(0)
        self.nothing_was_seen_that_must_not_be()
        with self.lock:
            self.limit = max(self.workers, len(self.inside))
        assert self.counts() == {
            priority: (
                each.scheduled,
                each.queued,
                each.running,
                each.completed,
                each.failed,
                each.cancelled,
                each.timed_out,
                each.retried,
            )
            for priority, each in self.pool.stats().priorities.items()
            if priority in self.counts()
        }
        for errand in self.errands:
            ended = errand.state() in ENDED
            assert (errand.state(), errand.attempt()) == (errand.job.state, errand.job.attempt), errand
            assert (errand.told, errand.job.done()) == (ended, ended), errand
            if self.told is not None:
                told = [self.told[what, errand.job.id] for what in ("start", "retry", "end")]
                assert told == [errand.runs, errand.retried(), ended], errand

    def at_rest(self):
        workers = self.pool.stats().workers
        with self.lock:
            busy = len(self.inside) >= self.workers
            for errand in self.errands:
                state = errand.state()
                if errand.moves() or not self.has_heard(errand, state in ENDED):
                    return False
                if state in ENDED and not errand.is_inside() and errand.payload() is not None:
                    return False
                if state not in ENDED and errand.job.state is not state:
                    return False
                if state is JobState.QUEUED and self.may_begin(errand, busy):
                    return False
            return workers <= max(self.workers, len(self.inside))

    def has_heard(self, errand, ended):
        """Have callbacks and hooks been made? They come after the section that changed the state."""
        if self.told is not None and self.told["retry", errand.job.id] < errand.retried():
            return False
        return not ended or (errand.told > 0 and (self.told is None or self.told["end", errand.job.id] > 0))

    def may_begin(self, errand, busy):
        key, waits = errand.wish["key"], errand.waited_for
        if key is not None and self.holders(key) >= LIMITS[key]:
            return waits is not None and waits.is_inside() and waits.wish["key"] == key
        return not busy or waits is not None

    def counts(self):
        counts = {}
        for errand in self.errands:
            mine = counts.setdefault(errand.job.priority, Counter())
            mine[errand.state()] += 1
            mine["retried"] += errand.retried()
        order = (JobState.SCHEDULED, JobState.QUEUED, JobState.RUNNING, *ENDED, "retried")
        return {priority: tuple(mine[each] for each in order) for priority, mine in counts.items()}

    def waiting(self):
        return [each for each in self.errands if each.state() in (JobState.SCHEDULED, JobState.QUEUED)]

    def running(self):
        return [each for each in self.errands if each.state() is JobState.RUNNING]

    def teardown(self):
        """Somebody waits for the end while the last ones are permitted to go on; then nothing is left."""
        if not hasattr(self, "pool"):
            return
        try:
            if self._harshly:
                self.shuts_down(True, 0)
            self.settles()
            self.closes()
        finally:
            self.permits_all()
            self.pool.shutdown(wait=False, cancel_futures=True)

    def closes(self):
        left = []
        closer = threading.Thread(target=lambda: left.append(self.pool.shutdown(timeout=PATIENCE)))
        closer.start()
        while self.waiting() or self.running() or self.inside:
            for errand in self.waiting():
                if errand.state() is JobState.SCHEDULED:
                    assert errand.job.cancel()
                    self.was_dropped(errand)
            self.permits_all()
            self.settles()
        closer.join()
        stats = self.pool.stats()
        assert left == [True]
        assert (stats.workers, stats.idle, stats.abandoned, self.pool.join(timeout=0)) == (0, 0, 0, True)
        assert [thread for thread in threading.enumerate() if thread.name.startswith(self.name)] == []


# No shrinking: what goes wrong here may hang, and then each try costs PATIENCE.
Machine.TestCase.settings = settings(
    max_examples=100,
    stateful_step_count=30,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
TestMachine = Machine.TestCase
