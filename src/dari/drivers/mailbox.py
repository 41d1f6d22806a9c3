"""How other threads reach a driver: one append, one wake, and no lock.

`deque.append` and `popleft` are atomic (documented: "thread-safe, memory efficient appends and pops"), so calls cross
by themselves; the flag `_armed` only saves wake-ups, one for a whole batch. It is cleared *before* the box is emptied:
a putter that still saw it set has appended before the emptying began, so its call is taken; one that appends later sees
it clear, and wakes. Two putters may both wake: harmless. (facts/scheduler.md d.7, facts/pool.md part c.)

**The owner takes after every wake**, also from an empty box. A putter may be interrupted between its append and its
flag, and its call be taken meanwhile; it then sets the flag for nothing, and wakes. If the owner left the flag so, the
next putter would wake nobody. (tests/drivers/test_mailbox.py)
"""

from __future__ import annotations

from _thread import get_ident
from collections import deque
from typing import TYPE_CHECKING, Final, final

from dari.exceptions import SchedulerClosed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Mailbox", "strays"]


@final
class Mailbox:
    """Calls posted by any thread or signal handler, to be made by the one thread that owns the box."""

    __slots__ = ("_armed", "_calls", "_closed", "_wake", "awaited")

    def __init__(self, wake: Callable[[], object]) -> None:
        self._calls: Final[deque[Callable[[], object]]] = deque()
        self._wake: Final = wake
        self._armed = False
        self._closed = False
        self.awaited = 0  # the owner's count of those who wait for a call to come

    def __bool__(self) -> bool:
        return bool(self._calls)

    @property
    def closed(self) -> bool:
        return self._closed

    def put(self, call: Callable[[], object]) -> None:
        """From any thread: let the owner make this call soon. SchedulerClosed after the end: nothing vanishes."""
        self._calls.append(call)
        if self._closed:  # looked at now, for it may be closed meanwhile: nobody may come to empty the box
            try:
                self._calls.remove(call)
            except ValueError:
                return  # the owner's last emptying took it
            raise SchedulerClosed(f"{call!r} was posted to a scheduler that has ended")
        if not self._armed:
            self._armed = True
            try:
                self._wake()
            except BaseException:  # Ctrl-C on its way: others may have seen the flag, and rely on this wake
                self._armed = False
                self._wake()
                raise

    def take(self) -> Sequence[Callable[[], object]]:
        """The owner empties the box, after every wake; what is posted meanwhile waits for the next time."""
        self._armed = False
        calls = self._calls
        return [calls.popleft() for _ in range(len(calls))] if calls else ()

    def close(self) -> Sequence[Callable[[], object]]:
        """Let nothing more in; gives what was in."""
        self._closed = True
        return self.take()


def strays(owner: int) -> RuntimeError:
    """What a thread is told that sets, cancels or creates something of a scheduler which runs on the thread `owner`."""
    return RuntimeError(
        f"thread {get_ident()} touched a scheduler that runs on thread {owner}: from other threads it is reached by"
        " scheduler.call_soon_threadsafe(event.set), call_soon_threadsafe(task.cancel), call_soon_threadsafe("
        "scheduler.create_task, main) only"
    )
