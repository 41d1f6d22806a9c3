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
| `BaseEventLoop._debug`, `_closed`, the slots of `Handle` | `call_soon` without the calls that asyncio makes for it |
| `Handle._callback`, `_run` | for tracers only: which task it resumes, and when that step ends |
| `asyncio.tasks._PyTask` | for tracers only: tasks written in Python |
| `Task._fut_waiter` | for tracers only: what a task waits for |
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from contextvars import Context, copy_context
from math import inf
from random import Random
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, TypeVarTuple, Unpack, cast
from weakref import WeakSet

from dari._kernel.lanes import Lane, Lanes
from dari._kernel.world import chain_priority, uses
from dari.drivers.asyncio_chains import Chains, own_chain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from selectors import BaseSelector

    from dari._kernel.contract import Tracer
    from dari.drivers.guests import Guest

    class Handle(asyncio.Handle):
        _args: Sequence[object]
        _callback: Callable[..., object]
        _cancelled: bool
        _context: Context
        _loop: asyncio.AbstractEventLoop
        _repr: str | None
        _source_traceback: Any

        def _run(self) -> None: ...
else:
    Handle = asyncio.Handle

__all__ = ["Handle", "LanesLoop", "Own", "Ready", "awaited_by", "task_resumed_by"]

_BATCH: Final = 128  # callbacks: a look at the sockets costs as much as two or three
_BATCH_SECONDS: Final = 0.000_25

_HANDLE_IS_KNOWN: Final = set(asyncio.Handle.__slots__) == {
    *("_args", "_callback", "_cancelled", "_context", "_loop", "_repr", "_source_traceback", "__weakref__")
}
_new: Final[Any] = object.__new__

Ts = TypeVarTuple("Ts")

_loops: WeakSet[LanesLoop] = WeakSet()
_loops_lock: Final = threading.RLock()  # a signal handler may set the first priority


class Own:
    """What a loop of ours has beside asyncio's own, in one attribute.

    CPython finds attributes fast in objects that have 29 at most. Of these asyncio uses 24 to 26, and six of ours made
    a switch of tasks 8 % slower, on 3.11 as on 3.13 (benchmarks/host.py).
    """

    __slots__ = ("batch_seconds", "guests", "lanes", "onlooker", "queue", "seed", "starvation_limit", "tracer")

    def __init__(self, queue: deque[Handle], starvation_limit: int | None, seed: int | None) -> None:
        self.starvation_limit: Final = starvation_limit
        self.seed: Final = seed
        # With a seed no clock on the wall decides the order: a batch that is cut shows the timers to the loop.
        self.batch_seconds = _BATCH_SECONDS if seed is None else inf
        self.queue: Any = queue  # of the loop: asyncio's deque, or `lanes`
        self.lanes: Ready | None = None
        self.onlooker: Any = None  # stands before the queue
        self.guests: WeakSet[Guest] = WeakSet()
        self.tracer: Tracer | None = None


class LanesLoop(asyncio.SelectorEventLoop):
    """asyncio's loop, whose ready queue is one of ours as soon as that makes a difference."""

    _ready: Any
    _stopping: bool
    _closed: bool
    _debug: bool

    def __init__(self, selector: BaseSelector | None, starvation_limit: int | None, seed: int | None) -> None:
        super().__init__(selector)
        self._own: Final = Own(self._ready, starvation_limit, seed)
        if seed is not None:
            self.create_task = self._create_task_of_own_chain  # type: ignore[method-assign]
        with _loops_lock:
            _loops.add(self)
            if uses.priorities or seed is not None:
                self._use_lanes()

    if _HANDLE_IS_KNOWN:

        def call_soon(
            self, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
        ) -> asyncio.Handle:
            """As asyncio's, which makes five calls in Python where this makes none: 17 % of a switch of tasks.

            Nothing else depends on it: whoever goes around it appends to the same queue.
            """
            if self._debug or self._closed:
                slowly = super().call_soon(callback, *args, context=context)
                if slowly._source_traceback:  # type: ignore[attr-defined]
                    del slowly._source_traceback[-1]  # type: ignore[attr-defined] # this very line
                return slowly
            handle: Handle = _new(Handle)
            handle._callback = callback
            handle._args = args
            handle._context = copy_context() if context is None else context
            handle._loop = self
            handle._cancelled = False
            handle._repr = handle._source_traceback = None
            self._ready.append(handle)
            return handle

    def _create_task_of_own_chain(self, coro: Any, *, context: Context | None = None, **options: Any) -> Any:
        return super().create_task(coro, context=own_chain(coro, context), **options)

    @property
    def starvation_limit(self) -> int | None:
        return self._own.starvation_limit

    @property
    def seed(self) -> int | None:
        return self._own.seed

    def _use_lanes(self) -> None:
        """From any thread that holds the lock: what is ready is taken by priority from now on."""
        own = self._own
        if own.lanes is None:
            own.lanes = own.queue = Ready(self, own.queue)
            if own.onlooker is None:
                self._ready = own.lanes
            else:
                own.onlooker.queue = own.lanes

    def _watch(self, kind: Callable[[LanesLoop, Any], Any] | None) -> None:
        """Let an onlooker, as much of a queue as asyncio uses, stand before the queue of the loop; None: no longer."""
        own = self._own
        with _loops_lock:
            own.onlooker = None if kind is None else kind(self, own.queue)
            self._ready = own.queue if own.onlooker is None else own.onlooker

    def more_urgent_than(self, priority: int) -> bool:
        """Is something ready that goes before `priority`? On the loop's thread only."""
        lanes = self._own.lanes
        most_urgent = None if lanes is None else lanes.most_urgent()
        return most_urgent is not None and most_urgent < priority


def _first_priority() -> None:
    with _loops_lock:
        for loop in _loops:
            loop._use_lanes()


uses.on_first_priority = _first_priority


class _Nothing:
    """Passed over by asyncio."""

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
        "_loop",
        "_most",
        "_paused",
        "_priority",
        "_serving",
        "_size",
        "_skipped",
        "append",
    )

    def __init__(self, loop: LanesLoop, incoming: deque[Handle]) -> None:
        super().__init__(loop._own.starvation_limit)
        if loop._own.seed is not None:
            draw = Random(loop._own.seed).randrange
            self._new_items = lambda: Chains(draw)  # type: ignore[assignment,return-value] # as much of a deque as a lane needs
        self._loop = loop
        self._incoming = incoming
        self.append = incoming.append  # from any thread
        self._by_priority: dict[int, Lane[Handle]] = {}
        self._end = 0.0  # of the present batch; 0: it has not begun
        self._asked = self._most = _BATCH  # callbacks in this batch, and at most in the next one
        self._skipped = 0  # of this batch, because its time was over
        # The lane that is being served (it may be empty), and how many may be taken until another may be due:
        self._serving: Lane[Handle] | None = None
        self._priority: int = 0  # of that lane
        self._items: Any = None  # of that lane
        self._size = self._left = 0
        self._paused = -1  # what was left when something more urgent was taken last

    def __bool__(self) -> bool:
        return bool(self._incoming or self._waiting())

    def __len__(self) -> int:
        """How many the loop shall run before it looks at its sockets and timers again."""
        self._end = 0.0
        if self._skipped:
            self._most = max(1, self._asked - self._skipped)
            self._skipped = 0
        elif self._asked == self._most:
            self._most = min(_BATCH, self._most + 1 + self._most // 8)
        self._asked = min(len(self._incoming) + self._waiting(), self._most)
        return self._asked

    def _waiting(self) -> int:
        return sum([len(lane.items) for lane in self._order])

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
        if now >= self._end and self._is_over(now):
            return _NOTHING
        handle: Handle
        incoming = self._incoming
        while incoming:
            handle = incoming.popleft()
            priority = handle._context.get(chain_priority, 0)
            if not self._left:
                self._sort(handle, priority)
            elif priority == self._priority:
                self._items.append(handle)
            elif priority > self._priority or incoming:
                self._sort(handle, priority)
            else:
                return self._overtaken_by(handle)
        left = self._left
        if left:
            try:
                handle = self._items.popleft()
            except IndexError:
                return self._choose()
            self._left = left - 1
            return handle
        return self._choose()

    def _is_over(self, now: float) -> bool:
        """The time of the batch, for which `popleft` is asked as often as `len` has said, whatever comes."""
        if not self._end:
            self._end = now + self._loop._own.batch_seconds
        elif not self._loop._stopping:
            self._skipped += 1
            return True
        return False

    def most_urgent(self) -> int | None:
        while self._incoming:
            handle = self._incoming.popleft()
            self._sort(handle, handle._context.get(chain_priority, 0))
        self._settle()
        return super().most_urgent()

    def _sort(self, handle: Handle, priority: int) -> None:
        """Into its lane. If that was empty, and goes before the one that is served, that is served no further."""
        lane = self._by_priority.get(priority)
        if lane is None:
            lane = self._by_priority[priority] = self.lane(priority)
        lane.items.append(handle)
        if not lane._listed:
            if self._left and priority < self._priority:
                self._settle()
            self._list(lane)

    def _overtaken_by(self, handle: Handle) -> Handle:
        """Nothing else of that priority is ready: it goes at once, and the lane that is served remains the same.

        For the bound it counts as any other, and that lane has let it pass.
        """
        left = self._left
        if left != self._paused:
            self._serving._since = self._taken + self._size - left  # type: ignore[union-attr] # of which some are left
        self._left = self._paused = left - 1
        return handle

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
        self._serving, self._priority, self._items = lane, lane.rank >> 1, lane.items
        self._size, self._left = size, max(0, size - 1)
        return lane.next()

    def _settle(self) -> None:
        """The lane that was served is so no longer: count what was taken meanwhile."""
        lane = self._serving
        if lane is not None:
            self._taken += self._size - self._left
            if not lane.items:
                self._unlist(lane)
            else:
                if self._left != self._paused:
                    lane._since = self._taken
                self._order.move_to_end(lane)
            self._serving = None
            self._left = 0
            self._paused = -1


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
