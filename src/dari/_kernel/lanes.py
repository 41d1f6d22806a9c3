"""Who goes next: priorities, FIFO inside, and a bound on how long anyone is passed over.

One class for the kernel, the pool and the hosted loop. Every priority has two FIFO *lanes*: what was **woken** (a
deadline, a result, a new task) goes before what **yielded** (stepped aside by itself), so that spinning tasks cannot
spoil the timing of those that wait for something (facts/scheduler.md b.5). The lower rank goes first; the choice is
made after every item (the kernel takes them in bursts, to the same effect: `bursts.py`), so what is more urgent never
waits for a batch (b.6).

**The bound.** The head of a lane is passed over by at most `starvation_limit + lanes - 1` items of other lanes, then it
runs. A lane is *due* when `starvation_limit` items went by, by choice, since it was served last (or got its first
item); it is then served one item, and stands last again. Lanes stand in `_order` by that moment, oldest first, so the
only ones to look at are the first. While one is due, others that are due too may go before it, each once: hence
`lanes - 1`; what they are given does not count, or with many lanes all of them would be due all the time.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from heapq import heappop, heappush
from itertools import chain
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from dari._kernel.numbers import whole

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, MutableSequence

__all__ = ["Lane", "Lanes"]

T = TypeVar("T")


class Lane(Generic[T]):
    """One FIFO. For a woken lane, `aside` is the yielded one of its priority."""

    __slots__ = ("_heaped", "_listed", "_since", "aside", "items", "rank")

    def __init__(self, rank: int, items: MutableSequence[T], aside: Lane[T] | None) -> None:
        self.rank = rank  # 2 * priority, + 1 for the yielded lane
        self.items = items  # append to it
        self.aside = aside
        self._listed = False  # in `Lanes._order`: not empty, or being served
        self._heaped = False  # in `Lanes._ranks`: not empty, or was not long ago
        self._since = 0

    def __len__(self) -> int:
        return len(self.items)

    def waiting(self) -> list[T]:
        """Its items, in order."""
        return list(self.items)

    def next(self) -> T:
        """Take out the first."""
        return self.items.popleft()  # type: ignore[attr-defined, no-any-return]  # no `cast`: it costs 40 ns of 300

    def remove(self, item: T) -> None:
        self.items.remove(item)


class Lanes(Generic[T]):
    __slots__ = ("_lanes", "_limit", "_new_items", "_order", "_ranks", "_taken")

    def __init__(self, starvation_limit: int | None = 64, seed: int | None = None) -> None:
        if starvation_limit is not None:
            starvation_limit = whole("starvation_limit", starvation_limit, 1, " (or None: strict priorities)")
        self._limit = starvation_limit
        self._new_items: Callable[[], deque[T]] = deque if seed is None else _shuffled(seed)
        self._lanes: dict[int, Lane[T]] = {}  # by rank
        self._ranks: list[int] = []  # heap
        self._order: OrderedDict[Lane[T], None] = OrderedDict()
        self._taken: int = 0  # items, by choice

    def __bool__(self) -> bool:
        return bool(self._order)

    def __len__(self) -> int:
        return sum(map(len, self._order))

    def count(self) -> dict[int, int]:
        """Items per priority, of those that have any."""
        counts: dict[int, int] = {}
        for lane in sorted(self._order, key=lambda lane: lane.rank):
            counts[lane.rank >> 1] = counts.get(lane.rank >> 1, 0) + len(lane)
        return counts

    def lane(self, priority: int) -> Lane[T]:
        """The woken lane of `priority`; its `aside` is the yielded one."""
        lane = self._lanes.get(2 * priority)
        if lane is None:
            rank = 2 * priority
            aside = self._lanes[rank + 1] = self._new_lane(rank + 1, None)
            lane = self._lanes[rank] = self._new_lane(rank, aside)
        return lane

    def _new_lane(self, rank: int, aside: Lane[T] | None) -> Lane[T]:
        return Lane(rank, self._new_items(), aside)

    def push(self, priority: int, item: T) -> None:
        """Add what was woken."""
        lane = self._lanes.get(2 * priority)
        if lane is None:
            lane = self.lane(priority)
        lane.items.append(item)
        if not lane._listed:
            self._list(lane)

    def push_aside(self, priority: int, item: T) -> None:
        """Add what stepped aside by itself: it goes behind everything woken of its priority."""
        self.add(self._lanes.get(2 * priority + 1) or cast("Lane[T]", self.lane(priority).aside), item)

    def add(self, lane: Lane[T], item: T) -> None:
        lane.items.append(item)
        if not lane._listed:
            self._list(lane)

    def waiting(self) -> Iterator[T]:
        """All items, by priority and in order."""
        return chain.from_iterable(lane.items for lane in sorted(self._order, key=lambda lane: lane.rank))

    def pop(self) -> T | None:
        """Take one item, or None."""
        order = self._order
        if len(order) == 1:  # nothing to choose: 0.15 µs instead of 0.5 (benchmarks/pool.py), and most pools are so
            (only,) = order
            item = only.next()
            self._taken = only._since = self._taken + 1
            if not only.items:
                only._listed = False
                order.clear()
            return item
        if not order:
            return None
        lane = next(iter(order))
        if self._limit is None or lane._since + self._limit > self._taken:  # it is not due
            lane = self._best()
            self._taken += 1
        item = lane.next()
        if lane.items:
            lane._since = self._taken
            order.move_to_end(lane)
        else:
            self._unlist(lane)
        return item

    def most_urgent(self) -> int | None:
        """The first priority that has an item; None: nobody has."""
        return self._best().rank >> 1 if self._order else None

    def move(self, item: T, old: Lane[T], new: Lane[T]) -> None:
        """If `item` stands in `old` or its `aside`, let it stand last in `new` or its `aside`."""
        for source, target in ((old, new), (old.aside, new.aside)):
            assert source is not None
            assert target is not None
            if item in source.waiting():
                source.remove(item)
                self.tidy(source)
                self.add(target, item)

    def tidy(self, lane: Lane[T]) -> None:
        """Items were taken away by other means: if none is left, the lane waits for its turn no more."""
        if lane._listed and not len(lane):
            self._unlist(lane)

    def _best(self) -> Lane[T]:
        ranks, lanes = self._ranks, self._lanes
        while not (lane := lanes[ranks[0]])._listed:
            heappop(ranks)
            lane._heaped = False
        return lane

    def _list(self, lane: Lane[T]) -> None:
        """An empty lane got its first item."""
        lane._listed = True
        lane._since = self._taken
        self._order[lane] = None
        if not lane._heaped:
            lane._heaped = True
            heappush(self._ranks, lane.rank)

    def _unlist(self, lane: Lane[T]) -> None:
        lane._listed = False
        del self._order[lane]


def _shuffled(seed: int) -> type[deque[Any]]:
    """A queue that gives its items in an order drawn from `seed`: the same seed, the same order."""
    from random import Random  # only seeded runs pay for it

    draw = Random(seed).randrange

    class Shuffled(deque[Any]):
        def popleft(self) -> Any:
            size = len(self)
            if size > 1:
                self.rotate(-draw(size))
            return super().popleft()

    return Shuffled
