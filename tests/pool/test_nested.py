"""Jobs that wait for jobs of their own pool."""

from __future__ import annotations

import threading

import pytest

from dari.exceptions import BlockingCallError
from dari.pool import current_job


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
