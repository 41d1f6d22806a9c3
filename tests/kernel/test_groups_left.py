"""Groups that are left with children running: they are cancelled, and the parent waits for their real end."""

from __future__ import annotations

import pytest

import dari
from dari import TaskState

from .families import leaves, run


@pytest.mark.parametrize(
    "operation", [lambda: None, lambda: dari.sleep(1), lambda: ("yield", 1), lambda: dari.Queue().get()]
)
def test_leaving_cancels_and_the_next_yield_waits_first(hand, log, operation):
    """Whatever is yielded next begins when the children have ended."""

    def main():
        refused = pytest.raises(RuntimeError, match=r"1 tasks running.*must be `yield group.join\(\)`")
        with refused, dari.TaskGroup() as group:
            group.create_task(log.sleeper, "child", 2)
            yield
            yield
        with dari.move_on_after(9):
            yield operation()
        log.note("went on")

    run(hand, main)

    assert [what for what, _ in log] == ["child ended", "went on"]
    assert log[0] == ("child ended", 2.0)


def test_leaving_without_a_join_a_child_that_never_ran(hand, log):
    """It is cancelled before its first step, and the parent told."""

    def main():
        with dari.TaskGroup() as group:
            group.create_task(log.sleeper)

        yield

    with pytest.raises(RuntimeError, match="1 tasks running"):
        run(hand, main)

    assert (log, hand.now) == ([], 0.0)


@pytest.mark.parametrize("how", ["return", "break"])
def test_leaving_by_return_or_break(hand, log, how):
    """However the block is left, its children do not run on."""

    def main():
        while True:
            with dari.TaskGroup() as group:
                group.create_task(log.sleeper, "child", 2)
                yield dari.sleep(1)
                if how == "return":
                    return
                break

    with pytest.raises(RuntimeError, match="left with 1 tasks"):
        run(hand, main)

    assert log == [("child ended", 3.0)]


def test_the_parent_s_end_waits_for_the_children(hand, log):
    """It ends when they have, and raises what they raised, its own error among it."""

    def bad(text):
        try:
            yield dari.sleep(100)
        finally:
            with dari.CancelScope(shield=True):
                yield dari.sleep(2)
            raise ValueError(text)

    def main():
        with dari.TaskGroup() as group:
            group.create_task(bad, "child")
            yield dari.sleep(1)
            raise OSError("body")

    task = hand.create(main)
    hand.run()

    assert leaves(task.exception()) == ["OSError(body)", "ValueError(child)"]
    assert task.ended_at == 3.0


def test_nothing_cancels_the_wait_for_the_children(hand, log):
    """It is shielded: a parent that is cancelled meanwhile still waits for their real end."""

    def main():
        try:
            with dari.TaskGroup() as group:
                group.create_task(log.sleeper, "child", 5)
                yield dari.sleep(1)
                raise OSError("body")
        except* OSError:
            pass
        yield

    task = hand.create(main)
    hand.settle()
    hand.at(1.0)
    hand.now = 2.0
    task.cancel()
    hand.settle()
    assert task.state is TaskState.WAITING
    hand.run()

    assert (log, task.state, task.ended_at) == ([("child ended", 6.0)], TaskState.CANCELLED, 6.0)


def test_several_groups_left_behind(hand, log):
    """The next yield waits for the children of all of them, and raises what all of them raised."""

    def bad(text, delay):
        try:
            yield dari.sleep(100)
        finally:
            with dari.CancelScope(shield=True):
                yield dari.sleep(delay)
            raise ValueError(text)

    def main():
        try:
            with dari.TaskGroup() as outer:
                outer.create_task(bad, "outer", 3)
                with dari.TaskGroup() as inner:
                    inner.create_task(bad, "inner", 1)
                    yield dari.sleep(1)
                    raise OSError("body")
        except* OSError:
            pass
        try:
            yield
        except* ValueError as errors:
            caught = leaves(errors)
        return caught, hand.now

    assert run(hand, main) == (["ValueError(inner)", "ValueError(outer)"], 4.0)


@pytest.mark.parametrize("joined", [True, False])
def test_a_deep_tree_of_groups_ends(hand, joined):
    """Two thousand groups, each in a task of the one before: cancelled at the top, they end from the bottom up."""
    ended = []

    def nested(depth):
        with dari.TaskGroup() as group:
            if depth:
                group.create_task(nested, depth - 1)
            try:
                if joined and depth:
                    yield group.join()
                else:
                    yield dari.sleep(60)
            finally:
                ended.append(depth)

    top = hand.create(nested, 2000)
    hand.settle()
    top.cancel()
    hand.settle()

    assert (top.cancelled(), hand.kernel.cancelled, len(ended)) == (True, 2001, 2001)
