"""Threads that are not there yet: before a driver says that nobody could wake anybody, it asks for them, too.

Where a loop or a scheduler runs, a pool does not wait until its new worker runs (`pool.calls.spawn`); until then
`threading` does not know of it.
"""

from __future__ import annotations

import os
from typing import Final

__all__ = ["on_their_way"]

on_their_way: Final[set[object]] = set()
"""What stands for a thread, from any thread, until that one has been started, or cannot be."""

os.register_at_fork(after_in_child=on_their_way.clear)
