"""What the seam must not keep: tasks, timers, schedulers, coroutines. (The long run is benchmarks/soak.py.)"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import weakref

import anyio
import pytest

import dari

SPELLINGS = {
    "as it is": lambda coroutine: coroutine,
    "host": dari.host,
    "in a list": lambda coroutine: [coroutine],
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_coroutine_yielded_in_a_cancelled_scope_is_closed(host, spelling):
    """It is not begun, and Python does not warn that it was never awaited."""

    def plan():
        with dari.CancelScope() as scope:
            scope.cancel()
            yield SPELLINGS[spelling](anyio.sleep(60))
        return scope.cancelled_caught

    async def main():
        return await dari.arun(plan)

    assert host(main) is True
    gc.collect()


class _Entered:
    async def __aenter__(self):
        raise AssertionError("entered")

    async def __aexit__(self, *_):
        raise AssertionError("left")


def test_a_holder_that_is_cancelled_before_it_begins_is_quiet(host):
    """The manager is not entered."""

    def plan():
        yield dari.enter(_Entered())

    async def main():
        async with dari.Scheduler() as scheduler:
            task = scheduler.create_task(plan)
            scheduler.call_soon_threadsafe(task.cancel)
            scheduler.cancel()
        return task.cancelled()

    assert host(main) is True
    gc.collect()


def test_an_implicit_scheduler_keeps_no_failures(host, caplog):
    """They are logged; nobody will ever raise them."""
    frames = []

    class Payload:
        pass

    def fails():
        payload = Payload()
        frames.append(weakref.ref(payload))
        yield
        raise OSError("disk")

    async def main():
        dari.create_task(fails)
        await anyio.sleep(0.005)
        gc.collect()
        return [frame() for frame in frames]

    caplog.set_level(logging.CRITICAL, "dari")  # a log record would keep it, too
    assert host(main) == [None]


def test_a_context_keeps_no_scheduler(host):
    """What was captured inside its block may live long."""

    async def main():
        async with dari.Scheduler() as scheduler:
            context = contextvars.copy_context()
        gone = weakref.ref(scheduler)
        del scheduler
        await anyio.sleep(0.001)
        gc.collect()
        return gone(), context is not None

    assert host(main) == (None, True)


def test_no_timer_stays_armed_for_a_deadline_that_is_gone():
    """A timeout of an hour that was not needed leaves nothing in the loop."""

    class Counting(asyncio.SelectorEventLoop):
        def call_at(self, when, callback, *args, context=None):
            handle = super().call_at(when, callback, *args, context=context)
            timers.append(handle)
            return handle

    def plan():
        with dari.timeout(3600):
            yield dari.sleep(0.001)

    async def main():
        await dari.arun(plan)
        await asyncio.sleep(0.002)
        now = asyncio.get_running_loop().time()
        return [timer for timer in timers if not timer.cancelled() and timer.when() > now]

    timers = []
    with asyncio.Runner(loop_factory=Counting) as runner:
        assert runner.run(main()) == []
