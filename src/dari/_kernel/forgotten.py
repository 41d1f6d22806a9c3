"""Debug mode: warn of operations that were made and dropped.

`dari.sleep(1)` without `yield` is the commonest mistake with generators, and a silent one: the operation is made, and
nothing happens. In debug mode an operation that dies without having been begun warns, with the line that dropped it,
which is the line of the forgotten `yield`: an unused value dies where it was made.

Switched on, it stays on for the process. It replaces methods of classes instead of testing a flag: off, it costs
nothing.
"""

from __future__ import annotations

import sys
import warnings
from typing import TYPE_CHECKING, Any

from dari._kernel.contract import Operation
from dari._kernel.yielded import Beginnings

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from dari._kernel.task import Task

__all__ = ["watch"]

_used: set[int] = set()
_begin = Beginnings.begin
_iter: Callable[[Operation[Any]], Generator[Any, Any, Any]] = Operation.__iter__  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
_await: Callable[[Operation[Any]], Generator[Any, Any, Any]] = Operation.__await__  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]


def watch() -> None:
    """Warn (RuntimeWarning) of forgotten operations from now on."""
    # To checkers methods are no variables; that they are replaced is the whole idea (see above).
    Beginnings.begin = _noting_begin  # type: ignore[method-assign]
    Operation.__iter__ = _noting_iter  # type: ignore[method-assign]
    Operation.__await__ = _noting_await  # type: ignore[method-assign]
    Operation.__del__ = _dropped  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]


def _noting_begin(self: Beginnings, task: Task[Any], yielded: object) -> None:
    _used.add(id(yielded))
    _begin(self, task, yielded)


def _noting_iter(self: Operation[Any]) -> Generator[Operation[Any], Any, Any]:
    _used.add(id(self))
    return _iter(self)


def _noting_await(self: Operation[Any]) -> Generator[Any, Any, Any]:
    _used.add(id(self))
    return _await(self)


def _dropped(self: Operation[Any], finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
    if finalizing():
        return  # nobody dropped it; and the names of this module may be gone
    if id(self) in _used:
        _used.discard(id(self))
        return
    frame = sys._getframe(1)
    module = frame.f_globals.get("__name__", "")
    if not self.may_be_dropped and not module.startswith("dari."):
        warnings.warn_explicit(
            f"{self!r} was made and dropped: is a `yield` (or `yield from`, `await`) missing in front of it?",
            RuntimeWarning,
            frame.f_code.co_filename,
            frame.f_lineno,
            module,
        )
