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
from typing import Any

__all__ = ["chain_priority", "world"]


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
