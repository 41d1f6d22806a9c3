"""Queue, PriorityQueue and LifoQueue: how tasks pass things on. Written on operations alone.

**Handing over is one act.** An item goes straight from the putter to the waiting getter (and a free place from the
getter to the waiting putter), in the call that makes it free. A getter that is cancelled before it was woken was never
given one; one that was woken has it: a value that was won is delivered before any cancel. So no item is lost, none
doubled. Hence also: while getters wait the queue is empty, and while putters wait it is full.

Waiters are served by the priority that they had when they began to wait, first in first out inside. All of this belongs
to one thread: that of the schedulers (any number of them) that use the queue.
"""

from __future__ import annotations

from collections import deque
from heapq import heappop, heappush
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, final

from dari._kernel.contract import Operation
from dari._kernel.numbers import whole
from dari._kernel.outcome import Error, Value
from dari.exceptions import QueueEmpty, QueueFull, QueueShutDown
from dari.sync.waiters import Waiters

if TYPE_CHECKING:
    from collections.abc import MutableSequence

__all__ = ["LifoQueue", "PriorityQueue", "Queue"]

T = TypeVar("T")


class Queue(Generic[T]):
    """A FIFO queue of at most `maxsize` items (0: any number): `yield queue.put(item)`, `item = yield queue.get()`."""

    __slots__ = ("_emptied", "_getters", "_items", "_joiners", "_putters", "_shut", "_unfinished", "maxsize")

    def __init__(self, maxsize: int = 0) -> None:
        self.maxsize: Final = whole(f"the maxsize of a {type(self).__name__}", maxsize)
        self._items: MutableSequence[T] = self._make()
        self._getters: Final = Waiters()
        self._putters: Final = Waiters()  # each with its item
        self._joiners: Final = Waiters()
        self._unfinished = 0  # items that went in, and for which `task_done` was not called yet
        self._shut = False
        self._emptied = False  # by `shutdown(immediate=True)`

    def __repr__(self) -> str:
        bound = f" of {self.maxsize}" if self.maxsize > 0 else ""
        return f"<{type(self).__name__} {len(self._items)}{bound} items{', shut down' if self._shut else ''}>"

    # ---- the order of items: what the other queues have of their own ---------------------------------------------

    def _make(self) -> MutableSequence[T]:
        return deque()

    def _add(self, item: T) -> None:
        self._items.append(item)

    def _take(self) -> T:
        return self._items.popleft()  # type: ignore[attr-defined,no-any-return]

    def _add_first(self, item: T) -> None:
        """Where `_take` finds it next."""
        self._items.insert(0, item)

    # ---- what can be known and done without waiting ----------------------------------------------------------------

    def qsize(self) -> int:
        return len(self._items)

    def empty(self) -> bool:
        return not self._items

    def full(self) -> bool:
        return 0 < self.maxsize <= len(self._items)

    def put_nowait(self, item: T) -> None:
        """Raises `QueueFull` when there is no free place, `QueueShutDown` after `shutdown`."""
        if self._shut:
            raise QueueShutDown(f"{self!r}: nothing more goes in")
        if self.full():
            raise QueueFull(f"{self!r} is full: wait for a place by `yield queue.put(item)`")
        if self._getters:
            self._getters.pop()[0].wake(Value(item))
        else:
            self._add(item)
        self._unfinished += 1

    def get_nowait(self) -> T:
        """Raises `QueueEmpty` when there is no item, `QueueShutDown` when there will never be one."""
        if not self._items:
            if self._shut:
                raise QueueShutDown(f"{self!r}: nothing is left")
            raise QueueEmpty(f"{self!r} is empty: wait for an item by `yield queue.get()`")
        item = self._take()
        self._let_in()
        return item

    def task_done(self) -> None:
        """One of the items that were taken out has been dealt with; `join` waits for that. ValueError: too often."""
        if self._unfinished <= 0:
            raise ValueError(f"{self!r}: task_done() was called more often than items were put: once for each get")
        self._unfinished -= 1
        if self._unfinished == 0:
            while self._joiners:
                self._joiners.pop()[0].wake()

    def shutdown(self, immediate: bool = False) -> None:
        """Let nothing more in: `put` raises `QueueShutDown`, at once, also where it waits already.

        `get` still gives what is in, then raises. `immediate` throws away what is in, and counts it as done.
        """
        self._shut = True
        if immediate:
            self._emptied = True
            while self._items:
                self._take()
                if self._unfinished > 0:
                    self.task_done()
        for waiters in (self._putters, self._getters):
            while waiters:
                waiters.pop()[0].wake(Error(QueueShutDown(f"{self!r} was shut down")))

    # ---- waiting -------------------------------------------------------------------------------------------------

    def put(self, item: T) -> Operation[None]:
        """Put `item`, waiting for a free place. Woken by a getter or `shutdown`; cancelled before, nothing was put."""
        return _Put(self, item)

    def get(self) -> Operation[T]:
        """Take an item, waiting for one. Woken by a putter or `shutdown`; cancelled before, nothing was taken."""
        return _Get(self)

    def join(self) -> Operation[None]:
        """Wait until `task_done` was called for every item that was put. Cancelling ends the wait at once."""
        return _Join(self)

    # ---- the side that operations see ------------------------------------------------------------------------------

    def _let_in(self) -> None:
        """A place is free: the next putter's item goes in now, so a cancel that comes later comes after its put."""
        while self._putters and not self.full():
            wait, item = self._putters.pop()
            try:
                self._add(item)
            except Exception as error:  # noqa: BLE001 - it cannot be compared: the putter's mistake, not the getter's
                wait.wake(Error(error))
            else:
                self._unfinished += 1
                wait.wake(Value(None))

    def _take_back(self, item: T) -> None:
        """`item` was taken by somebody who does not want it any more: for the next getter, or again the next to go."""
        if self._emptied:
            if self._unfinished > 0:
                self.task_done()
        elif self._getters:
            self._getters.pop()[0].wake(Value(item))
        else:
            self._add_first(item)  # though the queue be full meanwhile: losing it would be worse

    def _withdraw(self, item: T) -> None:
        """`item` was put by somebody who does not want that any more: take it out, if it is still in."""
        for number in reversed(range(len(self._items))):
            if self._items[number] is item:
                self._remove(number)
                self.task_done()
                self._let_in()
                return

    def _remove(self, number: int) -> None:
        del self._items[number]


@final
class PriorityQueue(Queue[T]):
    """The smallest item comes out first; typically `(number, item)`. Equal ones come out in no particular order."""

    __slots__ = ()

    def _make(self) -> MutableSequence[T]:
        return []

    def _add(self, item: T) -> None:
        heap: list[Any] = self._items  # type: ignore[assignment]
        try:
            heappush(heap, item)
        except BaseException:
            # It cannot be compared: `heappush` leaves it where it got to. Out with it, and its elders back up.
            path = [len(heap) - 1]
            while heap[path[-1]] is not item:
                path.append((path[-1] - 1) // 2)
            for upper, lower in pairwise(reversed(path)):
                heap[upper] = heap[lower]
            heap.pop()
            raise

    def _take(self) -> T:
        heap: list[Any] = self._items  # type: ignore[assignment]
        item: T = heappop(heap)
        return item

    def _add_first(self, item: T) -> None:
        self._add(item)

    def _remove(self, number: int) -> None:
        rest: list[Any] = [item for place, item in enumerate(self._items) if place != number]
        self._items = self._make()
        for item in rest:
            self._add(item)


@final
class LifoQueue(Queue[T]):
    """The item that was put last comes out first."""

    __slots__ = ()

    def _make(self) -> MutableSequence[T]:
        return []

    def _take(self) -> T:
        return self._items.pop()

    def _add_first(self, item: T) -> None:
        self._add(item)


@final
class _Put(Operation[None], Generic[T]):
    __slots__ = ("_item", "_queue")

    def __init__(self, queue: Queue[T], item: T) -> None:
        self._queue: Final = queue
        self._item: Final = item

    def __repr__(self) -> str:
        return f"put into {self._queue!r}"

    def begin(self, task: Any) -> None:
        try:
            self._queue.put_nowait(self._item)
        except QueueFull:
            self._queue._putters.block(task, self, self._item)
        else:
            task.resume(None)

    def take_back(self, value: None) -> None:
        self._queue._withdraw(self._item)


@final
class _Get(Operation[T]):
    __slots__ = ("_queue",)

    def __init__(self, queue: Queue[T]) -> None:
        self._queue: Final = queue

    def __repr__(self) -> str:
        return f"get from {self._queue!r}"

    def begin(self, task: Any) -> None:
        try:
            item = self._queue.get_nowait()
        except QueueEmpty:
            self._queue._getters.block(task, self)
        else:
            task.resume(item)

    def take_back(self, value: Any) -> None:
        self._queue._take_back(value)


@final
class _Join(Operation[None]):
    __slots__ = ("_queue",)

    def __init__(self, queue: Queue[Any]) -> None:
        self._queue: Final = queue

    def __repr__(self) -> str:
        return f"join of {self._queue!r}, {self._queue._unfinished} unfinished"

    def begin(self, task: Any) -> None:
        if self._queue._unfinished == 0:
            task.resume()
        else:
            self._queue._joiners.block(task, self)
