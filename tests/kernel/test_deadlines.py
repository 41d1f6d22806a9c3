"""The heap of deadlines: order, staleness, size."""

from __future__ import annotations

import weakref
from heapq import heappush
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

import dari
from dari._kernel.contract import Idle
from dari._kernel.deadlines import Deadlines


class Alarm:
    def __init__(self, name, rung):
        self.alarm = 0
        self.name = name
        self.rung = rung

    def expire(self):
        self.rung.append(self.name)


def test_earliest_first_and_equal_times_in_the_order_they_were_set():
    """Never by id: who set first is told first."""
    rung = []
    deadlines = Deadlines()
    for name, when in (("c", 2.0), ("a", 1.0), ("d", 2.0), ("b", 1.0), ("e", 3.0)):
        deadlines.set(Alarm(name, rung), when)
    deadlines.expire(2.0)

    assert (rung, deadlines.next()) == (["a", "b", "c", "d"], 3.0)


def test_what_was_cleared_does_not_ring():
    """Nor does it count as the next one; clearing twice is harmless."""
    rung = []
    deadlines = Deadlines()
    first, second = Alarm("first", rung), Alarm("second", rung)
    deadlines.set(first, 1.0)
    deadlines.set(second, 2.0)
    deadlines.clear(first)
    deadlines.clear(first)

    assert deadlines.next() == 2.0
    deadlines.expire(5.0)
    assert (rung, deadlines.next()) == (["second"], None)


def test_what_was_moved_rings_once_at_its_new_time():
    """An entry of an earlier setting is stale."""
    rung = []
    deadlines = Deadlines()
    alarm = Alarm("moved", rung)
    deadlines.set(alarm, 1.0)
    deadlines.clear(alarm)
    deadlines.set(alarm, 3.0)
    deadlines.expire(2.0)
    assert rung == []

    deadlines.expire(3.0)
    deadlines.expire(4.0)

    assert rung == ["moved"]


def test_an_alarm_may_clear_and_set_others_while_it_rings():
    """The heap may be swept under the hands of `expire`."""
    rung = []
    deadlines = Deadlines()
    others = [Alarm(number, rung) for number in range(500)]

    class Clearing(Alarm):
        def expire(self):
            super().expire()
            for other in others:
                deadlines.clear(other)
            deadlines.set(late, 9.0)

    late = Alarm("late", rung)
    deadlines.set(Clearing("clearing", rung), 1.0)
    for other in others:
        deadlines.set(other, 1.0)
    deadlines.expire(1.0)

    assert (rung, deadlines.next()) == (["clearing"], 9.0)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("set"), st.integers(0, 20), st.integers(0, 30)),
            st.tuples(st.just("clear"), st.integers(0, 20), st.just(0)),
            st.tuples(st.just("expire"), st.just(0), st.integers(0, 5)),
        ),
        max_size=80,
    )
)
def test_it_does_what_a_plain_list_does(moves):
    """Set, cleared and expired at random, it tells the same alarms in the same order as a list that is sorted."""
    rung = []
    expected = []
    deadlines = Deadlines()
    alarms = [Alarm(number, rung) for number in range(21)]
    live: dict[int, tuple[int, int]] = {}
    now = 0
    for serial, (what, number, amount) in enumerate(moves):
        if what == "set" and number not in live:
            deadlines.set(alarms[number], now + amount)
            live[number] = (now + amount, serial)
        elif what == "clear":
            deadlines.clear(alarms[number])
            live.pop(number, None)
        elif what == "expire":
            now += amount
            deadlines.expire(now)
            due = sorted(key for key in live if live[key][0] <= now)
            expected += sorted(due, key=live.__getitem__)
            for key in due:
                del live[key]
        assert deadlines.next() == (min(live.values())[0] if live else None)

    assert expected == rung


def test_nothing_is_lost_while_a_large_heap_is_swept(monkeypatch):
    """A sweep that takes many calls: whatever is set, cleared and expired in its midst is told in order, once."""
    monkeypatch.setattr("dari._kernel.deadlines._STRETCH", 3)
    rung = []
    random = Random(7)
    deadlines = Deadlines()
    alarms = [Alarm(number, rung) for number in range(1000)]
    for alarm in alarms:
        deadlines.set(alarm, random.randrange(1000))
    live = dict.fromkeys(alarms)
    sweeps, expected, now = 0, [], 0
    while live:
        for alarm in random.sample(list(live), min(8, len(live))):
            del live[alarm]
            deadlines.clear(alarm)
            sweeps += deadlines._into is not deadlines._heap
        if len(live) > 100 and random.random() < 0.5:
            late = Alarm(f"late {len(alarms)}", rung)
            deadlines.set(late, now + random.randrange(1000))
            alarms.append(late)
            live[late] = None
        now += random.randrange(3)
        due = sorted((alarm for alarm in live if alarm.alarm[0] <= now), key=lambda alarm: alarm.alarm[:2])
        expected += [alarm.name for alarm in due]
        deadlines.expire(now)
        for alarm in due:
            del live[alarm]
        assert bool(deadlines._heap) >= bool(live)  # the kernel looks there alone
        assert deadlines.next() == min((alarm.alarm[0] for alarm in live), default=None)

    assert rung == expected
    assert len(rung) > 50
    assert sweeps > 100


def test_what_is_left_when_the_swept_heap_has_expired(monkeypatch):
    """The kernel looks at `_heap` alone for whether there is anything to wait for."""
    monkeypatch.setattr("dari._kernel.deadlines._STRETCH", 1)
    deadlines = Deadlines()
    alarms = [Alarm(number, []) for number in range(200)]
    for when, alarm in enumerate(alarms):
        deadlines.set(alarm, float(when))
    for alarm in alarms[50:190]:
        deadlines.clear(alarm)
    assert deadlines._into is not deadlines._heap
    deadlines.set(Alarm("late", []), 5000.0)
    deadlines.expire(1000.0)

    assert [entry[0] for entry in deadlines._heap] == [5000.0]


def test_no_clear_builds_a_large_heap_anew(monkeypatch):
    """With a hundred thousand set, each clear looks at a few entries: a loop that clears one goes on at once."""
    deadlines = Deadlines()
    alarms = [Alarm(number, []) for number in range(100_000)]
    for when, alarm in enumerate(alarms):
        deadlines.set(alarm, float(when))
    moved = []
    monkeypatch.setattr("dari._kernel.deadlines.heappush", lambda heap, entry: (moved.append(1), heappush(heap, entry)))
    most = 0
    for alarm in alarms[:60_000]:
        before = len(moved)
        deadlines.clear(alarm)
        most = max(most, len(moved) - before)

    assert 0 < most <= 64
    assert len(deadlines) == 40_000 + deadlines._stale
    assert deadlines.next() == 60_000.0


def test_many_timeouts_set_and_cleared_leave_the_heap_small(hand):
    """20 000 timeouts that never fire leave fewer than 200 entries, and nothing to wait for."""
    sizes = []

    def hasty():
        for _ in range(20_000):
            with dari.timeout(3600):
                yield
            sizes.append(len(hand.kernel.deadlines))

    hand.create(hasty)
    hand.run()

    assert max(sizes) < 200
    assert (hand.now, hand.kernel.deadlines.next()) == (0.0, None)


def test_sleepers_that_are_cancelled_leave_the_heap_small(hand):
    """The deadline of a wait goes with the wait."""

    def sleeper():
        yield dari.sleep(3600)

    def main():
        for _ in range(2000):
            task = hand.create(sleeper)
            yield
            yield
            task.cancel()

    hand.create(main)
    hand.run()

    assert hand.now == 0.0
    assert len(hand.kernel.deadlines) < 200


def test_alarms_that_drop_out_by_themselves_do_not_spoil_the_count():
    """A scope that is collected, in whatever thread, only leaves its entry; pruning still works afterwards."""
    rung = []
    deadlines = Deadlines()
    for _ in range(300):
        alarm = Alarm("collected", rung)
        deadlines.set(alarm, 1.0)
        alarm.alarm[2], alarm.alarm = None, 0
    deadlines.expire(1.0)
    for _ in range(2000):
        alarm = Alarm("cleared", rung)
        deadlines.set(alarm, 3600.0)
        deadlines.clear(alarm)

    assert rung == []
    assert len(deadlines) < 200


def test_a_cleared_deadline_keeps_nobody_alive():
    """Though its entry stays in the heap behind an earlier one."""
    deadlines = Deadlines()
    deadlines.set(Alarm("soon", []), 1.0)
    alarm = Alarm("cleared", [])
    deadlines.set(alarm, 3600.0)
    gone = weakref.ref(alarm)
    deadlines.clear(alarm)
    del alarm

    assert (gone(), len(deadlines)) == (None, 2)


def test_a_sleep_is_counted_from_the_step_that_starts_it(hand):
    """Not from the reading of the turn: a sleep after a slow step does not end early."""
    woken = []

    def sleeper():
        hand.now += 0.5  # a slow step
        yield dari.sleep(1.0)
        woken.append(hand.now)

    hand.create(sleeper)
    need = hand.settle()

    assert (need.deadline, woken) == (1.5, [])
    hand.at(1.25)
    assert woken == []
    hand.at(1.5)
    assert woken == [1.5]


def test_a_timeout_is_counted_from_entering_the_block(hand):
    """Neither from making it nor from the turn's reading of the clock."""
    ended = []

    def main():
        scope = dari.move_on_after(1.0)
        hand.now += 0.5
        with scope:
            yield dari.sleep(10)
        ended.append((hand.now, scope.deadline, scope.cancelled_caught))

    hand.create(main)
    hand.run()

    assert ended == [(1.5, 1.5, True)]


def test_sleep_until_a_time_that_has_passed(hand):
    """It steps aside, and that is all."""
    hand.now = 5.0

    def main():
        yield dari.sleep_until(3.0)
        yield dari.sleep_until(5.0)
        yield ("sleep_until", 7.0)
        return hand.now

    task = hand.create(main)
    hand.settle()
    assert isinstance(hand.settle(), Idle)
    hand.run()

    assert task.result() == 7.0


def test_for_ever(hand):
    """An infinite delay is no deadline: the driver is told to wait for nothing, and a cancel ends it as any other."""

    def main():
        with dari.timeout(float("inf")), dari.CancelScope(deadline=float("inf")):
            yield dari.sleep(float("inf"))

    task = hand.create(main)
    need = hand.settle()
    assert need.deadline is None
    task.cancel()
    hand.run()

    assert task.cancelled()
