"""Where the tasks of asyncio stand; and the warning when nothing is left that could wake one. Public asyncio only.

The loop asks its selector to wait without a timeout when nothing is ready and no timer is left. If then no task waits
for what ends in another thread, no descriptor but the loop's own is watched, no other thread lives or is on its way,
and no signal has a handler, nobody can come any more. (Ctrl-C can: it ends the program.) That is told once, with a
dump, and not raised: there is no task that it could be raised in.
"""

from __future__ import annotations

import asyncio
import selectors
import signal
import threading
from typing import Any, Protocol, final
from weakref import ref

from dari._kernel.waiting import lines_of
from dari.drivers.reporting import report
from dari.drivers.strangers import on_their_way

__all__ = ["Selector", "dump_of_tasks"]


def dump_of_tasks(loop: asyncio.AbstractEventLoop) -> str:
    """Every task of the loop that has not ended, and the lines of its code where it stands."""
    lines: list[str] = []
    for task in sorted(asyncio.all_tasks(loop), key=_by_name):
        lines.append(f"<asyncio task {task.get_name()!r} {'being cancelled' if task.cancelling() else 'pending'}>")
        lines += lines_of(task.get_coro())
    return "\n".join(lines)


def _by_name(task: asyncio.Task[Any]) -> tuple[int, str]:
    """As they were made, by the names that asyncio gives."""
    name = task.get_name()
    return len(name), name


class Program(Protocol):
    """The loop that waits here."""

    def awaited_outside(self) -> int:
        """How many waits there are for what ends in another thread."""
        ...

    def dump(self) -> str:
        """Where every task stands."""
        ...


@final
class Selector(selectors.DefaultSelector):
    """Looks when it is asked to wait for ever."""

    def __init__(self, program: Program) -> None:
        super().__init__()
        self._program = ref(program)  # which holds its selector
        self._told = False

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None and not self._told:
            program = self._program()
            if program is not None and self._stands_still(program):
                events = super().select(0)  # of a thread that has ended since
                if events:
                    return events
                self._tell(program)
        return super().select(timeout)

    def _stands_still(self, program: Program) -> bool:
        if len(self.get_map()) > 1 or program.awaited_outside() or on_their_way:
            return False  # (One descriptor is the loop's own, by which other threads wake it.)
        return threading.active_count() == 1 and not any(map(_is_heard, signal.valid_signals()))

    def _tell(self, program: Program) -> None:
        stands = program.dump()
        if stands:
            self._told = True
            report(
                "perhaps a deadlock: every task waits, and no timer, descriptor, thread or signal can wake one:\n"
                + stands,
                None,
            )


def _is_heard(number: int) -> bool:
    return number != signal.SIGINT and callable(signal.getsignal(number))
