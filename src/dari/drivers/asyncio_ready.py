"""The ready queue of a loop in which priorities are used: the kernel's lanes, as much of a deque as asyncio uses.

**Nobody appends to the lanes.** Handles come in by `append` of a deque, atomic and written in C, from any thread
(asyncio itself does so since 3.14). The loop's own thread sorts them into the lanes when it takes the next one: so one
that is more urgent goes before all that are not, whatever batch is under way.

**A lane is served** until another may be due or something more urgent comes: what is taken meanwhile is counted once,
at its end, and nothing is looked for but what came in. Most of what is more urgent comes alone (a timer, an answer) and
goes at once: the lane that is served remains the same.

**Batches.** asyncio looks at its sockets and timers when it has run as many callbacks as were ready, however long that
takes. What is urgent may stand behind that look; so in lanes a batch ends after `_BATCH` callbacks or `batch_seconds`,
whichever is first, and always after one. (The number is asked for beforehand, so what ends it early is a cancelled
handle for each that is left. Not to pay for many of those, the next batch is as long as this one has become, and those
after it grow again.)
"""

from __future__ import annotations

from math import inf
from random import Random
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from dari._kernel.lanes import Lane, Lanes
from dari._kernel.world import chain_priority
from dari.drivers.asyncio_chains import Chains

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable, Iterator
    from contextvars import Context

__all__ = ["Ready"]

# Callbacks: a look at the sockets costs as much as two or three. (To ask for more than are ready, so that what these
# start runs before the next look, was tried: it gained nothing for an echo, and cost timers a tenth.)
_BATCH: Final = 128


class Handle(Protocol):
    """As much of one as is looked at; asyncio's own (`asyncio_inside`)."""

    _cancelled: bool
    _context: Context


class _Nothing:
    """Passed over by asyncio, like all that is cancelled."""

    _cancelled = True


_NOTHING: Final = cast("Handle", _Nothing())


class Ready(Lanes[Handle]):
    """The ready queue of a loop in which priorities are used."""

    __slots__ = (
        "_asked",
        "_by_priority",
        "_end",
        "_incoming",
        "_items",
        "_left",
        "_most",
        "_passed",
        "_priority",
        "_serving",
        "_size",
        "_skipped",
        "append",
        "batch_seconds",
        "events",
        "is_stopping",
    )

    def __init__(
        self,
        incoming: deque[Any],
        starvation_limit: int | None,
        seed: int | None,
        batch_seconds: float,
        is_stopping: Callable[[], bool],
    ) -> None:
        super().__init__(starvation_limit)
        if seed is not None:
            draw = Random(seed).randrange
            self._new_items = lambda: Chains(draw)  # type: ignore[assignment,return-value] # as much of a deque as a lane needs
        self.batch_seconds = batch_seconds
        self.is_stopping = is_stopping
        self.events: set[int] = set()  # the ids of the handles in here that tell of descriptors
        self._incoming = incoming
        self.append = incoming.append  # from any thread
        self._by_priority: dict[int, Lane[Handle]] = {}
        self._end = inf  # of the present batch
        self._asked = self._most = _BATCH  # callbacks in this batch, and at most in the next one
        self._skipped = 0  # of this batch, because its time was over
        # The lane that is being served, which may be empty; and what is the same, written out:
        self._serving: Any = None
        self._priority: Any = None
        self._items: Any = None
        # How many are taken until another may be due, how many of them are left, and how many were when the last one
        # was let pass by the lane that is served:
        self._size = self._left = 0
        self._passed = -1

    def __bool__(self) -> bool:
        if self._incoming:
            return True
        for lane in self._order:
            if lane.items:
                return True
        self.events.clear()  # an interrupt may have left some
        return False

    def __len__(self) -> int:
        """How many the loop shall run before it looks at its sockets and timers again."""
        self._end = monotonic() + self.batch_seconds
        if self._skipped:
            self._most = max(1, self._asked - self._skipped)
            self._skipped = 0
        elif self._asked == self._most:
            self._most = min(_BATCH, self._most + 1 + self._most // 8)
        ready = len(self._incoming)
        for lane in self._order:
            ready += len(lane.items)
        self._asked = min(ready, self._most)
        return self._asked

    def __iter__(self) -> Iterator[Handle]:
        yield from self.waiting()
        yield from self._incoming

    def clear(self) -> None:
        self._incoming.clear()
        self.events.clear()
        self._settle()
        for lane in list(self._order):
            lane.items.clear()
            self._unlist(lane)

    def popleft(self) -> Handle:
        if monotonic() >= self._end and self._is_over():
            return _NOTHING
        handle: Handle
        incoming = self._incoming
        while incoming:
            handle = incoming.popleft()
            priority = handle._context.get(chain_priority, 0)
            if priority == self._priority:
                self._items.append(handle)
            elif not self._left or priority > self._priority or incoming:
                self._sort(handle, priority)
            else:
                self._let_pass()
                break
        else:
            left = self._left
            if not left:
                handle = self._choose()
            else:
                if not self._items:
                    self._go_on()
                handle = self._items.popleft()
                self._left = left - 1
        if self.events:
            self.events.discard(id(handle))
        return handle

    def _is_over(self) -> bool:
        """The time of the batch, for which `popleft` is asked as often as `len` has said, whatever comes."""
        if self.is_stopping():
            return False
        self._skipped += 1
        return self._skipped < self._asked  # one is run in any case

    def most_urgent(self) -> int | None:
        while self._incoming:
            handle = self._incoming.popleft()
            self._sort(handle, handle._context.get(chain_priority, 0))
        self._settle()
        return super().most_urgent()

    def _sort(self, handle: Handle, priority: int) -> None:
        """Into its lane; which is served at once, if it goes before the one that is."""
        lane = self._by_priority.get(priority)
        if lane is None:
            lane = self._by_priority[priority] = self.lane(priority)
        lane.items.append(handle)
        if not lane._listed:
            self._list(lane)
            if self._left and priority < self._priority:
                self._leave()
                self._serve(lane)

    def _let_pass(self) -> None:
        """One goes at once, as it is more urgent and nothing else of that priority is here: no lane changes for it.

        For the bound it counts as any other, and the lane that is served has let it pass.
        """
        if self._left != self._passed:
            self._serving._since = self._taken + self._size - self._left
        self._left = self._passed = self._left - 1

    def _serve(self, lane: Lane[Handle]) -> None:
        self._serving, self._priority, self._items = lane, lane.rank >> 1, lane.items
        self._passed = -1

    def _leave(self) -> None:
        """The lane that was served is so no longer."""
        lane = self._serving
        if lane.items:
            if self._left != self._passed:
                lane._since = self._taken + self._size - self._left
            self._order.move_to_end(lane)
        else:
            self._unlist(lane)

    def _go_on(self) -> None:
        """The lane that is served is empty: the most urgent is, from now on. None is due, as some are left."""
        if len(self._order) == 1:
            self._settle()
            raise IndexError("nothing is ready")
        self._leave()
        self._serve(self._best())

    def _choose(self) -> Handle:
        """Whose turn it is, as in `Lanes.pop`: from now on that lane is served. Gives its first."""
        self._settle()
        order, limit = self._order, self._limit
        if not order:
            raise IndexError("nothing is ready")
        oldest_first = iter(order)
        lane = oldest = next(oldest_first)
        if limit is None:
            lane = self._best()
            size = _BATCH  # as good as any
        elif len(order) == 1:
            size = limit  # another may come meanwhile
        elif oldest._since + limit <= self._taken:
            size = 0  # it is due: not counted
        else:
            lane = self._best()
            if lane is oldest:
                oldest = next(oldest_first)
            size = oldest._since + limit - self._taken
        self._serve(lane)
        self._size, self._left = size, max(0, size - 1)
        return lane.next()

    def _settle(self) -> None:
        """No lane is served any more: count what was taken meanwhile."""
        if self._serving is not None:
            self._leave()
            self._taken += self._size - self._left
            self._left = 0
            self._serving = self._priority = None
