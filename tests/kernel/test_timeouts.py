"""Scopes with deadlines: `timeout`, `move_on_after`, `CancelScope(deadline=…)`."""

from __future__ import annotations

import dari


def run(hand, main, *args):
    task = hand.create(main, *args)
    hand.run()
    return task.result()


def test_timeout_raises_timeout_error(hand):
    """At its time, after the cleanup inside; the error says how long."""
    cleaned = []

    def main():
        try:
            with dari.timeout(2):
                try:
                    yield dari.sleep(100)
                finally:
                    cleaned.append(hand.now)
        except TimeoutError as error:
            return str(error), hand.now

    assert run(hand, main) == ("took longer than 2 seconds", 2.0)
    assert cleaned == [2.0]


def test_timeouts_that_do_not_fire(hand):
    """Left in time, or None: nothing happens, and nothing stays in the heap."""

    def main():
        for delay in (5, None):
            with dari.timeout(delay), dari.move_on_after(delay) as scope:
                yield dari.sleep(1)
        return scope.cancel_called

    assert run(hand, main) is False
    assert (hand.now, hand.kernel.deadlines.next()) == (2.0, None)


def test_a_timeout_of_nothing(hand):
    """0 seconds: the first yield raises; a block without one passes."""

    def main():
        got = []
        with dari.timeout(0):
            got.append("passed")
        try:
            with dari.timeout(0):
                yield
        except TimeoutError:
            got.append("timed out")
        return got

    assert run(hand, main) == ["passed", "timed out"]


def test_a_deadline_that_has_passed_when_the_block_is_entered(hand):
    """An absolute deadline may lie in the past."""

    def main():
        with dari.CancelScope(deadline=3.0) as scope:
            yield
        return scope.cancelled_caught, scope.deadline

    hand.now = 4.0

    assert run(hand, main) == (True, 3.0)


def test_nested_timeouts_the_outer_one_wins_a_tie(hand):
    """Both fire in the same instant: only the outer one is told of."""

    def main():
        try:
            with dari.timeout(2):
                with dari.move_on_after(2) as inner:
                    yield dari.sleep(5)
                return "inner"
        except TimeoutError:
            return "outer", inner.cancelled_caught

    assert run(hand, main) == ("outer", False)


def test_a_timeout_cancelled_from_outside_is_no_timeout(hand):
    """An outer cancel passes through `timeout` as what it is."""

    def main():
        with dari.CancelScope() as outer, dari.timeout(5):
            outer.cancel()
            yield
        return outer.cancelled_caught

    assert run(hand, main) is True


def test_leaving_clears_the_deadline(hand):
    """A scope that has been left cancels nobody, however late it gets."""

    def main():
        with dari.move_on_after(1) as scope:
            yield
        yield dari.sleep(5)
        return scope.cancel_called

    assert run(hand, main) is False
