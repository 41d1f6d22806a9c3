"""Seeds: what one chain puts into the loop keeps its order, and whose turn it is among the chains, is drawn.

A chain is a task with all that its context puts into the loop; its number is a context variable. What no such task has
put in is one chain by itself.
"""

from __future__ import annotations

from collections import deque
from contextvars import Context, ContextVar, copy_context
from itertools import chain, count
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Chains", "own_chain"]

_chain: Final[ContextVar[int]] = ContextVar("dari_chain", default=0)
_numbers: Final = count(1)


class Handle(Protocol):
    _context: Context


class Chains:
    """A lane of a loop with a seed: whose turn it is, is drawn; what one chain put in comes in order."""

    __slots__ = ("_chains", "_draw", "_open")

    def __init__(self, draw: Callable[[int], int]) -> None:
        self._draw = draw
        self._chains: dict[int, deque[Handle]] = {}
        self._open: list[int] = []  # the chains that have something in here

    def __len__(self) -> int:
        return sum(map(len, self._chains.values()))

    def __iter__(self) -> Iterator[Handle]:
        return chain.from_iterable(self._chains.values())

    def append(self, handle: Handle) -> None:
        number = handle._context.get(_chain, 0)
        if number not in self._chains:
            self._chains[number] = deque()
            self._open.append(number)
        self._chains[number].append(handle)

    def popleft(self) -> Handle:
        if not self._open:
            raise IndexError("no chain has anything in here")
        place = self._draw(len(self._open))
        number = self._open[place]
        handles = self._chains[number]
        handle = handles.popleft()
        if not handles:
            del self._chains[number]
            self._open[place] = self._open[-1]
            self._open.pop()
        return handle

    def clear(self) -> None:
        self._chains.clear()
        self._open.clear()


def own_chain(coroutine: Any, context: Context | None) -> Context:
    """The context for a task that is to run `coroutine`: a chain of its own, unless it is asyncio's own helper.

    Those (that connect the pipes of a subprocess, say) must keep their place in the order of who started them.
    """
    if context is None:
        context = copy_context()
    frame = getattr(coroutine, "cr_frame", None)
    if frame is None or not frame.f_globals.get("__name__", "").startswith("asyncio."):
        try:
            context.run(_chain.set, next(_numbers))
        except RuntimeError:
            pass  # the caller's own, in which this very code runs: the two are one chain
    return context
