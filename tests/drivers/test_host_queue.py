"""The ready queue of `dari.EventLoop` by itself: what is taken when, whatever comes in between."""

from __future__ import annotations

from collections import defaultdict, deque
from contextvars import Context
from math import inf

from hypothesis import given
from hypothesis import strategies as st

from dari._kernel.world import chain_priority
from dari.drivers.asyncio_ready import Ready


class Handle:
    """As much of one as the queue looks at."""

    def __init__(self, priority, number):
        self.priority, self.number = priority, number
        self._context = Context()
        self._context.run(chain_priority.set, priority)

    def __repr__(self):
        return f"{self.number} of {self.priority}"


def queue(limit):
    return Ready(deque(), limit, None, inf, bool)


steps = st.lists(st.one_of(st.integers(-2, 2), st.just("take"), st.just("take"), st.just("look")), max_size=200)
limits = st.one_of(st.none(), st.integers(1, 8))


@given(steps, limits)
def test_nothing_is_lost_and_equals_keep_their_order(steps, limit):
    """Of each priority what came in comes out, first in, first out; the length and the truth are right throughout."""
    ready, came, went = queue(limit), defaultdict(list), defaultdict(list)
    waiting = 0

    for number, step in enumerate(steps):
        if step == "take":
            if waiting:
                handle = ready.popleft()
                went[handle.priority].append(handle.number)
                waiting -= 1
        elif step == "look":
            assert (bool(ready), len(ready)) == (waiting > 0, min(waiting, 128))
            assert sorted(handle.number for handle in ready) == sorted(
                set().union(*came.values()) - set().union(*went.values())
            )
        else:
            ready.append(Handle(step, number))
            came[step].append(number)
            waiting += 1
    while ready:
        handle = ready.popleft()
        went[handle.priority].append(handle.number)

    assert {key: value for key, value in went.items() if value} == dict(came)


@given(steps, limits)
def test_the_most_urgent_is_taken_and_nobody_is_passed_over_too_often(steps, limit):
    """Taken is the most urgent, or one that is due; the head of a lane lets `limit + lanes - 1` pass at most."""
    ready, waiting, passed = queue(limit), defaultdict(deque), defaultdict(int)

    for number, step in enumerate([*steps, *["take"] * len(steps)]):
        if isinstance(step, int):
            waiting[step].append(number)
            ready.append(Handle(step, number))
        elif step == "look":
            assert ready.most_urgent() == min((each for each in waiting if waiting[each]), default=None)
        elif any(waiting.values()):
            taken = ready.popleft().priority
            waiting[taken].popleft()
            passed[taken] = 0
            for other in waiting:
                if other != taken:
                    passed[other] = passed[other] + 1 if waiting[other] else 0
            if limit is None:
                assert all(not waiting[each] for each in waiting if each < taken)
            else:
                assert max(passed.values()) <= limit + len(waiting) - 1


def test_what_goes_at_once_passes_over_the_lane_that_is_served():
    """Urgent ones that come alone, then many of them at once: together no more than the bound."""
    ready = queue(8)
    for number in range(3):
        ready.append(Handle(0, number))
    taken = [ready.popleft().priority]
    for number in range(7):
        ready.append(Handle(-1, number))
        taken.append(ready.popleft().priority)
    for number in range(20):
        ready.append(Handle(-1, number))

    taken += [ready.popleft().priority for _ in range(20)]

    assert taken.index(0, 1) - 1 <= 8 + 2 - 1


@given(st.lists(st.integers(-2, 2), max_size=50))
def test_strict_priorities_sort(priorities):
    """Without a limit all that is there comes out by priority, in order."""
    ready = queue(None)
    for number, priority in enumerate(priorities):
        ready.append(Handle(priority, number))

    taken = [ready.popleft() for _ in priorities]

    assert [(each.priority, each.number) for each in taken] == sorted(
        (priority, number) for number, priority in enumerate(priorities)
    )


def test_clear_empties_it():
    """As a loop that is closed does."""
    ready = queue(64)
    for number in range(5):
        ready.append(Handle(number, number))
    ready.popleft()
    ready.append(Handle(1, 5))

    ready.clear()

    assert (bool(ready), len(ready), list(ready)) == (False, 0, [])
    ready.append(Handle(0, 6))
    assert len(ready) == 1
