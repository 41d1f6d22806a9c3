"""Limits by key: `Pool(limits={"db": 2})`, `pool.options(key="db")`."""

from __future__ import annotations

import threading

import pytest

from dari.exceptions import QueueFull
from dari.pool import JobState, Retry

from .conftest import Gate, until


class Meter:
    """Counts how many run at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.now = self.most = 0

    def __call__(self, *waits):
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)
        for wait in waits:
            wait()
        with self._lock:
            self.now -= 1


def test_so_many_of_a_key_run_at_a_time(make_pool):
    """However many workers there are; the others wait their turn, and all run."""
    pool, meter = make_pool(6, limits={"db": 2}), Meter()
    pairs = threading.Barrier(2)
    jobs = [pool.options(key="db").submit(meter, lambda: pairs.wait(10)) for _ in range(60)]
    for job in jobs:
        job.result(timeout=10)

    assert meter.most == 2


def test_others_do_not_wait_for_a_key(make_pool, gate):
    """Jobs without it, and of other keys, overtake those that were set aside."""
    pool = make_pool(2, limits={"db": 1, "mail": 1})
    db = pool.options(key="db")
    held = db.submit(gate.wait)
    waiting = [db.submit(int) for _ in range(3)]

    assert pool.submit(pow, 2, 3).result(timeout=10) == 8
    assert pool.options(key="mail").submit(pow, 2, 4).result(timeout=10) == 16
    assert [job.state for job in waiting] == [JobState.QUEUED] * 3
    assert (pool.stats().queued, pool.stats().running) == (3, 1)
    gate.open()
    assert [job.result(timeout=10) for job in (held, *waiting)] == ["through", 0, 0, 0]


def test_a_key_keeps_the_order(make_pool, gate):
    """Among those of the key priority counts, then who came first, as in the whole queue."""
    pool, order = make_pool(2, limits={"db": 1}), []
    db = pool.options(key="db")
    gate.hold(db)
    late = [db.options(priority=5).submit(order.append, ("late", n)) for n in range(3)]
    normal = [db.submit(order.append, ("normal", n)) for n in range(3)]
    urgent = db.options(priority=-5).submit(order.append, ("urgent", 0))
    pool.submit(int).result(timeout=10)  # a worker came by, and set them aside
    gate.open()
    for job in (*late, *normal, urgent):
        job.result(timeout=10)

    assert order == [("urgent", 0), *(("normal", n) for n in range(3)), *(("late", n) for n in range(3))]


def test_what_comes_back_stands_before_those_that_came_later(make_pool, gate):
    """Its turn had come already."""
    pool, order = make_pool(2, limits={"db": 1}), []
    (first,) = gate.hold(pool.options(key="db"))
    held = threading.Event()
    aside = pool.options(key="db").submit(order.append, "aside")
    other = pool.submit(held.wait, 10)  # behind it; so its worker has set it aside
    while not other.running():
        pass
    later = [pool.submit(order.append, n) for n in range(3)]
    gate.open()
    for job in (first, aside, *later):
        job.result(timeout=10)
    held.set()

    assert order == ["aside", 0, 1, 2]


def test_one_that_was_set_aside_can_be_cancelled(make_pool, gate):
    """It frees its place in the queue at once, and never runs."""
    pool, ran = make_pool(2, limits={"db": 1}, max_queue=2, on_full="raise"), []
    db = pool.options(key="db")
    gate.hold(db)
    first = db.submit(ran.append, 0)
    pool.submit(int).result(timeout=10)  # a worker came by, and set it aside
    second = db.submit(ran.append, 1)
    with pytest.raises(QueueFull):
        pool.submit(int)
    assert first.cancel()
    pool.submit(int).result(timeout=10)
    gate.open()
    second.result(timeout=10)

    assert (first.cancelled(), ran, pool.stats().cancelled) == (True, [1], 1)


def test_a_great_many_are_set_aside_in_portions(make_pool, gate):
    """A worker that finds a thousand of a full key in its way goes on to what is behind them."""
    pool = make_pool(2, limits={"db": 1}, max_queue=None)
    db = pool.options(key="db")
    gate.hold(db)
    aside = [db.submit(int, n) for n in range(1000)]

    assert pool.submit(pow, 2, 3).result(timeout=10) == 8
    gate.open()
    assert [job.result(timeout=10) for job in aside] == list(range(1000))


def test_a_failed_attempt_gives_the_place_back(make_pool):
    """Between two attempts of a job others of its key run; no place is lost."""
    pool, meter = make_pool(3, limits={"db": 1}), Meter()
    failures = iter(range(20))

    def fails():
        meter()
        if next(failures, None) is not None:
            raise ValueError

    policy = Retry(max_retries=20, wait_initial=0, wait_jitter=0)
    jobs = [pool.options(key="db", retry=policy).submit(fails) for _ in range(10)]
    for job in jobs:
        job.result(timeout=10)

    assert (meter.most, pool.stats().retried) == (1, 20)
    assert pool.options(key="db").submit(pow, 2, 3).result(timeout=10) == 8


def test_an_abandoned_thread_keeps_the_place(make_pool, gate):
    """As long as its function has not returned; who exceeds a limit so has none."""
    pool, meter = make_pool(3, limits={"db": 1}), Meter()
    late = pool.options(key="db", timeout=0.01).submit(meter, gate.wait)
    with pytest.raises(TimeoutError):
        late.result(timeout=10)
    second = pool.options(key="db").submit(meter)
    pool.submit(int).result(timeout=10)

    assert second.state is JobState.QUEUED
    gate.open()
    second.result(timeout=10)
    assert meter.most == 1


def test_a_job_may_wait_for_one_of_its_own_key(make_pool):
    """It runs in the place of the one that waits: one place is no deadlock."""
    pool = make_pool(2, limits={"db": 1})
    db = pool.options(key="db")

    def depth(n):
        return 0 if n == 0 else 1 + db.submit(depth, n - 1).result()

    assert db.submit(depth, 10).result(timeout=10) == 10
    assert db.submit(pow, 2, 3).result(timeout=10) == 8


def test_deep_in_a_stack_too(make_pool):
    """Past fifty jobs that wait for each other, the place is still that of the one that waits."""
    pool = make_pool(2, limits={"db": 1})
    db = pool.options(key="db", retry=Retry(wait_initial=0.001, wait_jitter=0))
    tried = set()

    def depth(n):
        if n % 50 == 0 and n not in tried:
            tried.add(n)
            raise ValueError(n)
        return 0 if n == 0 else 1 + db.submit(depth, n - 1).result()

    assert db.submit(depth, 120).result(timeout=10) == 120
    assert len(tried) == 3


def brought_back(pool, gate, jobs):
    """A free place of the key "db" that nobody has come for yet, with `jobs` waiting for it; all workers are busy."""
    db = pool.options(key="db")
    holder = Gate()
    holder.hold(db)
    waiting = [db.submit(*job) for job in jobs]
    pool.submit(int).result(timeout=10)  # a worker came by, and set them aside
    gate.hold(pool, pool._crew.max_workers - 1)
    urgent = pool.options(priority=-5).submit(gate.wait)
    holder.open()
    until(urgent.running)
    return waiting


@pytest.mark.parametrize("how", ["cancel", "queue_timeout"])
def test_one_that_never_comes_for_its_place_leaves_it_to_the_next(make_pool, gate, how):
    """It had been called back into the line already."""
    pool = make_pool(2, limits={"db": 1})
    first, second = brought_back(pool, gate, [(int,), (pow, 2, 3)])
    if how == "cancel":
        assert first.cancel()
    else:
        pool._desk.perform(pool._desk.expired, first)
    gate.open()

    assert second.result(timeout=10) == 8


def test_one_that_runs_in_another_place_leaves_its_own_to_the_next(make_pool, gate):
    """It had been called back, and then ran inside of one that waits for it."""
    pool = make_pool(3, limits={"db": 2})
    go, heard, others = threading.Event(), threading.Event(), []

    def waits():
        go.wait(10)
        return others[0].result(), heard.wait(10)

    outer = pool.options(key="db").submit(waits)
    until(outer.running)
    db, holder = pool.options(key="db"), Gate()
    holder.hold(db)
    others += [db.submit(int), db.submit(heard.set)]
    pool.submit(int).result(timeout=10)  # a worker came by, and set them aside
    gate.hold(pool)
    urgent = pool.options(priority=-5).submit(gate.wait)
    holder.open()
    until(urgent.running)
    go.set()
    until(others[0].done)
    gate.open()

    assert outer.result(timeout=10) == (0, True)


def test_those_that_come_back_keep_their_order(make_pool, gate):
    """Also two at once, and one that finds its key full again."""
    pool, order = make_pool(3, limits={"db": 2}), []
    db, holders = pool.options(key="db"), [Gate(), Gate()]
    for holder in holders:
        holder.hold(db)
    jobs = [db.submit(order.append, n) for n in range(4)]
    pool.submit(int).result(timeout=10)  # a worker came by, and set them aside
    gate.hold(pool)
    for holder in holders:
        urgent = pool.options(priority=-5).submit(gate.wait)
        holder.open()
        until(urgent.running)
    again = Gate()
    held = [db.options(priority=-1).submit(again.wait) for _ in range(2)]
    pool.resize(1)
    gate.open()
    pool.resize(3)
    until(lambda: all(job.running() for job in held))
    pool.submit(int).result(timeout=10)  # the key was full again
    pool.resize(1)
    again.open()
    for job in jobs:
        job.result(timeout=10)

    assert order == [0, 1, 2, 3]


def test_who_waits_for_a_full_key_sleeps(make_pool, gate):
    """It asks once, and again when a place came free."""
    pool = make_pool(2, limits={"db": 1})
    db, asked = pool.options(key="db"), []
    gate.hold(db)
    ask = pool._desk.help
    pool._desk.help = lambda job: (asked.append(job), ask(job))[1]
    waiting = pool.submit(lambda: db.submit(pow, 2, 3).result())
    until(lambda: asked and asked[0]._rare.limit.helpers)
    gate.open()

    assert waiting.result(timeout=10) == 8
    assert len(asked) <= 3


def test_who_waits_for_a_full_key_runs_that_job_when_nobody_else_can(make_pool, gate):
    """The worker that gave the place back took another job, which waits for this one."""
    pool = make_pool(2, limits={"db": 1})
    holder = Gate()
    holder.hold(pool.options(key="db"))
    job = pool.options(key="db").submit(pow, 2, 3)
    outer = pool.submit(job.result)
    until(lambda: outer.running() and job._rare.limit.helpers)
    urgent = pool.options(priority=-5).submit(outer.result)
    holder.open()

    assert urgent.result(timeout=10) == 8


def test_who_waits_for_one_of_its_own_key_is_not_put_off(make_pool):
    """It is queued just when the waiting one has asked, and is about to sleep."""
    pool = make_pool(1, limits={"db": 1})
    desk, db = pool._desk, pool.options(key="db")
    ask = desk.help

    def help_and_queue(job):
        again = ask(job)
        if job.state is JobState.SCHEDULED:
            desk.clock.clear(job._rare.alarm)
            desk.perform(desk.expired, job)
        return again

    desk.help = help_and_queue

    assert db.submit(lambda: db.options(delay=1000).submit(pow, 2, 3).result()).result(timeout=10) == 8


def test_who_waits_for_a_full_key_need_not_wait_for_its_turn(make_pool, gate):
    """A place came free, but for the one whose turn it is there is no worker."""
    pool = make_pool(3, limits={"db": 1})
    db, holder = pool.options(key="db"), Gate()
    holder.hold(db)
    first, job = db.submit(int), db.submit(pow, 2, 3)
    pool.submit(int).result(timeout=10)  # a worker came by, and set them aside
    outer = pool.submit(job.result)
    gate.hold(pool)
    until(lambda: outer.running() and job._rare.limit.helpers)
    urgent = pool.options(priority=-5).submit(gate.wait)
    holder.open()

    assert outer.result(timeout=10) == 8
    gate.open()
    assert (first.result(timeout=10), urgent.result(timeout=10)) == (0, "through")


def test_a_key_without_a_limit_is_refused(make_pool):
    """A misspelt one would have none; the error names those that there are."""
    pool = make_pool(1, limits={"db": 2, "mail": 1})

    with pytest.raises(ValueError, match="no limit for the key 'bd', but: 'db', 'mail'"):
        pool.options(key="bd")
    assert pool.options(key="db").options(key=None).submit(pow, 2, 3).result() == 8


@pytest.mark.parametrize(("places", "error"), [(0, ValueError), (1.5, TypeError), ("2", TypeError)])
def test_a_limit_is_a_whole_number_above_0(make_pool, places, error):
    """With 0 its jobs would never run."""
    with pytest.raises(error, match="the limit of 'db' is an int, 1 or more"):
        make_pool(1, limits={"db": places})
