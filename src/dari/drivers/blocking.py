"""What must never block: a thread whose event loop is running, and a generator task. Nothing else is decided here.

A call that waits there does not only wait: it stops everything that could end the wait, and all the rest of the program
with it (facts/pool.md b, asgiref and trio-asyncio). So the calls that can block ask first, and their errors name the
call that waits properly. What need not wait is always allowed.
"""

from __future__ import annotations

from dari._kernel.world import world
from dari.drivers.hosts import running_loop
from dari.exceptions import BlockingCallError

__all__ = ["refuse_to_block", "way_out"]


def way_out(*, task: str, loop: str) -> str | None:
    """How to wait here: `task` in a generator task, `loop` in a running event loop; None where a thread may block."""
    if world.kernel is not None:
        return f"it would block the whole scheduler: {task}"
    if running_loop() is not None:
        return f"it would block the running event loop: {loop}"
    return None


def refuse_to_block(what: str, *, task: str, loop: str) -> None:
    """Raise BlockingCallError if this thread must not wait; `what` says why it would have to."""
    way = way_out(task=task, loop=loop)
    if way is not None:
        raise BlockingCallError(f"{what}, {way}")
