"""asyncio's inside, as far as it is touched: the ready queue of a loop, with the kernel's lanes in its place.

**One object is replaced.** asyncio's loops keep what is ready in `loop._ready`, a deque, and use it by `append`,
`popleft`, `len`, `bool` and `clear` only. Here the same five are those of `Lanes`: a callback stands in the lane of its
priority, which is a context variable, so that it comes with the context that every handle has. Hence a priority belongs
to a chain (a task, what it starts, what it waits for by callbacks), never to a single callback: transports rely on the
order of what they put into the loop one after the other.

**Until a priority is used, nothing is replaced.** In a process where nobody has set one, `_ready` stays the bare deque
that the stdlib made. The first `dari.priority` swaps it, from whatever thread: the deque becomes the entrance of the
lanes, so whoever has just fetched it to append appends to the right one.

**What is touched**, the same on CPython 3.11, 3.12 and 3.13 (3.14 and 3.15: read, not run), all of it in this file but
the looks at a handle; `tests/drivers/test_host_seams.py` fails where a version changes it:

| name | why |
| --- | --- |
| `BaseEventLoop._ready` | the queue. Not `_call_soon`, which 3.14 goes around; not `_run_once`, which 3.15 changes |
| `BaseEventLoop._add_callback` | told of a descriptor that is ready: in lanes only once until it is heard of |
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
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVarTuple, Unpack
from weakref import WeakSet

from dari._kernel.world import uses
from dari.drivers.asyncio_chains import own_chain
from dari.drivers.asyncio_ready import Ready

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
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

__all__ = ["Handle", "LanesLoop", "Own", "awaited_by", "task_resumed_by"]

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

    __slots__ = ("guests", "lanes", "onlooker", "queue", "seed", "starvation_limit", "tracer")

    def __init__(self, queue: deque[Handle], starvation_limit: int | None, seed: int | None) -> None:
        self.starvation_limit: Final = starvation_limit
        self.seed: Final = seed
        self.queue: Any = queue  # of the loop: asyncio's deque, or `lanes`
        self.lanes: Ready | None = None
        self.onlooker: Any = None  # stands before the queue
        self.guests: WeakSet[Guest] = WeakSet()
        self.tracer: Tracer | None = None


class LanesLoop(asyncio.SelectorEventLoop):
    """asyncio's loop, whose ready queue is one of ours as soon as that makes a difference."""

    _batch_seconds: ClassVar = 0.000_25

    _add_callback: Callable[[Handle], None]
    _ready: Any
    _stopping: bool
    _closed: bool = True  # until asyncio has made it: where an argument is refused, there is nothing to close
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
            # With a seed no clock on the wall decides the order: a batch that is cut shows the timers to the loop.
            seconds = self._batch_seconds if own.seed is None else inf
            own.lanes = own.queue = Ready(own.queue, own.starvation_limit, own.seed, seconds, self._is_stopping)
            self._add_callback = self._add_event
            if own.onlooker is None:
                self._ready = own.lanes
            else:
                own.onlooker.queue = own.lanes

    def _add_event(self, handle: Handle) -> None:
        """A descriptor is ready. If that is still to be heard of, once is enough.

        asyncio runs all that it has heard of before it asks again. Here what is less urgent may be left when the loop
        asks, and would be told again and again: for nothing, as reading once empties a socket (a tenth of an echo).
        """
        events = self._own.lanes.events  # type: ignore[union-attr]
        if not handle._cancelled and id(handle) not in events:
            events.add(id(handle))
            self._ready.append(handle)

    def _is_stopping(self) -> bool:
        return self._stopping

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
