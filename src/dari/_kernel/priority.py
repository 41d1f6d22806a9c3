"""The names of four priorities. Any int is one: the lower runs first, as `nice(1)` has it."""

from __future__ import annotations

from enum import IntEnum

__all__ = ["Priority"]


class Priority(IntEnum):
    """The lower runs first, FIFO inside. What a task starts inherits its priority."""

    URGENT = -2
    HIGH = -1
    NORMAL = 0
    LOW = 1
