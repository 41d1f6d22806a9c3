"""Who goes next."""

from __future__ import annotations

import random
import threading

import pytest

from dari._kernel.priority import Priority
from dari.pool.line import Line


def test_the_lower_priority_number_runs_first_and_equals_in_order(one, gate):
    """URGENT, HIGH, NORMAL, LOW, each FIFO, whatever the order of submitting."""
    gate.hold(one)
    order = []
    for number in range(3):
        for priority in (Priority.LOW, Priority.NORMAL, Priority.URGENT, Priority.HIGH, 17):
            one.options(priority=priority).submit(order.append, (int(priority), number))
    gate.open()
    one.join()

    assert sorted(order) == order


@pytest.mark.parametrize("limit", [1, 4])
def test_no_priority_waits_for_more_than_the_starvation_limit(make_pool, gate, limit):
    """The first of a lane is passed over by at most limit + lanes - 1 others."""
    pool = make_pool(1, starvation_limit=limit)
    gate.hold(pool)
    order = []
    for number in range(3):
        pool.options(priority=5).submit(order.append, f"low {number}")
    for number in range(40):
        pool.submit(order.append, number)
    gate.open()
    pool.join()

    turns = [order.index(f"low {number}") for number in range(3)]
    assert all(later - earlier <= limit + 2 for earlier, later in zip([-1, *turns], turns, strict=False))


def test_strict_priorities_have_no_bound(make_pool, gate):
    """starvation_limit=None: the lower priority waits until nothing else does."""
    pool = make_pool(1, starvation_limit=None)
    gate.hold(pool)
    order = []
    pool.options(priority=5).submit(order.append, "low")
    for number in range(200):
        pool.submit(order.append, number)
    gate.open()
    pool.join()

    assert [*range(200), "low"] == order


def test_an_urgent_job_that_comes_late_overtakes_all_that_are_queued(one, gate):
    """Workers fetch nothing in advance."""
    first, second = threading.Event(), threading.Event()
    gate.hold(one)
    order = []

    def between():
        first.set()
        assert second.wait(10)

    one.submit(between)
    one.submit(order.append, "normal")
    gate.open()
    assert first.wait(10)
    one.options(priority=Priority.URGENT).submit(order.append, "urgent")
    second.set()
    one.join()

    assert order == ["urgent", "normal"]


def test_the_cancelled_take_no_turn_from_those_behind_them(make_pool, gate):
    """A cancelled job at the head of its lane does not count as served by the starvation bound."""
    pool = make_pool(1, starvation_limit=4)
    gate.hold(pool)
    order = []
    low = [pool.options(priority=5).submit(order.append, f"low {number}") for number in range(10)]
    for number in range(40):
        pool.submit(order.append, number)
    for job in low[:9]:
        assert job.cancel()
    gate.open()
    pool.join()

    assert order.index("low 9") <= 5


def test_a_line_keeps_no_more_marks_than_it_has_items():
    """A hundred thousand join and leave in the middle: what is kept stays small, and in order."""
    standing = set()
    line = Line(64, standing.__contains__)
    ends = ("first", "last")
    standing.update(ends)
    line.push(0, "first")
    for number in range(100_000):
        line.push(0, number)
        line.left(0)
        assert len(line) < 200
    line.push(0, "last")

    assert (*ends, None) == (line.next(), line.next(), line.next())
    assert not line


class Standing(set):
    """Those who stand, and how often somebody looked whether one does."""

    looks = 0

    def __call__(self, item):
        self.looks += 1
        return item in self


def test_who_leaves_a_long_line_never_waits_for_all_of_it_to_be_looked_at():
    """A sweep looks at a stretch; what it takes out is paid for by some, and the order stays."""
    standing, leaving = Standing(range(20_000)), list(range(1, 20_000, 2)) + list(range(2, 19_000, 2))
    line = Line(64, standing)
    for number in range(20_000):
        line.push(0, number)
    random.Random(1).shuffle(leaving)
    most = 0
    for number in leaving:
        standing.remove(number)
        standing.looks = 0
        line.left(0)
        most = max(most, standing.looks)

    assert most < 600  # a stretch, and those marks at the head that it left
    assert len(line) < 1.2 * len(standing) + 100
    assert [line.next() for _ in range(len(standing))] == [0, *range(19_000, 20_000, 2)]
    assert line.next() is None


def test_a_sweep_that_is_broken_off_loses_nobody():
    """Ctrl-C comes in its midst: all who stand are in the line."""
    standing = set(range(1000))
    line = Line(64, standing.__contains__)
    for number in range(1000):
        line.push(0, number)
    for looks in range(300):
        left = [number for number in range(1000) if number in standing][1:3]
        line._stands = standing.__contains__
        line._left[0] = 1000  # so that it sweeps

        def stands(item):
            nonlocal looks
            looks -= 1
            if looks < 0:
                raise KeyboardInterrupt
            return item in standing

        standing.difference_update(left)
        line._stands = stands
        with pytest.raises(KeyboardInterrupt):
            line.left(0)
        assert standing <= {*line.waiting()}
