"""asyncio's inside, as far as it is touched: the ready queue of a loop, with the kernel's lanes in its place.

**One object is replaced.** asyncio's loops keep what is ready in `loop._ready`, a deque, and use it by `append`,
`popleft`, `len`, `bool` and `clear` only. Here the same five are those of `Lanes`: a callback stands in the lane of its
priority, which is a context variable, so that it comes with the context that every handle has. Hence a priority belongs
to a chain (a task, what it starts, what it waits for by callbacks), never to a single callback: transports rely on the
order of what they put into the loop one after the other.

**Nobody appends to the lanes.** Handles come in by `append` of a deque, atomic and written in C, from any thread
(asyncio itself does so since 3.14). The loop's own thread sorts them into the lanes when it takes the next one: so one
that is more urgent goes before all that are not, whatever batch is under way.

**Until a priority is used, nothing is replaced.** In a process where nobody has set one, `_ready` stays the bare deque
that the stdlib made. The first `dari.priority` swaps it, from whatever thread: the deque becomes the entrance of the
lanes, so whoever has just fetched it to append appends to the right one.

**Batches.** asyncio looks at its sockets and timers when it has run as many callbacks as were ready, however long that
takes. What is urgent may stand behind that look; so in lanes a batch ends after `_BATCH` callbacks or `_BATCH_SECONDS`,
whichever is first, and always after one. (The number is asked for beforehand, so what ends it early is a cancelled
handle for each that is left. Not to pay for many of those, the batch after such a one is half as long.)

**What is touched**, all of it in this file, the same on CPython 3.11, 3.12 and 3.13 (3.14 and 3.15: read, not run);
`tests/drivers/test_host_seams.py` fails where a version changes it:

| name | why |
| --- | --- |
| `BaseEventLoop._ready` | the queue. Not `_call_soon`, which 3.14 goes around; not `_run_once`, which 3.15 changes |
| `BaseEventLoop._stopping` | after `stop()` the present batch is run whole, as asyncio documents |
| `Handle._context` | whose priority it has |
| `Handle._cancelled` | of the handle that stands for nothing: it is passed over |
| `Handle._callback`, `_run` | for tracers only: which task it resumes, and when that step ends |
| `asyncio.tasks._PyTask` | for tracers only: tasks written in Python |
| `Task._fut_waiter` | for tracers only: what a task waits for |
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from contextvars import Context, ContextVar, copy_context
from itertools import chain, count
from math import inf
from random import Random
from time import monotonic
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakSet

from dari._kernel.lanes import Lane, Lanes
from dari._kernel.world import chain_priority, uses

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from selectors import BaseSelector

    class Handle(asyncio.Handle):
        _callback: Callable[..., object]
        _context: Context
        _cancelled: bool

        def _run(self) -> None: ...
else:
    Handle = asyncio.Handle

__all__ = ["Chains", "Handle", "LanesLoop", "Ready", "awaited_by", "task_resumed_by"]

_BATCH: Final = 128  # callbacks: a look at the sockets costs as much as two or three
_BATCH_SECONDS: Final = 0.000_25

_loops: WeakSet[LanesLoop] = WeakSet()
_loops_lock: Final = threading.RLock()  # a signal handler may set the first priority


class LanesLoop(asyncio.SelectorEventLoop):
    """asyncio's loop, whose ready queue is one of ours as soon as that makes a difference."""

    _ready: Any
    _stopping: bool

    def __init__(self, selector: BaseSelector | None, starvation_limit: int | None, seed: int | None) -> None:
        super().__init__(selector)
        self.starvation_limit: Final = starvation_limit
        self.seed: Final = seed
        self._lanes: Ready | None = None
        # With a seed no clock on the wall decides the order: a batch that is cut shows the timers to the loop.
        self._batch_seconds = _BATCH_SECONDS if seed is None else inf
        if seed is not None:
            self.create_task = self._create_task_of_own_chain  # type: ignore[method-assign]
        with _loops_lock:
            _loops.add(self)
            if uses.priorities or seed is not None:
                self._use_lanes()

    def _create_task_of_own_chain(self, coro: Any, *, context: Context | None = None, **options: Any) -> Any:
        return super().create_task(coro, context=_own_chain(coro, context), **options)

    def _use_lanes(self) -> None:
        """From any thread that holds the lock: what is ready is taken by priority from now on."""
        if self._lanes is None:
            traced = isinstance(self._ready, Watched)
            self._lanes = lanes = Ready(self, self._ready.queue if traced else self._ready)
            if traced:
                self._ready.queue = lanes
            else:
                self._ready = lanes

    def _watch(self, kind: type[Watched] | None) -> None:
        """Let a queue of `kind` stand before that of the loop; None: no longer."""
        with _loops_lock:
            queue = self._ready.queue if isinstance(self._ready, Watched) else self._ready
            self._ready = queue if kind is None else kind(self, queue)

    def more_urgent_than(self, priority: int) -> bool:
        """Is something ready that goes before `priority`? On the loop's thread only."""
        most_urgent = None if self._lanes is None else self._lanes.most_urgent()
        return most_urgent is not None and most_urgent < priority


def _first_priority() -> None:
    with _loops_lock:
        for loop in _loops:
            loop._use_lanes()


uses.on_first_priority = _first_priority


class _Nothing:
    """Passed over by asyncio."""

    _cancelled = True


_NOTHING: Final[Any] = _Nothing()


class Ready(Lanes[Handle]):
    """The ready queue of a loop in which priorities are used."""

    __slots__ = (
        "_by_priority",
        "_cut",
        "_end",
        "_incoming",
        "_left",
        "_loop",
        "_most",
        "_next",
        "_serving",
        "_size",
        "append",
    )

    def __init__(self, loop: LanesLoop, incoming: deque[Handle]) -> None:
        super().__init__(loop.starvation_limit)
        if loop.seed is not None:
            draw = Random(loop.seed).randrange
            self._new_items = lambda: Chains(draw)  # type: ignore[assignment,return-value] # as much of a deque as a lane needs
        self._loop = loop
        self._incoming = incoming
        self.append = incoming.append  # from any thread
        self._by_priority: dict[int, Lane[Handle]] = {}
        self._end = 0.0  # of the present batch; 0: it has not begun
        self._most = _BATCH  # callbacks in the next one: half as many after one that was ended early
        self._cut = False
        # The lane that is being served, and how many of it may be taken until another may be due:
        self._serving: Lane[Handle] | None = None
        self._size = self._left = 0
        self._next: Callable[[], Handle] = incoming.popleft

    def __bool__(self) -> bool:
        if self._serving is not None:
            self._settle()
        return bool(self._incoming or self._order)

    def __len__(self) -> int:
        """How many the loop shall run before it looks at its sockets and timers again."""
        self._end = 0.0
        if self._cut:
            self._cut = False
            self._most = max(1, self._most // 2)
        elif self._most < _BATCH:
            self._most *= 2
        ready = len(self._incoming)
        if self._order:
            ready += sum(map(len, self._order))
        return min(ready, self._most)

    def __iter__(self) -> Iterator[Handle]:
        yield from self.waiting()
        yield from self._incoming

    def clear(self) -> None:
        self._incoming.clear()
        self._settle()
        for lane in list(self._order):
            lane.items.clear()
            self._unlist(lane)

    def popleft(self) -> Handle:
        now = monotonic()
        if now >= self._end:
            if not self._end:
                self._end = now + self._loop._batch_seconds
            elif not self._loop._stopping:
                self._cut = True
                nothing: Handle = _NOTHING
                return nothing
        incoming = self._incoming
        if incoming:
            if not self._order and len(incoming) == 1:
                return incoming.popleft()  # there is nothing to choose
            # `_sort`, written out: the call costs 5 % of a switch of tasks (benchmarks/host.py).
            by_priority = self._by_priority
            while incoming:
                handle = incoming.popleft()
                try:
                    lane = by_priority[handle._context.get(chain_priority, 0)]
                except KeyError:
                    lane = self._lane_of(handle)
                lane.items.append(handle)
                if not lane._listed:
                    self._begin(lane)
        left = self._left or self._choose()
        self._left = left - 1
        return self._next()

    def most_urgent(self) -> int | None:
        self._sort()
        self._settle()
        return super().most_urgent()

    def _sort(self) -> None:
        incoming, by_priority = self._incoming, self._by_priority
        while incoming:
            handle = incoming.popleft()
            try:
                lane = by_priority[handle._context.get(chain_priority, 0)]
            except KeyError:
                lane = self._lane_of(handle)
            lane.items.append(handle)
            if not lane._listed:
                self._begin(lane)

    def _begin(self, lane: Lane[Handle]) -> None:
        """It was empty. If it is more urgent than the one that is served, that is served no further."""
        if self._left and lane.rank < self._serving.rank:  # type: ignore[union-attr] # of which some are left
            self._settle()
        self._list(lane)

    def _lane_of(self, handle: Handle) -> Lane[Handle]:
        priority = handle._context.get(chain_priority, 0)
        lane = self._by_priority[priority] = self.lane(priority)
        return lane

    def _choose(self) -> int:
        """Whose turn it is, as in `Lanes.pop`. Gives for how many, that is what is counted once for all of them."""
        if self._serving is not None:
            self._settle()
        order, limit = self._order, self._limit
        if not order:
            raise IndexError("nothing is ready")
        oldest_first = iter(order)
        lane = oldest = next(oldest_first)
        if len(order) == 1:
            size = left = min(len(lane.items), limit or _BATCH)  # another may come meanwhile
        elif limit is None:
            lane = self._best()
            size = left = len(lane.items)
        elif oldest._since + limit <= self._taken:
            size, left = 0, 1  # it is due: not counted
        else:
            lane = self._best()
            if lane is oldest:
                oldest = next(oldest_first)
            size = left = min(len(lane.items), oldest._since + limit - self._taken)
        self._serving, self._size, self._left = lane, size, left
        self._next = lane.items.popleft  # type: ignore[attr-defined] # of a deque
        return left

    def _settle(self) -> None:
        """Count what was taken of the lane that was served."""
        lane = self._serving
        if lane is not None:
            self._taken += self._size - self._left if self._size else 0
            self._serving = None
            self._left = 0
            if lane.items:
                lane._since = self._taken
                self._order.move_to_end(lane)
            else:
                self._unlist(lane)


class Chains:
    """A lane of a loop with a seed: whose turn it is, is drawn; what one chain put in comes in order."""

    __slots__ = ("_chains", "_draw", "_open")

    def __init__(self, draw: Callable[[int], int]) -> None:
        self._draw = draw
        self._chains: dict[int, deque[Handle]] = {}
        self._open: list[int] = []  # the chains that have something in here

    def __len__(self) -> int:
        return sum(map(len, self._chains.values()))

    def __iter__(self) -> Iterator[Handle]:
        return chain.from_iterable(self._chains.values())

    def append(self, handle: Handle) -> None:
        number = handle._context.get(_chain, 0)
        if number not in self._chains:
            self._chains[number] = deque()
            self._open.append(number)
        self._chains[number].append(handle)

    def popleft(self) -> Handle:
        place = self._draw(len(self._open))
        number = self._open[place]
        handles = self._chains[number]
        handle = handles.popleft()
        if not handles:
            del self._chains[number]
            self._open[place] = self._open[-1]
            self._open.pop()
        return handle

    def clear(self) -> None:
        self._chains.clear()
        self._open.clear()


_chain: ContextVar[int] = ContextVar("dari_chain", default=0)
_numbers = count(1)


def _own_chain(coroutine: Any, context: Context | None) -> Context:
    """The context for a task that is to run `coroutine`: a chain of its own, unless it is asyncio's own helper.

    Those (that connect the pipes of a subprocess, say) must keep their place in the order of who started them.
    """
    if context is None:
        context = copy_context()
    frame = getattr(coroutine, "cr_frame", None)
    if frame is None or not frame.f_globals.get("__name__", "").startswith("asyncio."):
        try:
            context.run(_chain.set, next(_numbers))
        except RuntimeError:
            pass  # the caller's own, in which this very code runs: the two are one chain
    return context


class Watched:
    """A queue before the queue of a loop, for a subclass that looks on. Nothing of it is there while nobody does."""

    __slots__ = ("loop", "queue")

    def __init__(self, loop: LanesLoop, queue: Any) -> None:
        self.loop = loop
        self.queue = queue

    def __bool__(self) -> bool:
        return bool(self.queue)

    def __len__(self) -> int:
        return len(self.queue)

    def clear(self) -> None:
        self.queue.clear()

    def append(self, handle: Handle) -> None:
        self.queue.append(handle)

    def popleft(self) -> Handle:
        handle: Handle = self.queue.popleft()
        return handle


def task_resumed_by(handle: Handle) -> asyncio.Task[Any] | None:
    """The task whose next step this handle is; None: it is not the step of a task."""
    callback = getattr(handle, "_callback", None)  # a cancelled one has none
    if getattr(callback, "__name__", None) not in _RESUMES:
        return None
    task: Any = getattr(callback, "__self__", None)
    return task if isinstance(task, _TASKS) else None


_TASKS: Final[tuple[type[Any], ...]] = (asyncio.Task, asyncio.tasks._PyTask)  # type: ignore[attr-defined]

# The step and the wakeup of a task, as asyncio names them in C (the first has no name) and in Python.
_RESUMES: Final = (None, "task_wakeup", "__step", "__wakeup")


def awaited_by(task: asyncio.Task[Any]) -> object:
    """The future that the task waits for; None: it has stepped aside only."""
    return task._fut_waiter  # type: ignore[attr-defined]
