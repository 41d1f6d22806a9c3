"""Waiting for a task: who waits owns, and what was won is kept."""

from __future__ import annotations

import pytest

import dari
from dari import TaskState


def spin(steps):
    for _ in range(steps):
        yield


def give(value):
    yield
    return value


def fail(error):
    yield
    raise error


def sleeper(hand, ended, cleanup=0.0):
    """Sleeps for long; when cancelled, cleans up for a while."""
    try:
        yield dari.sleep(100)
    finally:
        with dari.CancelScope(shield=True):
            yield dari.sleep(cleanup)
        ended.append(hand.now)


def test_join_gives_the_result(hand):
    """By yield, by yield from, by await; of a task that runs and of one that has ended."""
    task = hand.create(give, 42)

    def plain():
        return (yield task)

    def typed():
        return (yield from task)

    async def awaiting():
        return await task

    early = [hand.create(main) for main in (plain, typed, awaiting)]
    hand.run()
    late = [hand.create(main) for main in (plain, typed, awaiting)]
    hand.run()

    assert [each.result() for each in early + late] == [42] * 6


def test_join_raises_the_task_s_own_error(hand):
    """The same object, for everyone who waits, early or late."""
    error = OSError("disk")
    task = hand.create(fail, error)

    def waiter():
        try:
            yield task
        except OSError as caught:
            return caught

    early = hand.create(waiter)
    hand.run()
    late = hand.create(waiter)
    hand.run()

    assert early.result() is late.result() is error


def test_join_of_a_cancelled_task(hand):
    """Waiting for what was cancelled is an Exception of its own; the waiter was not cancelled."""
    task = hand.create(spin, 100, name="spinner")

    def waiter():
        try:
            yield task
        except dari.TaskCancelledError as caught:
            return str(caught)

    early = hand.create(waiter)
    hand.step(2)
    task.cancel("enough")
    hand.run()
    late = hand.create(waiter)
    hand.run()

    assert [early.result(), late.result()] == ["task 'spinner' was cancelled: enough"] * 2


def test_a_task_cannot_wait_for_itself(hand):
    """It is told, at that very yield."""

    def main():
        try:
            yield dari.current_task()
        except RuntimeError as error:
            return "waits for itself" in str(error)

    task = hand.create(main)
    hand.run()

    assert task.result()


def test_result_and_exception(hand):
    """Never wait: an error before the end, then what it was."""
    good, bad, gone = hand.create(give, 1), hand.create(fail, OSError("x")), hand.create(give, 2)
    for ask in (good.result, good.exception):
        with pytest.raises(RuntimeError, match="has not ended: wait for it by `yield task`"):
            ask()
    gone.cancel()
    hand.run()

    assert (good.result(), good.exception()) == (1, None)
    assert str(bad.exception()) == "x"
    with pytest.raises(OSError, match="x"):
        bad.result()
    for ask in (gone.result, gone.exception):
        with pytest.raises(dari.TaskCancelledError):
            ask()
    assert [(t.done(), t.cancelled()) for t in (good, bad, gone)] == [(True, False), (True, False), (True, True)]


def test_who_waits_owns(hand):
    """Cancelling the waiter cancels what it waits for, and waits for its real end, cleanup included."""
    ended = []
    task = hand.create(sleeper, hand, ended, 2.0)

    def waiter():
        try:
            yield task
        finally:
            ended.append(("waiter", hand.now))

    waiting = hand.create(waiter)
    hand.at(1.0)
    waiting.cancel()
    hand.run()

    assert ended == [3.0, ("waiter", 3.0)]
    assert (task.cancelled(), waiting.cancelled()) == (True, True)


def test_a_timeout_around_a_join_owns_too(hand):
    """The scope ends when the task has really ended; then it is a timeout."""
    ended = []
    task = hand.create(sleeper, hand, ended, 2.0)

    def waiter():
        with dari.move_on_after(1) as scope:
            yield task
        return scope.cancelled_caught, hand.now, task.state

    waiting = hand.create(waiter)
    hand.run()

    assert waiting.result() == (True, 3.0, TaskState.CANCELLED)


def test_a_task_that_survives_the_cancel_gives_its_result(hand):
    """Its owner gets what it returned; the cancel comes at the next yield."""

    def survivor():
        try:
            yield dari.sleep(100)
        except dari.Cancelled:
            return "kept"

    task = hand.create(survivor)
    got = []

    def waiter():
        got.append((yield task))
        try:
            yield
        except dari.Cancelled as error:
            got.append(error.reason)
            raise

    waiting = hand.create(waiter)
    hand.settle()
    waiting.cancel("late")
    hand.run()

    assert (got, waiting.cancelled()) == (["kept", "late"], True)


def test_a_task_that_fails_in_its_cleanup_tells_its_owner(hand):
    """The error goes first, it is news; the cancel comes right after."""

    def broken():
        try:
            yield dari.sleep(100)
        finally:
            raise OSError("cleanup")

    task = hand.create(broken)

    def waiter():
        with pytest.raises(OSError, match="cleanup"):
            yield task
        yield

    waiting = hand.create(waiter)
    hand.settle()
    waiting.cancel()
    hand.run()

    assert (task.state, waiting.state) == (TaskState.FAILED, TaskState.CANCELLED)


def test_shield_only_looks(hand):
    """Its waiter is cancelled at once, and the task runs on."""
    task = hand.create(sleeper, hand, ended := [])

    def waiter():
        with dari.move_on_after(1) as scope:
            yield dari.shield(task)
        return scope.cancelled_caught, hand.now, task.state

    waiting = hand.create(waiter)
    hand.run()

    assert waiting.result() == (True, 1.0, TaskState.WAITING)
    assert (ended, task.state) == ([100.0], TaskState.COMPLETED)


def test_shield_gives_the_result_too(hand):
    """In every spelling, of a task that runs or has ended."""
    task = hand.create(give, 5)

    def waiter():
        return (yield dari.shield(task)), (yield from dari.shield(task)), (yield ("shield", task))

    waiting = hand.create(waiter)
    hand.run()

    assert waiting.result() == (5, 5, 5)


def test_one_of_several_waiters_owns(hand):
    """Cancelling one waiter cancels the task; the others hear that it was cancelled."""
    task = hand.create(spin, 1000)

    def waiter():
        try:
            yield task
        except dari.TaskCancelledError:
            return "was cancelled"

    first, second = hand.create(waiter), hand.create(waiter)
    hand.step(4)
    first.cancel()
    hand.run()

    assert (first.cancelled(), second.result()) == (True, "was cancelled")


def test_a_long_chain_of_waiters_is_cancelled_from_its_head(hand):
    """A thousand tasks, each waiting for the next: all end, in time 0, the last first."""
    ended = []

    def link(number):
        try:
            if number:
                yield hand.create(link, number - 1)
            else:
                yield dari.sleep(100)
        finally:
            ended.append(number)

    head = hand.create(link, 1000)
    hand.settle()
    head.cancel()
    hand.run()

    assert (ended, hand.now, hand.kernel.cancelled) == (list(range(1001)), 0.0, 1001)


def test_a_result_that_was_won_is_not_lost_to_a_later_cancel(hand):
    """Woken first, cancelled afterwards: the value arrives, and the cancel at the next yield. Even if it is None."""
    for value in ("won", None):
        task = hand.create(give, value)
        got = []

        def waiter(task=task, got=got):
            got.append((yield task))
            yield

        waiting = hand.create(waiter)
        hand.step(3)  # give, waiter, give: it has ended
        assert task.done()
        waiting.cancel()
        hand.run()

        assert (got, waiting.cancelled()) == ([value], True)


def test_an_error_that_was_won_is_not_lost_to_a_later_cancel(hand):
    """The same for what failed."""
    task = hand.create(fail, OSError("won"))
    got = []

    def waiter():
        try:
            yield task
        except OSError as error:
            got.append(str(error))
        yield

    waiting = hand.create(waiter)
    hand.step(3)
    waiting.cancel()
    hand.run()

    assert (got, waiting.cancelled()) == (["won"], True)


@pytest.mark.parametrize("result_first", [True, False])
def test_result_and_deadline_in_the_same_instant(hand, result_first):
    """Whoever came first wins, and the other is not heard of: either the value and no timeout, or a timeout alone."""
    queue = dari.Queue()

    def getter():
        with dari.move_on_after(1) as scope:
            return (yield queue.get()), scope.cancelled_caught
        return None, scope.cancelled_caught

    task = hand.create(getter)
    hand.settle()
    hand.now = 1.0
    if result_first:
        hand.post(lambda: queue.put_nowait("item"))
        hand.settle()
    else:
        hand.step(0)
        queue.put_nowait("item")
        hand.settle()

    assert task.result() == (("item", False) if result_first else (None, True))
    assert queue.qsize() == (0 if result_first else 1)


def test_a_sleep_and_its_timeout_in_the_same_instant(hand):
    """What was set first is told first: the timeout around the sleep."""

    def main():
        with dari.move_on_after(1) as scope:
            yield dari.sleep(1)
        return scope.cancelled_caught

    task = hand.create(main)
    hand.run()

    assert (task.result(), hand.now) == (True, 1.0)


def test_a_cancel_between_two_values(hand):
    """Won, cancelled while it runs on the value: the mark is found anew, and the next yield raises."""
    queue = dari.Queue()
    queue.put_nowait(1)
    queue.put_nowait(2)
    got = []

    def getter():
        with dari.CancelScope() as scope:
            got.append((yield queue.get()))
            scope.cancel()
            got.append((yield queue.get()))
        got.append(scope.cancelled_caught)

    hand.create(getter)
    hand.run()

    assert (got, queue.qsize()) == ([1, True], 1)
