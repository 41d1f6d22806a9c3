"""Many items by one choice: as if each had been chosen by itself, and whoever had a turn is on record."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from dari._kernel.bursts import Bursts
from dari._kernel.lanes import Lanes


def bursts(limit=64, seed=None, put_aside=lambda _: None, record=lambda *_: None):
    return Bursts(limit, seed, put_aside, record)


def drain(lanes):
    """What is left, in order, in bursts of which nothing steps aside."""
    taken = []
    while lanes.take(1000) is not None:
        taken.extend(lanes.burst)
        lanes.finish()
    return taken


def test_a_burst_is_cut_when_something_more_urgent_comes():
    """What becomes ready at a higher priority goes next, in the middle of a burst too."""
    lanes = bursts()
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
    lanes = bursts()
    for number in range(10):
        lanes.push_aside(0, number)
    lanes.take(3)

    assert list(lanes.burst) == [0, 1, 2]
    assert lanes.finish() == 3
    assert drain(lanes) == [3, 4, 5, 6, 7, 8, 9]


def test_what_steps_aside_comes_round_in_the_same_burst():
    """A yielded lane is walked round and round until its burst is used up; what ends drops out."""
    lanes = bursts()
    for name in "abc":
        lanes.push_aside(0, name)
    taken = []
    put_aside = lanes.take(8)
    for name in lanes.burst:
        taken.append(name)
        if taken != ["a", "b"]:
            put_aside(name)

    assert "".join(taken) == "abcacaca"
    assert (lanes.taken(), lanes.finish(), drain(lanes)) == (8, 8, ["c", "a"])


def test_a_burst_is_cut_for_good():
    """What steps aside after the cut waits behind what was not reached, and nothing is lost or doubled."""
    lanes = bursts()
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
    lanes = bursts()
    for number in range(4):
        lanes.push(0, number)
    lanes.take(10)

    assert (next(lanes.burst), lanes.finish(), drain(lanes)) == (0, 1, [1, 2, 3])


def test_a_broken_walk_over_lanes_that_are_due_loses_nothing():
    """The same where the burst is of the heads of several lanes."""
    lanes = bursts(1)
    for priority in (0, 1, 2):
        lanes.push(priority, f"first {priority}")
        lanes.push(priority, f"second {priority}")
    lanes.pop()
    lanes.take(10)

    assert (next(lanes.burst), lanes.finish(), len(lanes)) == ("first 1", 1, 4)
    assert sorted(drain(lanes)) == ["first 2", "second 0", "second 1", "second 2"]


def test_lanes_that_are_due_together_are_served_together():
    """Each once, the longest waiting first, and then the most urgent again: their steps count for nobody's limit."""
    lanes = bursts(8, put_aside=lambda item: lanes.push_aside(int(item[-1]), item))
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


pushes = st.tuples(st.integers(0, 3), st.booleans(), st.integers(1, 4))
steps = st.integers(1, 6)
comings = st.dictionaries(st.integers(1, 12), pushes, max_size=4)  # after so many steps of a burst, these come


@settings(max_examples=400, deadline=None)
@given(
    limit=st.integers(1, 20),
    moves=st.lists(st.one_of(pushes, st.tuples(steps, comings)), max_size=60),
    in_bursts=st.booleans(),
    rounds=st.integers(0, 3),
)
def test_the_bound_holds_for_random_arrivals(limit, moves, in_bursts, rounds):
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

    lanes = bursts(limit, put_aside=scatter) if in_bursts else Lanes(limit)
    renamed: dict[int, tuple[int, bool]] = {}  # where an item that stepped aside stands now: it keeps its old name
    for move in [*moves, (10_000, {})]:
        if len(move) == 3:
            come(*move)
            continue
        most, coming = move
        while most > 0:
            if not in_bursts:
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


def test_what_had_a_turn_is_recorded_once():
    """Whatever is asked in between, cut, or moved: every turn is on record, exactly once, when it is asked for."""
    record = Counter()
    lanes = bursts(record=lambda items, _: record.update(items))
    for name in "abc":
        lanes.push_aside(0, name)
    lanes.push(0, "woken")
    turns = Counter()
    for number in range(50):
        put_aside = lanes.take(7)
        for name in lanes.burst:
            turns[name] += 1
            if number % 3 == 0:
                lanes.tell()
                assert record == turns
            if number % 5 == 0:
                lanes.cut()
            put_aside(name)
        lanes.finish()
        if number % 4 == 0:
            lanes.release()
    lanes.tell()

    assert record == turns
    assert turns.total() > 200


def test_few_of_those_that_had_their_turn_are_kept():
    """After `release` a lane holds those who wait, and a few others at most; an empty lane holds nobody at once."""
    lanes = bursts()
    for number in range(10):
        lanes.push_aside(0, number)
    lane = lanes.lane(0).aside
    kept = []
    for most in (25, 300, 1000):
        put_aside = lanes.take(most)
        for number in lanes.burst:
            if number % 2:
                put_aside(number)
        lanes.finish()
        lanes.release()
        kept.append(len(lane.items) - len(lane))

    assert (len(lane.waiting()), max(kept) <= 64, kept[-1]) == (5, True, 0)
    drain(lanes)
    assert lane.items == []


def test_of_a_long_lane_one_round_is_kept():
    """Cutting it off costs as much as those who wait: so not before as many had a turn. They are on record at once."""
    record = Counter()
    lanes = bursts(record=lambda items, _: record.update(items))
    for number in range(3000):
        lanes.push_aside(0, number)
    lane = lanes.lane(0).aside
    longest = told = 0
    for turn in range(1, 21):
        put_aside = lanes.take(700)
        for number in lanes.burst:
            put_aside(number)
        lanes.finish()
        told += record.total() == 700 * turn
        lanes.release()
        longest = max(longest, len(lane.items))

    assert told == 20
    assert longest <= 2 * 3000 + 700
    assert set(record.values()) == {4, 5}


def test_a_seed_draws_for_every_item():
    """Bursts of one item, in an order that the seed gives; what steps aside takes part in the next draw."""

    def order(seed):
        lanes = bursts(seed=seed, put_aside=lambda item: lanes.push_aside(0, item))
        for number in range(20):
            lanes.push_aside(0, number)
        taken = []
        while len(taken) < 60:
            put_aside = lanes.take(60)
            for item in lanes.burst:
                taken.append(item)
                put_aside(item)
            assert lanes.finish() == 1
        return taken

    assert order(1) == order(1)
    assert order(1) != order(2)
    assert len(Counter(order(1)[:20])) < 20
