"""Who waits for whom: circles of waiters, and the dump that tells where every task stands.

A wait knows its object; an object that is waited for knows the tasks that must all end first (`Operation.waits_for`).
A circle of such waits would never end, so the `yield` that would close it is refused (`yielded`). Only what is certain
is refused: who waits for *any* of several has no such links.

**The price.** Looking ahead from each new wait would make a line of n waiters, each behind the one before it, cost n²
steps. But a circle is seen from its other end as well: it leads from the waiter *back*, over those who wait for it
(`_on_end`: bound methods, whose object names the `_waiter`). So both ways are walked in turn, link by link, and the
shorter one ends the search; a task that nobody waits for is not searched at all. Each task is seen once: a drawing of
all paths would grow without bound (facts/scheduler.md b.24).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dari._kernel.outcome import Error
from dari._kernel.sites import shown
from dari.exceptions import DeadlockError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = ["cycle", "deadlock", "dump", "lines_of", "refuse"]


def _awaited(task: Any) -> Iterable[Any]:
    """The tasks that must all end before `task` goes on."""
    wait = task._wait
    links = None if wait is None else getattr(wait.what, "waits_for", None)
    return () if links is None else links()


def _awaiting(task: Any) -> Iterator[Any]:
    """The tasks that wait for `task`, and perhaps for others: all from which `_awaited` leads to it, and maybe more."""
    for hears in task._on_end or ():
        waiter = getattr(getattr(hears, "__self__", None), "_waiter", None)
        if waiter is not None and waiter._wait is not None:
            yield waiter


def _walk(came_from: dict[Any, Any], links: Callable[[Any], Iterable[Any]]) -> Iterator[None]:
    """Go on from what is in `came_from`, and note there what is met; rests after each link."""
    to_see = list(came_from)
    for seen in to_see:  # grows meanwhile
        for following in links(seen):
            if following not in came_from:
                came_from[following] = seen
                to_see.append(following)
            yield


def cycle(task: Any, what: Any) -> list[Any] | None:
    """The circle that closes if `task` waits for `what`: from the first that it waits for, to the task itself."""
    if next(_awaiting(task), None) is None:
        return None
    came_from: dict[Any, Any] = dict.fromkeys(what.waits_for())
    if task in came_from or all(seen._wait is None for seen in came_from):
        return None  # (A wait for itself is refused by what it waits for, whoever else waits.)
    behind: dict[Any, Any] = {task: None}
    ahead = _walk(came_from, _awaited)
    for _ in zip(_walk(behind, _awaiting), ahead, strict=False):
        if task in came_from:
            break
    if task not in came_from and not behind.keys().isdisjoint(came_from):
        any(task in came_from for _ in ahead)  # the way back has ended, and ran into the way ahead: walk that on
    if task not in came_from:
        return None
    path: list[Any] = [task]
    while (before := came_from[path[-1]]) is not None:
        path.append(before)
    return path[::-1]


def deadlock(circle: list[Any]) -> DeadlockError:
    """What the last of `circle` is told, who would close it: who waits for whom, and where each of them stands."""
    chain = " waits for ".join(member.label for member in (circle[-1], *circle))
    return DeadlockError(f"this would never end: {chain}\n{dump(circle)}")


def refuse(task: Any, error: DeadlockError) -> None:
    """Throw `error` into a task that waits: at its `yield`, or at the `await` of the foreign coroutine it is in."""
    inside = getattr(task._wait.what, "refuse", None)
    if inside is None:
        task._wait.wake(Error(error))
    else:
        inside(error)


def dump(tasks: Iterable[Any]) -> str:
    """Every task, what it waits for, the lines of its code where it stands, and in debug mode those that created it."""
    lines: list[str] = []
    for task in tasks:
        lines.append(repr(task))
        lines.extend(lines_of(task._source))
        lines.extend(f"    created at {shown(site)}" for site in task._created_by())
    return "\n".join(lines)


def lines_of(code: Any) -> list[str]:
    """Where a generator or coroutine stands, and whatever it waits for by `yield from` and `await`."""
    return [f"    {frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}" for frame in _frames(code)]


def _frames(inner: Any) -> Iterator[Any]:
    """The frames of a user's code, outermost first, through `yield from` and `await`."""
    while inner is not None:
        # Generators, coroutines and async generators have the same three attributes under three prefixes.
        prefix = next((prefix for prefix in ("gi", "cr", "ag") if hasattr(inner, f"{prefix}_frame")), None)
        if prefix is None:
            return
        frame = getattr(inner, f"{prefix}_frame")
        if frame is not None and not frame.f_globals.get("__name__", "").startswith("dari."):
            yield frame
        inner = getattr(inner, "gi_yieldfrom" if prefix == "gi" else f"{prefix}_await")
