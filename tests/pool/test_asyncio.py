"""Jobs and asyncio: waiting, owning, places."""

from __future__ import annotations

import asyncio
import threading

import pytest

from dari.exceptions import BlockingCallError, JobCancelled, PoolClosed, QueueFull
from dari.pool import JobState, Pool, current_job


async def turns(count=5):
    for _ in range(count):
        await asyncio.sleep(0)


def test_a_job_is_awaited_for_its_result_or_its_error(one):
    """Before and after it has ended; StopIteration does not hang the waiter."""

    async def main():
        job = one.submit(pow, 2, 3)
        assert (await job, await job) == (8, 8)
        with pytest.raises(ZeroDivisionError):
            await one.submit(divmod, 1, 0)
        with pytest.raises(RuntimeError, match="StopIteration"):
            await one.run_sync(next, iter(()))
        return await one.run_sync(pow, 2, 4), await (await one.asubmit(pow, 2, 5))

    assert asyncio.run(main()) == (16, 32)


def test_two_loops_wait_for_the_jobs_of_one_pool_at_once(make_pool):
    """Each gets its own results, batched through a mailbox of its own."""
    pool = make_pool(3, max_queue=None)

    async def main(base):
        return await asyncio.gather(*[pool.run_sync(pow, base, n) for n in range(500)])

    answers = {}
    threads = [threading.Thread(target=lambda b=b: answers.update({b: asyncio.run(main(b))})) for b in (2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)

    assert {base: [base**n for n in range(500)] for base in (2, 3)} == answers


def test_two_loops_may_wait_for_the_same_job(one, gate):
    """And a thread beside them."""
    (job,) = gate.hold(one)
    answers = []
    waiting = threading.Barrier(3)

    async def main():
        waiter = asyncio.ensure_future(wait(job))
        await turns()
        waiting.wait(10)
        answers.append(await waiter)

    async def wait(job):
        return await job

    threads = [threading.Thread(target=asyncio.run, args=(main(),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    waiting.wait(10)
    gate.open()
    for thread in threads:
        thread.join(10)

    assert [*answers, job.result()] == ["through"] * 3


def test_cancelling_the_waiter_of_a_queued_job_cancels_the_job(one, gate):
    """Who waits, owns."""

    async def main():
        job = one.submit(pow, 2, 3)

        async def wait():
            await job

        waiter = asyncio.create_task(wait())
        await turns()
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter
        return job

    gate.hold(one)
    assert JobState.CANCELLED is asyncio.run(main()).state


def test_cancelling_the_waiter_of_a_running_job_waits_for_its_real_end(one):
    """The job is asked; the waiter is cancelled when it has ended, not before."""
    started, asked = threading.Event(), threading.Event()

    def work():
        started.set()
        assert asked.wait(10)
        current_job().check_cancelled()

    async def main():
        waiter = asyncio.ensure_future(wait())
        while not started.is_set():
            await asyncio.sleep(0.001)
        waiter.cancel()
        await turns()
        assert not waiter.done()
        asked.set()
        with pytest.raises(asyncio.CancelledError):
            await waiter

    async def wait():
        await one.run_sync(work)

    asyncio.run(main())
    assert one.stats().cancelled == 1


def test_a_job_cancelled_by_others_raises_job_cancelled(one, gate):
    """Being cancelled and waiting for something cancelled are two things."""
    gate.hold(one)

    async def main():
        job = one.submit(int)
        waiter = asyncio.ensure_future(wait(job))
        await turns()
        job.cancel()
        with pytest.raises(JobCancelled):
            await waiter

    async def wait(job):
        await job

    asyncio.run(main())


def test_nothing_blocks_a_running_loop(make_pool, gate):
    """Each refusal names the call that waits; what need not wait is allowed."""
    pool = make_pool(1, max_queue=1)
    (running,) = gate.hold(pool)

    async def main():
        queued = pool.submit(pow, 2, 3)
        with pytest.raises(QueueFull, match=r"await pool\.asubmit"):
            pool.submit(int)
        for call in (running.result, running.exception):
            with pytest.raises(BlockingCallError, match="await job"):
                call()
        with pytest.raises(TimeoutError):
            running.result(timeout=0)
        with pytest.raises(BlockingCallError, match="async with"):
            pool.join()
        assert not pool.join(timeout=0)
        gate.open()
        await queued
        assert (queued.result(), await_nothing(pool)) == (8, True)

    def await_nothing(pool):
        return pool.join() and pool.shutdown()

    asyncio.run(main())


def test_a_with_block_that_would_block_the_loop_closes_the_pool_and_says_so(gate):
    """Its jobs are left to finish."""

    async def main():
        with pytest.raises(BlockingCallError, match="async with"), Pool(1) as pool:
            (job,) = gate.hold(pool)
            queued = pool.submit(pow, 2, 3)
        with pytest.raises(PoolClosed):
            pool.submit(int)
        gate.open()
        assert (await job, await queued) == ("through", 8)
        with Pool(1) as pool:
            await pool.run_sync(int)

    asyncio.run(main())


def test_asubmit_waits_for_a_place_by_priority_then_in_order(make_pool, gate):
    """The loop runs meanwhile, and the jobs run in the order in which places were given."""
    pool = make_pool(1, max_queue=1)
    gate.hold(pool)
    order = []

    async def main():
        await pool.asubmit(order.append, "queued")
        waiters = []
        for priority, name in [(1, "low 1"), (0, "normal 1"), (1, "low 2"), (-1, "high"), (0, "normal 2")]:
            waiters.append(asyncio.create_task(submit(pool.options(priority=priority), name)))
            await turns()
        assert not any(waiter.done() for waiter in waiters)
        gate.open()
        for waiter in waiters:
            await (await waiter)

    async def submit(view, name):
        return await view.asubmit(order.append, name)

    asyncio.run(main())
    assert order == ["queued", "high", "normal 1", "normal 2", "low 1", "low 2"]


def test_an_asubmit_cancelled_while_it_waits_was_never_submitted(make_pool, gate):
    """The place goes to the next in line."""
    pool = make_pool(1, max_queue=1)
    gate.hold(pool)
    ran = []

    async def main():
        pool.submit(ran.append, "queued")
        first, second = (asyncio.create_task(submit(name)) for name in ("first", "second"))
        await turns()
        first.cancel()
        await turns()
        assert first.cancelled()
        gate.open()
        await (await second)

    async def submit(name):
        return await pool.asubmit(ran.append, name)

    asyncio.run(main())
    assert (ran, pool._desk.room) == (["queued", "second"], 1)


def test_an_asubmit_cancelled_when_it_was_just_let_in_gives_the_place_back(make_pool, gate):
    """The cancel meets a place already won: the job is cancelled, and the next in line gets the place."""
    pool = make_pool(1, max_queue=1)
    gate.hold(pool)
    ran = []

    async def main():
        queued = pool.submit(ran.append, "queued")
        first, second = (asyncio.create_task(submit(name)) for name in ("first", "second"))
        await turns()
        queued.cancel()  # lets the first in; its task hears of it in the next turn
        first.cancel()
        await turns()
        assert first.cancelled()
        job = await second
        gate.open()
        await job

    async def submit(name):
        return await pool.asubmit(ran.append, name)

    asyncio.run(asyncio.wait_for(main(), 10))
    assert (ran, pool._desk.room) == (["second"], 1)


def test_a_run_sync_cancelled_while_it_waits_for_a_place_is_over_at_once(make_pool, gate):
    """And its place in line is nobody's."""
    pool = make_pool(1, max_queue=1)
    gate.hold(pool)
    ran = []

    async def main():
        pool.submit(ran.append, "queued")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(run(), 0.01)
        gate.open()
        await pool.run_sync(ran.append, "last")

    async def run():
        await pool.run_sync(ran.append, "never")

    asyncio.run(main())
    assert (ran, pool.stats().cancelled, pool._desk.room) == (["queued", "last"], 0, 1)


def test_waiters_for_a_place_hear_that_the_pool_was_closed(make_pool, gate):
    """asubmit and run_sync get PoolClosed, and so does who comes later."""
    pool = make_pool(1, max_queue=1)
    gate.hold(pool)

    async def main():
        pool.submit(int)
        waiters = [asyncio.create_task(wait(pool.asubmit(int))), asyncio.create_task(wait(pool.run_sync(int)))]
        await turns()
        pool.shutdown(wait=False)
        for waiter in [*waiters, wait(pool.asubmit(int)), wait(pool.run_sync(int))]:
            with pytest.raises(PoolClosed):
                await waiter

    async def wait(operation):
        await operation

    asyncio.run(main())


def test_one_operation_is_one_job(one):
    """Awaited again it is refused, not run twice."""

    async def main():
        for operation in (one.asubmit(int), one.run_sync(int)):
            await operation
            with pytest.raises(RuntimeError, match="waited for before"):
                await operation

    asyncio.run(main())


def test_async_with_waits_for_all_jobs_without_blocking_the_loop(gate):
    """The exit drains; the loop turns meanwhile."""

    async def main():
        async with Pool(1) as pool:
            gate.hold(pool)
            jobs = [pool.submit(pow, 2, n) for n in range(10)]
            asyncio.get_running_loop().call_later(0.01, gate.open)
        assert [2**n for n in range(10)] == [job.result() for job in jobs]

    asyncio.run(main())


def test_an_error_in_the_block_cancels_what_is_queued_and_asks_what_runs():
    """And waits for what runs."""
    started = threading.Event()

    def work():
        started.set()
        while True:
            current_job().check_cancelled()

    async def main():
        with pytest.raises(ZeroDivisionError):
            async with Pool(1) as pool:
                running, queued = pool.submit(work), pool.submit(int)
                assert started.wait(10)
                raise ZeroDivisionError
        assert (running.cancelled(), queued.cancelled()) == (True, True)

    asyncio.run(main())


def test_after_an_error_the_exit_waits_no_longer_than_exit_timeout(gate):
    """For a job that does not listen."""

    async def main():
        with pytest.raises(ZeroDivisionError):
            async with Pool(1, exit_timeout=0.01) as pool:
                (job,) = gate.hold(pool)
                raise ZeroDivisionError
        assert (job.done(), job.cancel_requested) == (False, True)

    asyncio.run(main())


def test_a_cancel_while_the_exit_drains_ends_it(gate):
    """What is queued is cancelled, what runs is asked, and for exit_timeout is waited."""
    jobs = []

    async def main():
        async with Pool(1, exit_timeout=0.01) as pool:
            jobs.extend([*gate.hold(pool), pool.submit(int)])

    async def cancel():
        draining = asyncio.create_task(main())
        while len(jobs) < 2:
            await asyncio.sleep(0)
        await turns()
        draining.cancel()
        with pytest.raises(asyncio.CancelledError):
            await draining

    asyncio.run(cancel())
    running, queued = jobs
    assert (running.cancel_requested, running.done(), queued.cancelled()) == (True, False, True)


def test_cancels_at_random_lose_no_place_and_no_job(make_pool):
    """Many asubmits through two places, a third of them cancelled at some moment: all places are there after."""
    import random

    draw = random.Random(7)
    pool = make_pool(2, max_queue=2)
    ran = []

    async def submit(number):
        await (await pool.asubmit(ran.append, number))

    async def main():
        for _ in range(20):
            tasks = [asyncio.create_task(submit(number)) for number in range(60)]
            for _ in range(20):
                await asyncio.sleep(0)
                draw.choice(tasks).cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(asyncio.wait_for(main(), 15))
    assert pool.join(10)
    assert pool._desk.room == 2
    assert pool.stats().completed == len(ran)


def test_a_loop_that_closed_meanwhile_harms_no_worker(one, gate):
    """There is nobody left to tell."""

    async def main():
        (job,) = gate.hold(one)
        asyncio.get_running_loop().create_task(wait(job))
        await turns()

    async def wait(job):
        await job

    loop = asyncio.new_event_loop()
    loop.run_until_complete(main())
    left = asyncio.all_tasks(loop)
    loop.close()
    gate.open()

    assert one.submit(pow, 2, 3).result() == 8
    for task in left:
        task._log_destroy_pending = False
        task.get_coro().close()
