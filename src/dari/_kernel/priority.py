"""Priorities: the names of four, and the block that sets one. Any int is one: the lower runs first, as with `nice`."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Final, Self, final

from dari._kernel.numbers import whole
from dari._kernel.world import chain_priority, set_chain_priority

if TYPE_CHECKING:
    from contextvars import Token

__all__ = ["Priority", "named", "priority"]


class Priority(IntEnum):
    """The lower runs first, FIFO inside. What a task starts inherits its priority."""

    URGENT = -2
    HIGH = -1
    NORMAL = 0
    LOW = 1


def named(priority: int) -> str:
    """For people: `HIGH -1`, or just the number."""
    try:
        return f"{Priority(priority).name} {priority}"
    except ValueError:
        return str(priority)


@final
class priority:  # noqa: N801 - used as a function, like `timeout`
    """`with dari.priority(n):` gives what is started inside (tasks, jobs, asyncio tasks) the priority `n`.

    In every world, since it travels in the context. A generator task that the block stands in keeps its own; a
    coroutine on `dari.EventLoop`, where a priority is looked up in the context, has the block's while it is inside.
    """

    __slots__ = ("_number", "_tokens")

    def __init__(self, number: int) -> None:
        self._number: Final = whole("a priority", number)
        self._tokens: list[Token[int]] = []

    def __enter__(self) -> Self:
        self._tokens.append(set_chain_priority(self._number))
        return self

    def __exit__(self, *_: object) -> None:
        chain_priority.reset(self._tokens.pop())
