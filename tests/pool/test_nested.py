"""Jobs that wait for jobs of their own pool."""

from __future__ import annotations

import threading

import pytest

import dari
from dari.exceptions import BlockingCallError
from dari.pool import Retry, current_job

from .conftest import until


def test_recursion_on_one_worker_does_not_deadlock(one):
    """A job that is waited for runs inside the one that waits, on the same thread."""
    threads = set()

    def fib(n):
        threads.add(threading.get_ident())
        return n if n < 2 else one.submit(fib, n - 1).result() + one.submit(fib, n - 2).result()

    assert (one.submit(fib, 12).result(timeout=10), len(threads)) == (144, 1)
    assert (one.stats().completed, one.stats().running, one.stats().queued) == (465, 0, 0)


def test_current_job_is_the_inner_one_and_then_the_outer_again(one):
    """An inline run is a job like any other, in the context of who handed it in."""

    def outer():
        inner = one.options(name="inner").submit(lambda: current_job().name)
        return inner.result(), current_job().name

    assert one.options(name="outer").submit(outer).result() == ("inner", "outer")


def test_an_error_of_an_inline_job_reaches_the_one_that_waits(one):
    """And only that one."""

    def outer():
        with pytest.raises(ZeroDivisionError):
            one.submit(divmod, 1, 0).result()
        with pytest.raises(SystemExit):
            one.submit(exit).result()
        return "on"

    assert one.submit(outer).result() == "on"


def test_a_job_that_waits_for_itself_is_told(one):
    """Directly, or through the one that it runs inline."""

    def outer():
        me = current_job()
        with pytest.raises(BlockingCallError, match="itself"):
            me.result()
        return one.submit(inner, me).result()

    def inner(outer):
        with pytest.raises(BlockingCallError, match="itself"):
            outer.result()
        return "told"

    assert one.submit(outer).result(timeout=10) == "told"


def test_a_job_cannot_wait_for_the_end_of_its_own_pool(one):
    """`join` and `shutdown` would wait for that very job."""

    def work():
        for call in (one.join, one.shutdown):
            with pytest.raises(BlockingCallError, match="same pool"):
                call()
        return "told"

    assert one.submit(work).result(timeout=10) == "told"


def test_a_job_waits_for_one_that_another_worker_runs(make_pool, gate):
    """Only what is queued can be run inline."""
    pool = make_pool(2)
    (running,) = gate.hold(pool)
    waiting = pool.submit(running.result)
    gate.open()

    assert waiting.result(timeout=10) == "through"


def test_jobs_of_another_pool_run_on_that_pools_threads(make_pool):
    """Helping is for the own pool only."""
    a, b = make_pool(1, thread_name_prefix="a"), make_pool(1, thread_name_prefix="b")

    name = a.submit(lambda: b.options(name="x").submit(lambda: threading.current_thread().name).result()).result()

    assert name == "b-0: x"


def test_while_the_pool_drains_running_jobs_may_hand_in_more(one):
    """They may need them to end; with cancel_futures they may not."""
    begun, closed = threading.Event(), threading.Event()

    def work():
        begun.set()
        assert closed.wait(10)
        return one.submit(pow, 2, 3).result()

    job = one.submit(work)
    assert begun.wait(10)
    one.shutdown(wait=False)
    closed.set()

    assert job.result() == 8


def test_jobs_wait_for_jobs_at_any_depth(make_pool):
    """Past fifty on one stack another worker stands in for the one that waits; and leaves in the end."""
    for workers in (1, 3):
        pool = make_pool(workers)

        def depth(n, pool=pool):
            return 0 if n == 0 else 1 + pool.submit(depth, n - 1).result()

        assert pool.submit(depth, 1000).result(timeout=30) == 1000
        assert pool.join(10)
        until(lambda pool=pool: pool.stats().workers <= pool._crew.max_workers)


def test_those_that_stand_in_leave_when_nobody_waits_any_more(make_pool, gate):
    """However busy the pool is: no more jobs run at a time than it has workers."""
    pool = make_pool(1)

    def depth(n):
        return 0 if n == 0 else 1 + pool.submit(depth, n - 1).result()

    def deep():
        assert depth(60) == 60
        running = [pool.submit(gate.wait) for _ in range(3)]
        until(lambda: not pool._crew.too_many() and pool.stats().workers == 1)
        return running

    running = pool.submit(deep).result(timeout=30)
    gate.open()
    assert [job.result(timeout=10) for job in running] == ["through"] * 3


def test_a_wait_that_nobody_can_see_is_no_deadlock(make_pool):
    """All wait for events that jobs behind them are to set: after half a second another comes, for these only."""
    pool = make_pool(2)

    def waits():
        event = threading.Event()
        pool.submit(event.set)
        return event.wait(10)

    jobs = [pool.submit(waits) for _ in range(4)]

    assert [job.result(timeout=10) for job in jobs] == [True] * 4
    assert pool.join(10)
    until(lambda: pool.stats().workers <= 2)


def test_no_more_than_twice_the_workers_come_for_waits_that_nobody_can_see(make_pool, gate):
    """Slow jobs look the same from outside."""
    pool = make_pool(1)

    def slow():
        for _ in range(5):
            pool.submit(gate.wait)
        return gate.wait()

    job = pool.submit(slow)
    until(lambda: pool.stats().workers == 2)

    assert not pool._desk.perform(pool._crew.compensate, pool._crew.max_workers)
    assert pool.stats().workers == 2
    gate.open()
    assert job.result(timeout=10) == "through"


def test_jobs_from_outside_start_no_worker_over_the_maximum(make_pool, gate):
    """Nobody in the pool waits for them."""
    pool = make_pool(1)
    gate.hold(pool)
    for _ in range(5):
        pool.submit(int)

    assert not pool._desk.watch.queued
    assert len(pool._desk.clock) == 0


@pytest.mark.parametrize("options", [{"delay": 0.02}, {"retry": Retry(wait_initial=0.02, wait_jitter=0)}])
@pytest.mark.parametrize("how", ["result", "as_completed", "map", "future"])
def test_who_waits_inside_runs_what_is_queued_later_too(one, options, how):
    """A delayed job, or one that is tried again: there is nobody else to run it."""
    failures = iter([ValueError()] if "retry" in options else [])

    def work(*_):
        for error in failures:
            raise error
        return "done"

    view = one.options(**options)

    def outer():
        match how:
            case "result":
                return view.submit(work).result(timeout=10)
            case "as_completed":
                return next(job.result() for job in dari.as_completed([view.submit(work)]))
            case "map":
                return next(view.map(work, [1]))
            case _:
                return view.as_executor().submit(work).result(timeout=10)

    assert one.submit(outer).result(timeout=10) == "done"
    assert len(one._desk.watch.queued) == 0
