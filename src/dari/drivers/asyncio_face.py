"""What coroutines of asyncio await of a task of ours: its face, a future that ends when the task has really ended.

**Circles.** A coroutine that runs for a task of ours (it was given as one, or yielded by one) is no task of the kernel,
but a link between two: that task waits for the coroutine, and the coroutine for the one whose face it awaits. So it is
remembered for whom each runs, and a circle is refused at the `await` that would close it, as at a `yield`. What still
leaks: a wait that asyncio puts into a task of its own (`asyncio.gather(task)`, `asyncio.shield(task)`) is not followed.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar, final
from weakref import WeakKeyDictionary, ref

from dari._kernel.outcome import Value
from dari._kernel.waiting import cycle, deadlock

if TYPE_CHECKING:
    from collections.abc import Generator

    from dari._kernel.task import Task

__all__ = ["Face", "await_task", "runs_for"]

T = TypeVar("T")

_for_whom: WeakKeyDictionary[asyncio.Task[Any], ref[Task[Any]]] = WeakKeyDictionary()


def runs_for(host_task: asyncio.Task[Any], task: Task[Any]) -> None:
    """`task` waits for the coroutine of `host_task`; what it waits for has a `face`: the one that this awaits."""
    _for_whom[host_task] = ref(task)


def await_task(task: Task[T], loop: asyncio.AbstractEventLoop) -> Generator[Any, Any, T]:
    """`await task` in a coroutine of `loop`."""
    if task.done():
        return task.result()
    current = asyncio.current_task()
    known = None if current is None else _for_whom.get(current)
    waiter = None if known is None else known()
    if waiter is task:
        raise RuntimeError(f"{task!r} waits for itself: that would never end")
    if waiter is not None and (circle := cycle(waiter, task)):
        raise deadlock(circle)
    face = Face(task, loop, waiter)  # for this one who waits: whether it was cancelled is its own affair
    value: T = yield from face
    if face.asked and current is not None:
        # The task gave a result all the same. Its waiter gets that, and its cancel at the next `await`. It was
        # counted when it was asked for.
        current.cancel(face.message)
        current.uncancel()
    return value


@final
class Face(asyncio.Future[Any]):
    """Cancelling it cancels the task; it ends when the task has really ended."""

    def __init__(self, task: Task[Any], loop: asyncio.AbstractEventLoop, waiter: Task[Any] | None) -> None:
        super().__init__(loop=loop)
        self.task = task
        self.asked = False
        self.message: Any = None  # by it anyio knows its own
        self._waiter = waiter
        if waiter is not None and waiter._wait is not None:
            waiter._wait.what.face = self  # type: ignore[attr-defined] # see `runs_for`
        if task._on_end is None:
            task._on_end = []
        task._on_end.append(self._ended)

    def cancel(self, msg: Any = None) -> bool:
        if self.done():
            return False
        self.asked = True
        self.message = msg
        return self.task.cancel(msg if msg is not None else "cancelled by who waited for it")

    def _ended(self, task: Task[Any]) -> None:
        if self.done():  # it was refused: the wait would have closed a circle
            return
        outcome = task._seen_from_outside()
        if isinstance(outcome, Value):
            self.set_result(outcome.value)
        elif self.asked and task.cancelled():
            super().cancel(self.message)
        else:
            error = outcome.error
            if isinstance(error, StopIteration):  # a future refuses those
                error = RuntimeError(f"task {task.name!r} raised StopIteration")
                error.__cause__ = outcome.error
            self.refuse(error)

    def refuse(self, error: BaseException) -> None:
        self.set_exception(error)
        self.exception()  # it has been told: asyncio need not warn about it
