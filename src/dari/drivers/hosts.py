"""Which loop runs here? Nothing else is decided here.

A loop is known by what identifies it and lives as long as it does: asyncio's by itself, trio's by its token. Neither
module is imported for that: where it is not loaded, no loop of it runs.
"""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Any

__all__ = ["asyncio_loop", "in_trio", "running_loop", "running_task", "shielded"]


def in_trio() -> bool:
    """Is the code that runs now a task of trio? (trio may itself be a guest of asyncio: so it is asked first.)"""
    trio = sys.modules.get("trio.lowlevel")
    return trio is not None and bool(trio.in_trio_task())


def running_loop() -> Any:
    """What identifies the loop that steps the code which runs now: a loop of asyncio, a token of trio; None: none."""
    if in_trio():
        return sys.modules["trio.lowlevel"].current_trio_token()
    return asyncio_loop()


def asyncio_loop() -> Any:
    """The running loop of asyncio; None: there is none. trio, which may be its guest, is not asked."""
    events = sys.modules.get("asyncio.events")
    return None if events is None else events._get_running_loop()


def running_task() -> Any:
    """The task of the host that runs now; None: none does."""
    if in_trio():
        return sys.modules["trio.lowlevel"].current_task()
    return None if running_loop() is None else sys.modules["asyncio"].current_task()


def shielded() -> AbstractContextManager[object]:
    """A block that scopes of the host do not cancel. They would, again and again, what must be waited for anyway.

    In asyncio only anyio has such scopes. A plain `cancel` of a task of asyncio comes through.
    """
    scopes = sys.modules.get("trio" if in_trio() else "anyio")
    if scopes is None:
        return nullcontext()
    scope: AbstractContextManager[object] = scopes.CancelScope(shield=True)
    return scope
