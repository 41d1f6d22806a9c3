"""What users hang in beside the jobs: hooks of the pool, done callbacks, progress."""

from __future__ import annotations

import asyncio
import contextvars
import threading

import pytest

import dari
from dari.exceptions import Cancelled
from dari.pool import JobState, Pool, Retry, current_job

from .conftest import until

variable = contextvars.ContextVar("variable", default="unset")


def test_hooks_tell_of_every_job(make_pool, gate):
    """Of each start and retry, and of each end: also of what never ran."""
    told = []
    pool = make_pool(
        1,
        on_start=lambda job: told.append(("start", job.name, job.attempt)),
        on_retry=lambda job, error, wait: told.append(("retry", job.name, repr(error), wait)),
        on_end=lambda job: told.append(("end", job.name, job.state.value)),
    )
    failures = iter([ValueError("first")])

    def flaky():
        for error in failures:
            raise error

    pool.submit(int).result()
    retry = Retry(wait_initial=0.001, wait_jitter=0)
    pool.options(retry=retry).submit(flaky).result(timeout=10)
    gate.hold(pool)
    pool.options(name="unwanted").submit(int).cancel()
    gate.open()
    pool.options(name="wrong").submit(divmod, 1, 0).exception()
    until(lambda: ("end", "wrong", "failed") in told)

    flaky_name = flaky.__qualname__
    assert told[:5] == [
        ("start", "int", 1),
        ("end", "int", "completed"),
        ("start", flaky_name, 1),
        ("retry", flaky_name, "ValueError('first')", 0.001),
        ("start", flaky_name, 2),
    ]
    assert ("end", "unwanted", "cancelled") in told
    assert ("start", "unwanted", 1) not in told
    assert told[-2:] == [("start", "wrong", 1), ("end", "wrong", "failed")]


def test_what_a_start_hook_sets_the_job_sees(make_pool):
    """It runs on the job's thread, in its context: so a tracer opens its span there. Other jobs see nothing."""
    seen = []

    def on_start(job):
        seen.append((job is current_job(), threading.current_thread().name.startswith("mine")))
        if job.name == "traced":
            variable.set("span")

    pool = make_pool(1, thread_name_prefix="mine", on_start=on_start)

    assert pool.options(name="traced").submit(variable.get).result() == "span"
    assert pool.submit(variable.get).result() == "unset"
    assert seen == [(True, True)] * 2


def test_a_hook_that_fails_harms_nobody(make_pool, caplog):
    """It is logged; the job gives its result, the worker goes on."""

    def broken(*_):
        raise ZeroDivisionError

    pool = make_pool(1, on_start=broken, on_retry=broken, on_end=broken)
    failures = iter([ValueError()])

    def flaky():
        for error in failures:
            raise error
        return "done"

    assert pool.options(retry=Retry(wait_initial=0, wait_jitter=0)).submit(flaky).result(timeout=10) == "done"
    assert pool.submit(pow, 2, 3).result(timeout=10) == 8
    for hook in ("on_start", "on_retry", "on_end"):
        until(lambda hook=hook: any(hook in record.message for record in caplog.records))


def test_a_hook_may_use_the_pool(make_pool):
    """The worker makes it before it takes another job, which could be the one that the hook waits for."""
    results = []

    def on_end(job):
        if job.name == "first":
            results.append(pool.submit(pow, 2, 3).result(timeout=10))

    pool = make_pool(1, on_end=on_end)
    pool.options(name="first").submit(int)
    until(lambda: results)

    assert results == [8]


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, Cancelled])
def test_no_error_of_a_hook_harms_a_worker_or_a_job(make_pool, caplog, error):
    """Not that of a nested job either, nor those that are no Exception: all are logged."""

    def broken(*_):
        raise error

    pool = make_pool(1, on_start=broken, on_end=broken)

    def outer():
        job = pool.submit(pow, 2, 3)
        job.add_done_callback(broken)
        return job.result(), pool.stats().running

    jobs = [pool.submit(outer) for _ in range(3)]
    assert [job.result(timeout=10) for job in jobs] == [(8, 1)] * 3
    assert pool.join(10)
    assert [*pool.stats().by_worker] == ["dari-0"]
    assert {
        name for record in caplog.records for name in ("on_start", "on_end", "callback") if name in record.message
    } == {
        "on_start",
        "on_end",
        "callback",
    }


@pytest.mark.parametrize("hook", ["on_start", "on_retry", "on_end"])
def test_a_hook_must_be_callable(hook):
    """Told where it is given."""
    with pytest.raises(TypeError, match=f"{hook} must be callable, not 3"):
        Pool(1, **{hook: 3})


def test_a_job_reports_its_progress(one):
    """Whatever it likes; None before. Who looks sees the last."""
    go, reported = threading.Semaphore(0), threading.Semaphore(0)

    def work():
        for share in (0.5, {"rows": 7}):
            go.acquire()
            current_job().report(share)
            reported.release()
        go.acquire()

    job = one.submit(work)
    seen = [job.progress]
    for _ in range(2):
        go.release()
        reported.acquire()
        seen.append(job.progress)
    go.release()
    job.result(timeout=10)

    assert (seen, job.progress) == ([None, 0.5, {"rows": 7}], {"rows": 7})


def test_a_callback_added_in_a_loop_is_called_there(make_pool):
    """In the context of who added it; on any thread it could only do harm. `asyncio.wait` relies on that."""
    pool = make_pool(2)

    async def main():
        called = asyncio.get_running_loop().create_future()
        variable.set("adder")
        job = pool.submit(int)
        job.add_done_callback(lambda job: called.set_result((job, threading.get_ident(), variable.get())))
        assert await called == (job, threading.get_ident(), "adder")
        ended = []
        job.add_done_callback(ended.append)  # at once, but not before the loop's next turn
        assert ended == []
        await asyncio.sleep(0)
        assert ended == [job]

    asyncio.run(main())


def test_asyncio_wait_takes_jobs(make_pool, gate):
    """The first that ends, and none in time; no callback is left behind."""
    pool = make_pool(2)

    async def main():
        held, quick = pool.submit(gate.wait), pool.submit(int)
        done, pending = await asyncio.wait({held, quick}, return_when=asyncio.FIRST_COMPLETED)
        assert (done, pending) == ({quick}, {held})
        assert await asyncio.wait({held}, timeout=0.01) == (set(), {held})
        assert held.remove_done_callback(print) == 0
        assert held._rare.callbacks == []
        gate.open()
        assert await asyncio.wait({held, quick}) == ({held, quick}, set())

    asyncio.run(main())


def test_a_callback_added_in_a_task_is_called_by_its_scheduler(make_pool):
    """Generator tasks touch each other's things without locks: so may it."""
    pool, called = make_pool(1), []

    def main():
        job = pool.submit(int)
        event = dari.Event()
        job.add_done_callback(lambda job: (called.append(threading.get_ident()), event.set()))
        yield event.wait()

    dari.run(main)

    assert called == [threading.get_ident()]


def test_a_callback_that_was_removed_is_not_called(one, gate):
    """As often as it had been added."""
    called = []
    gate.hold(one)
    job = one.submit(int)
    job.add_done_callback(called.append)
    job.add_done_callback(called.append)
    other = []
    job.add_done_callback(other.append)

    assert (job.remove_done_callback(called.append), job.remove_done_callback(called.append)) == (2, 0)
    gate.open()
    job.result(timeout=10)
    until(lambda: other)
    assert (called, other, job.state) == ([], [job], JobState.COMPLETED)
