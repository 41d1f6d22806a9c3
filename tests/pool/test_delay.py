"""Jobs that may start later: `options(delay=…)`."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref

import pytest

import dari
from dari.exceptions import JobCancelled, PoolClosed, QueueFull, WorkerLost
from dari.pool import JobState
from dari.pool import clock as module

from .conftest import until

LATER = 100  # seconds; never in a test


class Payload:
    def __call__(self, *_):
        raise AssertionError("it ran")


def test_a_delayed_job_is_scheduled_and_starts_when_its_time_has_come(one):
    """Not before; its times say when it was handed in, and when it started."""
    job = one.options(delay=0.03).submit(pow, 2, 5)

    assert (job.state, job.started_at, one.stats().scheduled) == (JobState.SCHEDULED, None, 1)
    assert job.result() == 32
    assert job.started_at - job.submitted_at >= 0.03
    assert (one.stats().scheduled, one.stats().queued, one.stats().completed) == (0, 0, 1)


def test_no_worker_waits_for_the_time(one):
    """Others run meanwhile, on the only worker; and the time spent SCHEDULED is no waiting in the queue."""
    later = one.options(delay=0.03).submit(pow, 2, 5)
    quick = one.submit(pow, 2, 2)
    assert (quick.result(), later.result()) == (4, 32)

    assert quick.ended_at <= later.started_at
    waits = [quick.started_at - quick.submitted_at, later.started_at - later.submitted_at - 0.03]
    assert one.stats().priorities[0].longest_wait <= max(waits) + 0.001


def test_what_is_set_later_may_come_first(one):
    """The clock is woken for an earlier time."""
    order = []
    late = one.options(delay=10_000).submit(order.append, "late")
    soon = one.options(delay=0.01).submit(order.append, "soon")
    soon.result(timeout=10)

    assert (order, late.cancel()) == (["soon"], True)


def test_when_it_is_queued_its_priority_counts(one, gate):
    """As if it were handed in then."""
    gate.hold(one)
    order = []
    one.submit(order.append, "normal")
    urgent = one.options(delay=0.01, priority=-2).submit(order.append, "urgent")
    until(lambda: urgent.state is JobState.QUEUED)
    gate.open()
    one.join()

    assert order == ["urgent", "normal"]


def test_scheduled_jobs_count_towards_the_bound_until_they_are_cancelled(make_pool):
    """max_queue counts what is scheduled and what is queued; a cancel gives the place back at once."""
    pool = make_pool(1, max_queue=2, on_full="raise")
    later = pool.options(delay=LATER)
    first, _ = later.submit(int), later.submit(int)

    with pytest.raises(QueueFull):
        pool.submit(int)
    assert first.cancel()
    assert pool.submit(int).result() == 0
    assert pool._desk.room == 1


def test_who_waits_for_a_place_gets_that_of_a_cancelled_one(make_pool):
    """The job that is let in is delayed from then on."""
    pool = make_pool(1, max_queue=1)

    async def main():
        first = pool.options(delay=LATER).submit(int)
        second = asyncio.gather(pool.options(delay=0.01).run_sync(pow, 2, 3))
        await asyncio.sleep(0)
        assert first.cancel()
        return await second

    assert asyncio.run(main()) == [8]


def test_cancelling_frees_the_payload_at_once(one):
    """Function and arguments are gone, long before the time has come."""
    payload, argument = Payload(), Payload()
    held = weakref.ref(payload), weakref.ref(argument)
    job = one.options(delay=LATER).submit(payload, argument)
    del payload, argument

    assert job.cancel()
    assert (held[0](), held[1](), JobState.CANCELLED) == (None, None, job.state)
    with pytest.raises(JobCancelled):
        job.result()


def test_many_delayed_and_cancelled_leave_nothing(make_pool):
    """Their times are pruned as they are cleared, and no job is kept."""
    pool = make_pool(1, max_queue=None)
    view = pool.options(delay=LATER)
    kept = view.submit(int)
    for _ in range(5000):
        view.submit(int).cancel()
    gc.collect()

    assert len(pool._desk.clock) < 200
    assert sum(isinstance(each, dari.Job) for each in gc.get_objects()) < 20
    assert kept.cancel()


def test_the_clock_leaves_when_no_time_is_set(one):
    """Its thread starts with the first delay, and ends with the last."""
    assert one.submit(pow, 2, 2).result() == 4
    before = one._desk.clock.thread
    one.options(delay=0.01).submit(pow, 2, 2).result()
    until(lambda: not one._desk.clock.thread.is_alive())

    assert before is None
    assert one.options(delay=0.01).submit(pow, 2, 2).result() == 4


def test_closing_waits_for_what_is_scheduled(make_pool):
    """`shutdown` lets it run, and no thread is left then; `with` is the same."""
    pool = make_pool(2)
    jobs = [pool.options(delay=0.3).submit(pow, 2, n) for n in range(3)]

    assert pool.join(timeout=0) is False
    assert pool.shutdown() is True
    assert [job.result() for job in jobs] == [1, 2, 4]
    assert not pool._desk.clock.thread.is_alive()


def test_closing_with_cancel_cancels_what_is_scheduled(make_pool):
    """At once, and the clock leaves."""
    pool = make_pool(2)
    job = pool.options(delay=LATER).submit(int)

    assert pool.shutdown(cancel_futures=True) is True
    assert (job.state, pool.stats().cancelled) == (JobState.CANCELLED, 1)
    assert not pool._desk.clock.thread.is_alive()


def test_a_broken_pool_fails_what_is_scheduled(make_pool):
    """No worker can ever run it."""

    def broken():
        raise ValueError("no")

    pool = make_pool(1, initializer=broken)
    later = pool.options(delay=LATER).submit(int)
    pool.submit(int)

    with pytest.raises(PoolClosed, match="initializer"):
        later.result(timeout=10)


def test_without_a_thread_for_the_clock_a_delayed_job_fails(one, monkeypatch):
    """It would wait for ever."""

    class NoThread(threading.Thread):
        def start(self):
            raise RuntimeError("can't start new thread")

    monkeypatch.setattr(module, "Thread", NoThread)
    job = one.options(delay=0.01).submit(int)
    with pytest.raises(WorkerLost, match="can't start new thread"):
        job.result(timeout=10)

    monkeypatch.undo()
    assert one.options(delay=0.01).submit(pow, 2, 2).result() == 4


def test_a_job_that_waits_for_a_delayed_one_runs_it_itself(one):
    """The only worker is the one that waits: it is woken when the other is queued."""
    later = one.options(delay=0.02)

    assert one.submit(lambda: later.submit(threading.get_ident).result() == threading.get_ident()).result(10)


def test_a_job_that_waits_for_a_delayed_one_may_give_up(one):
    """And nothing of its wait is left behind."""

    def waits():
        job = one.options(delay=LATER).submit(int)
        with pytest.raises(TimeoutError):
            job.result(timeout=0.01)
        return job

    job = one.submit(waits).result(10)
    assert (job._rare.helpers, job._waiters) == ([], None)
    assert job.cancel()


def test_who_awaits_a_delayed_job_owns_it(one):
    """Cancelled, it cancels the job, in asyncio and in a generator task."""
    jobs = [one.options(delay=LATER).submit(int) for _ in range(2)]

    async def wait():
        await jobs[0]

    async def main():
        task = asyncio.create_task(wait())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])

    def generator():
        with dari.move_on_after(0.01):
            yield jobs[1]

    asyncio.run(main())
    dari.run(generator)

    assert [job.state for job in jobs] == [JobState.CANCELLED, JobState.CANCELLED]


def test_options_add_up(one):
    """What is not given stays as it is; a delay of 0 takes it back."""
    view = one.options(delay=LATER).options(name="mine")
    job = view.submit(int)

    assert (job.state, job.name) == (JobState.SCHEDULED, "mine")
    assert job.cancel()
    assert view.options(delay=0).submit(pow, 2, 3).result() == 8


@pytest.mark.parametrize("delay", [-1, float("nan"), float("inf"), "soon", None])
def test_delays_that_make_no_sense_are_refused(one, delay):
    """Where they are given, by name."""
    with pytest.raises((ValueError, TypeError), match="a delay is"):
        one.options(delay=delay)
