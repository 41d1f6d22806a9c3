"""Who goes next: priorities, FIFO inside, and a bound on how long anyone is passed over.

One class for the kernel, the pool and the hosted loop. Every priority has two FIFO *lanes*: what was **woken** (a
deadline, a result, a new task) goes before what **yielded** (stepped aside by itself), so that spinning tasks cannot
spoil the timing of those that wait for something (facts/scheduler.md b.5). The lower rank goes first; the choice holds
until a lane that was empty gets its first item, then it is made anew, so what is more urgent never waits for a batch
(b.6).

**The bound.** The head of a lane is passed over by at most `starvation_limit + lanes - 1` items of other lanes, then it
runs. A lane is *due* when `starvation_limit` items went by, by choice, since it was served last (or got its first
item); it is then served one item, and stands last again. Lanes stand in `_order` by that moment, oldest first, so the
only ones to look at are the first. While one is due, others that are due too may go before it, each once: hence
`lanes - 1`; what they are given does not count, or with many lanes all of them would be due all the time.

**Bursts.** Choosing costs ten times as much as stepping a task. So `take` takes out, in one go, all that may be taken
before any other lane could be due, and gives it as an iterator; whoever makes another lane non-empty *cuts* it, so
that it ends there, and `finish` puts back what was not reached. The taker pays nothing per item for being interruptible
(measured against popping each item from its deque: 20 ns a step of 130 on CPython 3.11).

**A burst that grows.** When all of a yielded lane is taken, the list that is walked *is* the lane for as long as it is
served: what steps aside is appended to it and comes round again, without another choice. So a few spinning tasks cost
no more than many, and the walked part of the list is the record of who had a turn, in order (`record`).
"""

from __future__ import annotations

from collections import OrderedDict, deque
from heapq import heappop, heappush
from itertools import islice
from operator import length_hint
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Lane", "Lanes"]

T = TypeVar("T")

_LONGEST_BURST = 1024
_SHORTEST_BURST = 8  # what is taken out when the last burst was cut at once


class Lane(Generic[T]):
    """One FIFO. For a woken lane, `aside` is the yielded one of its priority."""

    __slots__ = ("_heaped", "_listed", "_since", "aside", "queue", "rank")

    def __init__(self, rank: int, queue: deque[T], aside: Lane[T] | None) -> None:
        self.rank = rank  # 2 * priority, + 1 for the yielded lane
        self.queue = queue  # a plain list while a burst grows it: append to it, no more
        self.aside = aside
        self._listed = False  # in `Lanes._order`: not empty, or being served
        self._heaped = False  # in `Lanes._ranks`: not empty, or was not long ago
        self._since = 0


class Lanes(Generic[T]):
    """`put_aside(item)` is what becomes of an item that steps aside when items of several lanes are served together."""

    __slots__ = (
        "_cut_at",
        "_due",
        "_emptied",
        "_first",
        "_items",
        "_lanes",
        "_limit",
        "_new_queue",
        "_order",
        "_put_aside",
        "_ranks",
        "_serving",
        "_stretch",
        "_taken",
        "_walk",
        "burst",
    )

    def __init__(
        self,
        starvation_limit: int | None = 64,
        seed: int | None = None,
        put_aside: Callable[[T], object] | None = None,
    ) -> None:
        if starvation_limit is not None and starvation_limit < 1:
            raise ValueError(
                f"starvation_limit must be at least 1, or None for strict priorities, not {starvation_limit}"
            )
        self._limit = starvation_limit
        self._new_queue: type[deque[T]] = deque if seed is None else _shuffled(seed)
        self._put_aside = put_aside
        self._lanes: dict[int, Lane[T]] = {}  # by rank
        self._ranks: list[int] = []  # heap
        self._order: OrderedDict[Lane[T], None] = OrderedDict()
        self._taken = 0
        # The present burst:
        self.burst: Iterator[T] = iter(())
        self._items: list[T] = []  # all of it, and what was added to it meanwhile
        self._walk: Iterator[T] = iter(())  # over `_items`
        self._first = 0  # how many they were at first
        self._cut_at = 0  # -1: not cut
        self._serving: Lane[T] | None = None
        self._due: list[Lane[T]] | None = None  # instead of `_serving`: whose heads they are
        self._emptied: deque[T] | None = None  # the queue in whose place `_items` stands: it grows
        self._stretch = _LONGEST_BURST

    def __bool__(self) -> bool:
        return bool(self._order)

    def __len__(self) -> int:
        """How many there are. (Between bursts; as `count`.)"""
        return sum(len(lane.queue) for lane in self._order)

    def count(self) -> dict[int, int]:
        """Items per priority, of those that have any."""
        counts: dict[int, int] = {}
        for lane in sorted(self._order, key=lambda lane: lane.rank):
            counts[lane.rank >> 1] = counts.get(lane.rank >> 1, 0) + len(lane.queue)
        return counts

    def lane(self, priority: int) -> Lane[T]:
        """The woken lane of `priority`; its `aside` is the yielded one."""
        lane = self._lanes.get(2 * priority)
        if lane is None:
            rank = 2 * priority
            aside = self._lanes[rank + 1] = Lane(rank + 1, self._new_queue(), None)
            lane = self._lanes[rank] = Lane(rank, self._new_queue(), aside)
        return lane

    def push(self, priority: int, item: T) -> None:
        """Add what was woken."""
        self.add(self._lanes.get(2 * priority) or self.lane(priority), item)

    def push_aside(self, priority: int, item: T) -> None:
        """Add what stepped aside by itself: it goes behind everything woken of its priority."""
        self.add(self._lanes.get(2 * priority + 1) or cast("Lane[T]", self.lane(priority).aside), item)

    def add(self, lane: Lane[T], item: T) -> None:
        lane.queue.append(item)
        if not lane._listed:
            self._list(lane)

    def move(self, item: T, old: Lane[T], new: Lane[T]) -> None:
        """If `item` stands in `old` or its `aside`, let it stand last in `new` or its `aside`. Between bursts only."""
        for source, target in ((old, new), (old.aside, new.aside)):
            assert source is not None
            assert target is not None
            if item in source.queue:
                source.queue.remove(item)
                self.tidy(source)
                self.add(target, item)

    def tidy(self, lane: Lane[T]) -> None:
        """Its items were taken away by other means: if none is left, it waits for its turn no more."""
        if lane._listed and not lane.queue:
            lane._listed = False
            del self._order[lane]

    # ---- one at a time -----------------------------------------------------------------------------------------

    def pop(self) -> T | None:
        """Take one item, or None."""
        order = self._order
        if len(order) == 1:  # nothing to choose: 0.15 µs instead of 0.5 (benchmarks/pool.py), and most pools are so
            (only,) = order
            item = only.queue.popleft()
            self._taken = only._since = self._taken + 1
            if not only.queue:
                only._listed = False
                order.clear()
            return item
        if not order:
            return None
        lane = next(iter(order))
        if self._limit is None or lane._since + self._limit > self._taken:  # it is not due
            lane = self._best()
            self._taken += 1
        item = lane.queue.popleft()
        self._served(lane)
        return item

    # ---- in bursts ---------------------------------------------------------------------------------------------

    def take(self, most: int) -> Callable[[T], object] | None:
        """Choose, and take out at most `most` items: `for item in lanes.burst: …`, and then, always, `finish()`.

        Gives what to call with an item that steps aside; None if there is nothing to take.
        """
        order = self._order
        if not order:
            return None
        length = min(most, _LONGEST_BURST)
        limit = self._limit
        if limit is None:
            lane = self._best()
        elif len(order) == 1:
            (lane,) = order
        else:
            oldest_first = iter(order)
            oldest = next(oldest_first)
            due = self._taken - limit
            if oldest._since <= due:
                return self._take_due(most, due)
            lane = self._best()
            allowed = (next(oldest_first) if oldest is lane else oldest)._since - due
            if allowed < length:
                length = allowed
        self._serving = lane
        queue, aside = lane.queue, lane.aside
        if aside is not None and limit is not None and length > limit:
            length = limit  # its yielded lane fills meanwhile, unseen until `finish`
        size = len(queue)
        if self._new_queue is not deque:
            items = [queue.popleft()]  # a seed draws anew each time
        elif size < length and size <= self._stretch:
            items = list(queue)
            queue.clear()
            self._emptied = queue
            lane.queue = cast("deque[T]", items)
        else:
            popleft = queue.popleft
            items = [popleft() for _ in range(min(length, size, self._stretch))]
        self._items = items
        self._first = len(items)
        self._cut_at = -1
        self._walk = walk = iter(items)
        self.burst = islice(walk, length)
        return lane.queue.append if aside is None else aside.queue.append

    def _take_due(self, most: int, since: int) -> Callable[[T], object] | None:
        """The heads of all lanes that wait since then, each once. (One after the other they cost twice as much.)"""
        due: list[Lane[T]] = []
        items: list[T] = []
        for lane in self._order:  # oldest first
            if lane._since > since:
                break
            due.append(lane)
            items.append(lane.queue.popleft())
            if len(due) == most:
                break
        self._due, self._items, self._first, self._cut_at = due, items, len(items), -1
        self.burst = self._walk = iter(items)
        return self._put_aside

    def taken(self) -> int:
        """How many items of the burst have been reached."""
        return self._cut_at if self._cut_at >= 0 else len(self._items) - length_hint(self._walk)

    def record(self) -> tuple[list[T], int, int]:
        """The items of the burst so far, how many of them had their turn, and how many they were at first.

        It starts with those; the others are such as stepped aside and came round again.
        """
        return self._items, self.taken(), self._first

    def cut(self) -> None:
        """Let the burst end after the present item."""
        if self._cut_at < 0:
            self._cut_at = len(self._items) - length_hint(self._walk)
            deque(self._walk, 0)  # walked to its end, an iterator stays there, even if the list grows

    def finish(self) -> int:
        """The burst is over: put back what was not reached. Gives how many items were taken."""
        items, taken = self._items, self.taken()
        was_cut, self._cut_at = self._cut_at >= 0, 0
        due, lane = self._due, self._serving
        if due is not None:
            self._due = None
            for lane, item in zip(due[taken:], items[taken:], strict=True):
                lane.queue.appendleft(item)
            now, move_to_end = self._taken, self._order.move_to_end
            for lane in due if taken == len(due) else due[:taken]:
                if lane.queue:  # `_served`, inlined: 5 ns a step of 180 with five priorities (benchmarks/switch.py)
                    lane._since = now
                    move_to_end(lane)
                else:
                    self._served(lane)
        elif lane is not None:
            if self._emptied is not None:
                self._emptied.extend(items[taken:])
                lane.queue, self._emptied = self._emptied, None
            elif taken < len(items):
                lane.queue.extendleft(reversed(items[taken:]))
            aside = lane.aside
            if aside is not None and aside.queue and not aside._listed:
                self._list(aside)  # before the count goes on: it may have got its first item at the first step
            if taken:
                self._taken += taken
                self._stretch = max(2 * taken, _SHORTEST_BURST) if was_cut else _LONGEST_BURST
                self._served(lane)
        self._serving = None
        return taken

    def release(self) -> None:
        """No burst follows soon: keep nothing of the last one."""
        self._items = []
        self._walk = self.burst = iter(())

    def _best(self) -> Lane[T]:
        ranks, lanes = self._ranks, self._lanes
        while not (lane := lanes[ranks[0]])._listed:
            heappop(ranks)
            lane._heaped = False
        return lane

    def _served(self, lane: Lane[T]) -> None:
        if lane.queue:
            lane._since = self._taken
            self._order.move_to_end(lane)
        else:
            lane._listed = False
            del self._order[lane]

    def _list(self, lane: Lane[T]) -> None:
        """An empty lane got its first item."""
        self.cut()
        lane._listed = True
        lane._since = self._taken
        self._order[lane] = None
        if not lane._heaped:
            lane._heaped = True
            heappush(self._ranks, lane.rank)


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
