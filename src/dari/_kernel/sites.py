"""Where in the user's code: the line that opened a scope, the lines that created a task.

Frames are looked at, never kept: a frame keeps every local variable of its function alive. What is kept is the code and
the position in it, which become a line when somebody asks.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from types import CodeType, FrameType

__all__ = ["Site", "callers", "calling"]


class Site(NamedTuple):
    """A place in the code. `str(site)` is `file:line in function`."""

    code: CodeType
    offset: int

    def __str__(self) -> str:
        lines = list(self.code.co_positions())
        line = lines[self.offset // 2][0] if self.offset // 2 < len(lines) else None
        return f"{self.code.co_filename}:{line or self.code.co_firstlineno} in {self.code.co_name}"


def _ours(frame: FrameType) -> bool:
    module: str = frame.f_globals.get("__name__", "")
    return module.startswith("dari.")


def calling() -> Site | None:
    """The user's line that led here."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and _ours(frame):
        frame = frame.f_back
    return None if frame is None else Site(frame.f_code, frame.f_lasti)


def callers(most: int = 3) -> tuple[Site, ...]:
    """The user's lines that led here, innermost first, at most so many."""
    sites: list[Site] = []
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and len(sites) < most:
        if not _ours(frame):
            sites.append(Site(frame.f_code, frame.f_lasti))
        elif sites:
            break  # below it is the scheduler's own, and whoever started that
        frame = frame.f_back
    return tuple(sites)
