"""A worker that is on its way will come: no driver takes the moment in which no thread is there for a standstill."""

from __future__ import annotations

import asyncio
import selectors
import threading
import time
from _thread import start_new_thread
from concurrent.futures import Future

import pytest

import dari
from dari.drivers import strangers
from dari.drivers.asyncio_standstill import Selector
from dari.pool import calls


@pytest.fixture(autouse=True)
def nobody_else(monkeypatch):
    """Threads and handlers that were there before are no strangers here."""
    living = threading.enumerate
    before = living()
    monkeypatch.setattr(threading, "enumerate", lambda: [each for each in living() if each not in before])
    monkeypatch.setattr(threading, "active_count", lambda: 1 + sum(each not in before for each in living()))
    monkeypatch.setattr("dari.drivers.asyncio_standstill._is_heard", lambda number: False)


@pytest.fixture
def workers_are_late(monkeypatch):
    """A worker that a loop asked for comes only when the loop has gone to sleep."""
    held = []
    select = selectors.DefaultSelector.select

    def let_come(self, timeout=None):
        if timeout != 0:
            while held:
                start_new_thread(*held.pop())
        return select(self, timeout)

    monkeypatch.setattr(calls, "start_new_thread", lambda *start: held.append(start))
    monkeypatch.setattr(selectors.DefaultSelector, "select", let_come)
    yield held
    assert not held


async def as_a_job(pool):
    return await pool.run_sync(str, 1)


async def as_a_job_of_a_generator(pool):
    def generator():
        return (yield pool.submit(str, 1))

    return await dari.create_task(generator)


async def by_an_executor(pool):
    return await asyncio.get_running_loop().run_in_executor(pool.as_executor(), str, 1)


async def by_a_callback(pool):
    event = asyncio.Event()
    job = pool.submit(str, 1)
    job.add_done_callback(lambda _: event.set())
    await event.wait()
    return job.result()


@pytest.mark.parametrize("waits", [as_a_job, as_a_job_of_a_generator, by_an_executor, by_a_callback])
def test_a_loop_says_nothing_of_a_standstill(waits, workers_are_late, caplog):
    """However what the worker will do is waited for."""

    async def main():
        async with dari.Pool(1) as pool:
            return await waits(pool)

    with asyncio.Runner(loop_factory=dari.EventLoop) as runner:
        assert runner.run(main()) == "1"
    assert caplog.messages == []


def test_a_scheduler_raises_no_deadlock_error(workers_are_late, caplog):
    """Though nobody waits for the job, which sets the event that main waits for.

    Nor does it warn, which is all that it does where a signal has a handler, as pytest-timeout's.
    """

    def main(pool):
        event = dari.Event()
        pool.submit(dari.current_task().kernel.driver.post, event.set)
        yield event.wait()
        return "set"

    with dari.Pool(1) as pool:
        assert dari.run(main, pool) == "set"
    assert caplog.messages == []


def test_a_scheduler_looks_again_when_the_worker_is_there(workers_are_late, monkeypatch):
    """Its job does not wake main: that is told then, as it would have been at once."""
    told = []

    def main(pool):
        event, driver = dari.Event(), dari.current_task().kernel.driver
        monkeypatch.setattr(driver, "report", lambda text, _: (told.append(text), driver.post(event.set)))
        pool.submit(int)
        yield event.wait()

    with dari.Pool(1) as pool:
        try:
            dari.run(main, pool)
        except dari.DeadlockError as error:  # where the worker has gone already, and no signal has a handler
            told.append(str(error))
    assert ["every task waits" in text for text in told] == [True]


def test_what_is_awaited_from_outside_is_no_standstill_of_a_loop(monkeypatch, caplog):
    """Whoever settles the future: here nobody that Python knows of, once the loop has gone to sleep."""
    select, future = selectors.DefaultSelector.select, Future()

    def settle(self, timeout=None):
        if timeout is None and isinstance(self, Selector) and not future.done():
            future.set_result("settled")
        return select(self, timeout)

    monkeypatch.setattr(selectors.DefaultSelector, "select", settle)

    def generator():
        return (yield future)

    async def main():
        return await dari.create_task(generator)

    with asyncio.Runner(loop_factory=dari.EventLoop) as runner:
        assert runner.run(main()) == "settled"
    assert caplog.messages == []


def test_nobody_stays_on_his_way(monkeypatch):
    """Neither who has come, nor who cannot be had."""

    async def main():
        async with dari.Pool(1) as pool:
            return await pool.run_sync(str, 1)

    assert asyncio.run(main()) == "1"
    monkeypatch.setattr(calls, "start_new_thread", refuse)
    with pytest.raises(dari.WorkerLost):
        asyncio.run(main())

    deadline = time.monotonic() + 60
    while strangers.on_their_way:  # who has come says so a moment after it runs
        assert time.monotonic() < deadline
        time.sleep(0.001)


def refuse(*_):
    raise RuntimeError("can't start new thread")
