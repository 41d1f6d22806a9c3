"""Event and Queue: how tasks wait for each other. Written on operations alone.

**Handing over is one act.** An item goes straight from the putter to the waiting getter (and a free place from the
getter to the waiting putter), in the call that makes it free. A getter that is cancelled before it was woken was never
given one; one that was woken has it: a value that was won is delivered before any cancel. So no item is lost, none
doubled.

Waiters are served by priority, first in first out inside. All of this belongs to one thread, that of the scheduler (or
of the loop whose guest it is).
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, final

from dari._kernel.contract import Operation
from dari._kernel.outcome import Error, Value
from dari.exceptions import QueueEmpty, QueueFull, QueueShutDown

if TYPE_CHECKING:
    from dari._kernel.contract import Wait

__all__ = ["Event", "Queue"]

T = TypeVar("T")


class Waiters:
    """Waits in the order in which they are served: by priority, FIFO inside. Any of them can leave at any time."""

    __slots__ = ("_by_priority",)

    def __init__(self) -> None:
        # OrderedDict: the first of a plain dict is found by walking over all that were taken out before it.
        self._by_priority: dict[int, OrderedDict[Wait, Any]] = {}

    def __bool__(self) -> bool:
        return bool(self._by_priority)

    def __len__(self) -> int:
        return sum(map(len, self._by_priority.values()))

    def block(self, task: Any, what: object, item: Any = None) -> None:
        """Make `task` wait here for `what`; `item` is kept with it."""
        priority = task.priority

        def leave(wait: Wait) -> bool:
            waiting = self._by_priority[priority]
            del waiting[wait]
            if not waiting:
                del self._by_priority[priority]
            return True

        waiting = self._by_priority.get(priority)
        if waiting is None:
            waiting = self._by_priority[priority] = OrderedDict()
        waiting[task.block(what, leave)] = item

    def pop(self) -> tuple[Wait, Any]:
        """The next to be served, and the item it came with."""
        priority = min(self._by_priority)
        waiting = self._by_priority[priority]
        wait, item = waiting.popitem(last=False)
        if not waiting:
            del self._by_priority[priority]
        return wait, item


@final
class Event:
    """A flag to wait for: `yield event.wait()`."""

    __slots__ = ("_set", "_waiters")

    def __init__(self) -> None:
        self._set = False
        self._waiters: Final = Waiters()

    def __repr__(self) -> str:
        return f"<Event {'set' if self._set else 'not set'}, {len(self._waiters)} waiting>"

    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        """Wake all who wait, and let nobody wait until `clear`. On the scheduler's thread."""
        self._set = True
        while self._waiters:
            self._waiters.pop()[0].wake()

    def clear(self) -> None:
        self._set = False

    def wait(self) -> Operation[None]:
        """Wait until the flag is set. Woken by `set`; cancelling ends it at once."""
        return _EventWait(self)


@final
class _EventWait(Operation[None]):
    __slots__ = ("_event",)

    def __init__(self, event: Event) -> None:
        self._event: Final = event

    def __repr__(self) -> str:
        return f"wait of {self._event!r}"

    def begin(self, task: Any) -> None:
        if self._event._set:
            task.resume()
        else:
            self._event._waiters.block(task, self)


@final
class Queue(Generic[T]):
    """A FIFO queue of at most `maxsize` items (0: any number): `yield queue.put(item)`, `item = yield queue.get()`."""

    __slots__ = ("_getters", "_items", "_putters", "_shut", "maxsize")

    def __init__(self, maxsize: int = 0) -> None:
        self.maxsize: Final = maxsize
        self._items: deque[T] = deque()
        self._getters: Final = Waiters()
        self._putters: Final = Waiters()
        self._shut = False

    def __repr__(self) -> str:
        bound = f" of {self.maxsize}" if self.maxsize > 0 else ""
        return f"<Queue {len(self._items)}{bound} items{', shut down' if self._shut else ''}>"

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
        if self._getters:
            self._getters.pop()[0].wake(Value(item))
        elif self.full():
            raise QueueFull(f"{self!r} is full: wait for a place by `yield queue.put(item)`")
        else:
            self._items.append(item)

    def get_nowait(self) -> T:
        """Raises `QueueEmpty` when there is no item, `QueueShutDown` when there will never be one."""
        if not self._items:
            if self._shut:
                raise QueueShutDown(f"{self!r}: nothing is left")
            raise QueueEmpty(f"{self!r} is empty: wait for an item by `yield queue.get()`")
        item = self._items.popleft()
        if self._putters:
            wait, waiting_item = self._putters.pop()
            self._items.append(waiting_item)
            wait.wake(Value(None))  # its item is in: a cancel that comes now comes after the put
        return item

    def put(self, item: T) -> Operation[None]:
        """Put `item`, waiting for a free place. Woken by a getter or `shutdown`; cancelled before, nothing was put."""
        return _Put(self, item)

    def get(self) -> Operation[T]:
        """Take an item, waiting for one. Woken by a putter or `shutdown`; cancelled before, nothing was taken."""
        return _Get(self)

    def shutdown(self, immediate: bool = False) -> None:
        """Let nothing more in (`QueueShutDown`); what is in can still be taken, unless `immediate` throws it away."""
        self._shut = True
        if immediate:
            self._items.clear()
        for waiters in (self._putters, self._getters):
            while waiters:
                waiters.pop()[0].wake(Error(QueueShutDown(f"{self!r} was shut down")))


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
