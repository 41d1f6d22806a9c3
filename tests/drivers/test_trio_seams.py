"""Where tasks of trio and of ours meet: waits, cancels, coroutines, circles, in both directions."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import threading
import weakref
from concurrent.futures import Future

import anyio
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import dari

from .trio_tasks import rest, spin, spin_until, turns

# ---- await task ------------------------------------------------------------------------------------------------------


def test_await_task_from_many_trio_tasks_and_many_times():
    """A task is awaited by several, before and after its end."""

    async def main():
        event, results = dari.Event(), []

        def work():
            yield event.wait()
            return "done"

        async def waits(task):
            results.append(await task)

        async with dari.Scheduler() as scheduler, trio.open_nursery() as nursery:
            task = scheduler.create_task(work)
            for _ in range(3):
                nursery.start_soon(waits, task)
            await wait_all_tasks_blocked()
            before = list(results)
            event.set()
            await waits(task)
            await waits(task)
        return before, results

    assert trio.run(main) == ([], ["done"] * 5)


def test_an_error_comes_with_the_task_s_own_traceback():
    """To each who waits, and it does not grow from one to the next."""

    def fails():
        yield
        raise ValueError("own")

    async def main():
        lengths, names = [], []
        async with dari.Scheduler() as scheduler:
            task = scheduler.create_task(fails)
            for _ in range(4):
                with pytest.raises(ValueError, match="own") as caught:
                    await task
                lengths.append(len(caught.traceback))
                names.append(caught.traceback[-1].name)
        return lengths, names

    lengths, names = trio.run(main)

    assert lengths[3] == lengths[1]
    assert names == ["fails"] * 4


def test_an_error_that_was_told_is_not_kept():
    """Neither by the guest nor by trio: what its frames hold is freed while the scheduler lives on."""

    class Big:
        pass

    async def main():
        refs = []

        def fails():
            big = Big()
            refs.append(weakref.ref(big))
            yield
            raise ValueError("own")

        async with dari.Scheduler() as scheduler:
            try:
                await scheduler.create_task(fails)
            except ValueError:
                pass
            await trio.lowlevel.checkpoint()
            gc.collect()
            return refs[0]()

    assert trio.run(main) is None


def test_an_error_and_the_frame_of_its_waiter_are_no_cycle():
    """Whoever has handled it is rid of it at once, without the collector."""

    class Own(Exception):  # noqa: N818 - an error that can be referred to weakly
        pass

    async def main():
        refs = []

        def fails():
            yield
            error = Own()
            refs.append(weakref.ref(error))
            try:
                raise error
            finally:
                del error

        async def waits():
            try:
                await dari.create_task(fails)
            except Own:
                pass

        async with dari.Scheduler() as scheduler:
            await waits()
            await scheduler.create_task(spin, 1)
            return refs[0]()

    gc.collect()
    gc.disable()
    try:
        assert trio.run(main) is None
    finally:
        gc.enable()


def test_awaiting_a_task_that_has_ended_is_a_checkpoint():
    """Others run meanwhile, and a cancelled scope ends it: as everything that is awaited in trio."""

    async def main():
        log = []

        async def other():
            log.append("other")

        async with dari.Scheduler() as scheduler, trio.open_nursery() as nursery:
            task = scheduler.create_task(spin, 1)
            await task
            nursery.start_soon(other)
            for _ in range(2):
                await task
            log.append("awaited twice")
            with trio.CancelScope() as scope:
                scope.cancel()
                await task
        return log, scope.cancelled_caught

    assert trio.run(main) == (["other", "awaited twice"], True)


def test_a_task_cancelled_by_somebody_else_raises_taskcancellederror():
    """Being cancelled and waiting for what was cancelled are two things."""

    async def main():
        log = []
        async with dari.Scheduler() as scheduler, trio.open_nursery() as nursery:
            task = scheduler.create_task(rest, log)

            async def waits():
                with pytest.raises(dari.TaskCancelledError, match="because"):
                    await task
                log.append("told")

            nursery.start_soon(waits)
            nursery.start_soon(waits)
            await wait_all_tasks_blocked()
            task.cancel("because")
        with pytest.raises(dari.TaskCancelledError, match="because"):
            await task
        return log

    assert trio.run(main) == ["ended", "told", "told"]


def test_stopiteration_as_an_error_hangs_nobody():
    """It comes as the RuntimeError that a generator makes of it."""
    remote = Future()
    remote.set_exception(StopIteration("remote"))

    def own():
        yield
        next(iter(()))

    def given():
        yield remote

    async def coroutine():
        next(iter(()))

    async def main():
        async with dari.Scheduler() as scheduler:
            for source in (own, given, coroutine):
                with pytest.raises(RuntimeError, match="raised StopIteration"):
                    await scheduler.create_task(source)

    trio.run(main)


def test_one_of_several_waiters_is_cancelled():
    """Who waits, owns: the task ends, and the others are told that it was cancelled."""

    async def main():
        log, scope = [], trio.CancelScope()

        async def owner(task):
            with scope:
                await task
            log.append("owner")

        async def other(task):
            with pytest.raises(dari.TaskCancelledError):
                await task
            log.append("other")

        async with dari.Scheduler() as scheduler, trio.open_nursery() as nursery:
            task = scheduler.create_task(rest, log)
            nursery.start_soon(owner, task)
            nursery.start_soon(other, task)
            await wait_all_tasks_blocked()
            scope.cancel()
        return log[0], sorted(log[1:])

    assert trio.run(main) == ("ended", ["other", "owner"])


def test_who_only_looks_is_cancelled_alone():
    """`dari.shield(task)`."""

    async def main():
        log = []
        async with dari.Scheduler() as scheduler:
            task = scheduler.create_task(rest, log)
            with trio.move_on_after(0.002) as scope:
                await dari.shield(task)
            before = list(log), task.done(), scope.cancelled_caught
            task.cancel()
        return before, log

    assert trio.run(main) == (([], False, True), ["ended"])


# ---- cancelling who waits --------------------------------------------------------------------------------------------


async def by_move_on_after(wait):
    with trio.move_on_after(0.005) as scope:
        await wait()
    assert scope.cancelled_caught


async def by_fail_after(wait):
    with pytest.raises(trio.TooSlowError), trio.fail_after(0.005):
        await wait()


async def by_a_scope(wait):
    async def cancel():
        await wait_all_tasks_blocked()
        scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(cancel)
        with trio.CancelScope() as scope:
            await wait()
    assert scope.cancelled_caught


async def by_its_nursery(wait):
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()


async def by_a_failed_sibling(wait):
    with pytest.RaisesGroup(OSError):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await wait_all_tasks_blocked()
            raise OSError


async def by_a_scope_that_was_cancelled_before(wait):
    with trio.CancelScope() as scope:
        scope.cancel()
        await wait()
    assert scope.cancelled_caught


async def by_anyio(wait):
    with anyio.move_on_after(0.005) as scope:
        await wait()
    assert scope.cancelled_caught


HOWS = [
    by_move_on_after,
    by_fail_after,
    by_a_scope,
    by_its_nursery,
    by_a_failed_sibling,
    by_a_scope_that_was_cancelled_before,
    by_anyio,
]


@pytest.mark.parametrize("way", ["await task", "arun"])
@pytest.mark.parametrize("how", HOWS)
def test_cancelling_the_waiter_ends_the_generator_first(how, way):
    """Every way that trio has to cancel returns when the generator has really ended, with its slow cleanup."""

    async def main():
        log, began = [], []

        def work():
            began.append(True)
            yield from rest(log)

        async with dari.Scheduler() as scheduler:

            async def wait():
                await (scheduler.create_task(work) if way == "await task" else dari.arun(work))
                log.append("went on")

            await how(wait)
            return log == ["ended"] * len(began), len(scheduler.tasks)

    assert trio.run(main) == (True, 0)


def test_a_shielded_wait_is_not_cancelled():
    """Until its shield is left."""

    async def main():
        log = []

        def work():
            yield dari.sleep(0.005)
            return "result"

        with trio.move_on_after(0.001) as outer:
            with trio.CancelScope(shield=True):
                log.append(await dari.arun(work))
            await trio.lowlevel.checkpoint()
            log.append("went on")
        return log, outer.cancelled_caught

    assert trio.run(main) == (["result"], True)


def test_an_error_of_the_cleanup_comes_out_of_a_cancelled_wait():
    """Rather than the cancel, as everywhere in trio."""

    def work(scope):
        trio.lowlevel.current_trio_token().run_sync_soon(scope.cancel)  # when it waits
        try:
            yield dari.Event().wait()
        finally:
            raise OSError("cleanup")

    async def main():
        with trio.CancelScope() as scope, pytest.raises(OSError, match="cleanup"):
            await dari.arun(work, scope)
        return scope.cancelled_caught

    assert trio.run(main) is False


def test_the_outer_scope_beats_the_inner_one():
    """When both are cancelled while the generator cleans up."""

    async def main():
        log = []
        with trio.CancelScope() as outer:
            with trio.CancelScope() as inner:

                def work():
                    try:
                        yield dari.Event().wait()
                    finally:
                        outer.cancel()

                inner.deadline = trio.current_time() + 0.001
                await dari.arun(work)
            log.append("went on")
        return log, inner.cancelled_caught, outer.cancelled_caught

    assert trio.run(main) == ([], False, True)


def test_ctrl_c_ends_the_generator_and_comes_out():
    """trio raises it in main, which waits for a task that spins, or rests: the task cleans up first."""

    async def main(work, log):
        # trio's own handler remembers it, at once, and main gets it where it waits.
        def presses():
            yield
            os.kill(os.getpid(), signal.SIGINT)

        async with dari.Scheduler() as scheduler:
            task = scheduler.create_task(work, log)
            scheduler.create_task(presses)
            await task

    def spins(log):
        try:
            yield from spin_until([])
        finally:
            log.append("ended")

    for work in (rest, spins):
        log = []
        with pytest.raises(KeyboardInterrupt):
            trio.run(main, work, log)
        assert log == ["ended"]


# ---- cancels and results ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["won already", "shielded"])
def test_a_cancel_that_meets_a_result_is_not_lost(order, how):
    """The task of trio gets the result, and is cancelled at its next checkpoint."""

    async def main():
        queue, got = dari.Queue(), []

        def plan():
            with dari.CancelScope(shield=how == "shielded"):
                return (yield queue.get())

        async with trio.open_nursery() as nursery:
            with trio.CancelScope() as scope:

                @nursery.start_soon
                async def gives():
                    await wait_all_tasks_blocked()
                    if how == "won already":
                        queue.put_nowait("item")
                    scope.cancel()
                    await turns(5)
                    if how == "shielded":
                        queue.put_nowait("item")

                got.append(await dari.arun(plan))
                await trio.lowlevel.checkpoint()
                got.append("went on")
        return got, scope.cancelled_caught

    assert trio.run(main) == (["item"], True)


def test_a_generator_cancels_the_scope_of_who_waits_for_it():
    """From its own step: it is cancelled itself, and its waiter when it has ended."""

    async def main():
        log = []
        with trio.CancelScope() as scope:

            def work():
                scope.cancel()
                try:
                    yield
                    log.append("went on")
                finally:
                    log.append("ended")

            await dari.arun(work)
        return log, scope.cancelled_caught

    assert trio.run(main) == (["ended"], True)


def test_a_chain_is_cancelled_from_the_top():
    """trio task, generator, coroutine, generator, coroutine: they end one after the other, the lowest first."""
    log = []

    async def lowest():
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await turns(5)
            log.append("lowest")

    def generator(name, below):
        try:
            yield below()
        finally:
            with dari.CancelScope(shield=True):
                yield from spin(5)
            log.append(name)

    async def middle():
        try:
            await dari.arun(generator, "lower", lowest)
        finally:
            log.append("middle")

    async def main():
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(dari.arun, generator, "upper", middle)
                await wait_all_tasks_blocked()
                scope.cancel()

    trio.run(main)

    assert log == ["lowest", "lower", "middle", "upper"]


# ---- coroutines ------------------------------------------------------------------------------------------------------


def test_coroutines_are_tasks_of_trio():
    """Nurseries, scopes, sleeps and threads work in an `async def` task, and under a generator; so does anyio."""

    async def nursery():
        done = []

        async def child():
            await trio.sleep(0.001)
            done.append(True)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(child)
        return done == [True]

    async def scope():
        with trio.move_on_after(0.001) as scope:
            await trio.sleep_forever()
        return scope.cancelled_caught

    async def thread():
        return await trio.to_thread.run_sync(threading.get_ident) != threading.get_ident()

    async def anyio_group():
        done = []

        async def child():
            with anyio.move_on_after(0.001):
                await anyio.sleep_forever()
            done.append(True)

        async with anyio.create_task_group() as group:
            group.start_soon(child)
        return done == [True]

    coroutines = nursery, scope, thread, anyio_group

    def generator(coroutine):
        return (yield coroutine()), (yield from dari.host(coroutine())), (yield dari.create_task(coroutine))

    async def main():
        async with dari.Scheduler() as scheduler:
            return [await scheduler.create_task(coroutine) for coroutine in coroutines] + [
                await scheduler.create_task(generator, coroutine) for coroutine in coroutines
            ]

    assert trio.run(main) == [True] * 4 + [(True, True, True)] * 4


def test_each_coroutine_is_a_task_of_its_own():
    """The generator's own code runs in the scheduler's task, and each coroutine in another."""

    async def coroutine():
        return trio.lowlevel.current_task()

    def generator():
        tasks = [trio.lowlevel.current_task(), (yield coroutine()), (yield from dari.host(coroutine()))]
        return [*tasks, (yield dari.create_task(coroutine))]

    async def main():
        tasks = await dari.arun(generator)
        return tasks[0].name, len({trio.lowlevel.current_task(), *tasks})

    assert trio.run(main) == ("dari scheduler", 5)


def test_cancelling_a_generator_cancels_the_coroutine_and_awaits_its_end():
    """The coroutine's own cleanup has run when the generator's waiter hears of the end."""
    log = []

    async def coroutine():
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            with trio.CancelScope(shield=True):
                await trio.sleep(0.002)
            log.append("coroutine")
            raise

    def work():
        try:
            yield coroutine()
        finally:
            log.append("generator")

    async def main():
        async with dari.Scheduler() as scheduler:
            for main in (work, coroutine):
                task = scheduler.create_task(main)
                await wait_all_tasks_blocked()
                task.cancel("because")
                with pytest.raises(dari.TaskCancelledError, match="because"):
                    await task
        return log

    assert trio.run(main) == ["coroutine", "generator", "coroutine"]


def test_a_coroutine_that_takes_its_cancel_gives_its_value():
    """The generator that was cancelled gets it, and meets its cancel at the next `yield`."""
    log = []

    async def coroutine():
        try:
            await trio.sleep_forever()
        except BaseException:  # noqa: BLE001 - it takes trio's Cancelled, which nobody should
            pass
        return "value"

    def work():
        log.append((yield coroutine()))
        yield
        log.append("went on")

    async def main():
        async with dari.Scheduler() as scheduler:
            task = scheduler.create_task(work)
            await wait_all_tasks_blocked()
            task.cancel()
        return task.cancelled()

    assert (trio.run(main), log) == (True, ["value"])


def test_a_cancelled_coroutine_never_hangs_its_first_step():
    """Cancelled before its first step or right after: it begins and is cancelled, or never begins; no warning."""

    async def coroutine(log):
        log.append("begins")
        await trio.lowlevel.checkpoint()
        log.append("went on")

    def work(log):
        yield coroutine(log)

    async def main(number, source):
        log = []
        async with dari.Scheduler() as scheduler:
            task = scheduler.create_task(source, log)
            await turns(number)
            task.cancel()
        return task.done(), log

    for number in range(5):
        for source in (work, coroutine):
            done, log = trio.run(main, number, source)
            assert done
            assert log in ([], ["begins"], ["begins", "went on"])
    gc.collect()


@pytest.mark.parametrize("source", ["yielded", "given as a task"])
def test_a_group_of_errors_comes_whole(source):
    """What a nursery raises is raised at the `yield`, and by the task."""

    async def coroutine():
        async with trio.open_nursery():
            raise ValueError("in a nursery")

    def generator():
        with pytest.RaisesGroup(ValueError):
            yield coroutine()
        yield coroutine()

    async def main():
        with pytest.RaisesGroup(ValueError):
            await dari.arun(generator if source == "yielded" else coroutine)

    trio.run(main)


def test_futures_of_asyncio_are_refused():
    """By name: nobody in a trio program can wait for them."""

    async def waits(future):
        await future

    def generator():
        loop = asyncio.new_event_loop()
        future = loop.create_future()
        loop.close()
        with pytest.raises(TypeError, match="asyncio"):
            yield waits(future)
        with pytest.raises(TypeError, match=r"(?=[\s\S]*asyncio)(?=[\s\S]*trio)"):
            yield future

    async def main():
        await dari.arun(generator)

    trio.run(main)


def test_steps_out_of_foreign_code_are_refused():
    """`yield from coro.__await__()` would step trio's code behind its back: the error has the way out."""

    async def coroutine():
        await trio.lowlevel.checkpoint()

    def generator():
        with pytest.raises((TypeError, RuntimeError), match=r"dari\.host"):
            yield from coroutine().__await__()

    async def main():
        await dari.arun(generator)

    trio.run(main)


# ---- circles ---------------------------------------------------------------------------------------------------------


def test_a_circle_through_coroutines_is_refused():
    """Told at the `await` that closes it; a generator that yields a coroutine is a link as well."""

    async def awaits(number):
        await turns(20 * number)
        try:
            await tasks[(number + 1) % 3]
        except dari.DeadlockError as error:
            return str(error).splitlines()[0]
        return "went on"

    def generator(number):
        return (yield awaits(number))

    async def main():
        async with dari.Scheduler() as scheduler:
            for number, (name, source) in enumerate({"a": awaits, "b": generator, "c": awaits}.items()):
                tasks.append(scheduler.create_task(source, number, name=name))
        return [task.result() for task in tasks]

    tasks = []
    told = trio.run(main)

    assert told[:2] == ["went on", "went on"]
    names = [link.split()[-1] for link in told[2].removeprefix("this would never end: ").split(" waits for ")]
    assert names == ["'c'", "'a'", "'b'", "'c'"]


def test_a_coroutine_that_waits_for_its_own_task_is_refused():
    """As a generator that yields its own task is."""

    async def awaits_itself():
        await trio.lowlevel.checkpoint()
        with pytest.raises(RuntimeError, match=r"'.*awaits_itself' .* waits for itself: that would never end"):
            await tasks[0]
        return "went on"

    async def main():
        async with dari.Scheduler() as scheduler:
            tasks.append(scheduler.create_task(awaits_itself))
        return tasks[0].result()

    tasks = []
    assert trio.run(main) == "went on"


def test_a_coroutine_that_awaits_the_parent_who_left_its_group():
    """The parent cannot be kept from waiting for its child, so the coroutine gets the error, at its `await`."""

    async def child(parent, begun):
        begun.set()
        try:
            await parent
        except dari.DeadlockError:
            ended.append("child")
            raise

    def parent():
        begun = dari.Event()
        try:
            with dari.TaskGroup() as group:
                group.create_task(child, dari.current_task(), begun)
                yield begun.wait()
                raise OSError
        finally:
            try:
                yield
            finally:
                ended.append("parent")

    async def main():
        # Not by waiting for it: where the scheduler has gone, that would never end, and say nothing.
        scheduler = await dari.Scheduler().__aenter__()
        task = scheduler.create_task(parent)
        while not task.done():
            await trio.lowlevel.checkpoint()

    ended = []
    trio.run(main)

    assert ended == ["child", "parent"]
