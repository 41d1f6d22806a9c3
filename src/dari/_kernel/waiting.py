"""Who waits for whom: cycles of waiters, and the dump that tells where every task stands.

A wait knows its object; an object that is waited for knows the tasks that must end first (`Operation.waits_for`).
Walking those links finds a cycle at the moment when it would close, and each task is shown once, with what it waits
for: a drawing of all paths would grow without bound (facts/scheduler.md b.24).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["cycle", "dump"]


def _next(task: Any) -> Iterable[Any]:
    wait = task._wait
    links = None if wait is None else getattr(wait.what, "waits_for", None)
    return () if links is None else links()


def cycle(task: Any, target: Any) -> list[Any] | None:
    """The tasks from `target` to `task`, if `target` waits for `task` already, however many are in between."""
    came_from: dict[Any, Any] = {target: None}
    to_see = [target]
    while to_see:
        seen = to_see.pop()
        if seen is task:
            path = [seen]
            while (seen := came_from[seen]) is not None:
                path.append(seen)
            return path[::-1]
        for following in _next(seen):
            if following not in came_from:
                came_from[following] = seen
                to_see.append(following)
    return None


def dump(tasks: Iterable[Any]) -> str:
    """Every task, what it waits for, the lines of its code where it stands, and in debug mode those that created it."""
    lines: list[str] = []
    for task in tasks:
        lines.append(repr(task))
        for frame in _frames(task):
            lines.append(f"    {frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}")
        lines.extend(f"    created at {site}" for site in task._created_by())
    return "\n".join(lines)


def _frames(task: Any) -> Iterator[Any]:
    """The frames of the task's own code, outermost first, through `yield from` and `await`."""
    inner = task._source
    while inner is not None:
        # Generators, coroutines and async generators have the same three attributes under three prefixes.
        prefix = next((prefix for prefix in ("gi", "cr", "ag") if hasattr(inner, f"{prefix}_frame")), None)
        if prefix is None:
            return
        frame = getattr(inner, f"{prefix}_frame")
        if frame is not None and not frame.f_globals.get("__name__", "").startswith("dari."):
            yield frame
        inner = getattr(inner, "gi_yieldfrom" if prefix == "gi" else f"{prefix}_await")
