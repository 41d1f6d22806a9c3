"""Trying again: `options(retry=Retry(…))` for jobs, `retry.run` for tasks."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import threading
import time
import weakref
from contextvars import ContextVar

import pytest
import trio

import dari
from dari import testing
from dari.exceptions import JobCancelled, JobTimeout, TaskCancelledError
from dari.pool import JobState, Retry, current_job

from .conftest import until

AT_ONCE = Retry(wait_initial=0, wait_jitter=0)
LATER = Retry(wait_initial=100, wait_max=100, wait_jitter=0)


class Failing:
    """A call that fails so often, and then gives which attempt it was."""

    def __init__(self, times, error=ValueError):
        self.times, self.error, self.calls = times, error, 0

    def __call__(self, *_):
        self.calls += 1
        if self.calls <= self.times:
            raise self.error(f"no {self.calls}")
        return self.calls


def test_a_job_that_fails_is_tried_again(one):
    """Until it returns; `attempt` and the statistics count."""
    job = one.options(retry=AT_ONCE).submit(Failing(2))

    assert job.result() == 3
    stats = one.stats()
    assert (job.attempt, job.state) == (3, JobState.COMPLETED)
    assert (stats.retried, stats.failed, stats.completed, stats.scheduled) == (2, 0, 1, 0)


def test_after_max_retries_its_last_error_stays(one):
    """The earlier ones are notes on it."""
    call = Failing(9)
    error = one.options(retry=Retry(2, wait_initial=0, wait_jitter=0)).submit(call).exception()

    assert (call.calls, repr(error)) == (3, "ValueError('no 3')")
    assert error.__notes__ == ["attempt 1 failed: ValueError('no 1')", "attempt 2 failed: ValueError('no 2')"]
    assert one.stats().failed == 1


def test_the_same_exception_each_time_gets_each_note_once(one):
    """Notes do not pile up on one object."""
    always = ValueError("always")

    def fail():
        raise always

    assert one.options(retry=AT_ONCE).submit(fail).exception() is always
    assert [note[:9] for note in always.__notes__] == ["attempt 1", "attempt 2", "attempt 3"]


@pytest.mark.parametrize(
    ("on", "error", "calls"),
    [
        (Exception, ValueError, 2),
        (OSError, ValueError, 1),
        (OSError, ConnectionError, 2),
        ((OSError, ValueError), ValueError, 2),
        (lambda error: "no" in str(error), ValueError, 2),
        (lambda error: "yes" in str(error), ValueError, 1),
        (Exception, KeyboardInterrupt, 1),
        (Exception, SystemExit, 1),
        (lambda _: True, GeneratorExit, 1),
        (Exception, StopIteration, 2),
        (Exception, JobCancelled, 1),
        (Exception, TaskCancelledError, 1),
    ],
)
def test_only_what_the_policy_covers_is_tried_again(one, on, error, calls):
    """Types, or a function of the error; never what is no Exception, and never a cancel."""
    call = Failing(1, error)
    one.options(retry=Retry(1, on, wait_initial=0, wait_jitter=0)).submit(call).exception()

    assert call.calls == calls


def test_a_function_that_fails_ends_the_retries(one):
    """The job keeps its own error, which tells."""

    def on(_):
        raise RuntimeError("what?")

    error = one.options(retry=Retry(on=on)).submit(Failing(1)).exception()

    assert (repr(error), error.__notes__) == (
        "ValueError('no 1')",
        ["it was not tried again, for asking that failed: RuntimeError('what?')"],
    )


def test_nothing_that_users_made_of_their_errors_harms_the_worker(one):
    """A function that exits, a repr that fails, notes that are none: the job fails, its worker goes on."""

    class OddError(ValueError):
        __notes__ = 3

        def __repr__(self):
            raise SystemExit

    def leave(_):
        raise SystemExit

    for policy in (Retry(on=leave), AT_ONCE):
        with pytest.raises(OddError):
            one.options(retry=policy).submit(Failing(9, OddError)).result(timeout=10)
    assert (one.submit(pow, 2, 3).result(), one.stats().workers) == (8, 1)


def test_no_worker_waits_for_the_next_attempt(one):
    """Others run meanwhile; the job is SCHEDULED, and keeps what it needs."""
    job = one.options(retry=LATER).submit(Failing(9))
    until(lambda: job.state is JobState.SCHEDULED)

    assert one.submit(pow, 2, 3).result() == 8
    assert (job.attempt, job.done(), job.ended_at, one.stats().scheduled) == (2, False, None, 1)
    assert job.cancel()


def test_a_job_keeps_its_place_while_it_waits(make_pool, gate):
    """It is queued again over the bound, if need be; nobody else is let in meanwhile."""
    pool = make_pool(1, max_queue=1, on_full="raise")
    job = pool.options(retry=LATER).submit(Failing(9))
    until(lambda: job.state is JobState.SCHEDULED)

    with pytest.raises(dari.QueueFull):
        pool.submit(int)
    assert job.cancel()
    assert pool.submit(int).result() == 0
    assert pool._desk.room == 1


def test_cancelling_between_attempts_frees_everything_at_once(one):
    """The payload, and the errors of the attempts with their frames."""

    class Held:
        pass

    def fail(held):
        raise ValueError(held)

    payload = Held()
    gone = weakref.ref(payload)
    job = one.options(retry=LATER).submit(fail, payload)
    del payload
    until(lambda: job.state is JobState.SCHEDULED)
    assert gone() is not None

    assert job.cancel() is True
    until(lambda: (gc.collect() and gone() is None) or gone() is None)
    assert job.state is JobState.CANCELLED


def test_a_request_to_cancel_ends_the_retries(one):
    """A running attempt is asked to end; if it fails, that is the end."""
    started, asked = threading.Event(), threading.Event()

    def work():
        started.set()
        assert asked.wait(10)
        raise ValueError("no")

    job = one.options(retry=AT_ONCE).submit(work)
    assert started.wait(10)
    assert job.cancel() is False
    asked.set()

    assert repr(job.exception(timeout=10)) == "ValueError('no')"
    assert (job.attempt, job.state, one.stats().retried) == (1, JobState.FAILED, 0)


def test_cancelled_is_no_failure(one):
    """`check_cancelled` lets the job end as cancelled."""

    def work():
        job = current_job()
        job.cancel()
        job.check_cancelled()

    with pytest.raises(JobCancelled):
        one.options(retry=AT_ONCE).submit(work).result()


def test_each_attempt_starts_from_the_context_of_submit(one):
    """What one attempt sets is not seen by the next."""
    variable = ContextVar("variable", default="fresh")
    seen = []

    def work():
        seen.append(variable.get())
        variable.set("used")
        assert len(seen) > 1

    one.options(retry=AT_ONCE).submit(work).result()

    assert seen == ["fresh", "fresh"]


def test_closing_waits_for_the_attempts(make_pool):
    """What is scheduled again runs; with cancel_futures nothing is tried again."""
    pool = make_pool(1)
    job = pool.options(retry=Retry(wait_initial=0.01, wait_jitter=0)).submit(Failing(2))
    assert pool.shutdown() is True
    other = make_pool(1)
    cancelled = other.options(retry=LATER).submit(Failing(2))
    until(lambda: cancelled.state is JobState.SCHEDULED)
    assert other.shutdown(cancel_futures=True) is True

    assert (job.result(), cancelled.state) == (3, JobState.CANCELLED)


def test_the_total_timeout_ends_the_retries(one):
    """No retry begins later than `timeout` seconds after the first start."""
    call = Failing(9)
    policy = Retry(wait_initial=10, wait_max=10, wait_jitter=0, timeout=5)

    assert repr(one.options(retry=policy).submit(call).exception(timeout=10)) == "ValueError('no 1')"
    assert call.calls == 1


def test_a_timeout_is_of_one_attempt_and_final(one, gate):
    """A job that was abandoned still runs, so it is not tried again; its error tells what failed before."""
    calls = []

    def work():
        calls.append(1)
        if len(calls) == 1:
            raise ValueError("no")
        gate.wait()

    error = one.options(retry=AT_ONCE, timeout=1).submit(work).exception(timeout=10)

    assert isinstance(error, JobTimeout)
    assert error.__notes__ == ["attempt 1 failed: ValueError('no')"]


def test_a_job_that_waits_for_one_that_is_tried_again_runs_it(one):
    """Each attempt, if nobody else does; and a job that ran inline is not run twice."""
    call = Failing(2)

    def outer():
        for _ in range(3):  # they stand in the queue meanwhile
            one.submit(int)
        return one.options(retry=Retry(wait_initial=0.001, wait_jitter=0)).submit(call).result()

    assert one.submit(outer).result(timeout=10) == 3
    assert one.join(10)
    assert call.calls == 3


def test_what_a_waiting_job_ran_inline_stands_in_the_queue_once(make_pool, gate):
    """Queued again, it is taken by one worker, not by two at once."""
    pool = make_pool(2)
    gate.hold(pool)
    inner, second, calls = [], threading.Event(), []

    def work():
        calls.append(1)
        if len(calls) == 1:
            time.sleep(0.002)  # longer than the timeout of who waits, who so looks for no second one to run
            raise ValueError("no")
        assert second.wait(10)

    def outer():
        pool.submit(int)  # stands before it
        inner.append(pool.options(retry=Retry(wait_initial=0.2, wait_jitter=0)).submit(work))
        with pytest.raises(TimeoutError):
            inner[0].result(timeout=0.001)  # the first attempt
        until(lambda: inner[0].state is JobState.QUEUED)

    pool.submit(outer).result(timeout=10)
    until(lambda: len(calls) == 2)
    gate.open()
    pool.submit(int).result(timeout=10)  # by the other worker, which looked at all that stood before
    assert len(calls) == 2
    second.set()
    assert inner[0].result(timeout=10) is None


def test_the_wait_grows_by_powers_of_two_with_jitter():
    """min(wait_max, wait_initial * 2 ** (n - 1) + random(0, wait_jitter)), however large n."""
    plain = Retry(10**9, wait_initial=0.5, wait_max=5, wait_jitter=0)
    jittered = [Retry(wait_initial=1, wait_jitter=0.5).wait_after(1, ValueError(), 0) for _ in range(100)]

    assert [plain.wait_after(n, ValueError(), 0) for n in (1, 2, 3, 4, 5, 10**8)] == [0.5, 1, 2, 4, 5, 5]
    assert 1 <= min(jittered) < 1.1
    assert 1.4 < max(jittered) <= 1.5


def test_the_jitter_is_nobody_elses():
    """It leaves the stream of `random` to users who have seeded it, and children of a fork do not wait alike."""
    policy = Retry(wait_initial=0, wait_jitter=1)
    random.seed(1)
    expected = random.random()
    random.seed(1)
    waits = [policy.wait_after(1, ValueError(), 0) for _ in range(3)]
    for _ in range(2):
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(writing, repr(policy.wait_after(1, ValueError(), 0)).encode())
            os._exit(0)
        os.waitpid(child, 0)
        waits.append(float(os.read(reading, 100)))
        os.close(reading)
        os.close(writing)

    assert random.random() == expected
    assert len(set(waits)) == 5


def test_a_task_is_tried_again():
    """A generator function or a coroutine function, in virtual time: the waits are dari's own sleep."""
    calls = []
    policy = Retry(wait_initial=1, wait_jitter=0)

    def fetch(url):
        calls.append(url)
        yield dari.sleep(0.5)
        if len(calls) % 3:
            raise ConnectionError(len(calls))
        return len(calls)

    async def coroutine(url):
        return await dari.create_task(fetch, url)

    def main():
        kernel = dari.current_task().kernel
        started = kernel.clock()
        first = yield policy.run(fetch, "a")
        took = kernel.clock() - started
        second = yield from policy.run(coroutine, "b")
        return first, second, took

    first, second, took = testing.run(main)
    assert (first, second, calls) == (3, 6, ["a", "a", "a", "b", "b", "b"])
    assert took == pytest.approx(3 * 0.5 + 1 + 2)


def test_a_task_that_fails_for_good_tells_its_attempts():
    """The last error, with the earlier ones as notes; a cancelled task is not tried again."""

    def fail():
        yield
        raise ValueError("no")

    def cancelled():
        dari.current_task().cancel()
        yield dari.sleep(1)

    def main():
        with pytest.raises(TaskCancelledError):
            yield AT_ONCE.run(cancelled)
        yield AT_ONCE.run(fail)

    with pytest.raises(ValueError, match="no") as caught:
        testing.run(main)
    assert len(caught.value.__notes__) == 3


def test_cancelling_the_waiter_ends_the_attempts():
    """In an attempt, and between two."""
    calls = []

    def fetch(seconds):
        calls.append(seconds)
        yield dari.sleep(seconds)
        raise ValueError("no")

    def main():
        for seconds in (0, 100):
            with dari.move_on_after(1):
                yield LATER.run(fetch, seconds)
        yield dari.sleep(1000)

    testing.run(main)

    assert calls == [0, 100]


def test_a_coroutine_of_asyncio_awaits_the_attempts():
    """On the implicit scheduler of its loop; the task may await asyncio's things."""
    calls = []

    async def fetch():
        calls.append(1)
        await asyncio.sleep(0)
        if len(calls) < 3:
            raise ValueError("no")
        return "yes"

    async def main():
        return await AT_ONCE.run(fetch)

    assert asyncio.run(main()) == "yes"


def test_a_task_that_is_tried_again_inherits_from_who_waits():
    """Context variables and priority, in every attempt."""
    name = ContextVar("name", default="nobody")
    seen = []

    def fetch():
        seen.append((name.get(), dari.current_task().priority))
        yield
        if len(seen) < 2:
            raise OSError

    def main():
        name.set("who waits")
        with dari.priority(-1):
            yield AT_ONCE.run(fetch)

    dari.run(main)

    assert seen == [("who waits", -1)] * 2


def test_a_coroutine_of_trio_awaits_it():
    """As in asyncio."""
    calls = []

    def fetch():
        yield
        calls.append(1)
        if len(calls) < 2:
            raise OSError
        return "yes"

    async def main():
        return await AT_ONCE.run(fetch)

    assert trio.run(main) == "yes"


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"max_retries": -1}, "max_retries"),
        ({"max_retries": 1.5}, "max_retries"),
        ({"on": KeyboardInterrupt}, "`on`"),
        ({"on": (ValueError, KeyboardInterrupt)}, "`on`"),
        ({"on": 3}, "`on`"),
        ({"wait_initial": -1}, "wait_initial"),
        ({"wait_max": float("inf")}, "wait_max"),
        ({"wait_jitter": float("nan")}, "wait_jitter"),
        ({"timeout": 0}, "a timeout"),
    ],
)
def test_policies_that_make_no_sense_are_refused(options, match):
    """Where they are made, by name."""
    with pytest.raises((ValueError, TypeError), match=match):
        Retry(**options)


def test_what_cannot_be_tried_again_is_refused(one):
    """A generator is used up by its first attempt; a number is no policy."""
    with pytest.raises(TypeError, match="takes a function"):
        Retry().run(_ for _ in ())
    with pytest.raises(TypeError, match=r"dari\.Retry"):
        one.options(retry=3)
    assert one.options(retry=AT_ONCE).options(retry=None).submit(Failing(1)).exception() is not None
    assert "max_retries=3" in repr(Retry())
