"""Tasks that swallow cancellation: cleanup may, for ever nobody may."""

from __future__ import annotations

from itertools import pairwise

import pytest

import dari
from dari._kernel.contract import FINISHED


def test_swallowing_for_ever_is_reported_and_slowed_down(hand):
    """The processor is not theirs: after 32 they wait, longer each time, up to a second; reported once, by name."""
    times = []

    def stubborn():
        while len(times) < 60:
            try:
                yield
            except dari.Cancelled:
                times.append(hand.now)

    task = hand.create(stubborn)
    hand.step()
    task.cancel()
    assert hand.run() is FINISHED
    gaps = [later - earlier for earlier, later in pairwise(times[31:])]

    assert times[:32] == [0.0] * 32
    assert gaps[:4] == pytest.approx([0.001, 0.002, 0.004, 0.008])
    assert gaps[-5:] == pytest.approx([1.0] * 5)
    assert [(text.count("stubborn"), error) for text, error in hand.reports] == [(1, None)]


@pytest.mark.parametrize("block", [lambda: dari.timeout(5), lambda: dari.CancelScope(shield=True), dari.CancelScope])
def test_swallowing_with_scopes_inside_is_no_way_out(hand, block):
    """Entering and leaving other scopes does not buy a new patience."""
    count = 0

    def stubborn():
        nonlocal count
        while True:
            count += 1
            try:
                with block():
                    yield
                yield
            except dari.Cancelled:
                pass

    task = hand.create(stubborn)
    hand.step()
    task.cancel()
    hand.at(60.0)

    assert count < 100
    assert len(hand.reports) == 1


def test_leaving_the_cancelled_scope_gives_new_patience(hand):
    """Being cancelled often is no crime: a loop of timeouts that fire is never slowed down."""

    def main():
        for _ in range(200):
            with dari.move_on_after(0):
                yield
        return hand.now

    task = hand.create(main)
    hand.run()

    assert task.result() == 0.0
    assert hand.reports == []
