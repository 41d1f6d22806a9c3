"""A line to stand in: `Lanes`, and what becomes of those who leave it before their turn.

A job is cancelled by marking it, for finding it in the middle of a queue costs a search. The mark is left standing, and
that has two prices. Memory: cancel a million queued jobs while the workers are busy, and a million marks stand there
(facts/pool.md a.11, "payload stays queued"). Order: the starvation bound counts a mark as served, so whoever stands
behind it waits for one turn more. So the head of every lane is always somebody who still stands, and when more than an
eighth of a lane are marks, they are swept out.

**A stretch at a time**: nobody who cancels shall wait for the sweep of a hundred thousand, and a loop's thread least of
all. Each looks at the next few hundred only, of which an eighth or more are marks, so a cancel pays for eight looks on
average. Who stands is in the line at every moment of it, though perhaps in another order: Ctrl-C may come, and what it
breaks off is sorted anew (`Salvage.mend`).
"""

from __future__ import annotations

from bisect import insort
from typing import TYPE_CHECKING, TypeVar, final

from dari._kernel.lanes import Lanes

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable, Iterator

__all__ = ["Line"]

T = TypeVar("T")

_WORTH_SWEEPING = 64  # marks in one lane; below that a sweep costs more than it frees
_SHARE = 8  # of a lane are marks: then it is swept
_STRETCH = 512  # those that one call looks at: 0.1 ms


@final
class Line(Lanes[T]):
    """By priority, FIFO inside, with the starvation bound of `Lanes`. Used under the pool's lock only."""

    __slots__ = ("_left", "_stands", "_swept")

    def __init__(self, starvation_limit: int | None, stands: Callable[[T], bool]) -> None:
        super().__init__(starvation_limit)
        self._stands = stands
        self._left: dict[int, int] = {}  # per priority, where there are any
        self._swept: dict[int, int] = {}  # per priority: so many from the head on need no look, about

    def next(self) -> T | None:
        """Whose turn it is, or None; never one that left."""
        item = self.pop()
        if self._left:
            for priority in tuple(self._left):
                self._trim(priority)
        return item

    def put_back(self, priority: int, item: T, since: Callable[[T], float]) -> None:
        """Let it stand where it stood before, or would have: among those of its priority in the order of `since`."""
        items = self.lane(priority).items
        if not items or since(items[-1]) <= since(item):
            self.push(priority, item)
        else:
            insort(items, item, key=since)

    def standing(self) -> Iterator[T]:
        """All of them, by priority and in order."""
        return filter(self._stands, self.waiting())

    def head(self, priority: int) -> T | None:
        items = self.lane(priority).items
        return items[0] if items else None

    def left(self, priority: int) -> None:
        """One that stood at `priority` stands no more (and `stands` says so)."""
        marks = self._left[priority] = self._left.get(priority, 0) + 1
        if marks > _WORTH_SWEEPING and _SHARE * marks > len(self.lane(priority)):
            self._sweep(priority)
        self._trim(priority)

    def _sweep(self, priority: int) -> None:
        """Take out the marks of the next stretch."""
        items: deque[T] = self.lane(priority).items  # type: ignore[assignment] # without a seed it is one
        begin = min(self._swept.get(priority, 0), len(items))
        stretch = min(_STRETCH, len(items) - begin)
        standing = 0
        items.rotate(-begin)
        for _ in range(stretch):
            if self._stands(items[0]):
                items.rotate(-1)
                standing += 1
            else:
                del items[0]  # not taken out by a call, after which Ctrl-C might come before it is counted
                self._left[priority] -= 1
        items.rotate(begin + standing)
        # From the end back to the head: who comes meanwhile stands behind, and shall not keep the sweep there.
        self._swept[priority] = begin + standing if stretch == _STRETCH else 0

    def take_out(self, priority: int, item: T) -> None:
        """Take it out, wherever it stands: for those that may come back. A search, so not for everybody."""
        lane = self.lane(priority)
        lane.remove(item)
        if priority in self._left:
            self._trim(priority)
        else:
            self.tidy(lane)

    def _trim(self, priority: int) -> None:
        lane = self.lane(priority)
        marks = self._left[priority]
        while marks and not self._stands(lane.items[0]):
            lane.next()
            marks -= 1
        if marks:
            self._left[priority] = marks
        else:
            del self._left[priority]
        self.tidy(lane)
