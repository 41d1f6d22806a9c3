"""What becomes of a wait for a descriptor that cannot be watched. Nothing else lives here.

Whoever registers it gets the error (EBADF: closed meanwhile; EPERM: a regular file; a loop's own RuntimeError: one of
its transports has it), in the middle of work for all tasks. It is the affair of the one that waits, so there it goes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dari._kernel.outcome import Error

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dari._kernel.contract import Direction
    from dari._kernel.kernel import Kernel

__all__ = ["refuse"]


def refuse(kernel: Kernel, keys: Iterable[tuple[int, Direction]], error: Exception) -> None:
    """Let those who wait for `keys`, directions of one descriptor, have `error` at their `yield`."""
    error.add_note(
        "dari cannot wait for this descriptor: it is closed, or a regular file (a pool reads those), or belongs to a"
        " transport of the loop"
    )
    outcome = Error(error.with_traceback(None))  # whose frames would be there has nothing to do with it
    for key in keys:
        kernel.watching.pop(key).wake(outcome)
