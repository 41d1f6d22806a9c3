"""Shutting down, joining, leaving a block."""

from __future__ import annotations

import asyncio
import threading

import pytest

from dari.exceptions import JobCancelled, PoolClosed
from dari.pool import Pool, current_job

from .conftest import Gate, until


def test_shutdown_runs_what_is_queued_and_lets_nothing_in(one, gate):
    """Then the threads have left."""
    gate.hold(one)
    jobs = [one.submit(pow, 2, n) for n in range(5)]
    threading.Timer(0.01, gate.open).start()

    assert one.shutdown()
    assert [job.result(timeout=0) for job in jobs] == [1, 2, 4, 8, 16]
    with pytest.raises(PoolClosed, match="shut down"):
        one.submit(int)
    assert one.stats().workers == 0
    assert one.shutdown()


def test_shutdown_waits_for_what_a_callback_hands_in(make_pool):
    """After the last job has ended; also when the thread that called it has left before that has run."""
    pool, gates, left = make_pool(2), [Gate(), Gate()], []
    begun, go = threading.Event(), threading.Event()

    def call_back(_):
        begun.set()
        go.wait(10)
        for gate in gates:
            pool.submit(gate.wait)

    first = Gate()
    (job,) = first.hold(pool)
    job.add_done_callback(call_back)
    first.open()
    assert begun.wait(10)
    closer = threading.Thread(
        target=lambda: left.append((pool.shutdown(), pool._desk.unfinished, pool.stats().workers))
    )
    closer.start()
    until(lambda: not pool._desk.open)
    go.set()
    until(lambda: pool.stats().running == 2)
    for gate in gates:
        gate.open()
        closer.join(0.02)
    closer.join(10)

    assert left == [(True, 0, 0)]


def test_shutdown_without_waiting_leaves_the_jobs_to_run(one, gate):
    """False: not everything has ended yet."""
    gate.hold(one)
    job = one.submit(pow, 2, 3)

    assert not one.shutdown(wait=False)
    gate.open()
    assert job.result(timeout=10) == 8


def test_shutdown_may_cancel_what_is_queued_and_gives_up_after_its_timeout(one, gate):
    """What runs is left alone."""
    (running,) = gate.hold(one)
    queued = [one.submit(int) for _ in range(5)]

    assert not one.shutdown(cancel_futures=True, timeout=0.01)
    assert all(job.cancelled() for job in queued)
    assert not running.cancel_requested
    gate.open()
    assert one.shutdown(timeout=10)


def test_join_waits_until_nothing_is_queued_or_running(one, gate):
    """True; False at its timeout. The pool stays open."""
    assert one.join()
    gate.hold(one)
    job = one.submit(pow, 2, 3)

    assert (one.join(timeout=0.01), one.join(timeout=0)) == (False, False)
    assert one._desk._when_idle == []
    gate.open()
    assert one.join(timeout=10)
    assert job.done()
    assert one.submit(int).result() == 0


def test_closing_wakes_everybody_who_waits(one, gate):
    """For jobs, and for the end."""
    gate.hold(one)
    queued = one.submit(int)
    answers = []

    def wait_for_the_job():
        try:
            queued.result()
        except Exception as error:  # noqa: BLE001 - it is the answer
            answers.append(type(error).__name__)

    threads = [
        threading.Thread(target=wait_for_the_job),
        threading.Thread(target=lambda: answers.append(one.join())),
        threading.Thread(target=lambda: answers.append(one.shutdown())),
    ]
    for thread in threads:
        thread.start()
    one.shutdown(wait=False, cancel_futures=True)
    gate.open()
    for thread in threads:
        thread.join(10)

    assert sorted(answers, key=str) == ["JobCancelled", True, True]


def test_leaving_the_block_waits_for_all_jobs():
    """Also for those that jobs hand in."""
    done = []
    with Pool(2) as pool:
        pool.submit(lambda: [pool.submit(done.append, n) for n in range(5)])

    assert sorted(done) == [0, 1, 2, 3, 4]
    assert pool.stats().workers == 0


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_an_error_in_the_block_ends_the_pool_soon(gate, error):
    """What is queued is cancelled, what runs is asked, and exit_timeout bounds the wait."""
    with pytest.raises(error), Pool(1, exit_timeout=0.01) as pool:
        (running,) = gate.hold(pool)
        queued = pool.submit(int)
        raise error

    assert (queued.cancelled(), running.cancel_requested, running.done()) == (True, True, False)


def test_an_error_in_the_block_waits_for_a_job_that_listens():
    """It is asked, and ends."""
    started = threading.Event()

    def work():
        started.set()
        while True:
            current_job().check_cancelled()

    with pytest.raises(ZeroDivisionError), Pool(1) as pool:
        job = pool.submit(work)
        assert started.wait(10)
        raise ZeroDivisionError

    assert job.cancelled()


def test_ctrl_c_while_the_block_drains_gives_up(gate, monkeypatch):
    """As an error in the block would."""
    pool = Pool(1, exit_timeout=0.01)

    def interrupted(*_args, **_options):
        pool._desk.close(cancel=False)
        raise KeyboardInterrupt

    monkeypatch.setattr(Pool, "shutdown", interrupted)
    with pytest.raises(KeyboardInterrupt), pool:
        (running,) = gate.hold(pool)
        queued = pool.submit(int)

    assert (queued.cancelled(), running.cancel_requested) == (True, True)


def test_on_a_loop_a_thread_cancels_what_is_too_much(make_pool, gate):
    """The loop's own thread does one stretch of it, and none of the jobs is begun; who waits for the pool, waits."""
    pool, cancellers = make_pool(1, max_queue=None), []
    gate.hold(pool)
    jobs = [pool.submit(int) for _ in range(2000)]
    cancel_some = pool._desk._cancel_some

    def noting():
        cancellers.append(threading.get_ident())
        return cancel_some()

    pool._desk._cancel_some = noting

    async def main():
        with pytest.raises(ZeroDivisionError):
            async with pool:
                pool.submit(int)
                loop = asyncio.get_running_loop()
                loop.call_later(0.01, gate.open)
                raise ZeroDivisionError

    asyncio.run(main())

    assert cancellers.count(threading.get_ident()) == 1
    assert len(cancellers) > 5
    assert all(job.cancelled() for job in jobs)


def test_shutdown_without_waiting_on_a_loop_cancels_all_soon(make_pool, gate):
    """And what has not been cancelled yet when it returns is not begun."""
    pool = make_pool(1, max_queue=None)
    gate.hold(pool)
    jobs = [pool.submit(int) for _ in range(2000)]

    async def main():
        pool.shutdown(wait=False, cancel_futures=True)
        gate.open()
        for job in jobs:
            with pytest.raises(JobCancelled):
                await job

    asyncio.run(main())

    assert pool.shutdown()
    assert pool.stats().cancelled == 2000
