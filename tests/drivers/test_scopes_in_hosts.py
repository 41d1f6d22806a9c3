"""Scopes and task groups in coroutines that asyncio or trio steps: plain `with`, through anyio's scopes."""

from __future__ import annotations

import asyncio
import time

import anyio
import pytest
import trio

import dari


def child(delay, log=None, error=None):
    """Sleeps, and fails if told to; takes a moment to clean up."""
    try:
        yield dari.sleep(delay)
        if error is not None:
            raise error
        return delay
    finally:
        with dari.CancelScope(shield=True):
            yield dari.sleep(0.002)
        if log is not None:
            log.append(delay)


@pytest.mark.parametrize("waits", ["for the host", "for dari"])
def test_move_on_after(host, waits):
    """A deadline leaves the block, whatever it waits for; `cancelled_caught` tells."""

    async def main():
        with dari.move_on_after(0.005) as scope:
            await (anyio.sleep(60) if waits == "for the host" else dari.sleep(60))
        with dari.move_on_after(60) as untouched:
            await anyio.sleep(0)
        return scope.cancelled_caught, untouched.cancelled_caught

    assert host(main) == (True, False)


@pytest.mark.parametrize("make", [dari.timeout, dari.fail_after])
def test_timeout_raises_timeouterror(host, make):
    """`with` and `async with` alike; the message names the delay."""

    async def main():
        with pytest.raises(TimeoutError, match=r"took longer than 0\.005 seconds"), make(0.005):
            await anyio.sleep(60)
        with pytest.raises(TimeoutError):
            async with make(0.005):
                await dari.arun(child, 60)
        with pytest.raises(TimeoutError, match="passed its deadline"), dari.timeout_at(time.monotonic() + 0.005):
            await anyio.sleep(60)

    host(main)


def test_a_timeout_that_has_passed_already(host):
    """Its block meets the cancel at the first wait."""

    async def main():
        with dari.move_on_after(0) as scope:
            await anyio.sleep(60)
        return scope.cancelled_caught

    assert host(main)


def test_cancel_by_hand_before_and_inside(host):
    """From the block itself, from before it, and from a generator task beside it."""

    def cancels(scope):
        yield dari.sleep(0.002)
        scope.cancel()

    async def main():
        caught = []
        with dari.CancelScope() as scope:
            scope.cancel()
            await anyio.sleep(60)
        caught.append(scope.cancelled_caught)
        early = dari.CancelScope()
        early.cancel()
        with early:
            await anyio.sleep(60)
        caught.append(early.cancelled_caught)
        async with dari.Scheduler() as scheduler:
            with dari.CancelScope() as scope:
                scheduler.create_task(cancels, scope)
                await anyio.sleep(60)
            caught.append(scope.cancelled_caught)
        return caught

    assert host(main) == [True, True, True]


def test_outer_beats_inner(host):
    """Both are cancelled in one moment: the outer one catches."""

    async def main():
        with dari.CancelScope() as outer, dari.CancelScope() as inner:
            inner.cancel()
            outer.cancel()
            await anyio.sleep(60)
        return outer.cancelled_caught, inner.cancelled_caught

    assert host(main) == (True, False)


@pytest.mark.parametrize("around", ["dari", "anyio"])
def test_shield(host, around):
    """What is shielded goes on under a cancelled scope, of dari or of anyio; lifted, it is stopped."""

    async def main():
        log = []
        with (dari.move_on_after if around == "dari" else anyio.move_on_after)(0.002):
            with dari.CancelScope(shield=True):
                await anyio.sleep(0.006)
                log.append("went on")
            await anyio.sleep(60)
        with (dari.move_on_after if around == "dari" else anyio.move_on_after)(0.002):
            with dari.CancelScope(shield=True) as scope:
                await anyio.sleep(0.004)
                scope.shield = False
                await anyio.sleep(60)
            log.append("never")
        return log

    assert host(main) == ["went on"]


def test_a_deadline_that_moves(host):
    """It is asked anew when it is set anew."""

    async def main():
        started = time.monotonic()
        with dari.move_on_after(60) as scope:
            scope.deadline = time.monotonic() + 0.005
            await anyio.sleep(60)
        return scope.cancelled_caught and time.monotonic() - started < 30

    assert host(main)


def test_grace_is_refused(host):
    """The host's scopes have none; the error says what there is."""

    async def main():
        with pytest.raises(RuntimeError, match="shield=True"), dari.CancelScope(grace=1):
            pass

    host(main)


def test_a_scope_around_await_task_ends_the_generator_first(host):
    """Who waits owns: the block is left when the task has cleaned up."""

    async def main():
        log = []
        with dari.move_on_after(0.05):
            await dari.arun(child, 60, log)
        return log

    assert host(main) == [60]


def test_a_scope_of_anyio_around_await_task(host):
    """anyio knows its own cancel again when it comes back out of a task of ours."""

    async def main():
        log = []
        with anyio.move_on_after(0.05) as scope:
            await dari.arun(child, 60, log)
        with pytest.raises(TimeoutError), anyio.fail_after(0.005):
            await dari.Event().wait()
        return scope.cancelled_caught, log

    assert host(main) == (True, [60])


def test_no_scope_where_nothing_runs():
    """Outside of every task the error says where a scope can be."""
    with pytest.raises(RuntimeError, match="outside of a task"), dari.CancelScope():
        pass


def test_a_scope_left_in_another_task_is_refused():
    """In asyncio too a scope belongs to the task that entered it."""

    async def leaves(scope):
        with pytest.raises(RuntimeError, match="in another task than the one that entered it"):
            scope.__exit__(None, None, None)

    async def main():
        with dari.CancelScope() as scope:
            await asyncio.create_task(leaves(scope))

    asyncio.run(main())


# ---- task groups -----------------------------------------------------------------------------------------------------


def test_a_group_joins_its_children(host):
    """`async with` waits for generator tasks and coroutines; their results are there afterwards."""

    async def coroutine():
        await anyio.sleep(0.002)
        return "host"

    async def main():
        async with dari.TaskGroup() as group:
            first, second = group.create_task(child, 0.003), group.create_task(coroutine)
        return first.result(), second.result()

    assert host(main) == (0.003, "host")


@pytest.mark.parametrize("body", ["waits", "ends"])
def test_a_child_that_fails_cancels_the_others_and_the_body(host, body):
    """What failed comes as one ExceptionGroup, when all have cleaned up."""

    async def main():
        log = []
        with pytest.raises(ExceptionGroup) as caught:
            async with dari.TaskGroup() as group:
                group.create_task(child, 60, log)
                group.create_task(child, 0.02, log, ValueError("first"))
                if body == "waits":
                    await anyio.sleep(60)
        assert [repr(error) for error in caught.value.exceptions] == ["ValueError('first')"]
        return sorted(log)

    assert host(main) == [0.02, 60]


def test_an_error_of_the_body_cancels_the_children(host):
    """It comes in a group, as everywhere."""

    async def main():
        log = []
        with pytest.raises(ExceptionGroup) as caught:
            async with dari.TaskGroup() as group:
                group.create_task(child, 60, log)
                await anyio.sleep(0.02)
                raise KeyError("body")
        assert [repr(error) for error in caught.value.exceptions] == ["KeyError('body')"]
        return log

    assert host(main) == [60]


@pytest.mark.parametrize("around", [dari.move_on_after, anyio.move_on_after])
def test_a_scope_around_a_group_ends_its_children_first(host, around):
    """Whether the body is at work or at its join."""

    async def main():
        log = []
        with around(0.05) as scope:
            async with dari.TaskGroup() as group:
                group.create_task(child, 60, log)
        with around(0.05):
            async with dari.TaskGroup() as group:
                group.create_task(child, 61, log)
                await anyio.sleep(60)
        return scope.cancelled_caught, log

    assert host(main) == (True, [60, 61])


def test_group_cancel_leaves_the_block_without_an_error(host):
    """Children and body end; nothing is raised."""

    async def main():
        log = []
        async with dari.TaskGroup() as group:
            group.create_task(child, 60, log)
            await anyio.sleep(0.02)
            group.cancel()
            await anyio.sleep(60)
        return log

    assert host(main) == [60]


def test_plain_with_and_join(host):
    """As in a generator, the join may be written out; forgotten, the children are cancelled and the error says so."""

    async def main():
        log = []
        with dari.TaskGroup() as group:
            first = group.create_task(child, 0.002, log)
            await group.join()
        with pytest.raises(RuntimeError, match=r"group\.join\(\)"), dari.TaskGroup() as group:
            left = group.create_task(child, 60, log)
            await anyio.sleep(0.02)
        with pytest.raises(dari.TaskCancelledError):
            await left
        return first.done(), log

    assert host(main) == (True, [0.002, 60])


def test_what_a_child_left_behind_raises_is_logged(host, caplog):
    """A plain `with` has nothing that could wait for it in a coroutine of the host."""

    def stubborn():
        try:
            yield dari.sleep(60)
        finally:
            raise ValueError("left behind")

    async def main():
        with pytest.raises(RuntimeError, match="join"), dari.TaskGroup() as group:
            left = group.create_task(stubborn)
            await anyio.sleep(0.02)
        with pytest.raises(ValueError, match="left behind"):
            await left

    host(main)
    assert "left behind" in caplog.text


def test_a_group_is_joined_by_who_opened_it(host):
    """Neither another task of the host nor a generator task can join it."""

    async def joins(group):
        with pytest.raises(RuntimeError, match="only the task that opened a group can join it"):
            await group.join()

    async def main():
        async with dari.TaskGroup() as group, anyio.create_task_group() as hosts:
            hosts.start_soon(joins, group)
            await anyio.sleep(0.002)

    host(main)


def test_a_plain_cancel_of_asyncio_ends_the_children_first(loop_factory):
    """The group is left when they have ended, and the count of cancels stays right."""

    async def works(log):
        async with dari.TaskGroup() as group:
            group.create_task(child, 60, log)

    async def main():
        log = []
        task = asyncio.create_task(works(log))
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        try:
            async with asyncio.timeout(0.02):
                async with dari.TaskGroup() as group:
                    group.create_task(child, 61, log)
        except TimeoutError:
            log.append("timeout")
        return log, asyncio.current_task().cancelling()

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        assert runner.run(main()) == ([60, 61, "timeout"], 0)


def test_a_plain_cancel_while_a_failed_body_waits_for_the_children(loop_factory):
    """The block is left when they have ended, by the cancel; scopes around it are left as usual."""

    async def works(log):
        with dari.move_on_after(60):
            async with dari.TaskGroup() as group:
                group.create_task(child, 60, log)
                await asyncio.sleep(0.02)
                asyncio.get_running_loop().call_soon(asyncio.current_task().cancel)
                raise ValueError("of the body")

    async def main():
        log = []
        task = asyncio.create_task(works(log))
        await asyncio.wait([task])
        return log, task.cancelled()

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        assert runner.run(main()) == ([60], True)


def test_a_failing_child_uncancels_the_body(loop_factory):
    """After the group the task is as it was: the next wait is not cancelled."""

    async def main():
        with pytest.raises(ExceptionGroup):
            async with dari.TaskGroup() as group:
                group.create_task(child, 0.001, None, ValueError())
                await asyncio.sleep(60)
        await asyncio.sleep(0)
        return asyncio.current_task().cancelling()

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        assert runner.run(main()) == 0


def test_a_nursery_of_trio_in_the_body():
    """A child's failure takes the nursery with it; what failed there joins the group."""

    async def main():
        with pytest.raises(ExceptionGroup) as caught:
            async with dari.TaskGroup() as group:
                group.create_task(child, 0.002, None, ValueError("child"))
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(trio.sleep, 60)
        return [repr(error) for error in caught.value.exceptions]

    assert trio.run(main) == ["ValueError('child')"]


def test_children_run_on_the_innermost_scheduler(host):
    """As create_task does."""

    async def main():
        async with dari.Scheduler() as scheduler, dari.TaskGroup() as group:
            task = group.create_task(child, 0.001)
            return task in scheduler.tasks

    assert host(main)
