"""Where in the user's code: the line that opened a scope, the lines that created a task.

Frames are looked at, never kept: a frame keeps every local variable of its function alive. What is kept is the code and
the position in it, a plain pair, which becomes a line when somebody asks: entering a scope must not become slow.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import CodeType, FrameType

__all__ = ["Site", "callers", "calling", "shown"]

Site = tuple["CodeType", int]


def shown(site: Site | None) -> str:
    """`file:line in function`."""
    if site is None:
        return "an unknown line"
    code, offset = site
    positions = list(code.co_positions())
    line = positions[offset // 2][0] if offset // 2 < len(positions) else None
    return f"{code.co_filename}:{line or code.co_firstlineno} in {code.co_name}"


def _ours(frame: FrameType) -> bool:
    module: str = frame.f_globals.get("__name__", "")
    return module.startswith("dari.")


def calling() -> Site | None:
    """The user's line that led to the function that asks."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and _ours(frame):
        frame = frame.f_back
    return None if frame is None else (frame.f_code, frame.f_lasti)


def callers(most: int = 3) -> tuple[Site, ...]:
    """The user's lines that led here, innermost first, at most so many."""
    sites: list[Site] = []
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and len(sites) < most:
        if not _ours(frame):
            sites.append((frame.f_code, frame.f_lasti))
        elif sites:
            break  # below it is the scheduler's own, and whoever started that
        frame = frame.f_back
    return tuple(sites)
