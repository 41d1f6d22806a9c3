"""What links tasks of ours and coroutines of the host: so that circles through coroutines are seen, too.

A coroutine that runs for a task of ours (it was given as one, or yielded by one) is no task of the kernel, but a link
between two: that task waits for the coroutine, and the coroutine for the one whose *face* it awaits. A circle is
refused at the `await` that would close it, as at a `yield`. What still leaks: a wait that the host puts into a task of
its own (`asyncio.gather(task)`, `asyncio.shield(task)`) is not followed.

Nothing is written down for that: such a coroutine runs inside one of ours (`runs_for`), and that has the operation by
which it is waited for in its frame. (A table of weak references cost each yielded coroutine 0.9 us of 12.)
"""

from __future__ import annotations

from types import CodeType, CoroutineType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from dari._kernel.contract import Operation
from dari._kernel.sources import close_unbegun
from dari._kernel.waiting import cycle, deadlock

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterable

    from dari._kernel.task import Task, TaskWait

__all__ = ["HostAwaitable", "runs_for", "waiter_in"]

T_co = TypeVar("T_co", covariant=True)


class Face(Protocol):
    """One wait of one coroutine of the host for one task of ours."""

    task: Task[Any]

    def done(self) -> bool: ...
    def refuse(self, error: BaseException) -> None:
        """The wait would close a circle: the coroutine gets `error` at its `await`."""
        ...


class HostAwaitable(Operation[T_co]):
    """An awaitable of the host that runs as one of its tasks, and is waited for by one of ours."""

    may_be_dropped = True

    __slots__ = ("awaitable", "face", "wait")

    def __init__(self, awaitable: Awaitable[T_co]) -> None:
        self.awaitable = awaitable
        self.wait: TaskWait | None = None  # None once it is woken: it holds this, too
        self.face: Face | None = None  # of the task of ours that the coroutine awaits

    def __repr__(self) -> str:
        return repr(self.awaitable)

    def waits_for(self) -> Iterable[Task[Any]]:
        return () if self.face is None or self.face.done() else (self.face.task,)

    def dropped(self) -> None:
        close_unbegun(self.awaitable)

    def refuse(self, error: BaseException) -> None:
        """Called only where `waits_for` led a search along."""
        assert self.face is not None
        self.face.refuse(error)


_runners: set[CodeType] = set()


def runs_for(runner: Callable[[Any], Coroutine[Any, Any, Any]]) -> None:
    """`runner(operation)` is what a task of the host runs for a `HostAwaitable`."""
    _runners.add(runner.__code__)


def waiter_in(coroutine: object, task: Task[Any]) -> Task[Any] | None:
    """The task of ours that waits for `coroutine` of a task of the host, which is about to await `task`.

    Refuses what would never end.
    """
    if type(coroutine) is not CoroutineType or coroutine.cr_code not in _runners:
        return None
    frame = coroutine.cr_frame
    assert frame is not None  # it has not ended: its host task runs
    operation: HostAwaitable[Any] = frame.f_locals["operation"]
    waiter = None if operation.wait is None else operation.wait.task
    if waiter is task:
        raise RuntimeError(f"{task!r} waits for itself: that would never end")
    if waiter is not None and (circle := cycle(waiter, task)):
        raise deadlock(circle)
    return waiter
