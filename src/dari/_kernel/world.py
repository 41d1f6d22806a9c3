"""Which world am I in? One slot per thread, set around `Kernel.advance`; and the priority that a chain inherits.

The slot is not a contextvar: those travel into asyncio tasks and pool threads that a task starts, which would then
believe that they run inside the kernel. `_thread._local` is `threading.local` without importing `threading`; nothing
here starts, stops or waits for a thread.

The priority, on the other hand, *is* a contextvar, because travelling is what it is for: whatever a task starts, in any
world, inherits it.
"""

from __future__ import annotations

from _thread import _local
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import Token

__all__ = ["AHEAD_OF_ALL", "chain_priority", "set_chain_priority", "uses", "world"]


class World(_local):
    """The slot. `kernel` is the one whose `advance` is on this thread's stack, or None.

    `host(operation)` is what makes `await operation` work in a coroutine that dari does not step. `outsider(scope)`
    gives what stands for a task there when a scope is entered (None where no loop runs). `ended_jobs(things)` is what
    `as_completed` gives in a plain thread (None: not for these, or not here). All are set for all threads.
    """

    kernel: Any = None
    host: Any = None
    outsider: Any = None
    ended_jobs: Any = None


world = World()

chain_priority: ContextVar[int] = ContextVar("dari_priority", default=0)

AHEAD_OF_ALL: Final = -(1 << 62)
"""The priority of what only passes on that something has happened, and does not know yet whom it will wake."""


class Uses:
    """Has any chain of this process been given a priority? Until then an asyncio loop needs no lanes: see `EventLoop`.

    `on_first_priority` is called once, by whichever thread comes first.
    """

    priorities = False
    on_first_priority: Callable[[], object] = bool


uses = Uses()


def set_chain_priority(number: int) -> Token[int]:
    """From here on what the present context starts has this priority."""
    if number and not uses.priorities:
        uses.priorities = True
        uses.on_first_priority()
    return chain_priority.set(number)
