"""Primitives between the worlds: asyncio coroutines and tasks of ours share them, and a late cancel gives back."""

from __future__ import annotations

import asyncio
import gc

import pytest

import dari


def run_in(loop_factory, main):
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        return runner.run(main())


async def turns(number):
    for _ in range(number):
        await asyncio.sleep(0)


def test_a_coroutine_that_holds_a_lock_has_no_name_there(loop_factory):
    """The small task that acquired it for the coroutine has ended; a task of ours is named."""
    lock, shown = dari.Lock(), []

    def task():
        with (yield lock.acquire()):
            shown.append(repr(lock))

    async def main():
        async with dari.Scheduler() as scheduler:
            async with lock:
                shown.append(repr(lock))
            await scheduler.create_task(task, name="ours")

    run_in(loop_factory, main)

    assert [show.translate(dict.fromkeys(map(ord, "0123456789"))) for show in shown] == [
        "<Lock locked,  waiting>",
        "<Lock held by task  'ours',  waiting>",
    ]


def test_a_lock_between_the_worlds(loop_factory):
    """Coroutines of the host and tasks of two schedulers: one at a time, and all come in."""
    lock, inside, most, done = dari.Lock(), [], [], []

    async def coroutine(name):
        async with lock:
            await body(name)

    async def body(name):
        inside.append(name)
        most.append(len(inside))
        await asyncio.sleep(0)
        inside.remove(name)
        done.append(name)

    def generator(name):
        with (yield lock.acquire()):
            yield from dari.host(body(name))

    async def main():
        async with dari.Scheduler() as one, dari.Scheduler() as two:
            for number in range(5):
                one.create_task(generator, ("one", number))
                two.create_task(generator, ("two", number))
            await asyncio.gather(*(coroutine(("host", number)) for number in range(5)))

    run_in(loop_factory, main)

    assert (max(most), len(done), lock.locked()) == (1, 15, False)


def test_a_condition_and_a_barrier_in_the_host(loop_factory):
    """As in asyncio, the words of it."""
    condition, barrier, stock, log = dari.Condition(), dari.Barrier(3), [], []

    async def consumer():
        async with condition:
            log.append(await condition.wait_for(lambda: stock and stock.pop()))
        async with barrier as number:
            log.append(number)

    def producer():
        for item in "ab":
            with (yield condition.acquire()):
                stock.append(item)
                condition.notify()
        yield barrier.wait()

    async def main():
        await asyncio.gather(consumer(), consumer(), dari.arun(producer))

    run_in(loop_factory, main)

    assert (sorted(log[:2]), condition.locked(), len(set(log[2:]))) == (["a", "b"], False, 2)


@pytest.mark.parametrize("late", range(12))
def test_an_item_that_a_cancelled_coroutine_won_goes_back(loop_factory, late):
    """However many turns after the put the cancel comes: it was got, or it is in; and the cancel is never lost."""
    queue, got = dari.Queue(), []

    async def get():
        got.append(await queue.get())
        await asyncio.sleep(3600)

    async def main():
        task = asyncio.create_task(get())
        await turns(10)
        queue.put_nowait("item")
        await turns(late)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return got + [queue.get_nowait() for _ in range(queue.qsize())]

    assert run_in(loop_factory, main) == ["item"]


@pytest.mark.parametrize("kind", [dari.Lock, dari.Semaphore, dari.BoundedSemaphore])
@pytest.mark.parametrize("late", range(12))
def test_a_lock_that_a_cancelled_coroutine_won_is_released(loop_factory, kind, late):
    """And goes to the next one who waits."""
    lock, log = kind(), []

    async def hold(name):
        async with lock:
            log.append(name)
            await asyncio.sleep(0)

    async def main():
        await lock.acquire()
        first, second = asyncio.create_task(hold("first")), asyncio.create_task(hold("second"))
        await turns(10)
        lock.release()
        await turns(late)
        first.cancel()
        await asyncio.wait_for(second, 5)
        await asyncio.wait([first])
        return "second" in log, lock.locked()

    assert run_in(loop_factory, main) == (True, False)


@pytest.mark.parametrize("late", range(12))
def test_a_put_that_a_cancelled_coroutine_did_is_withdrawn(loop_factory, late):
    """It was told of its put, or the item is not in."""
    queue, told = dari.Queue(1), []

    async def put():
        await queue.put("second")
        told.append("second")
        await asyncio.sleep(3600)

    async def main():
        await queue.put("first")
        task = asyncio.create_task(put())
        await turns(10)
        assert queue.get_nowait() == "first"
        await turns(late)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return [queue.get_nowait() for _ in range(queue.qsize())] == told

    assert run_in(loop_factory, main)


@pytest.mark.parametrize("late", range(12))
def test_a_notification_of_a_cancelled_coroutine_goes_to_the_next(loop_factory, late):
    """And the cancelled one leaves with the lock held, as everywhere in its block."""
    condition, log = dari.Condition(), []

    async def wait(name):
        async with condition:
            try:
                await condition.wait()
            except asyncio.CancelledError:
                assert condition.locked()
                raise
            log.append(name)

    async def main():
        first = asyncio.create_task(wait("first"))
        await turns(10)
        second = asyncio.create_task(wait("second"))
        await turns(10)
        async with condition:
            condition.notify()
        await turns(late)
        first.cancel()
        await asyncio.wait([first])
        if not log:
            await asyncio.wait_for(second, 5)
        second.cancel()
        await asyncio.wait([second])
        return len(log), condition.locked()

    assert run_in(loop_factory, main) == (1, False)


def test_a_coroutine_that_is_closed_leaves_the_line(loop_factory):
    """Nobody awaits its item any more: the next one gets it."""
    queue = dari.Queue()

    async def get():
        return await queue.get()

    async def main():
        steps = get()
        task = asyncio.create_task(get())
        future = steps.send(None)
        await turns(10)
        steps.close()
        del steps, future
        gc.collect()
        await turns(10)
        queue.put_nowait("item")
        return await asyncio.wait_for(task, 5), len(queue._getters)

    assert run_in(loop_factory, main) == ("item", 0)


def test_a_scheduler_does_not_wait_for_what_a_coroutine_awaits(loop_factory):
    """A host's coroutine that waits on a queue for ever is not a task of the `async with Scheduler()` around it."""
    queue = dari.Queue()

    async def get():
        await queue.get()

    async def main():
        async with dari.Scheduler():
            task = asyncio.create_task(get())
            await turns(5)
        task.cancel()
        await asyncio.wait([task])
        return task.cancelled()

    assert run_in(loop_factory, main)
