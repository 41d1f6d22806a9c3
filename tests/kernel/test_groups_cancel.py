"""Task groups among cancels, timeouts, shields and other groups."""

from __future__ import annotations

import pytest

import dari
from dari import TaskState

from .families import fail, give, leaves, run


def test_cancelling_the_group(hand, log):
    """Stops children and body alike; the block is left without an error."""

    def main():
        with dari.TaskGroup() as group:
            group.create_task(log.sleeper)
            yield
            group.cancel("enough")
            yield group.join()
        log.note("behind")

    async def amain():
        async with dari.TaskGroup() as group:
            group.create_task(log.sleeper, "second")
            await dari.checkpoint()
            group.cancel()
        log.note("behind")

    run(hand, main)
    run(hand, amain)

    assert log == [("child ended", 0.0), ("behind", 0.0), ("second ended", 0.0), ("behind", 0.0)]


def test_cancelling_the_parent_cancels_the_children(hand, log):
    """And waits for their end, at the join or at the end of the task."""

    def main():
        try:
            with dari.TaskGroup() as group:
                group.create_task(log.sleeper, "child", 2)
                yield group.join()
        finally:
            log.note("parent")

    async def amain():
        try:
            async with dari.TaskGroup() as group:
                group.create_task(log.sleeper, "child", 2)
        finally:
            log.note("parent")

    tasks = [hand.create(main), hand.create(amain)]
    hand.at(1.0)
    for task in tasks:
        task.cancel()
    hand.run()

    assert log == [("child ended", 3.0)] * 2 + [("parent", 3.0)] * 2
    assert [task.state for task in tasks] == [TaskState.CANCELLED] * 2


def test_who_joins(hand):
    """Only the task that opened it; and children start inside the block only."""

    def child(group):
        with pytest.raises(RuntimeError, match="only the task that opened a group can join it"):
            yield group.join()

    def main():
        group = dari.TaskGroup()
        with pytest.raises(RuntimeError, match="was not entered"):
            group.create_task(give, 1)
        with group:
            group.create_task(child, group)
            yield group.join()
        with pytest.raises(RuntimeError, match="was left already"):
            group.create_task(give, 1)

    run(hand, main)


def test_a_timeout_around_the_join_inside_the_block(hand, log):
    """Who waits owns: it cancels the children, waits for their end, and the body goes on with an empty group."""

    def main():
        with dari.TaskGroup() as group:
            group.create_task(log.sleeper, "child", 2)
            with dari.move_on_after(1) as scope:
                yield group.join()
            late = group.create_task(give, "late")
            yield group.join()
        return scope.cancelled_caught, late.result(), hand.now

    assert run(hand, main) == (True, "late", 3.0)
    assert log == [("child ended", 3.0)]


def test_a_timeout_around_the_group(hand, log):
    """Cancels children and body; the timeout is told of behind the group."""

    def main():
        try:
            with dari.timeout(1), dari.TaskGroup() as group:
                group.create_task(log.sleeper, "child", 2)
                yield group.join()
        except TimeoutError:
            return hand.now

    async def amain():
        try:
            async with dari.timeout(1), dari.TaskGroup() as group:
                group.create_task(log.sleeper, "child", 2)
        except TimeoutError:
            return hand.now

    assert (run(hand, main), run(hand, amain)) == (3.0, 6.0)


def test_a_child_that_is_cancelled_is_no_failure(hand):
    """The others and the body go on; waiting for it says that it was cancelled."""

    def main():
        with dari.TaskGroup() as group:
            child = group.create_task(give, 1, 100)
            other = group.create_task(give, "other", 2)
            yield dari.sleep(1)
            child.cancel("not needed")
            with pytest.raises(dari.TaskCancelledError, match="not needed"):
                yield child
            yield group.join()
        return other.result(), hand.now

    assert run(hand, main) == ("other", 2.0)


def test_an_outer_cancel_passes_through_a_failing_group(hand):
    """The failure is told by the group; the cancel stays, and comes at the next yield."""
    got = []

    def main():
        with dari.CancelScope() as outer:
            try:
                with dari.TaskGroup() as group:
                    group.create_task(fail, OSError("child"))
                    try:
                        yield dari.sleep(5)
                    finally:
                        outer.cancel("outer")
            except* OSError as errors:
                got.extend(leaves(errors))
            yield
            got.append("never")
        return outer.cancelled_caught

    assert run(hand, main) is True
    assert got == ["OSError(child)"]


def test_nested_groups(hand, log):
    """A failure in the inner group ends the inner block only, if it is handled there."""

    def main():
        with dari.TaskGroup() as outer:
            outer.create_task(give, "outer", 3)
            try:
                with dari.TaskGroup() as inner:
                    inner.create_task(fail, OSError("inner"), 1)
                    inner.create_task(log.sleeper, "inner child")
                    yield inner.join()
            except* OSError:
                log.note("caught")
            yield outer.join()
        return hand.now

    assert run(hand, main) == 3.0
    assert log == [("inner child ended", 1.0), ("caught", 1.0)]


def test_a_failure_in_the_outer_group_ends_the_inner_one(hand, log):
    """The inner children are cancelled as well, and awaited."""

    def main():
        with dari.TaskGroup() as outer:
            outer.create_task(fail, OSError("outer"), 1)
            with dari.TaskGroup() as inner:
                inner.create_task(log.sleeper, "inner child", 2)
                yield inner.join()

    with pytest.raises(ExceptionGroup) as raised:
        run(hand, main)

    assert leaves(raised.value) == ["OSError(outer)"]
    assert log == [("inner child ended", 3.0)]


def test_priorities_and_names_of_children(hand):
    """Given, or inherited from the parent."""

    def main():
        with dari.TaskGroup() as group:
            tasks = [group.create_task(give, 1), group.create_task(give, 2, priority=-1, name="two")]
            yield group.join()
        return [(task.name, task.priority, task.parent is dari.current_task()) for task in tasks]

    task = hand.create(main, priority=5)
    hand.run()

    assert task.result() == [("give", 5, True), ("two", -1, True)]


def test_a_child_started_in_a_cancelled_group(hand, log):
    """Never takes a step."""

    def main():
        with dari.TaskGroup() as group:
            group.cancel()
            child = group.create_task(log.sleeper)
            yield group.join()
        return child.state, child.started_at

    assert run(hand, main) == (TaskState.CANCELLED, None)
    assert log == []


def test_a_shielded_child_ends_in_its_own_time(hand, log):
    """The group waits for it, cancelled or not."""

    def child():
        with dari.CancelScope(shield=True):
            yield dari.sleep(5)
        log.note("child")

    def main():
        with dari.TaskGroup() as group:
            group.create_task(child)
            yield dari.sleep(1)
            group.cancel()
            yield group.join()
        log.note("left")
        yield
        log.note("parent")

    run(hand, main)

    assert log == [("left", 1.0), ("child", 5.0), ("parent", 5.0)]


def test_async_with_waits_although_it_is_cancelled(hand, log):
    """A join in a cancelled group is not begun; the block still waits for a child that cleans up."""

    async def main():
        async with dari.TaskGroup() as group:
            group.create_task(log.sleeper, "child", 3)
            await dari.checkpoint()
            await dari.checkpoint()
            group.cancel()
        log.note("behind")

    run(hand, main)

    assert log == [("child ended", 3.0), ("behind", 3.0)]


@pytest.mark.parametrize("fails", [True, False])
def test_debts_inside_of_async_with(hand, log, fails):
    """What a group that was left by `with` owes is raised by the end of the block around it, beside its own failure."""

    def bad():
        try:
            yield dari.sleep(100)
        finally:
            with dari.CancelScope(shield=True):
                yield dari.sleep(2)
            raise ValueError("child")

    async def main():
        async with dari.TaskGroup() as outer:
            outer.create_task(log.sleeper, "outer child", 5)
            try:
                with dari.TaskGroup() as inner:
                    inner.create_task(bad)
                    await dari.sleep(1)
                    raise OSError("inner")
            except* OSError:
                pass
            if fails:
                raise KeyError("outer")

    task = hand.create(main)
    hand.run()

    assert leaves(task.exception()) == (["KeyError('outer')"] if fails else []) + ["ValueError(child)"]
    assert log == [("outer child ended", 6.0 if fails else 8.0)]


def test_a_parent_that_looks_at_the_child_that_fails(hand):
    """The child's end cancels the group while it is told; the one that looks at it gets the error, once."""

    def main(how):
        with dari.TaskGroup() as group:
            child = group.create_task(fail, OSError("child"))
            with pytest.raises(OSError, match="child"):
                yield how(child)
            yield group.join()

    for how in (dari.shield, lambda task: task):
        task = hand.create(main, how)
        hand.run()
        assert leaves(task.exception()) == ["OSError(child)"]
