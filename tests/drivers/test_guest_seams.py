"""Where a guest and its host meet at the same moment: cancels and results, spinning and waiting, ends and posts."""

from __future__ import annotations

import asyncio
import socket
import sys
import time

import pytest

import dari


def test_a_guest_that_spins_hears_of_descriptors(loop_factory):
    """Descriptors are watched between two slices as well, not only when nothing is ready."""
    left, right = socket.socketpair()
    heard = []

    def spins(end):
        while not heard and time.monotonic() < end:
            yield

    def reads():
        yield dari.wait_readable(left)
        heard.append(time.monotonic())

    async def main():
        end = time.monotonic() + 10
        async with dari.Scheduler() as scheduler:
            scheduler.create_task(spins, end)
            scheduler.create_task(reads)
            right.send(b"!")
        return heard[0] < end

    with left, right, asyncio.Runner(loop_factory=loop_factory) as runner:
        assert runner.run(main()) is True


@pytest.mark.parametrize("how", ["won already", "shielded"])
def test_a_cancel_of_the_host_that_meets_a_result_is_not_lost(loop_factory, how):
    """The coroutine gets the result, and is cancelled at its next `await`; its count of cancels is as it was."""
    queue = dari.Queue()
    got = []

    def plan():
        with dari.CancelScope(shield=how == "shielded"):
            return (yield queue.get())

    async def host():
        got.append(await dari.arun(plan))
        got.append(asyncio.current_task().cancelling())
        await asyncio.sleep(0)
        got.append("went on")

    async def main():
        waiter = asyncio.create_task(host())
        await asyncio.sleep(0.01)
        if how == "won already":
            queue.put_nowait("item")
        waiter.cancel()
        await asyncio.sleep(0.01)
        if how == "shielded":
            queue.put_nowait("item")
        await asyncio.wait([waiter])
        return waiter.cancelled()

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        assert (runner.run(main()), got) == (True, ["item", 1])


def test_a_timeout_of_the_host_that_meets_a_result_counts_right(loop_factory):
    """asyncio.timeout around it raises TimeoutError at the next `await` inside the block, and never behind it."""

    def plan():
        with dari.CancelScope(shield=True):
            yield dari.sleep(0.02)
        return "value"

    async def main():
        got = []
        try:
            async with asyncio.timeout(0.005):
                got.append(await dari.arun(plan))
                await asyncio.sleep(60)
        except TimeoutError:
            got.append("timeout")
        await asyncio.sleep(0)
        return got, asyncio.current_task().cancelling()

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        assert runner.run(main()) == (["value", "timeout"], 0)


def test_what_was_posted_before_the_exit_is_done(loop_factory, caplog):
    """With no task left too; what it creates is waited for."""
    done = []

    def created():
        yield
        done.append("created")

    async def main():
        async with dari.Scheduler() as scheduler:
            scheduler.call_soon_threadsafe(done.append, "called")
            scheduler.call_soon_threadsafe(scheduler.create_task, created)

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main())

    assert (done, caplog.records) == (["called", "created"], [])


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with 3.12")
def test_a_host_that_starts_tasks_eagerly():
    """A coroutine whose first step cancels the task that waits for it is cancelled at its first wait."""
    log = []

    async def coroutine(task):
        task().cancel("from inside")
        try:
            await asyncio.sleep(60)
        finally:
            log.append("cleaned up")

    def plan():
        yield coroutine(lambda: tasks[0])

    async def main():
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        async with dari.Scheduler() as scheduler:
            tasks.append(scheduler.create_task(plan))

    tasks = []
    asyncio.run(main())

    assert (tasks[0].cancelled(), log) == (True, ["cleaned up"])
