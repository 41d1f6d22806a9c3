"""Deadlines that move, grace, shields that are lifted, `every`, priorities of blocks, registered commands."""

from __future__ import annotations

import pytest

import dari
from dari._kernel.operations import commands


def finish(hand, main, *args):
    task = hand.kernel.create_task(main, args)
    hand.run()
    return task.result(), hand.now


def test_a_deadline_can_be_moved(hand):
    """Later, earlier, away, and into the past."""

    def main():
        ends = []
        for deadline in (5.0, 1.0):
            start = hand.now
            with dari.CancelScope(deadline=hand.now + 3) as scope:
                scope.deadline = start + deadline
                yield dari.sleep(60)
            ends.append(hand.now - start)
        with dari.CancelScope(deadline=hand.now + 3) as scope:
            scope.deadline = None
            yield dari.sleep(10)
        with dari.CancelScope() as past:
            past.deadline = hand.now - 1
            yield
        return ends, scope.cancelled_caught, past.cancelled_caught

    assert finish(hand, main) == (([5.0, 1.0], False, True), 16.0)


def test_timeout_at_and_fail_after(hand):
    """Both raise TimeoutError; one at a time, one after a delay."""

    def main():
        with pytest.raises(TimeoutError, match="deadline"), dari.timeout_at(hand.now + 2):
            yield dari.sleep(60)
        with pytest.raises(TimeoutError, match="2 seconds"), dari.fail_after(2):
            yield dari.sleep(60)

    assert finish(hand, main) == (None, 4.0)


def test_the_effective_deadline_is_the_earliest_up_to_the_first_shield(hand):
    """Inner code can ask how long it has."""

    def main():
        seen = [dari.current_effective_deadline()]
        with dari.CancelScope(deadline=5), dari.CancelScope(deadline=9):
            seen.append(dari.current_effective_deadline())
            with dari.CancelScope(shield=True, deadline=7):
                seen.append(dari.current_effective_deadline())
        with dari.CancelScope() as scope:
            scope.cancel()
            seen.append(dari.current_effective_deadline())
        yield
        return seen

    inf = float("inf")
    assert finish(hand, main)[0] == [inf, 5, 7, -inf]


def test_grace_lets_a_block_finish(hand):
    """After an outer cancel the block goes on for `grace` seconds; what ends in time is not disturbed."""
    log = []

    def main():
        with dari.move_on_after(1):
            with dari.CancelScope(grace=2):
                yield dari.sleep(2.5)
                log.append(("finished", hand.now))
            yield
        log.append(("left", hand.now))

    finish(hand, main)

    assert log == [("finished", 2.5), ("left", 2.5)]


def test_grace_ends(hand):
    """What does not end in time is cancelled then, by the outer scope."""
    log = []

    def main():
        with dari.move_on_after(1) as outer, dari.CancelScope(grace=2) as graceful:
            try:
                yield dari.sleep(60)
            finally:
                log.append(hand.now)
        return outer.cancelled_caught, graceful.cancelled_caught

    assert finish(hand, main) == ((True, False), 3.0)
    assert log == [3.0]


def test_grace_begins_at_once_inside_of_what_is_cancelled_already(hand):
    """A block that is entered under a cancelled scope has its grace from then on."""

    def main():
        with dari.CancelScope() as outer:
            outer.cancel()
            with dari.CancelScope(grace=2):
                yield dari.sleep(1)
                started = hand.now
                yield dari.sleep(60)
        return started

    assert finish(hand, main) == (1.0, 2.0)


def test_a_scope_with_grace_can_be_cancelled_itself(hand):
    """Grace is against what comes from outside."""

    def main():
        with dari.CancelScope(grace=100) as scope:
            scope.cancel()
            yield
        return scope.cancelled_caught

    assert finish(hand, main) == (True, 0.0)


def test_a_shield_can_be_lifted(hand):
    """Lifting it lets an outer cancel in at once."""

    def main():
        with dari.move_on_after(1), dari.CancelScope(shield=True) as scope:
            dari.create_task(lift, scope)
            yield dari.sleep(60)

    def lift(scope):
        yield dari.sleep(5)
        scope.shield = False

    assert finish(hand, main) == (None, 5.0)


def test_no_timer_is_left_behind(hand):
    """Grace and deadlines are cleared with their scopes, `every` and `wait` with their waits."""

    def main():
        with dari.move_on_after(1000) as outer, dari.CancelScope(grace=500):
            outer.cancel()
            yield
        other = dari.create_task(sleeps)
        with dari.move_on_after(1):
            yield dari.every(100)
        with dari.move_on_after(1):
            yield dari.wait([other], timeout=100)
        other.cancel()

    def sleeps():
        yield dari.sleep(50)

    finish(hand, main)

    assert hand.kernel.deadlines.next() is None
    assert hand.now == 2.0


def test_every(hand):
    """Ticks come at multiples of the period, without drift; late ones tell how many were missed."""

    def main():
        ticks = dari.every(1)
        seen = []
        for work in (0, 0.5, 0, 2.25, 0.5, 3):
            missed = yield ticks
            seen.append((hand.now, missed))
            yield dari.sleep(work)
        return seen

    assert finish(hand, main)[0] == [(1.0, 0), (2.0, 0), (3.0, 0), (4.0, 0), (7.0, 2), (8.0, 0)]


@pytest.mark.parametrize("period", [0, -1, float("nan"), float("inf")])
def test_every_refuses_what_is_no_period(period):
    """A period is a finite number of seconds above 0."""
    with pytest.raises(ValueError, match="a period is a"):
        dari.every(period)


def test_priority_sets_what_is_started_inside(hand):
    """Tasks started in the block, and what they start, have its priority; the task itself keeps its own."""

    def child():
        yield
        return dari.current_task().priority, (yield dari.create_task(grandchild))

    def grandchild():
        yield
        return dari.current_task().priority

    def main():
        with dari.priority(3):
            inside = dari.create_task(child)
            with dari.priority(dari.Priority.URGENT):
                nested = dari.create_task(grandchild)
        outside = dari.create_task(grandchild)
        return (yield [inside, nested, outside]), dari.current_task().priority

    assert finish(hand, main)[0] == ([(3, 3), -2, 0], 0)


def test_a_priority_is_an_int():
    """Anything else is refused by name."""
    with pytest.raises(TypeError, match="'high'"):
        dari.priority("high")


def test_registered_commands(hand):
    """A name of one's own in the tuple spelling; taken names are refused."""
    dari.register_command("twice", lambda delay: dari.sleep(2 * delay))
    try:

        def main():
            yield ("twice", 2)

        assert finish(hand, main) == (None, 4.0)
        with pytest.raises(ValueError, match="twice"):
            dari.register_command("twice", dari.sleep)
        with pytest.raises(ValueError, match="sleep"):
            dari.register_command("sleep", dari.sleep)
    finally:
        del commands["twice"]
