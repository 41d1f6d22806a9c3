"""How many turns of the loop a guest takes, and what a coroutine that a task yielded looks like to the host."""

from __future__ import annotations

import asyncio
import gc
import sys
import traceback
import warnings

import pytest

import dari
from dari.drivers.asyncio_guest import AsyncioGuest


def run_in(loop_factory, main):
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        return runner.run(main())


@pytest.fixture
def guest_calls(loop_factory):
    """Makes a loop, and notes the names of the guest's methods that it is asked to call soon."""
    probe = loop_factory()
    probe.close()
    calls = []

    class Noting(type(probe)):
        def call_soon(self, callback, *args, **kwargs):
            if isinstance(getattr(callback, "__self__", None), AsyncioGuest):
                calls.append(callback.__name__)
            return super().call_soon(callback, *args, **kwargs)

    return Noting, calls


def ends():
    yield from ()


def test_two_notices_before_a_slice_do_not_delay_the_next(guest_calls):
    """After idleness the next turn is used at once, however often the guest was told of work before its first slice."""
    loop_factory, calls = guest_calls

    async def main():
        async with dari.Scheduler() as scheduler:
            for _ in range(3):
                await scheduler.create_task(ends)
            await asyncio.sleep(0)
            calls.clear()
            for _ in range(3):
                await scheduler.create_task(ends)
            return list(calls)

    assert run_in(loop_factory, main) == ["_slice"] * 3


def test_a_yielded_coroutine_costs_two_turns(loop_factory):
    """One in which it runs and one for the slice that goes on: as many as asyncio's own tasks take."""

    async def coroutine():
        pass

    def plan(times):
        for _ in range(times):
            yield coroutine()

    async def main():
        async def count():
            nonlocal turns
            while True:
                await asyncio.sleep(0)
                turns += 1

        turns = 0
        counting = asyncio.create_task(count())
        await dari.arun(plan, 100)
        counting.cancel()
        return turns

    assert 200 <= run_in(loop_factory, main) <= 205


def test_coroutines_that_end_together_are_told_in_one_slice(guest_calls):
    """A thousand ends in one turn of the loop ask for one slice."""
    loop_factory, calls = guest_calls

    async def main():
        gate = asyncio.Event()

        async def coroutine():
            await gate.wait()

        def plan():
            yield coroutine()

        async with dari.Scheduler(max_slice=60) as scheduler:
            tasks = [scheduler.create_task(plan) for _ in range(1000)]
            while not all(task.state is dari.TaskState.WAITING for task in tasks):
                await asyncio.sleep(0)
            await asyncio.sleep(0)  # the coroutines have begun
            calls.clear()
            gate.set()
            while not all(task.done() for task in tasks):
                await asyncio.sleep(0)
            return list(calls)

    assert run_in(loop_factory, main) == ["_slice"]


def test_a_host_task_cancelled_before_its_first_step(loop_factory):
    """The waiter hears of it, and Python does not warn of a coroutine that was never awaited."""

    async def coroutine():
        await asyncio.sleep(60)

    def plan():
        with pytest.raises(dari.TaskCancelledError):
            yield coroutine()
        return "told"

    async def main():
        loop = asyncio.get_running_loop()
        old = asyncio.all_tasks()

        def factory(loop, coroutine, **kwargs):
            task = asyncio.Task(coroutine, loop=loop, **kwargs)
            task.cancel()
            return task

        async with dari.Scheduler() as scheduler:
            loop.set_task_factory(factory)
            task = scheduler.create_task(plan)
            await asyncio.sleep(0.01)
            loop.set_task_factory(None)
            assert asyncio.all_tasks() == old
            return await task

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert run_in(loop_factory, main) == "told"
        gc.collect()


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with 3.12")
def test_an_eager_coroutine_that_ends_in_its_first_step():
    """It ends before its task is known to anyone, and its result comes all the same."""

    async def coroutine(number):
        return number

    def plan():
        return (yield coroutine(1)), (yield from dari.host(coroutine(2)))

    async def main():
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        return await dari.arun(plan)

    assert asyncio.run(main()) == (1, 2)


def test_a_coroutine_that_cancels_itself_and_returns_is_cancelled(loop_factory):
    """As asyncio has it: a cancel that was asked for before the end, and not taken back, stands."""

    async def coroutine():
        asyncio.current_task().cancel()
        return "value"

    def plan():
        with pytest.raises(dari.TaskCancelledError):
            yield coroutine()
        return "told"

    async def main():
        return await dari.arun(plan)

    assert run_in(loop_factory, main) == "told"


def test_a_yielded_coroutine_is_called_by_its_name_and_fails_with_its_own_frames(loop_factory):
    """The host's task shows the coroutine's name; no frame of dari stands in the traceback."""

    async def fetches():
        return repr(asyncio.current_task())

    async def fails():
        raise KeyError("lost")

    def plan():
        name = yield fetches()
        try:
            yield fails()
        except KeyError as error:
            return name, [frame.name for frame in traceback.extract_tb(error.__traceback__)]

    async def main():
        return await dari.arun(plan)

    name, frames = run_in(loop_factory, main)

    assert "fetches() running" in name
    assert frames == ["plan", "fails"]


def test_the_end_of_a_loop_looks_over_its_tasks_once(loop_factory, monkeypatch):
    """However many coroutines end with it: each look takes as long as there are tasks."""
    looks = []
    all_tasks = asyncio.all_tasks

    def counted(loop=None):
        looks.append(loop)
        return all_tasks(loop)

    def waits():
        yield asyncio.sleep(60)

    def starts():
        for _ in range(200):
            dari.create_task(waits)
        yield

    async def main():
        await dari.arun(starts)
        while len(all_tasks()) < 200:
            await asyncio.sleep(0)
        monkeypatch.setattr(asyncio, "all_tasks", counted)

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main())

    assert 1 <= len(looks) <= 5
