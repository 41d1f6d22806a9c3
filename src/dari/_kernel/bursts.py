"""Lanes in bursts: the same choice, made once for many items.

Choosing costs ten times as much as stepping a task. So `take` gives all that may be taken before any other lane could
be due, as an iterator; whoever makes another lane non-empty *cuts* it, so that it ends there. The taker pays nothing
per item for being interruptible.

**A lane is a list that is walked.** What comes is appended, and one iterator stays in the list and goes on where it
was: taking an item is a step of that iterator, and what steps aside comes round again in the same burst. So a few
spinning tasks cost no more than many (measured against popping each item from a deque: 15 ns a step of 120 on CPython
3.11, and nothing for a burst that is over soon). The walked part is the record of who had a turn; it is handed out
(`record`) when the lane is empty, at `release`, or when somebody asks (`tell`).

**With a seed** the order is drawn anew for each item: lanes are then queues that are drawn from, and every burst is
one item.
"""

from __future__ import annotations

from itertools import islice
from math import inf
from operator import length_hint
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from dari._kernel.lanes import Lane, Lanes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Bursts"]

T = TypeVar("T")

_LONGEST_BURST = 1024
_KEPT = 64  # items that had their turn may stay in a lane that is not empty: telling of each few would cost too much


class _Walked(Lane[T]):
    __slots__ = ("told", "walk")

    def __init__(self, rank: int, aside: Lane[T] | None) -> None:
        super().__init__(rank, [], aside)
        self.walk: Iterator[T] = iter(self.items)
        self.told = 0  # so many of the walked items have been recorded

    def __len__(self) -> int:
        return length_hint(self.walk)

    def walked(self) -> int:
        return len(self.items) - length_hint(self.walk)

    def waiting(self) -> list[T]:
        return list(self.items[self.walked() :])

    def next(self) -> T:
        return next(self.walk)

    def remove(self, item: T) -> None:
        del self.items[self.items.index(item, self.walked())]

    def go_to(self, place: int) -> None:
        # A list iterator's place can be set, because it can be pickled.
        self.walk = walk = cast("Any", iter(self.items))
        walk.__setstate__(place)

    def break_off(self) -> None:
        """Let who walks meet the end, for good, whatever is added; another walk goes on from the same place."""
        place, walk = self.walked(), cast("Any", self.walk)
        walk.__setstate__(len(self.items))
        next(walk, None)  # at the end, and asked: now it is dead
        self.go_to(place)


class Bursts(Lanes[T]):
    """`for item in lanes.burst` after `take`, and then, always, `finish`. (`pop` is not for these.)

    `put_aside(item)` is what becomes of an item that steps aside where items of several lanes are served together.
    `record(items, period)` is given what had a turn, in order; `period` is how many wait in that lane: if nobody came
    and nobody went, the same ones return after so many.
    """

    __slots__ = (
        "_cut",
        "_due",
        "_put_aside",
        "_record",
        "_seeded",
        "_serving",
        "_size",
        "_start",
        "_walk",
        "burst",
        "last_rank",
    )

    def __init__(
        self,
        starvation_limit: int | None,
        seed: int | None,
        put_aside: Callable[[T], object],
        record: Callable[[list[T], int], object],
    ) -> None:
        super().__init__(starvation_limit, seed)
        self._seeded: Final = seed is not None
        self._put_aside = put_aside
        self._record = record
        # The present burst:
        self.burst: Iterator[T] = iter(())
        self._serving: _Walked[T] | None = None
        self._start = 0  # where in that lane it began
        self._due: list[_Walked[T]] = []  # or whose heads it is
        self._size = 0  # of them
        self._walk: Iterator[T] = self.burst  # over them
        self._cut = False
        self.last_rank: float = inf  # no lane behind this one is chosen, though it is served when it is due

    def _new_lane(self, rank: int, aside: Lane[T] | None) -> Lane[T]:
        return super()._new_lane(rank, aside) if self._seeded else _Walked(rank, aside)

    def take(self, most: int) -> Callable[[T], object] | None:
        """Choose, and give what to call with an item that steps aside; None if there is nothing to take.

        `burst` is then what may be taken, at most `most` items.
        """
        order = self._order
        if not order:
            return None
        limit = self._limit
        length = min(most, _LONGEST_BURST)
        if self._seeded:
            return self._take_one()
        if limit is None:
            lane = self._best()
        elif len(order) == 1:
            (lane,) = order
        else:
            oldest_first = iter(order)
            oldest = next(oldest_first)
            due: int = self._taken - limit
            if oldest._since <= due:
                return self._take_due(most, due)
            lane = self._best()
            allowed = (next(oldest_first) if oldest is lane else oldest)._since - due
            if allowed < length:
                length = allowed
        if lane.rank > self.last_rank:
            return None
        serving: Any = lane  # `cast` would be a call
        self._serving = serving
        items, aside = lane.items, lane.aside
        self._start = len(items) - length_hint(serving.walk)
        self._cut = False
        if aside is None:
            self.burst = islice(serving.walk, length)
            return items.append
        if limit is not None and length > limit:
            length = limit  # its yielded lane fills meanwhile, unseen until `finish`
        self.burst = islice(serving.walk, length)
        return aside.items.append

    def _take_one(self) -> Callable[[T], object] | None:
        if self._best().rank > self.last_rank:
            return None
        item = cast("T", self.pop())
        self._record([item], 0)
        self._size = 1
        self.burst = self._walk = iter((item,))
        return self._put_aside

    def _take_due(self, most: int, since: int) -> Callable[[T], object] | None:
        """The heads of all lanes that wait since then, each once. (One after the other they cost twice as much.)"""
        due, order = self._due, cast("dict[_Walked[T], None]", self._order)
        items: list[T] = []
        for lane in order:  # oldest first
            if lane._since > since or len(due) == most:
                break
            due.append(lane)
            items.append(next(lane.walk))
        self._size = len(due)
        self.burst = self._walk = iter(items)
        return self._put_aside

    def cut(self) -> None:
        """Let the burst of a lane end after the present item."""
        lane = self._serving
        if lane is not None and not self._cut:
            self._cut = True
            lane.break_off()

    def taken(self) -> int:
        """How many items of the present burst have been reached."""
        if self._serving is not None:
            return self._serving.walked() - self._start
        return self._size - length_hint(self._walk)

    def finish(self) -> int:
        """The burst is over. Gives how many items were taken."""
        lane, order = self._serving, self._order
        if lane is not None:
            self._serving = None
            left = length_hint(lane.walk)
            taken = len(lane.items) - left - self._start
            aside = lane.aside
            if aside is not None and not aside._listed and aside.items:  # all of them new: `_unlist` left none
                self._list(aside)  # before the count goes on: it may have got its first item at the first step
            self._taken += taken
            if left:
                lane._since = self._taken
                order.move_to_end(lane)
                if left > _LONGEST_BURST:
                    self._tell(lane)  # nobody came round, and a whole round at once would take too long
            else:
                self._unlist(lane)
            return taken
        taken = self._size - length_hint(self._walk)
        for lane in self._due[taken:]:
            lane.go_to(lane.walked() - 1)  # not reached: back to its head
        now, move_to_end = self._taken, order.move_to_end
        for lane in self._due[:taken]:
            if length_hint(lane.walk):
                lane._since = now
                move_to_end(lane)
            else:
                self._unlist(lane)
        self._due = []
        self._size = 0
        return taken

    def tell(self) -> None:
        """Record all steps up to now."""
        for lane in self._lanes.values():
            if isinstance(lane, _Walked):
                self._tell(lane)

    def release(self) -> None:
        """No burst follows soon: keep few of those that had their turn."""
        self.burst = self._walk = iter(())
        for lane in self._order:
            if isinstance(lane, _Walked):
                walked, left = lane.walked(), len(lane)
                if walked > _KEPT and (left <= _LONGEST_BURST or walked > left):
                    self._tell(lane)
                    del lane.items[:walked]
                    lane.told = 0
                    lane.walk = iter(lane.items)

    def _tell(self, lane: _Walked[T]) -> None:
        walked = lane.walked()
        if walked > lane.told:
            self._record(cast("list[T]", lane.items[lane.told : walked]), len(lane))
            lane.told = walked

    # These two by the class: before CPython 3.12 `super()` costs 0.1 us, and each wake of an idle kernel lists a lane.

    def _list(self, lane: Lane[T]) -> None:
        if self._serving is not None:
            self.cut()
        Lanes._list(self, lane)  # pyright: ignore[reportUnknownMemberType] - it takes the class for Lanes[Unknown]

    def _unlist(self, lane: Lane[T]) -> None:
        Lanes._unlist(self, lane)  # pyright: ignore[reportUnknownMemberType] - it takes the class for Lanes[Unknown]
        if isinstance(lane, _Walked):
            items = cast("list[T]", lane.items)  # all of them walked
            self._record(items[lane.told :] if lane.told else items, 0)
            items.clear()
            lane.told = 0
            lane.walk = iter(items)
