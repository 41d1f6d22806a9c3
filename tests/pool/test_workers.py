"""Threads: they start when needed, and leave."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

import dari
from dari.exceptions import PoolClosed, WorkerLost
from dari.pool import workers as module

from .conftest import until


def test_threads_start_on_demand_one_per_job_that_finds_nobody_idle(make_pool, gate):
    """Up to max_workers; none before the first job."""
    pool = make_pool(3)
    counts = [pool.stats().workers]
    for _ in range(3):
        gate.hold(pool)
        counts.append(pool.stats().workers)
    pool.submit(int)
    counts.append(pool.stats().workers)

    assert counts == [0, 1, 2, 3, 3]


def test_one_job_after_the_other_needs_one_thread(make_pool):
    """A worker is idle before anybody hears that its job ended."""
    pool = make_pool(4)
    for _ in range(200):
        pool.submit(int).result()

    assert pool.stats().workers == 1


def test_idle_threads_leave_and_new_ones_come(make_pool, gate):
    """After idle_timeout; min_workers stay."""
    pool = make_pool(3, idle_timeout=0.01, min_workers=1)
    gate.hold(pool, 3)
    gate.open()
    pool.join()
    until(lambda: pool.stats().workers == 1)

    assert pool.submit(pow, 2, 3).result() == 8


def test_a_job_handed_in_just_when_a_worker_leaves_is_not_lost(make_pool):
    """The worker looks again under the lock."""
    pool = make_pool(1, idle_timeout=0)

    assert list(range(500)) == [pool.submit(int, n).result(timeout=10) for n in range(500)]


def test_a_worker_whose_time_is_up_when_it_is_called_stays(make_pool, monkeypatch):
    """Handed in between the end of its patience and its look under the lock, a job is not lost."""
    jobs = []

    class Gate:
        def acquire(self, blocking=True, timeout=-1):
            if timeout >= 0 and not jobs:
                jobs.append(pool.submit(pow, 2, 3))  # opens this very gate
            return False

        def release(self):
            pass

    monkeypatch.setattr(module, "allocate_lock", Gate)
    pool = make_pool(1, idle_timeout=0)
    pool.submit(int).result()
    until(lambda: jobs)

    assert jobs[0].result(timeout=10) == 8


def test_threads_are_daemons_named_by_prefix(make_pool):
    """As in concurrent.futures, with a number behind."""
    pool = make_pool(1, thread_name_prefix="mine")
    thread = pool.submit(threading.current_thread).result()

    assert (thread.name, thread.daemon) == ("mine-0", True)


def test_the_initializer_runs_in_each_thread_before_its_first_job(make_pool, gate):
    """With initargs."""
    local = threading.local()
    pool = make_pool(2, initializer=lambda value: setattr(local, "value", value), initargs=(7,))

    def work():
        gate.wait()
        return local.value

    jobs = [pool.submit(work) for _ in range(2)]
    gate.open()

    assert [job.result() for job in jobs] == [7, 7]


@pytest.mark.parametrize("error", [ValueError("no database"), SystemExit(1)])
def test_an_initializer_that_fails_breaks_the_pool_with_its_error(make_pool, error):
    """Who waits, and who comes, is told why."""

    def initializer():
        raise error

    pool = make_pool(2, initializer=initializer)
    job = pool.submit(int)

    with pytest.raises(PoolClosed, match="initializer") as caught:
        job.result(timeout=10)
    assert error is caught.value.__cause__
    with pytest.raises(PoolClosed, match="initializer"):
        pool.submit(int)


def test_where_no_thread_can_start_jobs_fail_and_nobody_hangs(make_pool, monkeypatch):
    """WorkerLost with the reason; later it may go again."""
    pool = make_pool(2)

    def start(self):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(module.Thread, "start", start)
        with pytest.raises(WorkerLost, match="can't start new thread"):
            pool.submit(int).result(timeout=10)

    assert pool.submit(pow, 2, 3).result() == 8
    assert (pool.stats().queued, pool.stats().running) == (0, 0)


def test_a_thread_that_could_not_start_leaves_the_job_to_the_others(make_pool, gate, monkeypatch):
    """As long as one worker lives."""
    pool = make_pool(2)
    gate.hold(pool)

    def start(self):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(module.Thread, "start", start)
        job = pool.submit(pow, 2, 3)
    gate.open()

    assert job.result(timeout=10) == 8


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_worker_ended_from_outside_loses_its_job_and_no_other(make_pool, gate, monkeypatch):
    """The job fails with WorkerLost, the next one gets a new worker."""
    pool = make_pool(1)

    threads = []

    def run(job):
        threads.append(threading.current_thread())
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(module, "run", run)
        with pytest.raises(WorkerLost, match="MemoryError"):
            pool.submit(int).result(timeout=10)
        threads[0].join(10)

    assert pool.submit(pow, 2, 3).result(timeout=10) == 8


def test_a_pool_that_was_dropped_loses_its_threads(make_pool):
    """Also the min_workers, after idle_timeout."""
    from dari.pool import Pool

    pool = Pool(1, min_workers=1, idle_timeout=0.01)
    thread = pool.submit(threading.current_thread).result()
    time.sleep(0.02)
    assert thread.is_alive()
    del pool
    thread.join(10)

    assert not thread.is_alive()


def test_a_pool_grows_when_it_is_resized(make_pool, gate):
    """What is queued gets a thread at once."""
    pool = make_pool(1)
    gate.hold(pool)
    queued = [pool.submit(gate.wait) for _ in range(4)]
    pool.resize(3)
    for _ in range(2):
        assert gate._entered.acquire(timeout=10)

    assert (pool.stats().workers, pool.stats().running, pool.stats().queued) == (3, 3, 2)
    gate.open()
    assert [job.result(timeout=10) for job in queued] == ["through"] * 4
    assert pool.stats().workers == 3


def test_a_pool_shrinks_when_it_is_resized(make_pool, gate):
    """Idle threads leave at once, those that run a job after it; the queue is worked off by the rest."""
    pool = make_pool(4, idle_timeout=None)
    (slow,) = gate.hold(pool)
    others = threading.Barrier(4)
    for _ in range(3):
        pool.submit(others.wait, 10)
    others.wait(10)
    pool.resize(2)
    until(lambda: pool.stats().workers == 2)
    gate.open()

    assert slow.result(timeout=10) == "through"
    assert [pool.submit(pow, 2, n).result(timeout=10) for n in range(100)] == [2**n for n in range(100)]
    assert pool.stats().workers == 2


def test_no_job_is_lost_while_a_pool_is_resized(make_pool):
    """At any moment, with threads that leave for age, too."""
    pool = make_pool(4, idle_timeout=0, max_queue=None)
    jobs = []
    for n in range(400):
        jobs.append(pool.submit(int, n))
        pool.resize(1 + n * 7 % 5)
        if not n % 10:
            assert jobs[-1].result(timeout=10) == n

    assert [job.result(timeout=10) for job in jobs] == list(range(400))
    assert pool.stats().workers <= 5


def test_a_pool_is_not_resized_below_one_or_its_min_workers(make_pool):
    """And keeps its size then."""
    pool = make_pool(3, min_workers=2)

    with pytest.raises(ValueError, match="1 or more"):
        pool.resize(0)
    with pytest.raises(ValueError, match="at least min_workers"):
        pool.resize(1)
    with pytest.raises(TypeError, match="max_workers is an int"):
        pool.resize(2.5)
    assert pool.submit(pow, 2, 3).result() == 8


@pytest.mark.parametrize("name", ["max_workers", "min_workers", "max_queue"])
def test_numbers_of_things_are_whole(make_pool, name):
    """1.5 workers would never be reached."""
    with pytest.raises(TypeError, match=f"{name} is an int"):
        make_pool(**{name: 1.5})


def test_a_thread_is_named_for_the_job_that_it_runs(make_pool):
    """Beside its own name; a job may name it otherwise."""
    pool = make_pool(1, thread_name_prefix="mine")
    thread = pool.submit(threading.current_thread).result()

    assert pool.options(name="index").submit(lambda: thread.name).result() == "mine-0: index"
    until(lambda: thread.name == "mine-0")
    pool.submit(setattr, thread, "name", "other").result()
    assert thread.name == "other"


@pytest.mark.parametrize("world", ["asyncio", "a task"])
def test_a_loop_does_not_wait_until_a_thread_has_started(make_pool, monkeypatch, world):
    """Beside a thread that computes that takes many milliseconds, which an event loop has not got."""
    go, start, jobs = threading.Event(), threading.Thread.start, []

    def start_late(self):
        assert go.wait(10)
        start(self)

    def hand_in():
        jobs.append(make_pool(1).submit(int))
        jobs.append(make_pool(1).options(delay=0.001).submit(int))

    async def main():
        hand_in()

    def task():
        hand_in()
        yield

    monkeypatch.setattr(threading.Thread, "start", start_late)
    if world == "asyncio":
        asyncio.run(main())
    else:
        dari.run(task)
    go.set()

    assert [job.result(timeout=10) for job in jobs] == [0, 0]
