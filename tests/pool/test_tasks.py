"""Jobs and generator tasks, standalone and as guests in asyncio."""

from __future__ import annotations

import asyncio
import threading

import pytest

from dari import scheduler
from dari._kernel.operations import sleep
from dari._kernel.scope import CancelScope, timeout
from dari.exceptions import BlockingCallError, Cancelled, JobCancelled, PoolClosed, QueueFull
from dari.pool import JobState, Pool, current_job


@pytest.fixture(params=["standalone", "guest"])
def run(request):
    if request.param == "standalone":
        return scheduler.run
    return lambda main: asyncio.run(guest(main))


async def guest(main):
    return await asyncio.wait_for(scheduler.arun(main), 20)


def test_a_task_waits_for_jobs_and_places(run, one):
    """`yield job`, `yield pool.asubmit(...)`, `yield pool.run_sync(...)`, and typed by `yield from`."""

    def main():
        job = yield one.asubmit(pow, 2, 3)
        return (yield job), (yield one.submit(pow, 2, 4)), (yield from one.run_sync(pow, 2, 5)), (yield job)

    assert run(main) == (8, 16, 32, 8)


def test_a_task_gets_the_error_of_the_job(run, one):
    """Thrown at the yield, and StopIteration only wrapped."""

    def main():
        with pytest.raises(ZeroDivisionError):
            yield one.submit(divmod, 1, 0)
        with pytest.raises(RuntimeError, match="StopIteration"):
            yield one.run_sync(next, iter(()))
        return "on"

    assert run(main) == "on"


def test_nothing_blocks_a_scheduler(run, make_pool, gate):
    """Each refusal names what to yield."""
    pool = make_pool(1, max_queue=1)
    (running,) = gate.hold(pool)

    def main():
        queued = pool.submit(int)
        with pytest.raises(QueueFull, match=r"yield pool\.asubmit"):
            pool.submit(int)
        with pytest.raises(BlockingCallError, match="yield job"):
            running.result()
        with pytest.raises(BlockingCallError, match="yield job"):
            pool.join()
        gate.open()
        yield queued
        return queued.result()

    assert run(main) == 0


def test_a_cancelled_task_takes_its_queued_job_along(run, one, gate):
    """Who waits, owns."""
    gate.hold(one)
    jobs = []

    def main():
        jobs.append(one.submit(int))
        with pytest.raises(TimeoutError), timeout(0.01):
            yield jobs[0]

    run(main)
    assert JobState.CANCELLED is jobs[0].state


def test_a_cancelled_task_waits_for_the_real_end_of_a_running_job(run, one):
    """The job is asked, and the task goes on when it has ended."""
    runs, ended = threading.Event(), []

    def work():
        runs.set()
        try:
            while True:
                current_job().check_cancelled()
        finally:
            ended.append(True)

    def cancel(scope):
        while not runs.is_set():
            yield
        scope.cancel()

    def main():
        with CancelScope() as scope:
            scheduler.create_task(cancel, scope)
            yield one.run_sync(work)
        return scope.cancelled_caught, list(ended)

    assert run(main) == (True, [True])


def test_a_job_cancelled_by_others_is_an_error_not_a_cancel(run, one, gate):
    """JobCancelled, not Cancelled."""
    gate.hold(one)

    def main():
        job = one.submit(int)
        threading.Timer(0.01, job.cancel).start()
        with pytest.raises(JobCancelled):
            yield job

    run(main)


def test_a_place_that_is_waited_for_is_given_up_by_a_cancel(run, make_pool, gate):
    """And the next in line gets it."""
    pool = make_pool(1, max_queue=1)
    gate.hold(pool)
    ran = []

    def main():
        pool.submit(ran.append, "queued")
        for operation in (pool.asubmit(ran.append, "never"), pool.run_sync(ran.append, "never")):
            with CancelScope(deadline=0):
                yield operation
            with pytest.raises(TimeoutError), timeout(0.01):
                yield pool.asubmit(ran.append, "never")
        gate.open()
        yield pool.run_sync(ran.append, "last")

    run(main)
    assert (ran, pool._desk.room) == (["queued", "last"], 1)


def test_waiting_for_a_place_in_a_pool_that_closes_is_an_error(run, make_pool, gate):
    """PoolClosed is thrown at the yield; also when the pool was closed before."""
    pool = make_pool(1, max_queue=1)
    gate.hold(pool)

    def main():
        pool.submit(int)
        threading.Timer(0.01, pool.shutdown, [False]).start()
        with pytest.raises(PoolClosed):
            yield pool.asubmit(int)
        for operation in (pool.asubmit(int), pool.run_sync(int)):
            with pytest.raises(PoolClosed):
                yield operation

    run(main)


def test_async_with_in_a_task_that_the_kernel_steps_waits_for_the_jobs(gate):
    """Standalone too, where no asyncio is; an error in the block cancels what is queued."""
    jobs = []

    async def main():
        async with Pool(1) as pool:
            gate.hold(pool)
            job = pool.submit(pow, 2, 3)
            threading.Timer(0.01, gate.open).start()
        return job.result()

    async def late():
        with CancelScope() as scope:
            async with Pool(1) as pool:
                jobs.append(pool.submit(lambda: [current_job().check_cancelled() for _ in iter(int, 1)]))
                scope.cancel()
                await sleep(1)
        assert scope.cancelled_caught
        return jobs[0].state

    assert scheduler.run(main) == 8
    assert JobState.CANCELLED is scheduler.run(late)
    assert issubclass(Cancelled, BaseException)
