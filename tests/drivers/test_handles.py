"""Task handles wherever asyncio takes an awaitable: one that has them by name, and what each of them owns."""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
import sys

import pytest

import dari


@pytest.fixture(params=["lazy", "eager"])
def run_in(request, loop_factory):
    """Runs `main()` in a loop, whose tasks start in their turn or at once, and which was told of no error."""
    if request.param == "eager" and sys.version_info < (3, 12):
        pytest.skip("eager tasks came with 3.12")
    if request.param == "eager" and sys.version_info >= (3, 13) and "uvloop" in loop_factory.__module__:
        pytest.skip("uvloop tells a task factory of `eager_start`, which asyncio's own does not take before 3.14")

    def run(main):
        told = []

        async def host():
            loop = asyncio.get_running_loop()
            loop.set_exception_handler(lambda _, context: told.append(context))
            if request.param == "eager":
                loop.set_task_factory(asyncio.eager_task_factory)
            return await main()

        with asyncio.Runner(loop_factory=loop_factory) as runner:
            result = runner.run(host())
        assert told == []
        return result

    run.eager = request.param == "eager"
    return run


async def turns(number=10):
    for _ in range(number):
        await asyncio.sleep(0)


async def that(condition):
    """Wait until it holds, some turns later."""
    while not condition():
        await asyncio.sleep(0)


# ---- the ways --------------------------------------------------------------------------------------------------------


async def awaited(task):
    return await task


async def gathered(task):
    (value,) = await asyncio.gather(task)
    return value


async def waited(task):
    done, _ = await asyncio.wait({asyncio.ensure_future(task)})
    return done.pop().result()


async def waited_as_it_is(task):
    done, _ = await asyncio.wait({task})
    assert done == {task}
    return task.result()


async def waited_for(task):
    return await asyncio.wait_for(task, 60)


async def shielded(task):
    return await asyncio.shield(task)


async def as_completed(task):
    (first,) = asyncio.as_completed([task])
    return await first


async def of_a_group(task):
    return await _in_a_group(_later(task) if task.done() else awaited(task))


async def _later(task):
    await asyncio.sleep(0)  # a group of 3.12 whose eager member fails at once leaves its parent a stray cancel
    return await task


async def under_a_timeout(task):
    async with asyncio.timeout(60):
        return await task


# A group of 3.11 and 3.12 whose member fails while the group waits leaves its own cancel on the count (python/cpython
# until 3.13: it calls `uncancel` only where its body was hit).
GROUP_LEAVES_ONE = sys.version_info < (3, 13)

# wait_for of 3.11 leaves at a second cancel, and raises the first one whatever it waited for.
OLD_WAIT_FOR = sys.version_info < (3, 12)


async def _in_a_group(coroutine):
    try:
        async with asyncio.TaskGroup() as group:
            member = group.create_task(coroutine)
    except BaseExceptionGroup as errors:
        (error,) = errors.exceptions
        raise error from None
    return member.result()


OWNERS = [awaited, gathered, waited_for, of_a_group, under_a_timeout]
LOOKERS = [waited, waited_as_it_is, shielded, as_completed]

every_way = pytest.mark.parametrize("way", OWNERS + LOOKERS, ids=lambda way: way.__name__)
every_owner = pytest.mark.parametrize("way", OWNERS, ids=lambda way: way.__name__)
every_looker = pytest.mark.parametrize("way", LOOKERS, ids=lambda way: way.__name__)


# ---- what they are told ----------------------------------------------------------------------------------------------


def returns(value):
    yield
    yield
    return value


def fails(error):
    yield
    yield
    raise error


def waits(event):
    yield event.wait()


@every_way
@pytest.mark.parametrize("value", [None, "done", ("a", "tuple"), StopIteration(1)], ids=repr)
def test_a_result(run_in, way, value):
    """It comes as it is, however it looks, before the task's end and after it."""

    async def main():
        async with dari.Scheduler() as scheduler:
            task = scheduler.create_task(returns, value)
            return [await way(task), await way(task)]

    assert run_in(main) == [value, value]


@every_way
def test_an_error(run_in, way):
    """It is the task's own, the very object."""
    error = ValueError("own")

    async def main():
        async with dari.Scheduler() as scheduler:
            task = scheduler.create_task(fails, error)
            for _ in range(2):
                with pytest.raises(ValueError, match="own") as caught:
                    await way(task)
                assert caught.value is error

    run_in(main)


@every_way
def test_cancelled_by_somebody_else(run_in, way):
    """TaskCancelledError with the reason: the waiter was not cancelled, and is not counted as if."""

    async def main():
        async with dari.Scheduler() as scheduler:
            task = scheduler.create_task(waits, dari.Event())
            waiter = asyncio.create_task(way(task))
            await turns()
            task.cancel("because")
            for again in (waiter, asyncio.create_task(way(task))):
                with pytest.raises(dari.TaskCancelledError, match="because"):
                    await again
        main_task = asyncio.current_task()
        return waiter.cancelled(), waiter.cancelling(), main_task.cancelling()

    assert run_in(main) == (False, int(way is of_a_group and GROUP_LEAVES_ONE), 0)


@every_way
def test_cancelled_before_its_first_step(run_in, way):
    """The same; and no code of it ran."""
    log = []

    def never():
        try:
            yield log.append("ran")
        finally:
            log.append("cleaned up")

    async def main():
        async with dari.Scheduler() as scheduler:
            task = scheduler.create_task(never)
            task.cancel("because")
            with pytest.raises(dari.TaskCancelledError, match="because"):
                await way(task)

    run_in(main)

    assert log == []


@every_way
def test_stopiteration_as_an_error(run_in, way):
    """Nobody hangs: it comes as the RuntimeError that a generator makes of it."""
    remote = concurrent.futures.Future()
    remote.set_exception(StopIteration("remote"))

    def own():
        yield
        next(iter(()))

    def given():
        yield remote

    async def main():
        async with dari.Scheduler() as scheduler:
            for source in (own, given):
                with pytest.raises(RuntimeError, match="raised StopIteration"):
                    await way(scheduler.create_task(source))

    run_in(main)


def test_a_generator_catches_stopiteration_of_what_it_waits_for(run_in):
    """At its `yield`, as any other error."""
    remote = concurrent.futures.Future()
    remote.set_exception(StopIteration("remote"))

    def plan():
        try:
            yield remote
        except StopIteration as error:
            return error.value

    async def main():
        return await dari.arun(plan)

    assert run_in(main) == "remote"


def test_an_error_that_is_raised_often_keeps_its_traceback_short(run_in):
    """As a future's: each who waits gets the traceback of the task, not the ones of all who waited before."""

    async def main():
        lengths = []
        async with dari.Scheduler() as scheduler:
            task = scheduler.create_task(fails, ValueError("own"))
            for _ in range(5):
                try:
                    await task
                except ValueError as error:
                    frame, length = error.__traceback__, 0
                    while frame is not None:
                        frame, length = frame.tb_next, length + 1
                    lengths.append(length)
        return lengths

    lengths = run_in(main)

    assert lengths[-1] == lengths[1]


# ---- several waiters -------------------------------------------------------------------------------------------------


def test_all_ways_at_the_same_time(run_in):
    """Each of many waiters gets it, those that come after the end too."""
    ways = [way for way in OWNERS + LOOKERS if way is not waited_as_it_is] * 3

    async def main():
        async with dari.Scheduler() as scheduler:
            task = scheduler.create_task(returns, "done")
            before = await asyncio.gather(*(way(task) for way in ways))
            return before + await asyncio.gather(*(way(task) for way in ways))

    assert run_in(main) == ["done"] * 2 * len(ways)


def test_one_of_several_waiters_is_cancelled(run_in):
    """Who waits, owns: the task ends, its waiter is cancelled, and the other one is told so."""

    async def main():
        async with dari.Scheduler() as scheduler:
            task = scheduler.create_task(waits, dari.Event())
            one, other = asyncio.create_task(awaited(task)), asyncio.create_task(awaited(task))
            await turns()
            one.cancel()
            await asyncio.wait([one, other])
        return one.cancelled(), type(other.exception()), other.cancelling()

    assert run_in(main) == (True, dari.TaskCancelledError, 0)


def test_a_waiter_that_only_looked_is_cancelled(run_in):
    """`asyncio.shield` keeps the task, and the one who waits plainly gets its result."""

    async def main():
        event = dari.Event()
        async with dari.Scheduler() as scheduler:
            task = scheduler.create_task(waits, event)
            one, other = asyncio.create_task(shielded(task)), asyncio.create_task(awaited(task))
            await turns()
            one.cancel()
            await turns()
            states = one.cancelled(), other.done(), task.done()
            event.set()
            return states, await other

    assert run_in(main) == ((True, False, False), None)


def test_as_completed_gives_them_in_the_order_of_their_ends(run_in):
    """Handles and coroutines mixed."""

    async def main():
        events = [dari.Event() for _ in range(4)]

        def plan(name):
            yield events[name].wait()
            return name

        async def coroutine(name):
            await events[name].wait()
            return name

        order = []
        async with dari.Scheduler() as scheduler:
            tasks = [scheduler.create_task(plan, 0), coroutine(1), scheduler.create_task(plan, 2), coroutine(3)]
            events[2].set()
            for first in asyncio.as_completed(tasks):
                order.append(await first)
                if len(order) < 4:
                    events[[1, 3, 0][len(order) - 1]].set()
        return order

    assert run_in(main) == [2, 1, 3, 0]


def test_gather_with_errors_as_results(run_in):
    """`return_exceptions` shows each as it is."""

    async def main():
        async with dari.Scheduler() as scheduler:
            gone = scheduler.create_task(waits, dari.Event())
            tasks = scheduler.create_task(returns, 1), scheduler.create_task(fails, KeyError("k")), gone
            gone.cancel()
            return await asyncio.gather(*tasks, return_exceptions=True)

    assert [type(outcome) for outcome in run_in(main)] == [int, KeyError, dari.TaskCancelledError]


# ---- cancelling the waiter -------------------------------------------------------------------------------------------


def cleans_up(log, gate, may_end):
    """Waits for ever at `gate`; then cleans up until `may_end`."""
    try:
        yield gate.wait()
    finally:
        log.append("cleaning up")
        with dari.CancelScope(shield=True):
            yield may_end.wait()
        yield from rests(log)


def rests(log):
    try:
        yield
    finally:
        log.append("cleaned up")


@every_owner
@pytest.mark.parametrize("times", [1, 3])
def test_cancelling_the_waiter_ends_the_generator_first(run_in, way, times):
    """It is done when the generator's cleanup is, however slow that is, and how often it is told."""
    if OLD_WAIT_FOR and way is waited_for and times > 1:
        pytest.skip("wait_for of 3.11 leaves at a second cancel, whatever it waits for")
    log, may_end = [], dari.Event()

    async def main():
        async with dari.Scheduler() as scheduler:
            task = scheduler.create_task(cleans_up, log, dari.Event(), may_end)
            waiter = asyncio.create_task(way(task))
            await turns()
            for _ in range(times):
                waiter.cancel()
                await turns()
            log.append(("ended", waiter.done()))
            may_end.set()
            with pytest.raises(asyncio.CancelledError):
                await waiter
        return task.cancelled(), waiter.cancelled(), waiter.cancelling(), asyncio.current_task().cancelling()

    assert run_in(main) == (True, True, times, 0)
    assert log == ["cleaning up", ("ended", False), "cleaned up"]


@every_looker
def test_cancelling_one_who_only_looks(run_in, way):
    """`wait`, `shield` and `as_completed` do not own, here as everywhere in asyncio: the task runs on."""

    async def main():
        event = dari.Event()
        async with dari.Scheduler() as scheduler:
            task = scheduler.create_task(waits, event)
            waiter = asyncio.create_task(way(task))
            await turns()
            waiter.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiter
            await turns()
            states = task.done()
            event.set()
            await task
        return states, task.cancelled()

    assert run_in(main) == (False, False)


@every_owner
def test_a_cancel_in_the_turn_in_which_the_wait_began(run_in, way):
    """The task does not outlive who waits for it; only `gather`'s wrapper, cancelled before it began, tells nobody."""
    event = dari.Event()

    async def main():
        async with dari.Scheduler() as scheduler:
            task = scheduler.create_task(waits, event)
            waiter = asyncio.create_task(way(task))
            await asyncio.sleep(0)
            waiter.cancel()
            await asyncio.wait([waiter])
            await turns()
            try:
                return waiter.cancelled(), task.cancelled()
            finally:
                event.set()

    assert run_in(main) == (True, run_in.eager or way is not gathered)


def test_wait_for_with_no_time_left(run_in):
    """asyncio cancels its own wrapper before that has begun, so the task runs on; where tasks start eagerly it ends."""
    event = dari.Event()

    async def main():
        async with dari.Scheduler() as scheduler:
            task = scheduler.create_task(waits, event)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(task, 0)
            await turns()
            try:
                return task.cancelled()
            finally:
                event.set()

    assert run_in(main) is run_in.eager


@every_owner
def test_a_cancelled_waiter_whose_generator_fails_in_its_cleanup(run_in, way):
    """The error of the cleanup is what there is to know, as from a coroutine."""

    def plan():
        try:
            yield dari.Event().wait()
        finally:
            raise KeyError("cleanup")

    async def main():
        async with dari.Scheduler() as scheduler:
            waiter = asyncio.create_task(way(scheduler.create_task(plan)))
            await turns()
            waiter.cancel()
            await asyncio.wait([waiter])
        return waiter

    waiter = run_in(main)

    if OLD_WAIT_FOR and way is waited_for:
        assert waiter.cancelled()
    else:
        assert isinstance(waiter.exception(), KeyError)


def test_the_outer_timeout_beats_the_inner_one(run_in):
    """Both run out while the generator cleans up: the inner block lets the cancel pass."""
    log, may_end = [], dari.Event()

    async def main():
        loop = asyncio.get_running_loop()
        async with dari.Scheduler() as scheduler:
            task = scheduler.create_task(cleans_up, log, dari.Event(), may_end)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(None) as outer:
                    try:
                        async with asyncio.timeout(None) as inner:
                            loop.call_soon(inner.reschedule, loop.time())
                            loop.call_later(0.002, outer.reschedule, loop.time())
                            loop.call_later(0.005, may_end.set)
                            await task
                    except BaseException as error:
                        log.append(type(error))
                        raise
            await turns()
        return outer.expired(), inner.expired(), asyncio.current_task().cancelling()

    assert run_in(main) == (True, True, 0)
    assert log == ["cleaning up", "cleaned up", asyncio.CancelledError]


def test_a_cancel_from_outside_beats_a_timeout(run_in):
    """What runs out in the same turn is not what the waiter hears of."""

    async def main():
        loop = asyncio.get_running_loop()

        async def host(task):
            async with asyncio.timeout(None) as timeout:
                timeouts.append(timeout)
                await task

        timeouts = []
        async with dari.Scheduler() as scheduler:
            waiter = asyncio.create_task(host(scheduler.create_task(waits, dari.Event())))
            await turns()
            timeouts[0].reschedule(loop.time())
            await that(timeouts[0].expired)
            waiter.cancel()
            await asyncio.wait([waiter])
        return waiter.cancelled(), waiter.cancelling()

    assert run_in(main) == (True, 1)


def test_a_waiter_that_takes_its_cancel_back(run_in):
    """`uncancel` counts down, and the waiter goes on with what it likes."""

    async def main():
        async def host(task):
            try:
                await task
            except asyncio.CancelledError:
                counts = [asyncio.current_task().cancelling(), asyncio.current_task().uncancel()]
            await turns(2)
            return counts

        async with dari.Scheduler() as scheduler:
            waiter = asyncio.create_task(host(scheduler.create_task(waits, dari.Event())))
            await turns()
            waiter.cancel()
            return await waiter

    assert run_in(main) == [1, 0]


# ---- timeouts and groups of asyncio, and the count of cancels --------------------------------------------------------


async def run_out(timeout):
    """Let it run out, when all have begun to wait."""
    await turns()
    timeout.reschedule(0)


async def nothing_is_left():
    """This asyncio task has no cancel on its count, and none that comes at its next `await`."""
    try:
        await turns(2)
    except asyncio.CancelledError:
        return "a stray cancel"
    return asyncio.current_task().cancelling()


def test_a_timeout_around_a_group(run_in):
    """It ends the body's generator and then the member's; one TimeoutError, and a clean count."""
    log, may_end = [], dari.Event()
    may_end.set()

    async def main():
        async with dari.Scheduler() as scheduler:
            body, member = (scheduler.create_task(cleans_up, log, dari.Event(), may_end) for _ in range(2))
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(None) as timeout, asyncio.TaskGroup() as group:
                    running_out = asyncio.create_task(run_out(timeout))
                    group.create_task(awaited(member))
                    await body
            await running_out
            return body.cancelled(), member.cancelled(), await nothing_is_left()

    assert run_in(main) == (True, True, 0)
    assert log == ["cleaning up", "cleaned up"] * 2


def test_a_group_around_a_timeout(run_in):
    """A member fails while the body waits for a task under a timeout: the group's error, not the timeout's."""
    log, may_end = [], dari.Event()

    async def main():
        async with dari.Scheduler() as scheduler:
            body = scheduler.create_task(cleans_up, log, dari.Event(), may_end)
            asyncio.get_running_loop().call_later(0.005, may_end.set)
            with pytest.raises(ExceptionGroup) as caught:
                async with asyncio.TaskGroup() as group:
                    async with asyncio.timeout(60) as timeout:
                        group.create_task(awaited(scheduler.create_task(fails, KeyError("member"))))
                        await body
            return [repr(error) for error in caught.value.exceptions], timeout.expired(), await nothing_is_left()

    assert run_in(main) == (["KeyError('member')"], False, 0)
    assert log == ["cleaning up", "cleaned up"]


def test_a_group_in_a_group(run_in):
    """The inner one's failure stays in it; its generators have ended, the outer one's have not."""
    log, may_end = [], dari.Event()
    may_end.set()

    async def main():
        event = dari.Event()
        async with dari.Scheduler() as scheduler:
            sibling = scheduler.create_task(cleans_up, log, dari.Event(), may_end)
            outside = scheduler.create_task(waits, event)
            async with asyncio.TaskGroup() as outer:
                outer.create_task(awaited(outside))
                with pytest.raises(ExceptionGroup):
                    async with asyncio.TaskGroup() as inner:
                        inner.create_task(awaited(sibling))
                        inner.create_task(awaited(scheduler.create_task(fails, KeyError("member"))))
                states = sibling.cancelled(), outside.done(), await nothing_is_left()
                event.set()
        return states

    assert run_in(main) == (True, False, int(GROUP_LEAVES_ONE))
    assert log == ["cleaning up", "cleaned up"]


def stubborn(may_end):
    """Wins its value, whoever cancels it."""
    with dari.CancelScope(shield=True):
        yield may_end.wait()
    return "value"


def test_a_timeout_that_meets_a_result_leaves_no_cancel_behind(run_in):
    """The value comes, the block ends, and what follows the block is not hit by its timeout."""
    may_end = dari.Event()

    async def main():
        async with dari.Scheduler() as scheduler:
            task = scheduler.create_task(stubborn, may_end)
            try:
                async with asyncio.timeout(None) as timeout:
                    asyncio.get_running_loop().call_soon(timeout.reschedule, 0)
                    asyncio.get_running_loop().call_later(0.003, may_end.set)
                    value = await task
            except TimeoutError:
                value = "timeout"
            return value, await nothing_is_left()

    assert run_in(main) in [("value", 0), ("timeout", 0)]


def test_a_group_whose_failure_meets_a_result_leaves_no_cancel_behind(run_in):
    """The group raises what its member raised, and the body's task goes on behind it."""
    may_end = dari.Event()

    async def main():
        async with dari.Scheduler() as scheduler:
            task = scheduler.create_task(stubborn, may_end)
            asyncio.get_running_loop().call_later(0.003, may_end.set)
            with pytest.raises(ExceptionGroup):
                async with asyncio.TaskGroup() as group:
                    group.create_task(awaited(scheduler.create_task(fails, KeyError("member"))))
                    await task
            return await nothing_is_left()

    assert run_in(main) == 0


def test_wait_for_gives_a_result_that_was_won(run_in):
    """Its time ran out, but the generator won a value while it was told to end: asyncio's own tasks give that."""
    may_end = dari.Event()

    async def main():
        async with dari.Scheduler() as scheduler:
            task = scheduler.create_task(stubborn, may_end)
            await that(lambda: scheduler.stats().waiting)
            asyncio.get_running_loop().call_later(0.01, may_end.set)
            value = await asyncio.wait_for(task, 0.008)
            return value, await nothing_is_left()

    assert run_in(main) == ("value", 0)


@pytest.mark.parametrize("wrapped", ["arun", "an async def"])
def test_a_task_of_an_asyncio_group(run_in, wrapped):
    """`create_task` wants a coroutine: `arun` is one, and so is a small `async def`; a failure ends the siblings."""
    log, may_end = [], dari.Event()

    async def main():
        async with dari.Scheduler() as scheduler:

            def member(group, *steps):
                if wrapped == "arun":
                    return group.create_task(dari.arun(*steps))
                return group.create_task(awaited(scheduler.create_task(*steps)))

            async with asyncio.TaskGroup() as group:
                results = [member(group, returns, number) for number in range(3)]
            asyncio.get_running_loop().call_later(0.003, may_end.set)
            with pytest.raises(ExceptionGroup) as caught:
                async with asyncio.TaskGroup() as group:
                    sibling = member(group, cleans_up, log, dari.Event(), may_end)
                    await that(lambda: scheduler.stats().waiting)
                    member(group, fails, KeyError("member"))
            return (
                [result.result() for result in results],
                [repr(error) for error in caught.value.exceptions],
                sibling.cancelled(),
                await nothing_is_left(),
            )

    assert run_in(main) == ([0, 1, 2], ["KeyError('member')"], True, int(GROUP_LEAVES_ONE))
    assert log == ["cleaning up", "cleaned up"]


def test_the_parent_of_an_asyncio_group_is_cancelled(run_in):
    """Its members' generators end before it does."""
    log, may_end = [], dari.Event()

    async def main():
        async def parent():
            async with asyncio.TaskGroup() as group:
                for _ in range(2):
                    group.create_task(dari.arun(cleans_up, log, dari.Event(), may_end))

        async with dari.Scheduler() as scheduler:
            waiter = asyncio.create_task(parent())
            await that(lambda: scheduler.stats().waiting == 2)
            waiter.cancel()
            await turns()
            log.append(("ended", waiter.done()))
            may_end.set()
            await asyncio.wait([waiter])
        return waiter.cancelled(), waiter.cancelling()

    assert run_in(main) == (True, 1)
    assert log == ["cleaning up", "cleaning up", ("ended", False), "cleaned up", "cleaned up"]


# ---- asyncio.wait, with handles as they are --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("return_when", "done"),
    [(asyncio.FIRST_COMPLETED, ["quick"]), (asyncio.FIRST_EXCEPTION, ["failed", "quick"])],
)
def test_wait_gives_handles_back(run_in, return_when, done):
    """What was given is what comes, done and pending; and no callback of it is left at the pending ones."""

    async def main():
        event = dari.Event()
        first, second = dari.Event(), dari.Event()

        def quick():
            yield first.wait()

        def failed():
            yield second.wait()
            raise KeyError("failed")

        def slow():
            yield event.wait()

        async with dari.Scheduler() as scheduler:
            tasks = {scheduler.create_task(plan, name=plan.__name__) for plan in (quick, failed, slow)}
            asyncio.get_running_loop().call_soon(first.set)
            if return_when == asyncio.FIRST_EXCEPTION:
                next(task for task in tasks if task.name == "quick").add_done_callback(lambda _: second.set())
            ended, pending = await asyncio.wait(tasks, return_when=return_when)
            second.set()
            event.set()
            await asyncio.gather(*tasks, return_exceptions=True)
        return sorted(task.name for task in ended), ended | pending == tasks

    assert run_in(main) == (done, True)


def test_wait_with_a_timeout(run_in):
    """It only looks: nothing is cancelled, and what ended before counts."""

    async def main():
        event = dari.Event()
        async with dari.Scheduler() as scheduler:
            ended = scheduler.create_task(returns, 1)
            await ended
            runs = scheduler.create_task(waits, event)
            answer = await asyncio.wait({ended, runs}, timeout=0.002)
            states = answer == ({ended}, {runs}), runs.done()
            event.set()
            return states, await asyncio.wait({ended, runs}) == ({ended, runs}, set())

    assert run_in(main) == ((True, False), True)


def test_a_done_callback_is_removed():
    """As a future's: every time that it was added, and the answer is how often that was."""
    log = []

    def one(_):
        log.append("one")

    def other(_):
        log.append("other")

    async def main():
        async with dari.Scheduler() as scheduler:
            task = scheduler.create_task(returns, 1)
            for callback in (one, other, one):
                task.add_done_callback(callback)
            removed = [task.remove_done_callback(one), task.remove_done_callback(one)]
            await task
            return [*removed, task.remove_done_callback(other)]

    assert asyncio.run(main()) == [2, 0, 0]
    assert log == ["other"]


# ---- what it is, and is not ------------------------------------------------------------------------------------------


def test_a_handle_is_awaitable_and_no_future():
    """asyncio wraps it where it needs a future; it stays usable afterwards."""

    async def main():
        async with dari.Scheduler() as scheduler:
            task = scheduler.create_task(returns, "done")
            wrapped = asyncio.ensure_future(task)
            return (
                inspect.isawaitable(task),
                asyncio.isfuture(task),
                isinstance(wrapped, asyncio.Task),
                await wrapped,
                await task,
            )

    assert asyncio.run(main()) == (True, False, True, "done", "done")


def test_a_circle_through_a_host_that_starts_tasks_eagerly(run_in):
    """A coroutine that awaits, in its very first step, the task which waits for it is refused."""

    async def coroutine(tasks):
        return await tasks[0]

    def plan(tasks):
        return (yield coroutine(tasks))

    async def main():
        tasks = []
        async with dari.Scheduler() as scheduler:
            tasks.append(scheduler.create_task(plan, tasks))
            await asyncio.wait([waiter := asyncio.ensure_future(tasks[0])], timeout=1)
            if not waiter.done():
                tasks[0]._wait.wake()  # let the test end
                return "waits for ever"
            return str(waiter.exception())

    assert "waits for itself" in run_in(main)
