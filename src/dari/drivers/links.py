"""For which task of ours does a coroutine of the host run? So that circles through coroutines are seen, too.

A coroutine that runs for a task of ours (it was given as one, or yielded by one) is no task of the kernel, but a link
between two: that task waits for the coroutine, and the coroutine for the one whose *face* it awaits. A circle is
refused at the `await` that would close it, as at a `yield`. What still leaks: a wait that the host puts into a task of
its own (`asyncio.gather(task)`, `asyncio.shield(task)`) is not followed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import ref

from dari._kernel.waiting import cycle, deadlock

if TYPE_CHECKING:
    from dari._kernel.task import Task

__all__ = ["runs_for", "waiter_in"]

# What a WeakKeyDictionary does, without its calls in Python: they cost each `await task` 0.4 us of 12.
_for_whom: dict[ref[Any], ref[Task[Any]]] = {}


def runs_for(host_task: Any, task: Task[Any]) -> None:
    """`task` waits for the coroutine of `host_task`; what it waits for has a `face`: the one that this awaits."""
    _for_whom[ref(host_task, _for_whom.pop)] = ref(task)


def waiter_in(host_task: Any, task: Task[Any]) -> Task[Any] | None:
    """The task of ours for which `host_task` runs, which is about to await `task`. Refuses what would never end."""
    known = _for_whom.get(ref(host_task)) if _for_whom and host_task is not None else None
    waiter = None if known is None else known()
    if waiter is task:
        raise RuntimeError(f"{task!r} waits for itself: that would never end")
    if waiter is not None and (circle := cycle(waiter, task)):
        raise deadlock(circle)
    return waiter
