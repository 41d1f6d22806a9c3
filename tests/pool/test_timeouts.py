"""Jobs that wait or run for too long: `options(queue_timeout=…, timeout=…)`."""

from __future__ import annotations

import asyncio
import threading
import time
import weakref

import pytest

import dari
from dari.exceptions import JobTimeout
from dari.pool import JobState, Pool, current_job
from dari.pool.clock import Clock

from .conftest import until

SOON = 0.01


class Payload:
    def __call__(self, *_):
        raise AssertionError("it ran")


def test_a_job_that_is_not_started_in_time_never_runs(one, gate):
    """It ends as TIMED_OUT, waiters get JobTimeout, and what it held is free while the worker is still busy."""
    gate.hold(one)
    payload = Payload()
    held = weakref.ref(payload)
    job = one.options(queue_timeout=SOON).submit(payload)
    del payload

    with pytest.raises(JobTimeout, match=r"'Payload' was not started within its queue_timeout of 0\.01 seconds"):
        job.result(timeout=10)
    until(lambda: held() is None)
    assert (job.state, job.done(), job.cancelled(), job.cancel()) == (JobState.TIMED_OUT, True, False, False)
    assert (one.stats().queued, one.stats().timed_out, one.stats().abandoned) == (0, 1, 0)


def test_a_job_that_was_not_started_in_time_gives_its_place_back(make_pool, gate):
    """Who waits for a place gets it."""
    pool = make_pool(1, max_queue=1)
    gate.hold(pool)
    pool.options(queue_timeout=SOON).submit(Payload())
    job = pool.submit(pow, 2, 3)  # waits for the place
    gate.open()

    assert job.result() == 8


def test_a_job_that_starts_in_time_may_run_for_longer(one):
    """`queue_timeout` is over when it starts; nothing of it is left."""
    release = threading.Event()
    job = one.options(queue_timeout=5).submit(release.wait, 10)
    until(job.running)

    assert job._rare.alarm is None
    release.set()
    assert job.result() is True


def test_a_delay_is_no_waiting_in_the_queue(one, gate, monkeypatch):
    """`queue_timeout` counts from when the job is queued."""
    gate.hold(one)
    times, set_time = [], Clock.set
    monkeypatch.setattr(Clock, "set", lambda clock, job, when: (times.append(when), set_time(clock, job, when))[1])
    job = one.options(delay=0.01, queue_timeout=100).submit(pow, 2, 3)
    until(lambda: job.state is JobState.QUEUED)

    assert times == [job.submitted_at + 0.01, job._queued_at + 100]


def test_a_job_that_runs_for_too_long_is_abandoned(one, gate):
    """Its waiters get JobTimeout at once; its thread goes on, and counts, until the function has returned."""
    job = one.options(timeout=SOON).submit(gate.wait)
    with pytest.raises(JobTimeout, match=r"took longer than its timeout of 0\.01 seconds"):
        job.result(timeout=10)
    queued = one.submit(pow, 2, 3)

    stats = one.stats()
    assert (stats.workers, stats.idle, stats.abandoned, stats.running, stats.timed_out) == (1, 0, 1, 0, 1)
    assert "1 abandoned" in str(stats)
    assert queued.state is JobState.QUEUED  # the only worker is still there
    gate.open()
    assert queued.result(timeout=10) == 8
    assert (one.stats().abandoned, one.stats().completed) == (0, 1)
    assert isinstance(job.exception(), TimeoutError)


def test_what_an_abandoned_job_gives_later_is_dropped(one, gate):
    """Its state stays, callbacks were called once, and nothing keeps its late result."""

    class Late:
        pass

    late = []

    def work():
        gate.wait()
        result = Late()
        late.append(weakref.ref(result))
        return result

    told = []
    job = one.options(timeout=SOON).submit(work)
    job.add_done_callback(lambda job: told.append(job.state))
    assert isinstance(job.exception(timeout=10), JobTimeout)
    gate.open()
    assert one.submit(int).result() == 0

    assert (job.state, late[0](), told) == (JobState.TIMED_OUT, None, [JobState.TIMED_OUT])


def test_an_abandoned_job_is_asked_to_end(one):
    """`check_cancelled` in it raises, and the thread is free again."""
    left = threading.Event()

    def work():
        try:
            while True:
                current_job().check_cancelled()
        finally:
            left.set()

    job = one.options(timeout=SOON).submit(work)

    assert isinstance(job.exception(timeout=10), JobTimeout)
    assert left.wait(10)
    assert (job.cancel_requested, one.submit(pow, 2, 3).result()) == (True, 8)


def test_join_does_not_wait_for_what_was_abandoned(one, gate):
    """For nobody else does."""
    one.options(timeout=SOON).submit(gate.wait)

    assert one.join(timeout=10) is True
    assert one.stats().abandoned == 1


def test_shutdown_waits_for_abandoned_threads_at_most_exit_timeout(gate):
    """And tells that they have not left."""
    pool = Pool(1, exit_timeout=0.05)
    pool.options(timeout=SOON).submit(gate.wait)
    started = time.monotonic()
    ended = pool.shutdown()
    took = time.monotonic() - started
    gate.open()

    assert ended is False
    assert 0.05 <= took < 5
    assert pool.shutdown(timeout=10) is True


def test_a_job_that_ends_in_time_leaves_no_time_behind(one):
    """However many there are."""
    view = one.options(timeout=100, queue_timeout=100)
    for _ in range(500):
        assert view.submit(pow, 2, 3).result() == 8

    assert len(one._desk.clock) < 200
    assert one.stats().timed_out == 0


def test_a_callback_may_take_its_time(make_pool):
    """A done callback called by the clock may even wait for a job that waits for the clock."""
    pool = make_pool(2)
    later = []
    never = threading.Event()
    job = pool.options(timeout=SOON).submit(never.wait, 10)
    job.add_done_callback(lambda _: later.append(pool.options(delay=SOON).submit(pow, 2, 3).result(timeout=10)))
    another = pool.options(delay=2 * SOON).submit(pow, 2, 4)

    assert another.result(timeout=10) == 16
    until(lambda: later)
    never.set()
    assert later == [8]


def test_a_callback_that_raises_systemexit_does_not_stop_the_clock(one, gate, monkeypatch):
    """A successor keeps the time."""
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    gate.hold(one)

    def leave(_):
        raise SystemExit

    with one._desk.lock:  # its time cannot come before it has its callback
        one.options(queue_timeout=0.3).submit(int).add_done_callback(leave)
    later = one.options(queue_timeout=0.4).submit(int)

    assert isinstance(later.exception(timeout=10), JobTimeout)


def test_waiters_of_every_world_are_told(make_pool, gate):
    """asyncio and generator tasks; the message reaches them."""
    pool = make_pool(2)
    view = pool.options(timeout=SOON)

    async def coroutine():
        with pytest.raises(JobTimeout, match="took longer"):
            await view.run_sync(gate.wait)
        return "told"

    def generator():
        with pytest.raises(JobTimeout, match="took longer"):
            yield view.run_sync(gate.wait)
        return "told"

    assert (asyncio.run(coroutine()), dari.run(generator)) == ("told", "told")


def test_who_waits_after_a_cancel_is_free_at_the_timeout(one, gate):
    """A cancelled waiter awaits the real end of the job, or its timeout, and gets that as any other error."""

    def main():
        job = one.options(timeout=0.3).submit(gate.wait)
        assert gate._entered.acquire(timeout=10)
        with dari.CancelScope() as scope:
            dari.create_task(lambda: (yield scope.cancel()))  # its turn comes when main waits
            yield job

    with pytest.raises(JobTimeout):
        dari.run(main)
    assert (one.stats().timed_out, one.stats().abandoned) == (1, 1)


def test_a_job_that_another_job_runs_inline_has_its_timeout(one, gate):
    """The one that waits goes on when the inner one has returned, and gets JobTimeout; others were told in time."""
    inner = []

    def outer():
        inner.append(one.options(timeout=SOON).submit(gate.wait))
        return inner[0].exception()

    job = one.submit(outer)
    until(lambda: inner)
    assert isinstance(inner[0].exception(timeout=10), JobTimeout)
    assert (job.done(), one.stats().abandoned) == (False, 1)
    gate.open()

    assert isinstance(job.result(timeout=10), JobTimeout)


@pytest.mark.parametrize("option", ["timeout", "queue_timeout"])
def test_infinity_and_none_are_no_limit(one, option):
    """No time is set for them."""
    for limit in (None, float("inf")):
        assert one.options(**{option: 1}).options(**{option: limit}).submit(pow, 2, 3).result() == 8

    assert one._desk.clock.thread is None


@pytest.mark.parametrize("option", ["timeout", "queue_timeout"])
@pytest.mark.parametrize("limit", [0, -1, float("nan"), "soon"])
def test_limits_that_make_no_sense_are_refused(one, option, limit):
    """Where they are given, by name."""
    with pytest.raises((ValueError, TypeError), match=f"a {option} is"):
        one.options(**{option: limit})
