"""Signal handlers, Ctrl-C and destructors that come in the midst of the pool's own work. Real signals."""

from __future__ import annotations

import gc
import signal
import sys
import threading
from contextlib import suppress
from itertools import count

import pytest

from dari.exceptions import QueueFull

AFTER = 0.0005  # seconds until a signal: a hundred jobs are handed in meanwhile


@pytest.fixture
def alarm():
    """Have a handler called soon; and then again, if it did not raise, each time that it has returned."""
    before = signal.getsignal(signal.SIGALRM)
    handlers = []

    def call(*_):
        for handler in handlers:
            handler()
            signal.setitimer(signal.ITIMER_REAL, AFTER)

    def start(handler, after=AFTER):
        handlers[:] = [handler]
        signal.signal(signal.SIGALRM, call)
        signal.setitimer(signal.ITIMER_REAL, after)

    yield start
    handlers.clear()
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("options", [{"max_queue": None}, {"on_full": "raise", "max_queue": 100_000}])
def test_a_signal_handler_hands_in_jobs(make_pool, alarm, options):
    """While the main thread does nothing but hand in jobs, so it comes at any point of that: none is lost."""
    pool, handled, given = make_pool(2, **options), [], 0
    alarm(lambda: handled.append(pool.submit(abs, -7)))
    while len(handled) < 200:
        pool.submit(int)
        given += 1
        if not given % 1000:
            pool.join()
    alarm(int)

    assert [job.result(timeout=10) for job in handled] == [7] * len(handled)
    assert pool.join(10)
    assert pool.stats().completed == given + len(handled)


def test_a_signal_handler_cancels_and_asks(make_pool, alarm, gate):
    """`cancel` and `stats` wait for nothing either."""
    pool, seen = make_pool(1, max_queue=None), []
    gate.hold(pool)
    victims = [pool.submit(int) for _ in range(3000)]

    def handler():
        victims[len(seen)].cancel()
        seen.append(pool.stats().queued)

    alarm(handler)
    while len(seen) < 100:
        pool.submit(int).cancel()
    alarm(int)
    gate.open()

    assert pool.join(10)
    assert all(victim.cancelled() for victim in victims[: len(seen)])
    assert sum(victim.cancelled() for victim in victims) == len(seen)


def test_what_comes_at_the_very_end_of_a_section_is_not_forgotten(one):
    """Between the last look at what was put off and the moment from which nothing is put off any more."""
    desk, jobs, looks = one._desk, [], count(1)

    class Later(type(desk.later)):
        """What was put off: one more comes after the second look, that of `leave`."""

        def __bool__(self):
            length = len(self)
            if next(looks) == 2:
                jobs.append(one.submit(pow, 2, 3))
            return length > 0

    desk.later = Later()
    desk.perform(lambda: desk.calls.append(int))

    assert jobs[0].result(timeout=10) == 8


def test_a_full_queue_is_no_place_for_a_handler_to_wait(make_pool, gate):
    """In the midst of a section the place that it waited for would never come free: QueueFull at once."""
    pool = make_pool(1, max_queue=1)
    gate.hold(pool)
    told = []

    class Meddler:
        """A destructor, as the garbage collector runs it in the midst of anything."""

        def __del__(self):
            try:
                pool.submit(int)
            except QueueFull as error:
                told.append(str(error))

    meddlers = [Meddler()]

    def interrupted():
        pool._desk.room = 0
        meddlers.clear()
        pool._desk.room = 1

    pool._desk.perform(interrupted)

    assert told == ["the queue of pool 'dari' is full, and a signal handler in its midst cannot wait"]


@pytest.fixture
def no_collector():
    """Python ignores what is raised in the midst of a destructor, or of a hook of the collector: it only warns."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # as above, of reference counts
@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("options", [{"max_queue": None}, {"max_queue": 50}])
@pytest.mark.parametrize("cancels", [False, True])
def test_the_pool_survives_ctrl_c_anywhere(make_pool, alarm, options, cancels):
    """Whatever its error breaks off: no worker and no place is lost, what was handed in ends, and the pool goes on."""
    pool = make_pool(2, idle_timeout=None, **options)
    jobs, came, caught = [], [], 0

    def interrupt():
        came.append(None)
        raise KeyboardInterrupt

    def hand_in():
        while not came:
            jobs.append(pool.submit(int))
            if cancels:
                jobs[-1].cancel()

    for after in range(200):
        came.clear()
        jobs.clear()
        try:
            alarm(interrupt, AFTER + after * 3e-6)
            hand_in()
        except KeyboardInterrupt:
            caught += 1
        assert pool.join(10), pool.stats()
        assert all(job.done() for job in jobs)

    assert caught > 150
    assert pool._desk.room == (sys.maxsize if options["max_queue"] is None else 50)
    both = threading.Barrier(2)
    pair = [pool.submit(both.wait, 10) for _ in range(2)]
    assert sorted(job.result(timeout=10) for job in pair) == [0, 1]


def test_a_signal_handler_cancels_all(make_pool, gate):
    """However many there are, and whatever it interrupts: here, a section of the pool."""
    pool = make_pool(1, max_queue=None)
    gate.hold(pool)
    jobs = [pool.submit(int) for _ in range(1000)]
    pool._desk.perform(lambda: pool.shutdown(wait=False, cancel_futures=True))

    assert all(job.cancelled() for job in jobs)


def test_what_was_broken_off_by_ctrl_c_is_not_taken_up_by_a_worker_that_comes_late(make_pool, monkeypatch):
    """A job that was cancelled so, and had been handed in from inside of the pool."""
    pool, jobs = make_pool(1), []
    handed_in, interrupted = threading.Event(), threading.Event()

    def waits():
        jobs.append(pool.submit(jobs.append, "ran"))
        handed_in.set()
        assert interrupted.wait(10)

    def interrupt(_):
        monkeypatch.undo()
        raise KeyboardInterrupt

    job = pool.submit(waits)
    assert handed_in.wait(10)
    monkeypatch.setattr(pool._desk, "_line_of", interrupt)
    with pytest.raises(KeyboardInterrupt):
        jobs[0].cancel()
    assert (jobs[0].cancelled(), len(pool._desk.watch.queued)) == (True, 0)
    interrupted.set()
    job.result(timeout=10)
    assert pool.join(10)

    assert len(jobs) == 1


def test_destructors_hand_in_jobs(make_pool):
    """The collector runs them on whatever thread, in the midst of whatever it does."""
    pool, jobs = make_pool(2, max_queue=None), []

    class Garbage:
        """What only the collector can free."""

        def __init__(self):
            self.me = self

        def __del__(self):
            jobs.append(pool.submit(int))

    def litter():
        Garbage()

    threshold = gc.get_threshold()
    gc.collect()
    gc.freeze()  # else each collection looks at all the modules
    gc.set_threshold(5)
    try:
        for _ in range(500):
            litter()
            pool.submit(litter)
        assert pool.join(10)
    finally:
        gc.set_threshold(*threshold)
        gc.unfreeze()
    gc.collect()

    assert pool.join(10)
    assert len(jobs) == 1000
    assert all(job.result(timeout=10) == 0 for job in jobs)


@pytest.mark.parametrize("inside", [False, True])
def test_recursion_without_end_breaks_nothing(make_pool, inside):
    """The stack ends anywhere in the pool's own work, and leaves none to mend it: the next one does."""
    pool = make_pool(1, max_queue=None)

    def descend():
        pool.submit(int)
        descend()

    def start(depth):
        if depth:
            start(depth - 1)
            return
        with pytest.raises(RecursionError):
            descend()

    for depth in range(30):
        if inside:
            pool.submit(start, depth).result(timeout=10)
        else:
            start(depth)
        assert pool.join(10)

    assert pool.submit(pow, 2, 3).result(timeout=10) == 8
    assert (pool.stats().queued, pool.stats().running, pool._desk.unfinished) == (0, 0, 0)


def deep_down(depth, act):
    if depth:
        deep_down(depth - 1, act)
    else:
        act()


def at_the_end_of_the_stack(act):
    """Call `act()` where no frame is left for it, where one is, two, and so on; it may raise RecursionError."""
    deepest = sys.getrecursionlimit()
    while True:
        try:
            deep_down(deepest, int)
        except RecursionError:
            deepest -= 1
        else:
            break
    for left in range(30):
        with suppress(RecursionError):
            deep_down(deepest - left, act)


@pytest.fixture
def stack_ends(monkeypatch):
    """The stack ends in `step` of the pool, after `so_far()`, and leaves none to mend it on."""

    def at(pool, step, so_far):
        def end(*_):
            so_far()
            raise RecursionError

        def no_stack_is_left():
            raise RecursionError

        monkeypatch.setattr(pool._desk, step, end)
        monkeypatch.setattr(pool._desk, "mend", no_stack_is_left)
        return monkeypatch.undo

    return at


def test_what_the_end_of_the_stack_broke_off_is_right_before_a_worker_relies_on_it(one, gate, stack_ends):
    """It takes no job that was cancelled, and stood in line still."""
    gate.hold(one)
    ran = []
    cancelled, queued = one.submit(ran.append, "cancelled"), one.submit(ran.append, "queued")
    undo = stack_ends(one, "_one_less", int)
    with pytest.raises(RecursionError):
        cancelled.cancel()
    undo()
    gate.open()
    queued.result(timeout=10)

    assert (cancelled.cancelled(), ran) == (True, ["queued"])
    assert (one.stats().queued, one.stats().running, one._desk.unfinished) == (0, 0, 0)


def test_what_the_end_of_the_stack_broke_off_is_right_before_somebody_joins(one, stack_ends):
    """Counted, but not in line: nobody would ever end it."""

    def count_it():
        one._desk.unfinished += 1

    undo = stack_ends(one, "_enqueue", count_it)
    with pytest.raises(RecursionError):
        one.submit(int)
    undo()

    assert one.join(10)


def test_a_job_at_the_end_of_the_stack_leaves_none_begun_that_it_waits_for(one):
    """Either there is a stack to run the other one on, or it stays in line."""
    jobs = []

    def outer():
        jobs.extend(one.submit(int) for _ in range(40))
        queued = iter(jobs)
        at_the_end_of_the_stack(lambda: next(queued).result())
        return [job.running() for job in jobs]

    assert one.submit(outer).result(timeout=10) == [False] * 40
    assert one.join(10)
    assert [job.result(timeout=10) for job in jobs] == [0] * 40
    assert (one.stats().running, one._desk.unfinished) == (0, 0)


def test_callbacks_for_which_there_is_no_stack_are_made_later(make_pool, gate):
    """Each exactly once: whoever comes next makes them, a join or a shutdown at last."""
    pool, called = make_pool(1, max_queue=None), []
    gate.hold(pool)
    jobs = [pool.submit(int) for _ in range(40)]
    for job in jobs:
        job.add_done_callback(called.append)
    queued = iter(jobs)
    at_the_end_of_the_stack(lambda: next(queued).cancel())
    cancelled = [job for job in jobs if job.cancelled()]
    assert pool.join(0) is False
    gate.open()
    pool.shutdown()

    assert len(cancelled) > 10
    assert sorted(job.id for job in called) == [job.id for job in jobs]
