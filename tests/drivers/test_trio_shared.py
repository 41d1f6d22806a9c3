"""What tasks of trio share with ours: primitives, descriptors, threads and jobs."""

from __future__ import annotations

import concurrent.futures
import contextvars
import os
import socket
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import dari

from .trio_tasks import rest, spin, spin_until, turns

# ---- what operations won goes back -----------------------------------------------------------------------------------


@pytest.mark.parametrize("late", range(8))
def test_an_item_that_a_cancelled_trio_task_won_goes_back(order, late):
    """However many turns after the put the cancel comes: it was got, or it is in; and the cancel is never lost."""

    async def main():
        queue, got = dari.Queue(), []
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def get():
                    got.append(await queue.get())
                    await trio.sleep_forever()

                await wait_all_tasks_blocked()
                queue.put_nowait("item")
                await turns(late)
                scope.cancel()
        return got + [queue.get_nowait() for _ in range(queue.qsize())], scope.cancelled_caught

    assert trio.run(main) == (["item"], True)


@pytest.mark.parametrize("kind", [dari.Lock, dari.Semaphore, dari.BoundedSemaphore])
@pytest.mark.parametrize("late", range(8))
def test_a_lock_that_a_cancelled_trio_task_won_is_released(order, kind, late):
    """And goes to the next one who waits."""

    async def main():
        lock, log, scope = kind(), [], trio.CancelScope()

        async def hold(name, scope):
            with scope:
                async with lock:
                    log.append(name)
                    await trio.lowlevel.checkpoint()

        await lock.acquire()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hold, "first", scope)
            await wait_all_tasks_blocked()
            nursery.start_soon(hold, "second", trio.CancelScope())
            await wait_all_tasks_blocked()
            lock.release()
            await turns(late)
            scope.cancel()
        return "second" in log, lock.locked()

    assert trio.run(main) == (True, False)


@pytest.mark.parametrize("late", range(8))
def test_a_put_that_a_cancelled_trio_task_did_is_withdrawn(order, late):
    """It was told of its put, or the item is not in."""

    async def main():
        queue, told = dari.Queue(1), []

        async def put():
            await queue.put("second")
            told.append("second")
            await trio.sleep_forever()

        await queue.put("first")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(put)
            await wait_all_tasks_blocked()
            assert queue.get_nowait() == "first"
            await turns(late)
            nursery.cancel_scope.cancel()
        return [queue.get_nowait() for _ in range(queue.qsize())] == told

    assert trio.run(main)


@pytest.mark.parametrize("late", range(8))
def test_a_notification_of_a_cancelled_trio_task_goes_to_the_next(order, late):
    """And the cancelled one leaves with the lock held, as everywhere in its block."""

    async def main():
        condition, log, scope = dari.Condition(), [], trio.CancelScope()

        async def wait(name, scope):
            with scope:
                async with condition:
                    try:
                        await condition.wait()
                    except trio.Cancelled:
                        assert condition.locked()
                        raise
                    log.append(name)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait, "first", scope)
            await wait_all_tasks_blocked()
            nursery.start_soon(wait, "second", trio.CancelScope())
            await wait_all_tasks_blocked()
            async with condition:
                condition.notify()
            await turns(late)
            scope.cancel()
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        return len(log), condition.locked()

    assert trio.run(main) == (1, False)


def test_a_lock_between_the_worlds():
    """Tasks of trio and of two schedulers: one at a time, and all come in."""

    async def main():
        lock, inside, most, done = dari.Lock(), [], [], []

        async def body(name):
            inside.append(name)
            most.append(len(inside))
            await trio.lowlevel.checkpoint()
            inside.remove(name)
            done.append(name)

        async def coroutine(name):
            async with lock:
                await body(name)

        def generator(name):
            with (yield lock.acquire()):
                yield from dari.host(body(name))

        async with dari.Scheduler() as one, dari.Scheduler() as two, trio.open_nursery() as nursery:
            for number in range(5):
                one.create_task(generator, ("one", number))
                two.create_task(generator, ("two", number))
                nursery.start_soon(coroutine, ("trio", number))
        return max(most), len(done), lock.locked()

    assert trio.run(main) == (1, 15, False)


def test_a_condition_a_barrier_and_an_event_in_trio():
    """As in asyncio, the words of it."""

    async def main():
        condition, barrier, event, stock, log = dari.Condition(), dari.Barrier(3), dari.Event(), [], []

        async def consumer():
            async with condition:
                log.append(await condition.wait_for(lambda: stock and stock.pop()))
            async with barrier as number:
                log.append(number)
            await event.wait()
            log.append("set")

        def producer():
            for item in "ab":
                with (yield condition.acquire()):
                    stock.append(item)
                    condition.notify()
            yield barrier.wait()
            event.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(consumer)
            nursery.start_soon(consumer)
            await dari.arun(producer)
        return sorted(log[:2]), len(set(log[2:4])), log[4:], condition.locked()

    assert trio.run(main) == (["a", "b"], 2, ["set", "set"], False)


def test_a_scheduler_does_not_wait_for_what_a_trio_task_awaits():
    """One that waits on a queue for ever is not a task of the `async with Scheduler()` around it."""

    async def main():
        queue = dari.Queue()
        async with trio.open_nursery() as nursery:
            async with dari.Scheduler():

                @nursery.start_soon
                async def get():
                    await queue.get()

                await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        return len(queue._getters)

    assert trio.run(main) == 0


# ---- descriptors -----------------------------------------------------------------------------------------------------


def test_echoes():
    """Twenty pairs of tasks talk over sockets, beside one that spins."""

    def echo(sock):
        yield from dari.wait_readable(sock)
        got = sock.recv(100)
        yield dari.wait_writable(sock)
        sock.send(got.upper())

    def talk(flag):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            dari.create_task(echo, theirs)
            for word in (b"hello",):
                yield dari.wait_writable(ours)
                ours.send(word)
                yield dari.wait_readable(ours)
                return ours.recv(100)

    async def main():
        flag = []
        async with dari.Scheduler() as scheduler:
            spinning = scheduler.create_task(spin_until, flag)
            tasks = [scheduler.create_task(talk, flag) for _ in range(20)]
            heard = [await task for task in tasks]
            in_time = not spinning.done()
            flag.append(True)
        return set(heard), in_time

    assert trio.run(main) == ({b"HELLO"}, True)


async def until_done(task):
    """Not by waiting for it: where the scheduler has gone, that would never end, and say nothing."""
    for _ in range(200):
        if not task.done():
            await trio.lowlevel.checkpoint()


def test_a_descriptor_becomes_readable_when_its_wait_is_cancelled(order):
    """In the same pass of trio: the wait ends one way or the other, and the scheduler goes on."""

    def reads(sock):
        with dari.move_on_after(10):
            yield dari.wait_readable(sock)
            return "readable"
        return "timeout"

    async def main():
        ours, theirs = socket.socketpair()
        with ours, theirs:
            scheduler = await dari.Scheduler().__aenter__()
            task = scheduler.create_task(reads, ours)
            await wait_all_tasks_blocked()
            clock.jump(10)
            theirs.send(b"x")
            await until_done(task)
            again = scheduler.create_task(reads, ours)
            await until_done(again)
        return task.result() in ("readable", "timeout"), again.result()

    clock = MockClock()
    assert trio.run(main, clock=clock) == (True, "readable")


def test_a_descriptor_is_closed_when_its_wait_is_cancelled(order):
    """What trio says of the closed one concerns nobody any more."""

    def reads(sock):
        yield dari.wait_readable(sock)

    async def main():
        ours, theirs = socket.socketpair()
        with ours, theirs:
            scheduler = await dari.Scheduler().__aenter__()
            task = scheduler.create_task(reads, ours)
            await wait_all_tasks_blocked()
            task.cancel()
            trio.lowlevel.notify_closing(ours)
            await until_done(task)
        return task.cancelled()

    assert trio.run(main) is True


def test_what_cannot_be_watched_is_told_to_who_waits():
    """A closed descriptor, a plain file, one that trio hears of being closed, one that a task of trio waits for."""

    def reads(descriptor):
        yield dari.wait_readable(descriptor)

    async def main():
        errors = []
        ours, theirs = socket.socketpair()
        with ours, theirs, tempfile.TemporaryFile() as file:
            closed = os.dup(ours.fileno())
            os.close(closed)
            async with dari.Scheduler() as scheduler, trio.open_nursery() as nursery:
                for descriptor in (closed, file.fileno()):
                    with pytest.raises(OSError) as caught:
                        await scheduler.create_task(reads, descriptor)
                    errors.append(caught.value)

                @nursery.start_soon
                async def closes():
                    await wait_all_tasks_blocked()
                    trio.lowlevel.notify_closing(ours)

                with pytest.raises(trio.ClosedResourceError) as caught:
                    await scheduler.create_task(reads, ours)
                errors.append(caught.value)
                nursery.start_soon(trio.lowlevel.wait_readable, ours)
                await wait_all_tasks_blocked()
                with pytest.raises(trio.BusyResourceError) as caught:
                    await scheduler.create_task(reads, ours)
                errors.append(caught.value)
                nursery.cancel_scope.cancel()
        return ["dari cannot wait for this descriptor" in "".join(error.__notes__) for error in errors]

    assert trio.run(main) == [True] * 4


def test_a_number_that_is_used_again_is_watched_anew(order):
    """A cancelled wait, a close, and another socket under the same number in the same step: its readiness is heard."""
    scope = dari.CancelScope()

    def reads():
        ours, theirs = socket.socketpair()
        with scope:
            yield dari.wait_readable(ours)
        number = ours.fileno()
        ours.close()
        again, other = socket.socketpair()
        with theirs, again, other:
            assert again.fileno() == number
            other.send(b"x")
            with dari.move_on_after(1):
                yield dari.wait_readable(again)
                return "heard"

    async def main():
        async with dari.Scheduler() as scheduler:
            task = scheduler.create_task(reads)
            await wait_all_tasks_blocked()
            scope.cancel()
            return await task

    assert trio.run(main) == "heard"


# ---- threads, jobs, futures ------------------------------------------------------------------------------------------


def test_threads_of_trio_reach_the_scheduler():
    """`call_soon_threadsafe` and `create_task_threadsafe` from `trio.to_thread`; after the end they raise."""
    variable = contextvars.ContextVar("variable", default="unset")

    def task(add):
        yield dari.sleep(0.001)
        return variable.get(), dari.current_task().priority + add, threading.get_ident()

    def client(scheduler, event):
        variable.set("set")
        with dari.priority(3):
            result = scheduler.create_task_threadsafe(task, 10).result(5)
        scheduler.call_soon_threadsafe(event.set)
        return result

    async def main():
        event = dari.Event()

        def waits():
            yield event.wait()

        async with dari.Scheduler() as scheduler:
            waiting = scheduler.create_task(waits)
            result = await trio.to_thread.run_sync(client, scheduler, event)
            await waiting
        for call in (scheduler.call_soon_threadsafe, scheduler.create_task_threadsafe, scheduler.create_task):
            with pytest.raises(dari.SchedulerClosed):
                call(waits)
        return result

    assert trio.run(main) == ("set", 13, threading.get_ident())


def test_a_thread_cancels_a_task_and_waits_for_its_end():
    """Its future is done when the cleanup is."""

    def client(scheduler, log):
        future = scheduler.create_task_threadsafe(rest, log)
        scheduler.create_task_threadsafe(spin, 5).result(5)
        states = [future.cancel(), future.done()]
        done, _ = concurrent.futures.wait([future], 5)
        return [*states, done == {future}, future.cancelled()], list(log)

    async def main():
        async with dari.Scheduler() as scheduler:
            return await trio.to_thread.run_sync(client, scheduler, [])

    assert trio.run(main) == ([True, False, True, True], ["ended"])


WAYS = {
    "set an event": lambda scheduler, event, task: event.set(),
    "cancel a task": lambda scheduler, event, task: task.cancel(),
    "create a task": lambda scheduler, event, task: scheduler.create_task(lambda: (yield event.set())),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_foreign_thread_that_touches_it_is_told(way):
    """The error names the way that works; the scheduler is woken all the same, so that nothing waits for ever."""

    def waits(event):
        yield event.wait()

    async def main():
        event = dari.Event()
        async with dari.Scheduler() as scheduler:
            task = scheduler.create_task(waits, event)
            await wait_all_tasks_blocked()
            with pytest.raises(RuntimeError, match=r"scheduler\.call_soon_threadsafe\(") as caught:
                await trio.to_thread.run_sync(WAYS[way], scheduler, event, task)
            await wait_all_tasks_blocked()
            return str(caught.value), task.done(), task.cancelled()

    message, done, cancelled = trio.run(main)

    assert f"runs on thread {threading.get_ident()}" in message
    assert done
    assert cancelled == (way == "cancel a task")


@pytest.fixture
def gate():
    """Holds a job until the test opens it."""
    gate = Gate()
    yield gate
    gate.opened.set()


class Gate:
    def __init__(self):
        self.entered, self.opened = threading.Event(), threading.Event()

    def hold(self):
        self.entered.set()
        assert self.opened.wait(5)
        return "through"

    async def is_entered(self):
        await trio.to_thread.run_sync(self.entered.wait)


@pytest.mark.parametrize("way", ["await job", "run_sync", "asubmit", "yield job", "concurrent future"])
def test_trio_tasks_wait_for_jobs(way):
    """Results and errors come back, from the pool's own jobs and from the standard's futures."""

    def generator(pool, *call):
        return (yield pool.submit(*call))

    async def wait(pool, executor, *call):
        if way == "await job":
            return await pool.submit(*call)
        if way == "run_sync":
            return await pool.run_sync(*call)
        if way == "asubmit":
            return await (await pool.asubmit(*call))
        if way == "yield job":
            return await dari.arun(generator, pool, *call)
        return await dari.arun(lambda: (yield executor.submit(*call)))

    async def main():
        with ThreadPoolExecutor(1) as executor:
            async with dari.Pool(1) as pool:
                with pytest.raises(ValueError, match="base 10"):
                    await wait(pool, executor, int, "x")
                return await wait(pool, executor, pow, 2, 5)

    assert trio.run(main) == 32


@pytest.mark.parametrize("way", ["await job", "run_sync", "yield job"])
def test_cancelling_the_waiter_of_a_running_job_waits_for_its_real_end(gate, way):
    """The job is asked; the waiter is cancelled when it has ended, not before."""

    def work():
        gate.hold()
        dari.current_job().check_cancelled()

    def generator(pool):
        yield pool.submit(work)

    async def main():
        log = []
        async with dari.Pool(1) as pool, trio.open_nursery() as nursery:
            with trio.CancelScope() as scope:

                @nursery.start_soon
                async def cancels():
                    await gate.is_entered()
                    scope.cancel()
                    await turns(10)
                    log.append("asked")
                    gate.opened.set()

                if way == "await job":
                    await pool.submit(work)
                elif way == "run_sync":
                    await pool.run_sync(work)
                else:
                    await dari.arun(generator, pool)
                log.append("went on")
            log.append("cancelled")
            return log, scope.cancelled_caught, pool.stats().cancelled

    assert trio.run(main) == (["asked", "cancelled"], True, 1)


def test_cancelling_the_waiter_of_a_queued_job_cancels_the_job(gate):
    """Who waits, owns; and who waits for what others have cancelled is told."""

    async def main():
        async with dari.Pool(1) as pool:
            held = pool.submit(gate.hold)
            await gate.is_entered()
            owned, others = pool.submit(int), pool.submit(int)
            with trio.move_on_after(0.001) as scope:
                await owned
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def waits():
                    with pytest.raises(dari.JobCancelled):
                        await others

                await wait_all_tasks_blocked()
                others.cancel()
            gate.opened.set()
            return scope.cancelled_caught, owned.cancelled(), await held

    assert trio.run(main) == (True, True, "through")


def test_a_job_that_ended_is_awaited_in_a_cancelled_scope():
    """Others run meanwhile, and its result is given; the cancel comes at the next checkpoint."""

    async def main():
        log = []

        async def other():
            log.append("other")

        async with dari.Pool(1) as pool, trio.open_nursery() as nursery:
            job = pool.submit(pow, 2, 5)
            await job
            nursery.start_soon(other)
            with trio.CancelScope() as scope:
                scope.cancel()
                log.extend([await job, await job])
                await trio.lowlevel.checkpoint()
            return log, scope.cancelled_caught

    assert trio.run(main) == (["other", 32, 32], True)


def test_a_place_in_a_pool_that_a_cancelled_waiter_won_is_given_back(gate):
    """The place came when the cancel was on its way: the job is not submitted, and the next one gets the place."""

    async def main():
        log, second = [], Gate()
        async with dari.Pool(1, max_queue=1) as pool, trio.open_nursery() as nursery:
            pool.submit(gate.hold)
            await gate.is_entered()
            pool.submit(second.hold)
            with trio.CancelScope() as scope:

                @nursery.start_soon
                async def cancels():
                    await wait_all_tasks_blocked()
                    gate.opened.set()
                    assert second.entered.wait(5)  # blocks trio: the news that there is a place waits
                    scope.cancel()

                await pool.asubmit(log.append, "cancelled")
                log.append("went on")
            second.opened.set()
            await (await pool.asubmit(log.append, "next"))
        return log, scope.cancelled_caught

    assert trio.run(main) == (["next"], True)


def test_a_blocking_call_on_the_thread_of_trio_is_refused(gate):
    """By name: it would wait for ever."""

    async def main():
        async with dari.Scheduler() as scheduler:
            future = scheduler.create_task_threadsafe(spin, 1)
            async with dari.Pool(1) as pool:
                job = pool.submit(gate.hold)
                for call in (job.result, pool.join, future.result):
                    with pytest.raises(dari.BlockingCallError, match=r"running event loop.*await"):
                        call()
                gate.opened.set()
                return await job, job.result()

    assert trio.run(main) == ("through", "through")
