"""How failures are heard of, what comes out of `advance`, and what runs when a task has ended."""

from __future__ import annotations

import pytest

import dari
from dari._kernel.contract import FINISHED


def fail(error):
    yield
    raise error


def wait_for(task):
    try:
        yield task
    except Exception as error:  # noqa: BLE001 - it is the result
        return error


def test_a_failure_that_nobody_waits_for_is_reported_once(hand):
    """When the task ends, with its error; and it is kept for whoever asks at the end."""
    error = OSError("disk")
    task = hand.create(fail, error, name="writer")
    hand.run()
    hand.run()

    assert [(f"<Task {task.id} 'writer' failed> failed, and nobody waits for it", error)] == hand.reports
    assert ([task], 1) == (list(hand.kernel.unobserved), hand.kernel.unobserved_count)


def test_a_failure_that_somebody_waits_for_is_not_reported(hand):
    """Neither if it is a task, nor a callback, nor a group."""
    awaited = hand.create(fail, OSError())
    called = hand.create(fail, OSError())
    called.add_done_callback(lambda task: task.exception())
    hand.create(wait_for, awaited)

    def parent():
        try:
            with dari.TaskGroup() as group:
                group.create_task(fail, OSError())
                yield group.join()
        except* OSError:
            pass

    hand.create(parent)
    hand.run()

    assert (hand.reports, hand.kernel.unobserved_count) == ([], 0)


def test_a_failure_that_a_callback_does_not_look_at_is_reported(hand):
    """To be told that it has ended is not to see how."""
    error = OSError()
    task = hand.create(fail, error)
    task.add_done_callback(lambda task: task.done())
    hand.run()

    assert ([reported for _, reported in hand.reports], hand.kernel.unobserved_count) == ([error], 1)


def test_a_done_callback_can_be_removed(hand):
    """All that are equal to it go; how many they were comes back."""
    called = []
    task = hand.create(fail, OSError())
    for callback in (called.append, called.append, lambda task: task.exception()):
        task.add_done_callback(callback)

    assert [task.remove_done_callback(called.append) for _ in range(2)] == [2, 0]
    hand.run()
    assert (called, hand.reports) == ([], [])


def test_a_failure_after_somebody_looked_and_left_is_reported(hand):
    """A waiter that was cancelled waits no more."""

    def late():
        yield dari.sleep(5)
        raise OSError("late")

    task = hand.create(late)

    def looker():
        with dari.move_on_after(1):
            yield dari.shield(task)

    hand.create(looker)
    hand.run()

    assert [str(error) for _, error in hand.reports] == ["late"]


@pytest.mark.parametrize("how", ["result", "exception", "join"])
def test_looking_later_observes(hand, how):
    """Who asks for the result, the exception, or waits, has seen it."""
    task = hand.create(fail, OSError())
    hand.run()
    assert hand.kernel.unobserved_count == 1

    if how == "join":
        hand.create(wait_for, task)
        hand.run()
    elif how == "result":
        with pytest.raises(OSError):
            task.result()
    else:
        task.exception()

    assert (hand.kernel.unobserved, hand.kernel.unobserved_count) == ({}, 0)


def test_64_failures_are_kept_and_all_are_counted(hand):
    """Memory is bounded, the number is true."""
    for _ in range(100):
        hand.create(fail, OSError())
    hand.run()

    assert (len(hand.kernel.unobserved), hand.kernel.unobserved_count, len(hand.reports)) == (64, 100, 100)


def test_done_callbacks(hand):
    """Called with the task, in order, when it has ended; at once if it had; an error in one harms nobody."""
    seen = []
    error = RuntimeError("callback")

    def bad(task):
        raise error

    task = hand.create(fail, OSError("x"))
    task.add_done_callback(lambda task: seen.append(("first", task.done())))
    task.add_done_callback(bad)
    task.add_done_callback(lambda task: seen.append(("second", str(task.exception()))))
    hand.run()
    task.add_done_callback(lambda task: seen.append(("late", task.done())))

    assert seen == [("first", True), ("second", "x"), ("late", True)]
    assert [error] == [reported for _, reported in hand.reports]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_keyboard_interrupt_and_system_exit_come_out_of_advance(hand, kind):
    """After the task has ended with them; the others are as they were, and go on at the next advance."""

    def other():
        yield
        yield
        return "went on"

    task = hand.create(fail, kind("now"))
    going_on = hand.create(other)
    with pytest.raises(kind, match="now"):
        hand.settle()

    assert (dari.TaskState.FAILED, kind) == (task.state, type(task.exception()))
    assert not going_on.done()
    assert hand.run() is FINISHED
    assert (going_on.result(), hand.reports) == ("went on", [])


def test_keyboard_interrupt_through_a_group(hand):
    """The body's own leaves the group as it is, even if a child failed too: that one is reported."""

    def stubborn():
        try:
            yield dari.sleep(100)
        finally:
            raise ValueError("child")

    def main():
        with dari.TaskGroup() as group:
            group.create_task(stubborn)
            yield
            yield
            raise KeyboardInterrupt

    hand.create(main)
    with pytest.raises(KeyboardInterrupt):
        hand.settle()

    assert [str(error.exceptions[0]) for _, error in hand.reports] == ["child"]


def test_keyboard_interrupt_beside_a_failed_child(hand):
    """It is not wrapped, and what had failed before is reported, too."""

    def main():
        with dari.TaskGroup() as group:
            group.create_task(fail, ValueError("child"))
            try:
                yield dari.sleep(100)
            finally:
                raise KeyboardInterrupt

    task = hand.create(main)
    with pytest.raises(KeyboardInterrupt):
        hand.settle()

    assert type(task.exception()) is KeyboardInterrupt
    assert [str(error.exceptions[0]) for _, error in hand.reports] == ["child"]


def test_an_error_of_a_child_whose_group_was_left_through_its_end(hand, log):
    """A task cancelled at its end gives way to what its children raised; its own errors join theirs."""

    def bad():
        try:
            yield dari.sleep(100)
        finally:
            raise ValueError("child")

    def main():
        with dari.TaskGroup() as group:
            group.create_task(bad)
            yield dari.sleep(1)
            dari.current_task().cancel()
            yield

    task = hand.create(main)
    hand.run()

    assert [str(error) for error in task.exception().exceptions] == ["child"]


def test_what_was_posted_is_called(hand):
    """In order, before the steps; an error in it is reported, and the rest is called."""
    seen = []

    def main():
        seen.append("step")
        yield

    def bad():
        raise ValueError("posted")

    hand.create(main)
    hand.post(lambda: seen.append("one"))
    hand.post(bad)
    hand.post(lambda: seen.append("two"))
    hand.step()

    assert (seen, [str(error) for _, error in hand.reports]) == (["one", "two", "step"], ["posted"])


def test_advance_inside_advance_is_refused(hand, by_hand):
    """Of the same kernel or another on this thread: the task that tries gets the error."""
    other = by_hand()

    def main(kernel):
        with pytest.raises(RuntimeError, match="runs on this thread already"):
            kernel.advance()
        yield

    tasks = [hand.create(main, kernel) for kernel in (hand.kernel, other.kernel)]
    hand.run()

    assert [task.result() for task in tasks] == [None, None]


def test_outside_of_a_task_there_is_no_current_one(hand):
    """The error says where it can be used; between advances nothing is left in the slot."""
    hand.create(fail, OSError())
    hand.run()
    with pytest.raises(RuntimeError, match="outside of a task"):
        dari.current_task()

    def main():
        yield dari.sleep(1)
        return dari.current_task()

    task = hand.create(main)
    hand.run()

    assert task is task.result()
    assert hand.kernel.current is None


def test_notify_tells_the_driver_what_became_ready_between_advances(hand):
    """A task created, an event set, a cancel; never during an advance."""
    event = dari.Event()
    counts = []

    def waiter():
        yield event.wait()
        hand.create(fail, OSError())
        yield dari.sleep(10)

    task = hand.create(waiter)
    counts.append(hand.notified)
    hand.settle()
    counts.append(hand.notified)
    event.set()
    counts.append(hand.notified)
    hand.settle()
    counts.append(hand.notified)
    task.cancel()
    counts.append(hand.notified)

    assert counts == [1, 1, 2, 2, 3]


def test_stats(hand):
    """The counters, who is ready and who waits, per priority, and the mean time of what has ended."""

    def sleeper(delay):
        yield dari.sleep(delay)

    hand.create(sleeper, 1)
    hand.create(sleeper, 3)
    hand.create(sleeper, 50, priority=2)
    hand.settle()
    hand.at(1.0)
    hand.at(3.0)
    hand.create(sleeper, 1)
    stats = hand.kernel.stats(60.0)

    assert stats._asdict() == {
        "created": 4,
        "completed": 2,
        "failed": 0,
        "cancelled": 0,
        "switches": 5,
        "ready": 1,
        "waiting": 1,
        "uptime": 60.0,
        "mean_time": 2.0,
        "priorities": {2: 1, 0: 1},
    }
    assert "mean time of a task   2000.000 ms" in str(stats)
