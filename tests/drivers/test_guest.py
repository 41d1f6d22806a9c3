"""The asyncio guest: slices, turns, idleness, and the seam in both directions."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
import time
from concurrent.futures import Future

import pytest

import dari
from dari.drivers.asyncio_guest import AsyncioGuest


def run_in(loop_factory, main):
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        return runner.run(main())


@pytest.fixture
def counting_loop(loop_factory):
    """Makes a loop that counts the callbacks which the guest asks of it, by the name of the method called back."""
    probe = loop_factory()
    probe.close()

    class Counting(type(probe)):
        def __init__(self):
            self.counts = {}
            super().__init__()

        def _count(self, callback):
            if isinstance(getattr(callback, "__self__", None), AsyncioGuest):
                self.counts[callback.__name__] = self.counts.get(callback.__name__, 0) + 1

        def call_soon(self, callback, *args, **kwargs):
            self._count(callback)
            return super().call_soon(callback, *args, **kwargs)

        def call_at(self, when, callback, *args, **kwargs):
            self._count(callback)
            return super().call_at(when, callback, *args, **kwargs)

        def call_soon_threadsafe(self, callback, *args, **kwargs):
            self._count(callback)
            return super().call_soon_threadsafe(callback, *args, **kwargs)

    return Counting


def spin(steps):
    for _ in range(steps):
        yield


def test_one_callback_per_slice_and_its_two_empty_turns(counting_loop):
    """A busy guest costs its loop three callbacks a slice, however many steps the slice takes."""

    async def main():
        loop = asyncio.get_running_loop()
        async with dari.Scheduler(max_slice=0.002) as scheduler:
            for _ in range(100):
                scheduler.create_task(spin, 2000)
            started = time.monotonic()
        elapsed = time.monotonic() - started
        slices = loop.counts.pop("_slice")
        return slices, loop.counts, elapsed, scheduler.stats().switches

    slices, others, elapsed, switches = run_in(counting_loop, main)

    assert switches >= 200_000
    assert others == {"_first_turn": slices - 1, "_second_turn": slices - 1}
    assert slices <= elapsed / 0.002 + 2


def test_an_idle_second_costs_nothing(counting_loop):
    """Tasks that wait for an event, for a thread or for a far deadline ask nothing of the loop."""

    async def main():
        loop = asyncio.get_running_loop()
        async with dari.Scheduler() as scheduler:
            event = dari.Event()
            future = Future()

            def waits():
                yield event.wait()

            def waits_for_thread():
                yield future

            def sleeps():
                with dari.move_on_after(3600):
                    yield event.wait()

            for task in (waits, waits_for_thread, sleeps):
                scheduler.create_task(task)
            await asyncio.sleep(0.05)
            for _ in range(10):  # a machine that stood still for so long has made no turn of the loop yet
                await asyncio.sleep(0)
            loop.counts.clear()
            await asyncio.sleep(1)
            idle = dict(loop.counts)
            event.set()
            future.set_result(None)
        return idle

    assert run_in(counting_loop, main) == {}


class ThreadTimeLoop(asyncio.SelectorEventLoop):
    """Its clock is the processor time of this thread: what other processes take does not move it."""

    def time(self):
        return time.thread_time()


def test_heartbeat_with_ten_thousand_spinning_tasks():
    """Half of the beats of 5 ms are late by at most about one slice. (p99, on a quiet machine: benchmarks/guest.py)"""
    max_slice = 0.002

    async def main():
        loop = asyncio.get_running_loop()
        late = []
        async with dari.Scheduler(max_slice=max_slice) as scheduler:
            running = True

            def spins():
                while running:
                    yield

            for _ in range(10_000):
                scheduler.create_task(spins)
            await asyncio.sleep(0.1)
            for _ in range(200):
                due = loop.time() + 0.005
                await asyncio.sleep(0.005)
                late.append(loop.time() - due)
            running = False
        return sorted(late)

    late = run_in(ThreadTimeLoop, main)

    assert late[100] <= 1.25 * max_slice, f"p50 {late[100]:.4f} p99 {late[197]:.4f} max {late[-1]:.4f}"


def test_slow_steps_are_cut_into_slices(loop_factory):
    """Where a single step is slow, a slice ends after the first step past its end."""

    async def main():
        async with dari.Scheduler(max_slice=0.002) as scheduler:
            running = True

            def slow():
                while running:
                    until = time.monotonic() + 0.001
                    while time.monotonic() < until:
                        pass
                    yield

            for _ in range(50):
                scheduler.create_task(slow)
            await turns(10)  # the first slice does not know yet how slow they are
            before = scheduler.stats().switches
            await turns(200)
            steps = scheduler.stats().switches - before
            running = False
        return steps

    async def turns(number):
        for _ in range(number):
            await asyncio.sleep(0)

    # Three turns a slice, and about two steps in each: never a whole batch of fifty between two turns.
    assert run_in(loop_factory, main) < 4 * 200


def test_await_task_from_many_coroutines_and_many_times(loop_factory):
    """A task is awaited by several, before and after its end, in `gather` and in `asyncio.TaskGroup`."""

    def work():
        yield dari.sleep(0.005)
        return "done"

    async def main():
        async def waits(task):
            return await task

        async with dari.Scheduler() as scheduler:
            task = scheduler.create_task(work)
            results = await asyncio.gather(task, waits(task), waits(task))
            async with asyncio.TaskGroup() as group:
                one = group.create_task(waits(task))
        return results, one.result(), await waits(task)

    assert run_in(loop_factory, main) == (["done"] * 3, "done", "done")


def test_cancelling_the_awaiting_coroutine_ends_the_generator_first(loop_factory):
    """`wait_for`, `asyncio.timeout` and a plain cancel return when the generator has really ended."""
    log = []

    def work(name):
        try:
            yield dari.sleep(60)
        finally:
            with dari.CancelScope(shield=True):
                yield dari.sleep(0.002)
            log.append(name)

    async def main():
        async with dari.Scheduler() as scheduler:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(scheduler.create_task(work, "wait_for"), 0.005)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.005):
                    await scheduler.create_task(work, "timeout")
            waiter = asyncio.create_task(dari.arun(work, "arun"))
            await asyncio.sleep(0.005)
            waiter.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiter
        return list(log)

    assert run_in(loop_factory, main) == ["wait_for", "timeout", "arun"]


def test_a_task_cancelled_by_somebody_else_raises_taskcancellederror(loop_factory):
    """Being cancelled and waiting for what was cancelled are two things."""

    def work():
        yield dari.sleep(60)

    async def main():
        async with dari.Scheduler() as scheduler:
            task = scheduler.create_task(work)
            asyncio.get_running_loop().call_later(0.002, task.cancel, "because")
            with pytest.raises(dari.TaskCancelledError, match="because"):
                await task
        return asyncio.current_task().cancelling()

    assert run_in(loop_factory, main) == 0


def test_cancelling_a_generator_cancels_the_coroutine_and_awaits_its_end(loop_factory):
    """The coroutine's own cleanup has run when the generator's waiter hears of the end."""
    log = []

    async def coroutine():
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(0.002)
            log.append("coroutine")
            raise

    def work():
        try:
            yield coroutine()
        finally:
            log.append("generator")

    async def main():
        async with dari.Scheduler() as scheduler:
            task = scheduler.create_task(work)
            await asyncio.sleep(0.005)
            task.cancel()
            with pytest.raises(dari.TaskCancelledError):
                await task
        return log

    assert run_in(loop_factory, main) == ["coroutine", "generator"]


def test_coroutine_tasks_are_tasks_of_the_host(loop_factory):
    """asyncio.timeout, asyncio.TaskGroup and current_task work in an `async def` task, and under a generator."""

    async def inner():
        await asyncio.sleep(0.001)
        return asyncio.current_task() is not None

    async def coroutine():
        async with asyncio.timeout(1), asyncio.TaskGroup() as group:
            task = group.create_task(inner())
        return task.result()

    def generator():
        return (yield coroutine()), (yield from dari.host(coroutine()))

    async def main():
        async with dari.Scheduler() as scheduler:
            return await scheduler.create_task(coroutine), await scheduler.create_task(generator)

    assert run_in(loop_factory, main) == (True, (True, True))


def test_yields_asyncio_futures(loop_factory):
    """Result, error and cancellation of an asyncio future come back; one of another loop is refused."""

    async def main():
        loop = asyncio.get_running_loop()
        other = asyncio.new_event_loop()
        foreign = other.create_future()
        other.close()

        def work():
            good, bad, gone = loop.create_future(), loop.create_future(), loop.create_future()
            loop.call_soon(good.set_result, 1)
            loop.call_soon(bad.set_exception, KeyError("bad"))
            loop.call_soon(gone.cancel)
            seen = [(yield good)]
            for future in (bad, gone, foreign):
                try:
                    yield future
                except (KeyError, dari.TaskCancelledError, RuntimeError) as error:
                    seen.append(type(error).__name__)
            return seen

        return await dari.arun(work)

    assert run_in(loop_factory, main) == [1, "KeyError", "TaskCancelledError", "RuntimeError"]


def test_a_future_out_of_foreign_code_is_refused_with_a_hint(loop_factory):
    """`yield from coro.__await__()` would step asyncio's code behind its back."""

    async def coroutine():
        await asyncio.sleep(0.001)

    def work():
        with pytest.raises(RuntimeError, match=r"dari\.host"):
            yield from coroutine().__await__()

    async def main():
        await dari.arun(work)

    run_in(loop_factory, main)


def test_context_travels_into_what_is_yielded_and_does_not_leak_back(loop_factory):
    """A yielded coroutine sees the generator's variables; what it sets stays with it."""
    variable = contextvars.ContextVar("variable", default=0)

    async def coroutine():
        seen = variable.get()
        variable.set(99)
        return seen

    def work():
        variable.set(1)
        seen = yield coroutine()
        return seen, variable.get()

    async def main():
        variable.set(7)
        return await dari.arun(work), variable.get()

    assert run_in(loop_factory, main) == ((1, 1), 7)


def test_operations_are_awaited_from_host_coroutines(loop_factory):
    """A queue is shared between a generator and an asyncio coroutine; cancelling a get loses no item."""

    async def main():
        queue = dari.Queue(1)

        def produce():
            for item in range(3):
                yield queue.put(item)

        async with dari.Scheduler() as scheduler:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(queue.get(), 0.002)
            scheduler.create_task(produce)
            return [await queue.get() for _ in range(3)]

    assert run_in(loop_factory, main) == [0, 1, 2]


def test_the_exit_waits_for_all_and_raises_what_nobody_observed(loop_factory, caplog):
    """Unobserved failures are logged when they happen, and raised together at the exit."""

    def fails(name):
        yield dari.sleep(0.001)
        raise ValueError(name)

    ended = []

    def ends():
        yield dari.sleep(0.01)
        ended.append(True)

    async def main():
        async with dari.Scheduler() as scheduler:
            scheduler.create_task(fails, "nobody looks")
            scheduler.create_task(ends)
            seen = scheduler.create_task(fails, "seen")
            with pytest.raises(ValueError, match="seen"):
                await seen

    with caplog.at_level(logging.ERROR, "dari"), pytest.raises(ExceptionGroup) as caught:
        run_in(loop_factory, main)

    assert [str(error) for error in caught.value.exceptions] == ["nobody looks"]
    assert ended == [True]
    assert ["nobody looks" in (record.exc_text or str(record.exc_info)) for record in caplog.records] == [True]


def test_an_error_in_the_block_cancels_the_tasks(loop_factory):
    """The block's error comes out after its tasks have ended."""
    log = []

    def work():
        try:
            yield dari.sleep(60)
        finally:
            log.append("cancelled")

    async def main():
        async with dari.Scheduler() as scheduler:
            scheduler.create_task(work)
            await asyncio.sleep(0.002)
            raise KeyError("block")

    with pytest.raises(KeyError, match="block"):
        run_in(loop_factory, main)

    assert log == ["cancelled"]


def test_cancelling_the_exit_cancels_the_tasks(loop_factory):
    """A scheduler that waits at its end passes a cancel on, and waits for what it did."""
    log = []

    def work():
        try:
            yield dari.sleep(60)
        finally:
            with dari.CancelScope(shield=True):
                yield dari.sleep(0.002)
            log.append("cleaned up")

    async def service():
        async with dari.Scheduler() as scheduler:
            scheduler.create_task(work)

    async def main():
        task = asyncio.create_task(service())
        await asyncio.sleep(0.005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return list(log)

    assert run_in(loop_factory, main) == ["cleaned up"]


def test_the_implicit_scheduler_ends_with_its_loop(loop_factory):
    """What `arun`'s scheduler still runs when the loop ends is cancelled, and cleans up."""
    log = []

    def left_behind():
        try:
            yield dari.sleep(60)
        finally:
            log.append("cancelled")

    def work():
        dari.create_task(left_behind)
        yield

    async def main():
        await dari.arun(work)
        await asyncio.sleep(0)

    run_in(loop_factory, main)

    assert log == ["cancelled"]


def test_threads_reach_a_guest(loop_factory):
    """`call_soon_threadsafe` wakes an idle guest; after the end it raises instead of losing the call."""

    async def main():
        event = dari.Event()

        def waits():
            yield event.wait()
            return threading.current_thread() is threading.main_thread()

        async with dari.Scheduler() as scheduler:
            task = scheduler.create_task(waits)
            await asyncio.sleep(0.002)
            thread = threading.Thread(target=scheduler.call_soon_threadsafe, args=(event.set,))
            thread.start()
            result = await task
            thread.join()
        with pytest.raises(dari.SchedulerClosed):
            scheduler.call_soon_threadsafe(event.set)
        with pytest.raises(dari.SchedulerClosed):
            scheduler.create_task(waits)
        return result

    assert run_in(loop_factory, main) is True


def test_priority_reaches_host_tasks_and_back(loop_factory):
    """A priority is inherited along the chain, through coroutines too."""

    def child():
        yield
        return dari.current_task().priority

    async def coroutine(scheduler):
        return await scheduler.create_task(child)

    async def main():
        async with dari.Scheduler() as scheduler:

            def work():
                return (yield coroutine(scheduler))

            return await scheduler.create_task(work, priority=-3)

    assert run_in(loop_factory, main) == -3


def test_what_is_refused(loop_factory):
    """Wrong worlds are told apart by errors that name the way out."""

    def nested():
        with pytest.raises(RuntimeError, match="yield from"):
            dari.run(spin, 1)
        with pytest.raises(RuntimeError, match="driven by the loop"):
            scheduler.schedule()
        yield

    async def main():
        nonlocal scheduler
        with pytest.raises(RuntimeError, match="arun"):
            dari.run(spin, 1)
        async with dari.Scheduler() as scheduler:
            await scheduler.create_task(nested)

    scheduler = None
    run_in(loop_factory, main)

    with pytest.raises(RuntimeError, match=r"dari\.run"):
        coroutine = dari.arun(spin, 1)
        coroutine.send(None)


def test_operations_are_awaited_where_no_scheduler_was_ever_made(loop_factory):
    """`await dari.sleep(…)` in a plain asyncio program; without a loop it says what to do."""

    async def main():
        await dari.sleep(0.001)
        return "slept"

    assert run_in(loop_factory, main) == "slept"
    with pytest.raises(RuntimeError, match=r"dari\.run"):
        dari.sleep(1).__await__().send(None)
