"""The pool as an executor of `concurrent.futures`: its own functions, and asyncio's default executor."""

from __future__ import annotations

import asyncio
import concurrent.futures as cf
import contextvars
import logging
import os
import threading
import time
import warnings

import pytest
import uvloop

from dari.exceptions import Cancelled, QueueFull, WorkerLost
from dari.pool import current_job

from .conftest import until

LOOPS = pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])


def test_its_futures_are_those_of_concurrent_futures(one):
    """Every keyword is the function's; what a job raises is the future's exception."""
    executor = one.as_executor()

    future = executor.submit(dict, fn=1, self=2)
    failed = executor.submit(divmod, 1, 0)

    assert isinstance(executor, cf.Executor)
    assert isinstance(future, cf.Future)
    assert future.result(timeout=10) == {"fn": 1, "self": 2}
    assert isinstance(failed.exception(timeout=10), ZeroDivisionError)
    assert (future.done(), future.running(), future.cancelled(), future.cancel()) == (True, False, False, False)


def test_wait_as_completed_and_map_know_them(make_pool):
    """The functions of concurrent.futures look into a future's private fields; these are its own."""
    executor = make_pool(2).as_executor()
    futures = [executor.submit(pow, 2, n) for n in range(50)]

    assert {future.result() for future in cf.as_completed(futures, timeout=10)} == {2**n for n in range(50)}
    assert cf.wait(futures, timeout=10).not_done == set()
    assert list(executor.map(pow, [2, 3], [4, 5])) == [16, 243]


def test_nothing_ends_for_who_holds_the_condition(one, gate):
    """`wait` and `as_completed` read the state twice meanwhile, and add themselves: they are told once, of each end."""

    class Waiter(list):
        add_result = list.append

    executor = one.as_executor()
    future, waiter = executor.submit(gate.wait), Waiter()
    with future._condition:
        gate.open()
        until(future.done)
        held = future._state
        future._waiters.append(waiter)
    until(lambda: future._state == "FINISHED")
    late, latecomer = executor.submit(int), Waiter()
    late.result()
    until(lambda: late._state == "FINISHED")
    with late._condition:
        late._waiters.append(latecomer)
    executor.shutdown()

    assert (held == "FINISHED", waiter, latecomer) == (False, [future], [])


def test_a_cancelled_future_is_told_at_once(one, gate):
    """Its job is off the queue, and whoever waits for it hears; concurrent.futures' own pool tells at its turn."""
    gate.hold(one)
    future = one.as_executor().submit(int)
    told = []
    future.add_done_callback(lambda future: told.append(future.cancelled()))

    assert (future.cancel(), future.cancel(), future.cancelled(), told) == (True, True, True, [True])
    assert cf.wait([future], timeout=0).done == {future}
    assert (one.stats().queued, one.stats().cancelled) == (0, 1)
    with pytest.raises(cf.CancelledError):
        future.result()


def test_a_running_job_is_asked_to_end_by_cancel(one):
    """cancel() says False, as ever; the job may look, and then it was cancelled."""
    started, asked = threading.Event(), threading.Event()

    def work():
        started.set()
        assert asked.wait(10)
        current_job().check_cancelled()

    future = one.as_executor().submit(work)
    assert started.wait(10)

    assert (future.running(), future.cancel()) == (True, False)
    asked.set()
    with pytest.raises(cf.CancelledError):
        future.result(timeout=10)


def test_a_callback_finds_the_pool_settled(one):
    """The job counts as ended, and the callback may wait for another job of the pool."""
    executor = one.as_executor()
    seen = []
    held = threading.Event()

    def call_back(future):
        stats = one.stats()
        seen.append((stats.running, stats.completed, executor.submit(pow, 2, 4).result(timeout=10), future.result()))

    future = executor.submit(lambda: held.wait(10))
    future.add_done_callback(call_back)
    held.set()
    until(lambda: seen)

    assert seen == [(0, 1, 16, True)]


def test_nested_waits_do_not_deadlock(one):
    """A job that waits for a queued future of its pool runs it; map too."""
    executor = one.as_executor()

    def fib(n):
        return n if n < 2 else sum(executor.map(fib, [n - 1, n - 2]))

    assert executor.submit(fib, 8).result(timeout=10) == 21


def test_a_view_hands_on_its_options(one, gate):
    """Priority and name are those of the jobs."""
    names = []
    gate.hold(one)
    low = one.options(priority=1, name="low").as_executor()
    high = one.options(priority=-1, name="high").as_executor()
    futures = [executor.submit(lambda: names.append(current_job().name)) for executor in (low, high)]
    gate.open()
    cf.wait(futures, timeout=10)

    assert names == ["high", "low"]


def test_shutting_the_face_down_leaves_the_pool_open(one, gate):
    """It takes no more jobs, and waits for those that came through it."""
    gate.hold(one)
    with one.as_executor() as executor:
        future = executor.submit(int)
        gate.open()
    assert future.done()
    with pytest.raises(RuntimeError, match="takes no more jobs"):
        executor.submit(int)
    assert one.submit(pow, 2, 3).result() == 8


def test_shutdown_with_cancel_futures_cancels_what_has_not_begun(one, gate):
    """And only that: what runs is not asked to end."""
    executor = one.as_executor()
    running = executor.submit(gate.wait)
    assert gate._entered.acquire(timeout=10)
    queued, other = executor.submit(int), one.submit(int)

    executor.shutdown(wait=False, cancel_futures=True)
    gate.open()
    executor.shutdown()

    assert (running.result(), queued.cancelled(), other.result()) == ("through", True, 0)


def test_a_closed_pool_is_a_runtime_error(one):
    """That is what executors raise."""
    executor = one.as_executor()
    one.shutdown()

    with pytest.raises(RuntimeError, match="was shut down"):
        executor.submit(int)


def test_what_is_not_found_runs_no_less(make_pool, gate):
    """Dropped futures and dropped faces: their jobs run."""
    pool = make_pool(1)
    ran = []
    gate.hold(pool)
    pool.as_executor().submit(ran.append, 1)
    gate.open()
    assert pool.join(10)

    assert ran == [1]


def test_a_full_queue_does_not_refuse_a_loop(make_pool, gate):
    """The job stands in line for a place; cancelled there, it is gone. With on_full="raise" it is refused."""
    pool = make_pool(1, max_queue=1)
    gate.hold(pool)

    async def main():
        loop, executor = asyncio.get_running_loop(), pool.as_executor()
        first, second, third = [loop.run_in_executor(executor, pow, 2, n) for n in range(3)]
        second.cancel()
        await asyncio.sleep(0)
        gate.open()
        return await first, second.cancelled(), await third

    assert asyncio.run(main()) == (1, True, 4)


def test_a_full_queue_that_raises_raises_here_too(make_pool, gate):
    """on_full="raise" was asked for."""
    pool = make_pool(1, max_queue=1, on_full="raise")
    gate.hold(pool)
    executor = pool.as_executor()
    executor.submit(int)

    with pytest.raises(QueueFull):
        executor.submit(int)


@LOOPS
def test_the_default_executor_of_a_loop_is_the_pool(make_pool, new_loop):
    """to_thread and run_in_executor run on it, contexts and names travel; the end of the loop ends the face only."""
    pool = make_pool(2, thread_name_prefix="mine")
    user = contextvars.ContextVar("user")

    def who():
        in_a_thread = threading.current_thread() is not threading.main_thread()
        return user.get(), current_job().priority, current_job().name.rpartition(".")[2], in_a_thread

    async def main():
        loop = asyncio.get_running_loop()
        loop.set_default_executor(pool.as_executor())
        user.set("me")
        answers = await asyncio.gather(*[asyncio.to_thread(pow, 2, n) for n in range(100)])
        addresses = await loop.getaddrinfo("127.0.0.1", 80)
        return sum(answers), bool(addresses), await asyncio.to_thread(who), await loop.run_in_executor(None, who)

    with asyncio.Runner(loop_factory=new_loop) as runner:
        answers = runner.run(main())

    assert answers == (2**100 - 1, True, ("me", 0, "who", True), ("me", 0, "who", True))
    assert pool.stats().completed >= 102
    assert pool.submit(pow, 2, 3).result() == 8


def test_the_end_of_asyncio_run_waits_for_what_is_left(make_pool, gate):
    """A to_thread whose task was cancelled runs on; shutdown_default_executor waits for it."""
    pool = make_pool(1)
    ended = []
    begun = threading.Event()

    def work():
        begun.set()
        while not current_job().cancel_requested:
            pass
        ended.append(True)

    async def main():
        asyncio.get_running_loop().set_default_executor(pool.as_executor())
        task = asyncio.create_task(asyncio.to_thread(work))
        while not begun.is_set():
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())

    assert ended == [True]


def test_a_job_that_lets_cancelled_out_cancels_its_future(one):
    """As it cancels a job."""

    def work():
        raise Cancelled("enough")

    with pytest.raises(cf.CancelledError):
        one.as_executor().submit(work).result(timeout=10)


def test_after_a_fork_an_inherited_future_does_not_hang(one, gate):
    """Its job runs in the parent: the child gets WorkerLost."""
    gate.hold(one)
    future = one.as_executor().submit(int)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 warns of forks in a process with threads
        child = os.fork()
    if not child:
        try:
            future.result(timeout=10)
        except WorkerLost:
            os._exit(0 if cf.wait([future], timeout=10).done else 3)
        finally:
            os._exit(1)
    gate.open()

    assert os.waitpid(child, 0)[1] == 0
    assert future.result(timeout=10) == 0


def test_a_callback_that_comes_late_is_called_at_once(one):
    """On the thread that adds it, as in concurrent.futures."""
    future = one.as_executor().submit(int)
    future.result(timeout=10)
    threads = []
    future.add_done_callback(lambda _: threads.append(threading.current_thread()))

    assert threads == [threading.current_thread()]


def test_callbacks_added_while_jobs_end_are_all_called(make_pool):
    """Whoever wins: the one who adds, or the worker that ends the job."""
    executor = make_pool(4, max_queue=None).as_executor()
    called = []
    for _ in range(500):
        executor.submit(int).add_done_callback(called.append)
    executor.shutdown()

    assert len(called) == 500
    until(lambda: executor._at_large == set())


def test_a_shutdown_waits_for_callbacks(one):
    """As the one of concurrent.futures does, which waits for its threads. Who waits for the result does not."""
    executor, log = one.as_executor(), []
    added, entered, go_on = threading.Event(), threading.Event(), threading.Event()

    def call_back(_):
        entered.set()
        assert go_on.wait(10)
        time.sleep(0.05)  # a shutdown that waits for the job alone comes meanwhile
        log.append("called back")

    future = executor.submit(added.wait, 10)
    future.add_done_callback(call_back)
    added.set()
    assert entered.wait(10)
    log.append(future.result(timeout=10))
    go_on.set()
    executor.shutdown()
    log.append("shut down")

    assert log == [True, "called back", "shut down"]


def test_a_callback_may_shut_down(one):
    """It does not wait for its own end."""
    executor, ended = one.as_executor(), threading.Event()
    added = threading.Event()

    def call_back(_):
        executor.shutdown()
        ended.set()

    executor.submit(added.wait, 10).add_done_callback(call_back)
    added.set()

    assert ended.wait(10)


def test_a_shutdown_in_the_child_of_a_fork_does_not_wait_for_the_parent_s(one):
    """A job has ended there, and its callback is under way: in the child it will never return, nor is it called."""
    executor = one.as_executor()
    added, entered, go_on = threading.Event(), threading.Event(), threading.Event()

    def call_back(_):
        entered.set()
        assert go_on.wait(10)

    future = executor.submit(added.wait, 10)
    future.add_done_callback(call_back)
    added.set()
    assert entered.wait(10)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if not child:
        try:
            threading.Timer(10, os._exit, [2]).start()
            executor.shutdown()
            os._exit(0 if future.result(timeout=10) is True else 1)
        finally:
            os._exit(1)
    go_on.set()

    assert os.waitpid(child, 0)[1] == 0


def test_what_a_callback_raises_is_logged_and_the_next_is_called(one, caplog):
    """And harms nobody."""
    executor, called, added = one.as_executor(), [], threading.Event()

    def fails(_):
        raise SystemExit("own")

    future = executor.submit(added.wait, 10)
    future.add_done_callback(fails)
    future.add_done_callback(called.append)
    with caplog.at_level(logging.ERROR, "dari"):
        added.set()
        executor.shutdown()

    assert called == [future]
    assert ["fails" in record.getMessage() for record in caplog.records] == [True]
    until(lambda: executor._at_large == set())


def test_a_future_shows_what_it_is(one, gate):
    """As any future does, and each state as concurrent.futures names it."""
    gate.hold(one)
    executor = one.as_executor()
    future, failed, cancelled = executor.submit(int), executor.submit(divmod, 1, 0), executor.submit(int)
    shown = [repr(future)]
    cancelled.cancel()
    gate.open()
    executor.shutdown()
    shown += map(repr, (future, failed, cancelled))

    assert [show.split(" ", 3)[-1] for show in shown] == [
        "state=pending>",
        "state=finished returned int>",
        "state=finished raised ZeroDivisionError>",
        "state=cancelled>",
    ]
