"""Pipelines on real drivers: blocking stages on a pool, async iterables, and `async for` in every kind of coroutine."""

from __future__ import annotations

import asyncio
import threading

import pytest

import dari
from dari import Pipeline


@pytest.fixture
def pool():
    with dari.Pool(max_workers=4) as pool:
        yield pool


class Countdown:
    """An async iterable of asyncio's own kind; it knows whether it was closed, and by which task."""

    def __init__(self, start, fail_at=None):
        self.start = start
        self.fail_at = fail_at
        self.tasks = set()

    async def __aiter__(self):
        try:
            for number in range(self.start, 0, -1):
                if number == self.fail_at:
                    raise LookupError(f"no {number}")
                self.tasks.add(asyncio.current_task())
                await asyncio.sleep(0)
                yield number
        finally:
            self.tasks.add(asyncio.current_task())
            await asyncio.sleep(0)
            self.closed = True


async def turns_until(true):
    """Turns of the loop, for what is on its way. (One that never comes is found by the timeout of the tests.)"""
    while not true():
        await asyncio.sleep(0)


def on(loop_factory, main):
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        return runner.run(main())


@pytest.mark.parametrize("ordered", [True, False])
def test_a_blocking_stage_runs_on_the_pool(run, pool, ordered):
    """As many at a time as `concurrency` says: four that wait for each other do meet."""
    meeting = threading.Barrier(4, timeout=30)

    def meet(x):
        meeting.wait()
        return x, threading.current_thread() is threading.main_thread()

    def main():
        return (yield Pipeline(range(8)).map(meet, concurrency=4, ordered=ordered, pool=pool).collect())

    assert sorted(run(main)) == [(x, False) for x in range(8)]


def test_a_blocking_source_is_read_on_the_pool(run, pool):
    """Made, read and closed there; and not read on after the line was closed."""
    threads = set()

    def source():
        try:
            for number in range(1000):
                threads.add(threading.current_thread())
                yield number
        finally:
            threads.add(threading.current_thread())
            closed.append(number)

    closed = []

    def main():
        line = Pipeline(source(), buffer=2, pool=pool)
        items = (yield line.get()), (yield line.get())
        yield line.aclose()
        return items

    assert run(main) == (0, 1)
    assert threading.main_thread() not in threads
    assert closed[0] <= 5


def test_an_error_on_the_pool_is_the_line_s(run, pool):
    """From a blocking stage and from a blocking source."""

    def fail(x):
        raise LookupError(x)

    def source():
        yield 1
        raise OSError

    def main():
        with pytest.raises(LookupError):
            yield Pipeline(range(100)).map(fail, concurrency=3, pool=pool).collect()
        with pytest.raises(OSError):
            yield Pipeline(source(), pool=pool).collect()

    run(main)


def test_cancelled_it_waits_for_the_job_that_runs(run, pool):
    """A blocking stage is not left behind: its job has ended when the taker goes on."""
    started, ended = threading.Event(), []
    go = threading.Event()

    def block(x):
        started.set()
        go.wait(30)
        ended.append(x)

    def main():
        with dari.CancelScope() as scope:
            task = dari.create_task(cancel, scope)
            yield Pipeline([1]).map(block, pool=pool).collect()
        seen = list(ended)
        yield task
        return seen

    def cancel(scope):
        yield pool.run_sync(started.wait, 30)
        scope.cancel()
        go.set()

    assert run(main) == [1]


def test_async_for_in_a_coroutine(run):
    """In a coroutine that dari steps, and in one that the host steps."""

    def slow(x):
        yield dari.sleep(0)
        return x * 2

    async def main():
        return [item async for item in Pipeline(range(20)).map(slow, concurrency=3).batch(8)]

    assert run(main) == [list(range(0, 16, 2)), list(range(16, 32, 2)), list(range(32, 40, 2))]


def test_an_async_iterable_of_the_host(loop_factory):
    """All of it is stepped by one task of the host, its end too; coroutine functions are the host's as well."""
    source = Countdown(30)

    async def work(x):
        await asyncio.sleep(0)
        return -x

    async def main():
        line = Pipeline(source, buffer=2).map(work, concurrency=4).flat_map(lambda x: Countdown(2) if x == -1 else [x])
        return [item async for item in line]

    assert on(loop_factory, main) == [*range(-30, -1), 2, 1]
    assert (source.closed, len(source.tasks)) == (True, 1)


def test_asyncio_gets_the_stage_s_own_error(loop_factory):
    """From an async source; the coroutine goes on."""
    source = Countdown(9, fail_at=5)

    async def main():
        line, items = Pipeline(source, buffer=1), []
        with pytest.raises(LookupError, match="no 5"):
            async for item in line:
                items.append(item)
        return items

    assert on(loop_factory, main) == [9, 8, 7, 6]
    assert source.closed


def test_asyncio_cancels_a_taker(loop_factory):
    """The task that awaits is cancelled: it ends when the stages have really ended."""
    source, started, ended = Countdown(1000), [], []

    async def block(x):
        started.append(x)
        try:
            await asyncio.sleep(1000)
        finally:
            await asyncio.sleep(0)
            ended.append(x)

    async def main():
        taker = asyncio.create_task(take())
        await turns_until(lambda: started)
        taker.cancel()
        with pytest.raises(asyncio.CancelledError):
            await taker
        return list(ended), source.closed

    async def take():
        async for _ in Pipeline(source, buffer=1).map(block):
            pass

    assert on(loop_factory, main) == ([1000], True)


def test_an_item_that_meets_a_cancel_of_asyncio_is_not_lost(loop_factory):
    """Whenever the cancel comes: who takes next gets that item, or the line was cancelled while it still waited."""

    async def meet(turns):
        source = dari.Queue()
        line = Pipeline(source).map(lambda x: x)

        async def take():
            return await line.get()

        waiter = asyncio.create_task(take())
        await asyncio.sleep(0.001)
        source.put_nowait("first")
        source.put_nowait("second")
        source.shutdown()
        for _ in range(turns):
            await asyncio.sleep(0)
        waiter.cancel()
        await asyncio.wait([waiter])
        if not waiter.cancelled():
            return "in time"
        try:
            assert await line.get() == "first"
        except dari.TaskCancelledError:
            return "cancelled"
        assert [await line.get(), await line.get(default="over")] == ["second", "over"]
        return "taken back"

    async def main():
        outcomes = set()
        for turns in range(4000):  # how many it takes varies: until each outcome has been met
            outcomes.add(await meet(turns % 40))
            if outcomes == {"cancelled", "taken back", "in time"}:
                break
        return outcomes

    assert on(loop_factory, main) == {"cancelled", "taken back", "in time"}


def test_a_break_in_asyncio_ends_a_line_that_nobody_holds(loop_factory):
    """A line made in the `for` is closed after a break; one that is held goes on, until it is closed."""
    first, second = Countdown(1000), Countdown(1000)

    async def main():
        async for _ in Pipeline(first, buffer=1):
            break
        line = Pipeline(second, buffer=1)
        async for _ in line:
            break
        await turns_until(lambda: hasattr(first, "closed"))
        seen = hasattr(second, "closed"), await line.get()
        await line.aclose()
        return *seen, second.closed

    assert on(loop_factory, main) == (False, 999, True)


def test_a_queue_between_the_worlds(loop_factory):
    """A coroutine of the host fills it, a line takes from it."""
    queue = dari.Queue(2)

    async def fill():
        for number in range(20):
            await queue.put(number)
        queue.shutdown()

    async def main():
        filling = asyncio.create_task(fill())
        items = await Pipeline(queue).map(str).collect()
        await filling
        return items

    assert on(loop_factory, main) == [str(x) for x in range(20)]


def test_collect_and_for_each_are_awaited(run):
    """They are operations like all others."""
    seen = []

    async def see(x):
        seen.append(x)

    async def main():
        await Pipeline("ab").for_each(see)
        await Pipeline("cd").for_each(seen.append)
        return await Pipeline(seen).collect()

    assert run(main) == ["a", "b", "c", "d"]
