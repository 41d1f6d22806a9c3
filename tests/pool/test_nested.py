"""Jobs that wait for jobs of their own pool."""

from __future__ import annotations

import threading

import pytest

import dari
from dari.exceptions import BlockingCallError
from dari.pool import JobState, Retry, current_job

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
    """Each fifty on a stack of their own; these threads are no workers, and have gone in the end."""
    for workers in (1, 3):
        pool = make_pool(workers)

        def depth(n, pool=pool):
            return 0 if n == 0 else 1 + pool.submit(depth, n - 1).result()

        assert pool.submit(depth, 1000).result(timeout=30) == 1000
        assert pool.join(10)
        assert pool.stats().workers <= workers


def test_a_new_stack_is_the_same_worker(make_pool):
    """For `current_job`, for who waits for itself, for the initializer and for what comes later to be run."""
    prepared, trunk = threading.local(), []
    pool = make_pool(1, initializer=lambda: setattr(prepared, "it", True), thread_name_prefix="mine")
    later = pool.options(delay=0.02).submit(pow, 2, 3)

    def depth(n):
        if n:
            return pool.options(name=f"at {n}").submit(depth, n - 1).result()
        with pytest.raises(BlockingCallError, match="itself"):
            trunk[0].result()
        stats = pool.stats()
        return (
            prepared.it,
            current_job().name,
            threading.current_thread().name,
            stats.workers,
            stats.running,
            later.result(),
        )

    trunk.append(pool.options(name="trunk").submit(depth, 51))
    assert trunk[0].result(timeout=10) == (True, "at 1", "mine-0: at 1", 1, 52, 8)


def test_without_threads_the_stack_goes_on(one, monkeypatch):
    """As long as it lasts."""

    def depth(n):
        if n == 60:
            monkeypatch.setattr(threading.Thread, "start", refuse)
        return 0 if n == 0 else 1 + one.submit(depth, n - 1).result()

    def refuse(_):
        raise RuntimeError("can't start new thread")

    assert one.submit(depth, 60).result(timeout=10) == 60


def test_an_initializer_that_fails_on_a_new_stack_fails_the_job_there(make_pool):
    """Whoever waits for that one gets the error."""
    calls = iter([1])
    pool = make_pool(1, initializer=lambda: 1 // next(calls, 0))

    def depth(n):
        return 0 if n == 0 else 1 + pool.submit(depth, n - 1).result()

    with pytest.raises(ZeroDivisionError):
        pool.submit(depth, 60).result(timeout=10)
    assert pool.submit(depth, 3).result(timeout=10) == 3


def test_who_waits_inside_runs_what_waits_for_a_place(make_pool):
    """The queue is full of others, and there is nobody else to make room."""
    pool = make_pool(1, max_queue=1)
    go, maps = threading.Event(), []

    def takes():
        go.wait(10)
        return list(maps[0])

    job = pool.submit(takes)
    until(job.running)
    other = pool.submit(int)
    maps.append(pool.map(str, [1, 2]))
    go.set()

    assert job.result(timeout=10) == ["1", "2"]
    assert (other.result(timeout=10), pool.stats().completed) == (0, 4)


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
    assert pool._crew._extra == 0


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


def test_those_that_come_for_waits_that_nobody_can_see_keep_the_order(make_pool, gate):
    """Of priorities, and FIFO inside; they leave jobs from outside alone."""
    pool, order = make_pool(1), []

    def waits():
        for priority in (1, 0, 0):
            pool.options(priority=priority).submit(order.append, (priority, len(order)))
        last = threading.Event()
        pool.options(priority=2).submit(last.set)
        assert last.wait(10)
        return [priority for priority, _ in order], outside.state

    job = pool.submit(waits)
    until(job.running)
    outside = pool.options(priority=-1).submit(int)

    assert job.result(timeout=10) == ([0, 0, 1], JobState.QUEUED)
    assert outside.result(timeout=10) == 0


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
