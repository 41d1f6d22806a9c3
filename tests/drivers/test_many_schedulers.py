"""Several schedulers: in one loop, nested and side by side, in several threads, and what passes between them."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import threading
from functools import partial

import pytest
import uvloop

import dari

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture
def run_in(loop_factory):
    """Runs `main()` in a loop, which was told of no error."""

    def run(main):
        told = []

        async def host():
            asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
            return await main()

        with asyncio.Runner(loop_factory=loop_factory) as runner:
            result = runner.run(host())
        assert told == []
        return result

    return run


async def turns(number=10):
    for _ in range(number):
        await asyncio.sleep(0)


def kernel_here():
    yield
    return dari.current_task().kernel


async def where(scheduler):
    """What `arun` would find to be `scheduler`'s."""
    return await scheduler.create_task(kernel_here)


def waits(event):
    yield event.wait()


# ---- one loop --------------------------------------------------------------------------------------------------------


def test_arun_is_on_the_innermost(run_in):
    """Inside, between and after the blocks; a loop's own one where there is none."""

    async def main():
        places = [await dari.arun(kernel_here)]
        async with dari.Scheduler() as outer:
            places.append(await dari.arun(kernel_here))
            async with dari.Scheduler() as inner:
                places.append(await dari.arun(kernel_here))
                ours = await where(outer), await where(inner)
            places.append(await dari.arun(kernel_here))
        places.append(await dari.arun(kernel_here))
        return [ours.index(place) if place in ours else None for place in places], places[0] is places[-1]

    assert run_in(main) == ([None, 0, 1, 0, None], True)


def test_a_chain_of_tasks_stays_where_it_was_started(run_in):
    """`create_task` in a coroutine task of the outer one is the outer one's, though another was entered since."""

    async def coroutine():
        return await dari.create_task(kernel_here)

    async def main():
        async with dari.Scheduler() as outer, dari.Scheduler() as inner:
            places = [await where(outer), await where(inner)]
            return places.index(await outer.create_task(coroutine))

    assert run_in(main) == 0


@pytest.mark.parametrize("how", ["given", "yielded"])
def test_a_coroutine_that_runs_for_a_task_creates_tasks(run_in, how):
    """`create_task` in it is its scheduler's; here that is the loop's own."""

    async def coroutine():
        return await dari.create_task(kernel_here)

    def plan():
        return (yield coroutine())

    async def main():
        place = await dari.arun({"given": coroutine, "yielded": plan}[how])
        return place is await dari.arun(kernel_here)

    assert run_in(main) is True


@pytest.mark.parametrize("how", ["arun", "create_task"])
def test_a_host_task_outlives_the_block_that_it_was_started_in(run_in, how):
    """What it starts then is on the next scheduler around that is still there."""

    async def main():
        gone = asyncio.Event()

        async def later():
            await gone.wait()
            return await (dari.arun(kernel_here) if how == "arun" else dari.create_task(kernel_here))

        async with dari.Scheduler() as outer:
            async with dari.Scheduler():
                task = asyncio.create_task(later())
                await turns(2)
            gone.set()
            return await task is await where(outer)

    assert run_in(main) is True


def test_side_by_side(run_in):
    """Each waits for its own tasks, and takes its own turns: one that spins does not hold up the others."""
    log = []

    def spins():
        while len(log) < 4:
            yield
        log.append("spun")

    def short(name):
        yield dari.sleep(0)
        log.append(name)

    async def service(name, *steps):
        async with dari.Scheduler(name=name) as scheduler:
            scheduler.create_task(*steps)
        log.append(f"{name} ended")
        return scheduler.stats().completed

    async def main():
        return await asyncio.gather(service("spinning", spins), service("a", short, "a"), service("b", short, "b"))

    assert run_in(main) == [1, 1, 1]
    assert sorted(log[:4]) == ["a", "a ended", "b", "b ended"]
    assert log[4:] == ["spun", "spinning ended"]


def test_leaving_in_another_order_than_entering(run_in):
    """Two that overlap, entered and left by hand: neither takes the other with it."""

    async def main():
        one, two = dari.Scheduler(name="one"), dari.Scheduler(name="two")
        event = dari.Event()
        await one.__aenter__()
        await two.__aenter__()
        task = two.create_task(waits, event)
        await one.__aexit__(None, None, None)
        states = task.done(), repr(one), await dari.arun(kernel_here) is task.kernel
        event.set()
        await two.__aexit__(None, None, None)
        return states, task.done()

    assert run_in(main) == ((False, "<Scheduler 'one' ended, 0 tasks>", True), True)


def test_a_task_is_yielded_in_another_scheduler(run_in):
    """Result, error and cancellation travel; who waits, owns, here too."""
    log = []

    def returns():
        yield dari.sleep(0.001)
        return "result"

    def fails():
        yield
        raise KeyError("error")

    def cleans_up():
        try:
            yield dari.Event().wait()
        finally:
            with dari.CancelScope(shield=True):
                yield dari.sleep(0.001)
            log.append("cleaned up")

    def awaits(make):
        try:
            return (yield make())
        except (KeyError, dari.TaskCancelledError) as error:
            return type(error)

    async def main():
        async with dari.Scheduler() as one, dari.Scheduler() as two:
            got = [await one.create_task(awaits, partial(two.create_task, body)) for body in (returns, fails)]
            gone = two.create_task(cleans_up)
            told = one.create_task(awaits, lambda: gone)
            await turns()
            gone.cancel()
            got.append(await told)
            owned = two.create_task(cleans_up)
            owner = one.create_task(awaits, lambda: owned)
            await turns()
            owner.cancel()
            with pytest.raises(dari.TaskCancelledError):
                await owner
            log.append("owner ended")
            listed = one.create_task(awaits, lambda: [two.create_task(returns), one.create_task(returns)])
            return [*got, owned.cancelled(), await listed]

    assert run_in(main) == ["result", KeyError, dari.TaskCancelledError, True, ["result", "result"]]
    assert log == ["cleaned up", "cleaned up", "owner ended"]


def test_the_error_of_one_does_not_touch_the_other(run_in, caplog):
    """Its tasks are cancelled, and it raises what nobody observed; the one around it goes on."""
    log = []

    def fails():
        yield
        raise KeyError("unobserved")

    def plan(name):
        try:
            yield go.wait()
            log.append(f"{name} went on")
        finally:
            log.append(f"{name} ended")

    go = dari.Event()

    async def main():
        async with dari.Scheduler() as outer:
            outer.create_task(plan, "outer")
            with pytest.raises(ZeroDivisionError):
                async with dari.Scheduler() as inner:
                    inner.create_task(plan, "inner")
                    await turns()
                    1 / 0
            with pytest.raises(ExceptionGroup, match="1 tasks failed"):
                async with dari.Scheduler() as inner:
                    inner.create_task(fails)
            go.set()
        return outer.stats().completed, outer.stats().cancelled

    with caplog.at_level(logging.CRITICAL, "dari"):
        assert run_in(main) == (1, 0)
    assert log == ["inner ended", "outer went on", "outer ended"]


def test_cancelling_one_does_not_touch_the_other(run_in):
    """`Scheduler.cancel` and `stop` are for its own tasks."""

    async def main():
        event = dari.Event()
        async with dari.Scheduler() as one, dari.Scheduler() as two, dari.Scheduler() as three:
            tasks = [scheduler.create_task(waits, event) for scheduler in (one, two, three)]
            await turns()
            one.cancel("because")
            two.stop()
            await turns()
            states = [task.cancelled() for task in tasks]
            event.set()
        return states, tasks[2].cancelled()

    assert run_in(main) == ([True, True, False], False)


# ---- primitives between two schedulers -------------------------------------------------------------------------------


def test_a_queue_between_two_schedulers(run_in):
    """Producers on one, consumers on the other, the queue full and empty in turn: every item once, in order."""

    async def main():
        queue = dari.Queue(2)

        def produce():
            for item in range(100):
                yield queue.put(item)
            queue.shutdown()

        def consume(items):
            while True:
                try:
                    items.append((yield queue.get()))
                except dari.QueueShutDown:
                    return items

        async with dari.Scheduler() as one, dari.Scheduler() as two:
            one.create_task(produce)
            return await two.create_task(consume, [])

    assert run_in(main) == list(range(100))


def test_an_event_between_two_schedulers(run_in):
    """Set on one, heard on the other, which was idle."""

    async def main():
        event = dari.Event()
        async with dari.Scheduler() as one, dari.Scheduler() as two:
            tasks = [two.create_task(waits, event) for _ in range(3)]
            await turns()
            await one.create_task(lambda: (yield event.set()))
        return [task.done() for task in tasks]

    assert run_in(main) == [True] * 3


@pytest.mark.parametrize("make", [dari.Lock, lambda: dari.Semaphore(2)], ids=["a lock", "a semaphore"])
def test_a_lock_between_three_schedulers(run_in, make):
    """Never more inside than it lets in; all come in, and cancelled ones keep nothing."""
    inside, most, done = [], [], []

    def plan(lock, name):
        with (yield lock.acquire()):
            inside.append(name)
            most.append(len(inside))
            try:
                yield dari.sleep(0)
                yield
            finally:  # it may be cancelled in here
                inside.remove(name)
        done.append(name)

    async def main():
        lock = make()
        async with dari.Scheduler() as one, dari.Scheduler() as two, dari.Scheduler() as three:
            tasks = [
                scheduler.create_task(plan, lock, (scheduler, number))
                for number in range(10)
                for scheduler in (one, two, three)
            ]
            await turns(3)
            for task in tasks[5::7]:
                task.cancel()
        return len(done) + sum(task.cancelled() for task in tasks), lock.locked(), max(most)

    assert run_in(main) == (30, False, 1 if make is dari.Lock else 2)


def test_a_condition_between_two_schedulers(run_in):
    """Notified on one, woken on the other, with the lock held."""

    async def main():
        condition, stock = dari.Condition(), []

        def consume():
            with (yield condition.acquire()):
                while not stock:
                    yield condition.wait()
                return stock.pop()

        def produce():
            for item in range(3):
                with (yield condition.acquire()):
                    stock.append(item)
                    condition.notify()
                yield

        async with dari.Scheduler() as one, dari.Scheduler() as two:
            tasks = [two.create_task(consume) for _ in range(3)]
            await turns()
            one.create_task(produce)
        return sorted(task.result() for task in tasks)

    assert run_in(main) == [0, 1, 2]


# ---- several threads -------------------------------------------------------------------------------------------------


def side_by_side(*functions):
    """Call each in a thread of its own, all at once; gives their results."""
    with concurrent.futures.ThreadPoolExecutor(len(functions)) as executor:
        return [future.result(30) for future in [executor.submit(function) for function in functions]]


def test_a_scheduler_in_each_of_several_threads():
    """Each with its own loop, of both kinds, or by itself: they know nothing of each other."""
    together = threading.Barrier(6)

    def child(number):
        for _ in range(50):
            yield
        return number, threading.get_ident()

    def plan():
        together.wait(10)
        children = [dari.create_task(child, number) for number in range(20)]
        got = yield children
        return [number for number, _ in got] == list(range(20)) and {ident for _, ident in got} == {
            threading.get_ident()
        }

    async def entered():
        async with dari.Scheduler() as scheduler:
            return await scheduler.create_task(plan)

    async def implicit():
        return await dari.arun(plan)

    def in_a(make, main):
        def run():
            with asyncio.Runner(loop_factory=make) as runner:
                return runner.run(main())

        return run

    guests = [in_a(make, main) for make in LOOPS.values() for main in (entered, implicit)]

    assert side_by_side(*guests, lambda: dari.run(plan), lambda: dari.run(plan)) == [True] * 6


class Served:
    """A scheduler that another thread runs, in a loop (None: by itself), until the block is left."""

    def __init__(self, loop_factory):
        self._loop_factory = loop_factory
        self._ready = threading.Event()
        self._stop = dari.Event()
        self.told = []
        self.scheduler = None

    def __enter__(self):
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        self._ready.wait(10)
        return self

    def __exit__(self, *_):
        self.scheduler.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        assert not self._thread.is_alive()

    def _run(self):
        if self._loop_factory is None:
            self._start(dari.Scheduler())
            self.scheduler.run()
        else:
            with asyncio.Runner(loop_factory=self._loop_factory) as runner:
                runner.run(self._serve())

    async def _serve(self):
        asyncio.get_running_loop().set_exception_handler(lambda _, context: self.told.append(context))
        async with dari.Scheduler() as scheduler:
            self._start(scheduler)

    def _start(self, scheduler):
        self.scheduler = scheduler
        self.event = dari.Event()
        self.task = scheduler.create_task(waits, self.event)
        scheduler.create_task(self._waits_for_the_end)

    def _waits_for_the_end(self):
        self._ready.set()
        yield self._stop.wait()
        self.event.set()


@pytest.fixture(params=["standalone", *LOOPS])
def served(request):
    """A scheduler in another thread."""
    with Served(LOOPS.get(request.param)) as served:
        yield served
    assert served.told == []


def test_a_task_of_another_thread_is_refused(run_in, served):
    """Yielded alone, in a list or shielded: the error names the way, and touches neither scheduler."""

    def plan(what):
        with pytest.raises(RuntimeError, match=r"(?i)another (event loop|thread|scheduler)|runs by itself|threadsafe"):
            yield what(served.task)
        yield
        return "went on"

    async def main():
        got = []
        for what in (lambda task: task, lambda task: [task], dari.shield, dari.gather):
            got.append(await asyncio.wait_for(dari.arun(plan, what), 1))
        return got, served.task.done()

    def lets_it_end():  # so that who does wait for it all the same hears of it
        served.scheduler.call_soon_threadsafe(served.event.set)

    timer = threading.Timer(0.5, lets_it_end)
    timer.start()
    try:
        assert run_in(main) == (["went on"] * 4, False)
    finally:
        timer.cancel()
        timer.join()


def test_a_task_of_another_thread_is_not_awaited_here(run_in, served):
    """By a coroutine, before its end: the error says where it can be."""

    async def main():
        with pytest.raises(RuntimeError, match=r"another (event )?loop|runs by itself"):
            await asyncio.wait_for(served.task, 1)
        return served.task.done()

    assert run_in(main) is False


def test_a_future_of_another_loop_is_refused(run_in):
    """Yielded by a generator: the error names the future; both go on."""
    other = asyncio.new_event_loop()
    future = other.create_future()

    def plan(what):
        with pytest.raises(RuntimeError, match=r"<Future pending.*> (belongs to|attached to).* (another|different)"):
            yield what(future)
        yield
        return future.done()

    async def main():
        return [await dari.arun(plan, what) for what in (lambda future: future, dari.host, lambda future: [future])]

    try:
        assert run_in(main) == [False] * 3
    finally:
        other.close()


def test_many_threads_start_tasks_on_many_schedulers():
    """Every task is done once, by the thread of its scheduler, and its result reaches the one who asked."""

    def child(number):
        yield
        return number, threading.get_ident()

    def client(number, schedulers):
        futures = [
            (where, scheduler.create_task_threadsafe(child, (number, count, where)))
            for count in range(20)
            for where, scheduler in enumerate(schedulers)
        ]
        return [(where, future.result(10)) for where, future in futures]

    with Served(None) as alone, Served(LOOPS["asyncio"]) as one, Served(LOOPS["uvloop"]) as other:
        all_served = [alone, one, other]
        schedulers = [served.scheduler for served in all_served]
        results = side_by_side(*(lambda number=number: client(number, schedulers) for number in range(4)))
        threads = [served._thread.ident for served in all_served]

    given = [entry for results_of_one in results for entry in results_of_one]
    assert [ident for _, (_, ident) in given] == [threads[where] for where, _ in given]
    assert sorted(name for _, (name, _) in given) == sorted(
        (number, count, where) for number in range(4) for count in range(20) for where in range(3)
    )


def test_many_threads_cancel_tasks_on_many_schedulers():
    """Each future ends as cancelled, after the cleanup of its task; none is missed, none is cancelled besides."""
    cleaned = []

    def child(name):
        try:
            yield dari.Event().wait()
        finally:
            with dari.CancelScope(shield=True):
                yield
            cleaned.append(name)

    def client(number, schedulers):
        futures = {
            (number, count, where): scheduler.create_task_threadsafe(child, (number, count, where))
            for count in range(10)
            for where, scheduler in enumerate(schedulers)
        }
        begun = [scheduler.create_task_threadsafe(lambda: (yield)) for scheduler in schedulers]
        concurrent.futures.wait(begun, 10)
        asked = [future.cancel() for future in futures.values()]
        done, pending = concurrent.futures.wait(futures.values(), 10)
        return all(asked), len(done), len(pending), all(future.cancelled() for future in futures.values())

    with Served(None) as alone, Served(LOOPS["asyncio"]) as one, Served(LOOPS["uvloop"]) as other:
        schedulers = [served.scheduler for served in (alone, one, other)]
        results = side_by_side(*(lambda number=number: client(number, schedulers) for number in range(4)))

    assert results == [(True, 30, 0, True)] * 4
    assert sorted(cleaned) == sorted(
        (number, count, where) for number in range(4) for count in range(10) for where in range(3)
    )


def test_threads_that_post_while_a_scheduler_ends():
    """Each post is done, or refused with SchedulerClosed: none vanishes, none hangs."""
    posted, done, refused = [0] * 4, [], [0] * 4

    def child(number):
        done.append(number)
        yield

    def client(number, scheduler, go):
        go.wait(10)
        for _ in range(2000):
            try:
                futures[number].append(scheduler.create_task_threadsafe(child, number))
            except dari.SchedulerClosed:
                refused[number] = 1
                return
            posted[number] += 1

    futures = [[] for _ in range(4)]
    go = threading.Barrier(5)
    with Served(LOOPS["asyncio"]) as served:
        threads = [threading.Thread(target=client, args=(number, served.scheduler, go)) for number in range(4)]
        for thread in threads:
            thread.start()
        go.wait(10)
    for thread in threads:
        thread.join(10)

    _, pending = concurrent.futures.wait([future for of_one in futures for future in of_one], 5)
    assert len(pending) == 0
    assert len(done) + sum(isinstance(f.exception(), dari.SchedulerClosed) for of in futures for f in of) == sum(posted)
    with pytest.raises(dari.SchedulerClosed):
        served.scheduler.call_soon_threadsafe(done.append, 0)


# ---- a second run ----------------------------------------------------------------------------------------------------


def nothing():
    yield


NESTED = {
    "dari.run": lambda: dari.run(nothing),
    "Scheduler.run": lambda: dari.Scheduler().run(),
    "Scheduler.schedule": lambda: dari.Scheduler().schedule(),
}


@pytest.mark.parametrize("how", NESTED)
def test_a_second_run_in_a_running_loop(run_in, how):
    """It names `arun`, in a coroutine and in a callback of the loop; the loop goes on."""
    errors = []

    def attempt():
        try:
            NESTED[how]()
        except RuntimeError as error:
            errors.append(str(error))

    async def main():
        attempt()
        asyncio.get_running_loop().call_soon(attempt)
        await turns(2)
        return await dari.arun(lambda: (yield) or "went on")

    assert run_in(main) == "went on"
    assert ["arun" in error for error in errors] == [True, True]


@pytest.mark.parametrize("how", NESTED)
@pytest.mark.parametrize("around", ["guest", "standalone"])
def test_a_second_run_in_a_task(run_in, how, around):
    """It names what to do instead; the task goes on."""

    def plan():
        with pytest.raises(RuntimeError, match="create_task and wait for the task"):
            NESTED[how]()
        yield
        return "went on"

    async def main():
        return await dari.arun(plan)

    assert (run_in(main) if around == "guest" else dari.run(plan)) == "went on"


def test_arun_in_a_task(run_in):
    """A generator cannot await it, and is told so; a coroutine that a task yields can."""

    async def coroutine():
        return await dari.arun(lambda: (yield) or "in a coroutine")

    def plan():
        running = dari.arun(nothing)
        with pytest.raises(RuntimeError, match="yield from"):
            running.send(None)
        return (yield coroutine())

    async def main():
        return await dari.arun(plan)

    assert run_in(main) == "in a coroutine"


def test_a_scheduler_is_entered_once(run_in):
    """Twice, or in two loops, or after its end, is refused."""

    async def main():
        async with dari.Scheduler() as scheduler:
            with pytest.raises(RuntimeError, match="make a new one"):
                await scheduler.__aenter__()
        with pytest.raises(RuntimeError, match="make a new one"):
            await scheduler.__aenter__()

    run_in(main)


def test_two_loops_one_after_the_other_have_their_own_implicit_scheduler(loop_factory):
    """What one has left ends with it."""
    kernels, left = [], []

    async def main():
        kernels.append(await dari.arun(kernel_here))

        def leaves():
            left.append(dari.create_task(waits, dari.Event()))
            yield

        await dari.arun(leaves)

    for _ in range(2):
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(main())

    assert kernels[0] is not kernels[1]
    assert [task.cancelled() for task in left] == [True, True]
