"""Scopes are left last in, first out, by the task that entered them. Everything else is told, and strikes nobody."""

from __future__ import annotations

import gc
import inspect
import weakref

import pytest

import dari
from dari import TaskState


def line_of(function, text):
    """The number of the first line of `function` that has `text` in it."""
    lines, first = inspect.getsourcelines(function)
    return first + next(index for index, line in enumerate(lines) if text in line)


def test_left_out_of_order(hand):
    """The error names the rule; the scope that was left too early cancels nobody any more."""

    def main():
        outer, inner = dari.move_on_after(1), dari.CancelScope()
        outer.__enter__()
        inner.__enter__()
        with pytest.raises(RuntimeError, match=r"entered at .*test_leaving.py:\d+ in main, .* last in, first out"):
            outer.__exit__(None, None, None)
        outer.cancel()
        yield dari.sleep(3)
        inner.__exit__(None, None, None)

    task = hand.create(main)
    hand.run()

    assert hand.now == 3.0
    assert "ended without leaving" in str(task.exception())


def test_left_by_another_task(hand):
    """The one that tries is told; the owner is not disturbed."""
    scopes = []

    def owner():
        with dari.CancelScope() as scope:
            scopes.append(scope)
            yield dari.sleep(2)
        return "undisturbed"

    def thief():
        yield
        with pytest.raises(RuntimeError, match="in another task than the one that entered it"):
            scopes[0].__exit__(None, None, None)

    first, second = hand.create(owner), hand.create(thief)
    hand.run()

    assert (first.result(), second.result()) == ("undisturbed", None)


def test_left_without_having_been_entered():
    """An error, no crash."""
    with pytest.raises(RuntimeError, match="without having been entered"):
        dari.CancelScope().__exit__(None, None, None)


@pytest.mark.parametrize("cancelled", [False, True])
def test_a_task_that_ends_inside_of_a_scope(hand, cancelled):
    """Fails with an error that names the scope and the line that entered it; its deadline is gone with it."""

    def main():
        dari.move_on_after(50).__enter__()
        dari.CancelScope().__enter__()
        yield

    task = hand.create(main)
    hand.step()
    if cancelled:
        task.cancel()
    hand.run()

    assert task.state is TaskState.FAILED
    line = main.__code__.co_firstlineno + 2
    assert f"ended without leaving <CancelScope open>, entered at {__file__}:{line} in main:" in str(task.exception())
    assert (hand.now, hand.kernel.deadlines.next()) == (0.0, None)


def test_a_task_that_ends_inside_of_a_scope_with_an_error(hand):
    """Its own error is the cause."""
    error = OSError("own")

    def main():
        dari.CancelScope().__enter__()
        yield
        raise error

    task = hand.create(main)
    hand.run()

    assert task.exception().__cause__ is error


def test_a_group_entered_by_hand(hand):
    """Its children are cancelled when its task ends."""
    children = []

    def child():
        yield dari.sleep(100)

    def main():
        children.append(dari.TaskGroup().__enter__().create_task(child))
        yield

    task = hand.create(main)
    hand.run()

    assert (task.state, children[0].state, hand.now) == (TaskState.FAILED, TaskState.CANCELLED, 0.0)


def data():
    with dari.move_on_after(1):
        yield "first"
        yield "second"


def test_a_scope_in_a_data_generator_that_strikes_its_consumer(hand):
    """The consumer fails with an error that says so, not with a stray Cancelled that would pass for a cancel."""

    def main():
        for _ in data():
            yield dari.sleep(2)

    task = hand.create(main)
    hand.run()

    assert task.state is TaskState.FAILED
    assert f"outside of its block, entered at {__file__}:{line_of(data, 'with')} in data: a scope" in str(
        task.exception()
    )
    assert isinstance(task.exception().__cause__, dari.Cancelled)


def test_a_scope_in_a_data_generator_that_is_left_within_another(hand):
    """Taken down out of order: an error where it is closed, and no cancel later."""

    def main():
        steps = data()
        next(steps)
        with dari.CancelScope():
            with pytest.raises(RuntimeError, match="opened in a generator that yields to its consumer"):
                steps.close()
            yield dari.sleep(5)
        return "never"

    task = hand.create(main)
    hand.run()

    assert hand.now == 5.0
    assert "ended without leaving" in str(task.exception())


def test_closed_inside_its_task_a_scope_is_left_as_usual(hand):
    """A helper that is closed early, in order, is fine."""

    def main():
        steps = data()
        next(steps)
        steps.close()
        yield dari.sleep(5)
        return hand.kernel.deadlines.next()

    task = hand.create(main)
    hand.run()

    assert (task.result(), hand.now) == (None, 5.0)


def test_collected_with_its_kernel(by_hand):
    """A generator that is collected is closed where nothing runs: the scopes in it say nothing and touch nothing."""
    hand = by_hand()

    def child():
        yield dari.sleep(100)

    def main():
        with dari.timeout(5), dari.TaskGroup() as group:
            group.create_task(child)
            yield group.join()

    gone = weakref.ref(hand.create(main))
    hand.settle()
    del hand
    gc.collect()

    assert gone() is None


def test_collected_while_another_task_runs(hand, by_hand):
    """The same inside a step of somebody else."""
    other = by_hand()

    def main():
        with dari.timeout(5):
            yield dari.sleep(100)

    other.create(main)
    other.settle()
    kernels = [other]
    del other

    def collector():
        kernels.clear()
        gc.collect()
        yield dari.sleep(1)
        return "fine"

    task = hand.create(collector)
    hand.run()

    assert task.result() == "fine"


def test_group_closed_with_its_helper(hand):
    """A helper generator that holds a group is closed by its task: the children are cancelled and awaited."""
    seen = []

    def child():
        try:
            yield dari.sleep(100)
        finally:
            seen.append("child")

    def helper():
        with dari.TaskGroup() as group:
            group.create_task(child)
            yield dari.sleep(1)
            yield "never"

    def main():
        steps = helper()
        yield next(steps)
        steps.close()
        yield
        seen.append("main")

    hand.create(main)
    hand.run()

    assert (seen, hand.now) == (["child", "main"], 1.0)
