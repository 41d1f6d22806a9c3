"""What a tracer is told of asyncio's tasks: a queue before the loop's, which knows a step of a task when it sees it.

A handle that resumes a task goes in: the task is ready. It is taken and run: a step. After the step the task has ended,
or waits for a future, or neither: then it has only stepped aside.

A new task puts its first step into the queue before it has its name (up to 3.12). So it is told of with the next thing
that the queue is asked for.
"""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any, final
from weakref import WeakKeyDictionary, ref

from dari._kernel.world import chain_priority
from dari.drivers.asyncio_inside import Handle, awaited_by, task_resumed_by
from dari.drivers.reporting import report

if TYPE_CHECKING:
    import asyncio

    from dari._kernel.contract import Tracer
    from dari.drivers.asyncio_inside import LanesLoop

__all__ = ["HostTask", "Traced"]

_ids = count(-1, -1)  # the tasks of the kernel count upwards


@final
class HostTask:
    """A task of asyncio, as a tracer sees it. It does not keep the task alive."""

    __slots__ = ("_task", "id", "name", "priority")

    def __init__(self, task: asyncio.Task[Any], priority: int) -> None:
        self._task = ref(task)
        self.id = next(_ids)
        self.name = task.get_name()
        self.priority = priority

    @property
    def task(self) -> asyncio.Task[Any] | None:
        """The task itself; None: it is gone."""
        return self._task()

    def __repr__(self) -> str:
        return f"<asyncio task {self.name!r}>"


@final
class Traced:
    """Tells the tracer of its loop, and stands before the `queue` of that while there is one."""

    __slots__ = ("_new", "_seen", "loop", "queue")

    def __init__(self, loop: LanesLoop, queue: Any) -> None:
        self.loop = loop
        self.queue = queue
        self._seen: WeakKeyDictionary[asyncio.Task[Any], HostTask] = WeakKeyDictionary()
        self._new: list[tuple[asyncio.Task[Any], Handle]] = []

    def __bool__(self) -> bool:
        self._see_new()
        return bool(self.queue)

    def __len__(self) -> int:
        return len(self.queue)

    def clear(self) -> None:
        self.queue.clear()

    def append(self, handle: Handle) -> None:
        self._see_new()
        task = task_resumed_by(handle)
        if task is not None:
            seen = self._seen.get(task)
            if seen is None:
                self._new.append((task, handle))
            else:
                seen.priority = handle._context.get(chain_priority, 0)
                self.tell("task_woken", seen)
        self.queue.append(handle)

    def _see_new(self) -> None:
        while self._new:
            self._see(*self._new.pop())

    def popleft(self) -> Handle:
        self._see_new()
        handle: Handle = self.queue.popleft()
        task = None if handle._cancelled else task_resumed_by(handle)
        if task is None:
            return handle
        step: Any = _Step(self, handle, task, self._seen.get(task) or self._see(task, handle))
        return step  # type: ignore[no-any-return] # as much of a handle as asyncio looks at

    def _see(self, task: asyncio.Task[Any], handle: Handle) -> HostTask:
        seen = self._seen[task] = HostTask(task, handle._context.get(chain_priority, 0))
        self.tell("task_created", seen)
        return seen

    def tell(self, event: str, *args: Any) -> None:
        loop: Any = self.loop  # an EventLoop
        tracer: Tracer | None = loop.tracer
        if tracer is not None:
            try:
                getattr(tracer, event)(*args)
            except Exception as error:  # noqa: BLE001 - whoever looks on harms nobody
                loop.tracer = None
                report(f"{tracer!r} failed in {event}, and is told nothing any more", error)


class _Step:
    """A handle that tells of its run."""

    __slots__ = ("_callback", "_handle", "_queue", "_seen", "_task")

    _cancelled = False

    def __init__(self, queue: Traced, handle: Handle, task: asyncio.Task[Any], seen: HostTask) -> None:
        self._queue, self._handle, self._task, self._seen = queue, handle, task, seen
        self._callback = handle._callback  # debug mode shows it, if it was slow

    def _run(self) -> None:
        tell, task, seen = self._queue.tell, self._task, self._seen
        tell("step_started", seen)
        try:
            self._handle._run()
        finally:
            tell("step_ended", seen)
            if task.done():
                tell("task_ended", seen)
            elif (what := awaited_by(task)) is not None:
                tell("task_blocked", seen, what)
