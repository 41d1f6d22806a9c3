"""Cancelling jobs, queued and running."""

from __future__ import annotations

import asyncio
import threading
import weakref

import pytest

import dari
from dari.exceptions import JobCancelled
from dari.pool import JobState, current_job


class Payload:
    def __call__(self, *_):
        raise AssertionError("it ran")


def test_a_queued_job_is_cancelled_at_once_and_never_runs(one, gate):
    """Whoever waits gets JobCancelled; a second cancel says the same."""
    gate.hold(one)
    job = one.submit(Payload())
    told = []
    job.add_done_callback(told.append)

    assert (job.cancel(), job.cancel()) == (True, True)
    assert (JobState.CANCELLED, True, [job]) == (job.state, job.done(), told)
    with pytest.raises(JobCancelled, match="Payload"):
        job.result()
    gate.open()
    assert one.join(10)


def test_cancelling_frees_the_payload_at_once(one, gate):
    """Function, arguments and context are gone while the worker is still busy."""
    gate.hold(one)
    payload, argument = Payload(), Payload()
    held = weakref.ref(payload), weakref.ref(argument)
    job = one.submit(payload, argument)
    del payload, argument
    assert job.cancel()

    assert (held[0](), held[1]()) == (None, None)


def test_a_destructor_in_a_cancelled_payload_may_use_the_pool(one, gate):
    """No foreign code runs under the pool's lock."""
    gate.hold(one)
    handed_in = []

    class Last:
        def __del__(self):
            handed_in.append(one.submit(pow, 2, 2))

    job = one.submit(print, Last())
    assert job.cancel()  # the payload goes here, and its destructor hands in another job
    gate.open()

    assert [job.result() for job in handed_in] == [4]


def test_a_cancelled_job_gives_its_place_back(make_pool, gate):
    """The bound counts what is queued, and it is not any more."""
    pool = make_pool(1, max_queue=1, on_full="raise")
    gate.hold(pool)
    for _ in range(200):
        assert pool.submit(int).cancel()
    job = pool.submit(pow, 2, 2)
    gate.open()

    assert job.result() == 4
    assert (pool.stats().priorities[0].completed - 1, pool.stats().cancelled) == (1, 200)


def test_cancelling_a_running_job_asks_it_to_end(one):
    """`cancel` gives False; the job may look, and by `check_cancelled` it ends as cancelled."""
    started, asked = threading.Event(), threading.Event()
    seen = []

    def work():
        current_job().check_cancelled()
        seen.append(current_job().cancel_requested)
        started.set()
        assert asked.wait(10)
        seen.append(current_job().cancel_requested)
        try:
            current_job().check_cancelled()
        except Exception:  # noqa: BLE001 - that it lets the cancel pass is the fact
            seen.append("an except clause for errors caught it")

    job = one.submit(work)
    assert started.wait(10)
    assert job.cancel() is False
    asked.set()

    with pytest.raises(JobCancelled):
        job.result()
    assert (seen, job.state) == ([False, True], JobState.CANCELLED)


def test_a_running_job_may_ignore_the_request(one, gate):
    """Then it ends as if there had been none."""
    (job,) = gate.hold(one)
    assert job.cancel() is False
    gate.open()

    assert job.result() == "through"
    assert (job.cancel(), job.cancelled()) == (False, False)


def test_of_a_cancel_and_a_worker_exactly_one_gets_the_job(make_pool):
    """`cancel` gave True for those that did not run, and only for those."""
    pool = make_pool(2, max_queue=None)
    for _ in range(20):
        ran = set()
        jobs = [pool.submit(ran.add, number) for number in range(200)]
        cancelled = {number for number, job in reversed(list(enumerate(jobs))) if job.cancel()}
        assert pool.join(10)

        assert set() == cancelled & ran
        assert set(range(200)) == cancelled | ran


def in_asyncio(operation, started):
    async def main():
        task = asyncio.create_task(take(operation))
        while not started():
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())


def in_trio(operation, started):
    import trio

    async def main():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(take, operation)
            while not started():
                await trio.sleep(0)
            nursery.cancel_scope.cancel()

    trio.run(main)


def in_a_task(operation, started):
    def wait():
        yield operation

    def main():
        task = dari.create_task(wait)
        while not started():
            yield
        task.cancel()
        with pytest.raises(dari.TaskCancelledError):
            yield task

    dari.run(main)


async def take(operation):
    await operation


@pytest.mark.parametrize("world", [in_asyncio, in_trio, in_a_task])
def test_who_waits_may_leave_what_runs_behind(make_pool, gate, world):
    """`abandon_on_cancel`: the job is cancelled for all, and asked to end; its thread counts until it has."""
    pool, jobs = make_pool(1), []

    def slow():
        jobs.append(current_job())
        gate.wait()
        return jobs[0].cancel_requested

    view = pool.options(abandon_on_cancel=True)
    world(view.run_sync(slow), lambda: jobs)
    (job,) = jobs

    assert (job.state, job.cancel_requested) == (JobState.CANCELLED, True)
    assert (pool.stats().abandoned, pool.stats().cancelled, pool.stats().running) == (1, 1, 0)
    with pytest.raises(JobCancelled):
        job.result()
    behind = pool.submit(int)
    assert not behind.done()
    gate.open()
    assert behind.result(timeout=10) == 0
    assert pool.stats().abandoned == 0


def test_cancel_itself_abandons_nothing(make_pool, gate):
    """`job.cancel()` is a request, whatever the options; the job may still give its result."""
    pool = make_pool(1)
    (job,) = gate.hold(pool.options(abandon_on_cancel=True))

    assert (job.cancel(), job.state, job.cancel_requested) == (False, JobState.RUNNING, True)
    gate.open()
    assert job.result(timeout=10) == "through"
