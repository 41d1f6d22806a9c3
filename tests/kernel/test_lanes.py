"""Who goes next: one choice per item, counted bounds, FIFO."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dari._kernel.lanes import Lanes


def drain(lanes):
    taken = []
    while (item := lanes.pop()) is not None:
        taken.append(item)
    return taken


def test_empty():
    """Empty lanes are false, hold nothing, and give None."""
    lanes = Lanes()

    assert (bool(lanes), len(lanes), lanes.count(), lanes.pop(), lanes.take(1)) == (False, 0, {}, None, None)


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
    """What becomes ready at a higher priority goes next, in the middle of a burst too."""
    lanes = Lanes()
    for number in range(4):
        lanes.push(0, number)
    taken = []
    assert lanes.take(100) is not None
    for item in lanes.burst:
        taken.append(item)
        if taken == [0, 1]:
            lanes.push(-1, "urgent")

    assert (taken, lanes.finish()) == ([0, 1], 2)
    assert drain(lanes) == ["urgent", 2, 3]


def test_a_burst_is_never_longer_than_asked():
    """`take(most)` gives at most that many; the others stay, in order."""
    lanes = Lanes()
    for number in range(10):
        lanes.push_aside(0, number)
    lanes.take(3)

    assert list(lanes.burst) == [0, 1, 2]
    assert lanes.finish() == 3
    assert drain(lanes) == [3, 4, 5, 6, 7, 8, 9]


def test_what_steps_aside_comes_round_in_the_same_burst():
    """A yielded lane is walked round and round until its burst is used up; what ends drops out."""
    lanes = Lanes()
    for name in "abc":
        lanes.push_aside(0, name)
    taken = []
    put_aside = lanes.take(8)
    for name in lanes.burst:
        taken.append(name)
        if taken != ["a", "b"]:
            put_aside(name)

    assert "".join(taken) == "abcacaca"
    assert (lanes.record()[1], lanes.finish(), drain(lanes)) == (8, 8, ["c", "a"])


def test_a_burst_is_cut_for_good():
    """What steps aside after the cut waits behind what was not reached, and nothing is lost or doubled."""
    lanes = Lanes()
    for name in "abc":
        lanes.push_aside(0, name)
    taken = []
    put_aside = lanes.take(100)
    for name in lanes.burst:
        taken.append(name)
        if name == "b":
            lanes.push(1, "low")
            lanes.push_aside(0, "d")
            lanes.push(0, "woken")
        put_aside(name)

    assert (taken, lanes.finish()) == (["a", "b"], 2)
    assert drain(lanes) == ["woken", "c", "a", "d", "b", "low"]


def test_a_broken_walk_loses_nothing():
    """An error in the middle of a burst of one lane: what was not reached goes back to where it stood."""
    lanes = Lanes()
    for number in range(4):
        lanes.push(0, number)
    lanes.take(10)

    assert (next(lanes.burst), lanes.finish(), drain(lanes)) == (0, 1, [1, 2, 3])


def test_a_broken_walk_over_lanes_that_are_due_loses_nothing():
    """The same where the burst is of the heads of several lanes."""
    lanes = Lanes(1, put_aside=lambda _: None)
    for priority in (0, 1, 2):
        lanes.push(priority, f"first {priority}")
        lanes.push(priority, f"second {priority}")
    lanes.pop()
    lanes.take(10)

    assert (next(lanes.burst), lanes.finish(), len(lanes)) == ("first 1", 1, 4)
    assert sorted(drain(lanes)) == ["first 2", "second 0", "second 1", "second 2"]


def test_lanes_that_are_due_together_are_served_together():
    """Each once, the longest waiting first, and then the most urgent again: their steps count for nobody's limit."""
    lanes = Lanes(8, put_aside=lambda item: lanes.push_aside(int(item[-1]), item))
    for number in range(40):
        lanes.push_aside(0, f"high {number} 0")
    for priority in (3, 1, 2):
        lanes.push_aside(priority, f"low {priority}")
    taken = []
    while len(taken) < 22:
        put_aside = lanes.take(22 - len(taken))
        for item in lanes.burst:
            taken.append(item)
            put_aside(item)
        lanes.finish()

    low = ["low 3", "low 1", "low 2"]
    assert [item if item in low else "high" for item in taken] == [*["high"] * 8, *low, *["high"] * 8, *low]


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
    with pytest.raises(ValueError, match="None for strict"):
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


pushes = st.tuples(st.integers(0, 3), st.booleans(), st.integers(1, 4))
steps = st.integers(1, 6)
comings = st.dictionaries(st.integers(1, 12), pushes, max_size=4)  # after so many steps of a burst, these come


@settings(max_examples=400, deadline=None)
@given(
    limit=st.integers(1, 20),
    moves=st.lists(st.one_of(pushes, st.tuples(steps, comings)), max_size=60),
    bursts=st.booleans(),
    rounds=st.integers(0, 3),
)
def test_the_bound_holds_for_random_arrivals(limit, moves, bursts, rounds):
    """No head is passed over by more than limit + lanes - 1 items, in bursts or singly; FIFO holds in each lane.

    Items step aside `rounds` times, and others come in the middle of bursts.
    """
    standing: dict[tuple[int, bool], list[int]] = {}
    passed: dict[tuple[int, bool], int] = {}
    left: dict[int, int] = {}
    serial = worst = 0

    def note(item):
        nonlocal worst
        key, number = item
        assert standing[key].pop(0) == number
        for other in standing:
            passed[other] = passed.get(other, 0) + 1 if other != key and standing[other] else 0
            worst = max(worst, passed[other])

    def come(priority, woken, many):
        nonlocal serial
        for _ in range(many):
            serial += 1
            key = (priority, woken)
            left[serial] = rounds
            standing.setdefault(key, []).append(serial)
            (lanes.push if woken else lanes.push_aside)(priority, (key, serial))

    def step_aside(item, put_aside):
        (priority, _), number = item
        if left[number]:
            left[number] -= 1
            key = (priority, False)
            standing.setdefault(key, []).append(number)
            if put_aside is None:
                lanes.push_aside(priority, (key, number))
            else:
                renamed[number] = key
                put_aside(item)

    def scatter(item):
        lanes.push_aside(item[0][0], item)

    lanes = Lanes(limit, put_aside=scatter)
    renamed: dict[int, tuple[int, bool]] = {}  # where an item that stepped aside stands now: it keeps its old name
    for move in [*moves, (10_000, {})]:
        if len(move) == 3:
            come(*move)
            continue
        most, coming = move
        while most > 0:
            if not bursts:
                item = lanes.pop()
                if item is None:
                    break
                note(item)
                step_aside(item, None)
                most -= 1
                continue
            put_aside = lanes.take(most)
            if put_aside is None:
                break
            count = 0
            for key, number in lanes.burst:
                item = (renamed.get(number, key), number)
                note(item)
                count += 1
                if count in coming:
                    come(*coming[count])
                step_aside(item, put_aside)
            assert lanes.finish() == count
            most -= count

    assert worst <= limit + len(standing) - 1
    assert not any(standing.values())


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
