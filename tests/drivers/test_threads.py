"""A scheduler has one thread. Others reach it by `call_soon_threadsafe`; whoever touches it directly is told so."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from contextvars import ContextVar

import pytest
import uvloop

import dari

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


def in_a_thread(function):
    """Call it in another thread; gives the error that it raised, or None."""
    errors = [None]

    def call():
        try:
            function()
        except RuntimeError as error:
            errors[0] = error

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    return errors[0]


WAYS = {
    "set an event": lambda scheduler, event, task: event.set,
    "cancel a task": lambda scheduler, event, task: task.cancel,
    "create a task": lambda scheduler, event, task: lambda: scheduler.create_task(lambda: (yield event.set())),
}


def waits(event):
    yield event.wait()


@pytest.mark.parametrize("way", WAYS)
def test_who_touches_a_guest_from_another_thread_is_told(loop_factory, way):
    """The error names the way that works; the loop is woken all the same, so that nothing waits for ever."""

    async def main():
        event = dari.Event()
        async with dari.Scheduler() as scheduler:
            task = scheduler.create_task(waits, event)
            await asyncio.sleep(0.01)
            error = in_a_thread(WAYS[way](scheduler, event, task))
        return str(error), task.cancelled()

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        error, cancelled = runner.run(asyncio.wait_for(main(), 10))

    assert f"runs on thread {threading.get_ident()}" in error
    assert "scheduler.call_soon_threadsafe(" in error
    assert cancelled == (way == "cancel a task")


@pytest.mark.parametrize("way", WAYS)
def test_who_touches_a_scheduler_from_another_thread_is_told(way):
    """The same where it drives itself."""
    event = dari.Event()
    scheduler = dari.Scheduler()
    task = scheduler.create_task(waits, event)
    errors = []

    def between_two_advances():
        if not errors and task.state is dari.TaskState.WAITING:
            errors.append(str(in_a_thread(WAYS[way](scheduler, event, task))))
        return False

    assert scheduler._own.drive(scheduler._kernel, until=between_two_advances) is True
    assert f"runs on thread {threading.get_ident()}" in errors[0]
    assert task.cancelled() == (way == "cancel a task")


def test_before_it_runs_any_thread_may_fill_it():
    """A scheduler that nobody runs yet has no thread of its own."""
    scheduler = dari.Scheduler()
    done = []

    assert in_a_thread(lambda: scheduler.create_task(lambda: (yield done.append("ran")))) is None
    scheduler.run()
    assert done == ["ran"]


def test_a_scheduler_is_run_by_one_thread_at_a_time():
    """The second is refused, with the first one's number; afterwards another thread may run it."""
    scheduler = dari.Scheduler()
    errors = []

    def main():
        errors.append(in_a_thread(scheduler.run))
        yield

    scheduler.create_task(main)
    scheduler.run()
    task = scheduler.create_task(lambda: (yield) or "ran elsewhere")

    assert f"is run by thread {threading.get_ident()} already" in str(errors[0])
    assert in_a_thread(scheduler.run) is None
    assert task.result() == "ran elsewhere"


# ---- tasks that other threads start ----------------------------------------------------------------------------------


def serve(loop_factory, client):
    """Run a scheduler (None: by itself) until `client(scheduler)` has ended in another thread; gives its result."""
    result = []
    event = dari.Event()

    def until_told():
        yield event.wait()

    def call(scheduler):
        try:
            result.append(client(scheduler))
        finally:
            scheduler.call_soon_threadsafe(event.set)

    def start(scheduler):
        scheduler.create_task(until_told)
        thread = threading.Thread(target=call, args=(scheduler,))
        thread.start()
        return thread

    async def host():
        async with dari.Scheduler() as scheduler:
            thread = start(scheduler)
        thread.join()

    if loop_factory is None:
        scheduler = dari.Scheduler()
        thread = start(scheduler)
        scheduler.run()
        thread.join()
    else:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(host())
    return result[0]


@pytest.fixture(params=["standalone", *LOOPS])
def served(request):
    return lambda client: serve(LOOPS.get(request.param), client)


def test_a_thread_starts_a_task_and_waits_for_it(served):
    """It gets the result, or the error; the task has the thread's context variables and priority."""
    variable = ContextVar("variable", default="unset")

    def task(add):
        yield dari.sleep(0.001)
        return variable.get(), dari.current_task().priority + add, dari.current_task().name

    def fails():
        yield
        raise ValueError("own")

    def client(scheduler):
        variable.set("set")
        with dari.priority(3):
            inherits = scheduler.create_task_threadsafe(task, 10)
        given = scheduler.create_task_threadsafe(task(20), priority=-1, name="named")
        error = scheduler.create_task_threadsafe(fails).exception(10)
        return inherits.result(10), given.result(10), str(error)

    assert served(client) == (("set", 13, task.__qualname__), ("set", 19, "named"), "own")


def test_a_thread_cancels_a_task_and_waits_for_its_end(served):
    """The future is done when the cleanup is; `concurrent.futures.wait` hears of it, too."""
    log = []

    def task():
        log.append("began")
        try:
            yield dari.sleep(60)
        finally:
            with dari.CancelScope(shield=True):
                yield dari.sleep(0.01)
            log.append("cleaned up")

    def client(scheduler):
        future = scheduler.create_task_threadsafe(task)
        scheduler.create_task_threadsafe(lambda: (yield dari.sleep(0.001))).result(10)
        states = [future.running(), future.cancel(), future.done()]
        done, _ = concurrent.futures.wait([future], 10)
        log.append("waited")
        with pytest.raises(concurrent.futures.CancelledError):
            future.result()
        return [*states, done == {future}, future.cancelled(), future.cancel()]

    assert served(client) == [True, True, False, True, True, True]
    assert log == ["began", "cleaned up", "waited"]


def test_a_task_that_cannot_be_made(served):
    """Who asked for it is told why."""

    def client(scheduler):
        return str(scheduler.create_task_threadsafe(len, "no task").exception(10))

    assert "a task is a generator or a coroutine" in served(client)


def test_after_the_end_nothing_is_let_in():
    """It raises: neither the task nor the news of it vanishes."""

    async def main():
        async with dari.Scheduler() as scheduler:
            pass
        with pytest.raises(dari.SchedulerClosed):
            scheduler.create_task_threadsafe(waits, dari.Event())

    asyncio.run(main())


def test_waiting_for_it_on_the_scheduler_s_own_thread_is_refused(run):
    """By name: it would wait for ever. A task yields the future, a coroutine wraps it."""

    def child():
        yield
        return "result"

    def main():
        scheduler = dari.Scheduler()
        future = scheduler.create_task_threadsafe(child)
        with pytest.raises(dari.BlockingCallError, match="yield the future"):
            future.result()
        with pytest.raises(concurrent.futures.TimeoutError):
            future.exception(timeout=0)
        thread = threading.Thread(target=scheduler.run)
        thread.start()
        result = yield future
        thread.join()
        return result, future.result()

    assert run(main) == ("result", "result")


def test_a_coroutine_awaits_it_and_cancels_it():
    """`asyncio.wrap_future`, in another loop than the scheduler's."""
    log = []

    def task():
        try:
            yield dari.sleep(60)
        finally:
            log.append("cleaned up")

    def client(scheduler):
        async def main():
            future = scheduler.create_task_threadsafe(task)
            started = scheduler.create_task_threadsafe(lambda: (yield))
            await asyncio.wrap_future(started)
            waiter = asyncio.wrap_future(future)
            waiter.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiter
            await asyncio.sleep(0)  # asyncio tells the future by a callback
            concurrent.futures.wait([future], 10)
            return future.cancelled()

        return asyncio.run(main())

    assert serve(None, client) is True
    assert log == ["cleaned up"]
