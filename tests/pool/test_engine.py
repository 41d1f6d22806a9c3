"""The seam under the pool: another engine, which takes a job when it can start one and finishes it later."""

from __future__ import annotations

from _thread import start_new_thread

import pytest

from dari.exceptions import JobCancelled, JobTimeout
from dari.pool import JobState, Retry, current_job
from dari.pool.job import Seat, here, run


class ThreadPerJob:
    """Starts a thread for each job, at most `max_workers` at a time."""

    shrinking = False

    def __init__(self, desk, max_workers):
        self.desk = desk
        self.max_workers = max_workers
        self.seats = []
        self.starts = 0

    def call(self):
        if len(self.seats) < self.max_workers:
            seat = Seat(self.desk, f"thread {self.starts}")
            self.starts += 1
            self.seats.append(seat)
            start_new_thread(self.run_one, (seat,))

    def run_one(self, seat):
        here.seat = seat
        seat.job = self.desk.take_next()
        if seat.job is not None:
            self.desk.finish(seat.job, run(seat.job))
        self.desk.perform(self.leave, seat)

    def leave(self, seat):
        self.seats.remove(seat)
        if seat.job is not None:
            self.call()  # there may be more

    def compensate(self, most):
        return False

    def run_on_a_new_stack(self, job, seat):
        return run(job)

    def resize(self, max_workers):
        self.max_workers = max_workers

    def dismiss(self):
        pass

    def at_work(self):
        return iter(self.seats)

    def count(self):
        return len(self.seats), 0


@pytest.fixture
def make_other(make_pool):
    """A pool whose jobs run on the other engine."""

    def make(max_workers, **options):
        pool = make_pool(max_workers, **options)
        pool._desk.crew = ThreadPerJob(pool._desk, max_workers)
        return pool

    return make


def test_order_is_the_pool_s_whatever_runs_the_jobs(make_other, gate):
    """By priority, FIFO inside."""
    pool, order = make_other(1), []
    gate.hold(pool)
    for number in range(3):
        for priority in (1, 0, -1):
            pool.options(priority=priority).submit(order.append, (priority, number))
    gate.open()
    assert pool.join(10)

    assert order == sorted(order)
    assert len(order) == 9
    assert pool._desk.crew.starts >= 10


def test_limits_retries_times_and_cancels_are_the_pool_s(make_other, gate):
    """The engine knows nothing of them."""
    pool, attempts, inside, most = make_other(4, limits={"one": 1}), [], [], []

    def alone():
        inside.append(current_job())
        most.append(len(inside))
        inside.pop()

    limited = [pool.options(key="one").submit(alone) for _ in range(200)]

    def fails_twice():
        attempts.append(current_job().attempt)
        if len(attempts) < 3:
            raise ValueError

    tried = pool.options(retry=Retry(wait_initial=0.001, wait_jitter=0)).submit(fails_twice)
    tried.result(timeout=10)
    held = [pool.submit(gate.wait) for _ in range(4)]
    for _ in held:
        assert gate._entered.acquire(timeout=10)
    cancelled, late = pool.submit(int), pool.options(queue_timeout=0.001).submit(int)
    assert cancelled.cancel()
    with pytest.raises(JobTimeout):
        late.result(timeout=10)
    with pytest.raises(JobCancelled):
        cancelled.result(timeout=10)
    gate.open()
    assert pool.join(10)

    assert (max(most), attempts) == (1, [1, 2, 3])
    assert {job.state for job in [*limited, *held, tried]} == {JobState.COMPLETED}
    assert (pool.stats().completed, pool.stats().retried, pool.stats().cancelled) == (205, 2, 1)


def test_a_job_that_waits_for_jobs_runs_them_on_any_engine(make_other):
    """However few the engine can start."""
    pool = make_other(1)

    def fib(number):
        return number if number < 2 else sum(job.result() for job in [pool.submit(fib, number - n) for n in (1, 2)])

    assert pool.submit(fib, 8).result(timeout=10) == 21
