"""Who goes next: one choice per item, counted bounds, FIFO."""

from __future__ import annotations

import pytest

from dari._kernel.lanes import Lanes


def drain(lanes):
    taken = []
    while (item := lanes.pop()) is not None:
        taken.append(item)
    return taken


def test_empty():
    """Empty lanes are false, hold nothing, and give None."""
    lanes = Lanes()

    assert (bool(lanes), len(lanes), lanes.count(), lanes.pop()) == (False, 0, {}, None)


def test_first_in_first_out():
    """Within a lane the order is that of arrival."""
    lanes = Lanes()
    for number in range(100):
        lanes.push(0, number)

    assert list(range(100)) == drain(lanes)


def test_the_lower_priority_number_goes_first():
    """As `nice` has it: -2 before 0 before 7, whatever came first."""
    lanes = Lanes()
    for priority in (7, 0, -2, 3):
        lanes.push(priority, priority)

    assert drain(lanes) == [-2, 0, 3, 7]


def test_woken_before_yielded():
    """What was woken goes before what stepped aside, inside one priority only."""
    lanes = Lanes()
    lanes.push_aside(0, "yielded 0")
    lanes.push(1, "woken 1")
    lanes.push_aside(-1, "yielded -1")
    lanes.push(0, "woken 0")

    assert drain(lanes) == ["yielded -1", "woken 0", "yielded 0", "woken 1"]


def test_the_choice_is_made_after_every_item():
    """What becomes ready at a higher priority goes next."""
    lanes = Lanes()
    for number in range(4):
        lanes.push(0, number)
    taken = [lanes.pop(), lanes.pop()]
    lanes.push(-1, "urgent")

    assert [*taken, *drain(lanes)] == [0, 1, "urgent", 2, 3]


def test_count_is_per_priority():
    """Woken and yielded are counted together, empty priorities not at all."""
    lanes = Lanes()
    lanes.push(0, "a")
    lanes.push_aside(0, "b")
    lanes.push(-2, "c")
    lanes.push(5, "d")
    lanes.pop()

    assert (lanes.count(), len(lanes)) == ({0: 2, 5: 1}, 3)


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_below_one_is_refused(limit):
    """A bound of no steps at all has no meaning; None is the word for strict."""
    with pytest.raises(ValueError, match=rf"1 or more \(or None: strict priorities\), not {limit}"):
        Lanes(limit)


def test_strict_without_a_limit():
    """`None`: a lower priority waits for as long as there is anything higher."""
    lanes = Lanes(None)
    lanes.push(1, "low")
    for _ in range(10_000):
        lanes.push(0, "high")

    assert drain(lanes) == ["high"] * 10_000 + ["low"]


def test_the_head_of_a_lane_is_passed_over_at_most_limit_times():
    """With two lanes the lower one is served after exactly `limit` items of the higher one, each time."""
    lanes = Lanes(3)
    lanes.push(1, "low")
    lanes.push(1, "low")
    for _ in range(8):
        lanes.push(0, "high")

    assert drain(lanes) == ["high"] * 3 + ["low"] + ["high"] * 3 + ["low"] + ["high"] * 2


def test_the_most_urgent_lane_is_not_starved_by_many_due_ones():
    """With fewer steps than lanes all the others are always due; the bound holds for the first one, too."""
    lanes = Lanes(1)
    for _ in range(30):
        for priority in (0, 1, 2):
            lanes.push(priority, priority)
    taken = [lanes.pop() for _ in range(30)]

    assert {priority: taken.count(priority) for priority in (0, 1, 2)} == {0: 10, 1: 10, 2: 10}


def shuffled(seed):
    lanes = Lanes(seed=seed)
    for number in range(50):
        lanes.push(0, number)
    return drain(lanes)


def test_a_seed_shuffles_reproducibly():
    """The same seed gives the same order, another one another, and nothing is lost or doubled."""
    assert shuffled(7) == shuffled(7)
    assert shuffled(7) != shuffled(8)
    assert sorted(shuffled(7)) == list(range(50))


def test_a_seed_shuffles_inside_a_lane_only():
    """Priorities and woken-before-yielded hold with a seed, too."""
    lanes = Lanes(seed=3)
    for number in range(20):
        lanes.push(1, ("low", number))
        lanes.push_aside(0, ("yielded", number))
        lanes.push(0, ("woken", number))

    assert [kind for kind, _ in drain(lanes)] == ["woken"] * 20 + ["yielded"] * 20 + ["low"] * 20
