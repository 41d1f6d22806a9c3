"""What coroutines of asyncio await of a task of ours: its face, which wakes them when the task has really ended.

Who waits, owns: a cancel of the coroutine asks the task to end, and the coroutine goes on waiting until it has. Then it
is cancelled, if the task was. If that gave a result all the same, its waiter gets it, and meets the cancel at its next
`await`: asyncio's cancel is an event, and is sent once more so as not to be lost. Unless whoever cancelled has counted
it back meanwhile (a timeout whose block has ended): what follows must not be hit by it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar, final

from dari._kernel.outcome import Value
from dari.drivers.hosts import shielded
from dari.drivers.links import waiter_in

if TYPE_CHECKING:
    from collections.abc import Generator

    from dari._kernel.task import Task

__all__ = ["Face", "await_task"]

T = TypeVar("T")


def await_task(task: Task[T], loop: asyncio.AbstractEventLoop) -> Generator[Any, Any, T]:
    """`await task` in a coroutine of `loop`."""
    if task._outcome is None:
        current = asyncio.current_task(loop)
        assert current is not None
        face = _face(task, loop, waiter_in(current.get_coro(), task))
        before = current.cancelling()
        try:
            yield from face
        except asyncio.CancelledError as cancelled:
            if not face.cancelled():
                raise  # the task had ended, and its waiter had not run yet: as with asyncio's own
            face = yield from _see_the_end(face, loop, current)
            if task.cancelled():
                raise
            loop.call_soon(_cancel_again, current, before, cancelled.args)
        if face.error is not None:
            raise face.error
    outcome = task._outcome
    if type(outcome) is Value:
        value: T = outcome.value
        return value
    return task.result()


def _see_the_end(face: Face, loop: asyncio.AbstractEventLoop, current: asyncio.Task[Any]) -> Generator[Any, Any, Face]:
    """Wait for the end of the task, whatever comes. (Unshielded, scopes of anyio would cancel again in each turn.)"""
    with shielded():
        while not (face.task.done() or face.error):
            # Looked at anew: a circle may have closed meanwhile.
            face = _face(face.task, loop, waiter_in(current.get_coro(), face.task))
            try:
                yield from face
            except asyncio.CancelledError:
                pass
    return face


def _cancel_again(waiter: asyncio.Task[Any], before: int, message: tuple[Any, ...]) -> None:
    if waiter.cancelling() > before:
        waiter.cancel(*message)
        waiter.uncancel()  # it was counted when it was asked for


def _face(task: Task[Any], loop: asyncio.AbstractEventLoop, waiter: Task[Any] | None) -> Face:
    face = Face(loop=loop)
    # Without an `__init__` in Python: 0.4 us of the 12 that `await task` takes (benchmarks/guest.py).
    face.task, face.error, face._waiter = task, None, waiter
    if waiter is not None and waiter._wait is not None:
        waiter._wait.what.face = face  # type: ignore[attr-defined] # see `links`
    if task._on_end is None:
        task._on_end = [face._ended]
    else:
        task._on_end.append(face._ended)
    return face


@final
class Face(asyncio.Future[None]):
    """One wait of one coroutine. A cancel of it asks the task to end, at once: what comes later comes too late."""

    __slots__ = ("_waiter", "error", "task")

    task: Task[Any]
    error: BaseException | None  # the wait was refused: it would have closed a circle
    _waiter: Task[Any] | None  # see `waiting`

    def cancel(self, msg: Any = None) -> bool:
        if self.done():
            return False
        self.task.cancel(msg if msg is not None else "cancelled by who waited for it")
        return super().cancel(msg)

    def _ended(self, _: Task[Any]) -> None:
        if not self.done():
            self.set_result(None)

    def refuse(self, error: BaseException) -> None:
        self.error = error
        self._ended(self.task)
