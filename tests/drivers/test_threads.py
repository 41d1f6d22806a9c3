"""A scheduler has one thread. Others reach it by `call_soon_threadsafe`; whoever touches it directly is told so."""

from __future__ import annotations

import asyncio
import threading

import pytest

import dari


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
