"""`dari.shield(job)` only looks: who waits, owns; who looks, does not."""

from __future__ import annotations

import asyncio

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import dari
from dari.exceptions import JobCancelled
from dari.pool.job import Waiters

from .conftest import until


def test_a_look_of_a_generator_task_that_is_cancelled_leaves_the_job_alone(one, gate):
    """It goes on at once; whoever waits for the job gets its result."""
    [job] = gate.hold(one)

    def main():
        looker = dari.create_task(lambda: (yield dari.shield(job)))
        owner = dari.create_task(lambda: (yield job))
        yield
        yield
        looker.cancel()
        yield from dari.wait([looker])
        assert (looker.cancelled(), job.done(), job.cancel_requested) == (True, False, False)
        gate.open()
        return (yield owner), (yield dari.shield(job)), (yield ("shield", job))

    assert dari.run(main) == ("through", "through", "through")


def test_a_look_in_asyncio_that_times_out_leaves_the_job_alone(one, gate):
    """As `asyncio.shield`; the next look gets the result."""
    [job] = gate.hold(one)

    async def main():
        looker = asyncio.ensure_future(dari.shield(job))
        await asyncio.sleep(0)
        looker.cancel()
        with pytest.raises(asyncio.CancelledError):
            await looker
        assert not (job.done() or job.cancel_requested)
        gate.open()
        return await dari.shield(job)

    assert asyncio.run(main()) == "through"


def test_a_look_in_trio_that_is_cancelled_leaves_the_job_alone(one, gate):
    """It goes on at once, too."""
    [job] = gate.hold(one)

    async def look():
        await dari.shield(job)

    async def main():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(look)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert not (job.done() or job.cancel_requested)
        gate.open()
        return await dari.shield(job)

    assert trio.run(main) == "through"


def test_a_coroutine_of_dari_may_look(one, gate):
    """A scope around it ends the look, and nothing else."""
    [job] = gate.hold(one)

    async def main():
        with dari.CancelScope() as scope:
            dari.create_task(lambda: (yield scope.cancel()))  # its turn comes when main waits
            await dari.shield(job)
        assert scope.cancelled_caught
        assert not job.done()
        gate.open()
        return await job

    assert dari.run(main) == "through"


def test_a_look_at_a_job_that_somebody_cancels(one, gate):
    """JobCancelled, as for everybody else who waits for it."""
    gate.hold(one)
    job = one.submit(int)

    def canceller():
        job.cancel()
        yield

    def main():
        dari.create_task(canceller)  # its turn comes when main waits
        with pytest.raises(JobCancelled):
            yield dari.shield(job)
        return "told"

    assert dari.run(main) == "told"


def test_looks_that_were_left_leave_nothing_behind(one, gate):
    """Who polls a long job by `with dari.move_on_after(1): yield dari.shield(job)` keeps nothing in it."""
    [job] = gate.hold(one)

    def main():
        owner = dari.create_task(lambda: (yield job))
        yield
        yield
        for _ in range(100):
            with dari.move_on_after(0.0001):
                yield dari.shield(job)
        calls = len(job._waiters) if isinstance(job._waiters, Waiters) else 1
        gate.open()
        yield owner
        return calls

    assert dari.run(main) == 1


def test_results_and_looks_that_end_at_once_leave_the_loop_in_order(make_pool):
    """The job's end and the waiter's cancel race: each look ends once, as one or as the other."""
    pool = make_pool(2)
    ends = []

    def looker(job):
        with dari.move_on_after(0.0002):
            ends.append((yield dari.shield(job)))
            return
        ends.append("left")

    def main():
        for n in range(300):
            job = pool.submit(pow, 2, n % 8)
            yield dari.create_task(looker, job)
            yield job

    dari.run(main)

    until(lambda: pool.stats().running == 0)
    assert len(ends) == 300
    assert {end for end in ends if end != "left"} <= {2**n for n in range(8)}
