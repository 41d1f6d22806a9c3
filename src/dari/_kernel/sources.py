"""What may be given as a task: a generator or a coroutine that is fresh, or a function that makes one.

A function is called once, and what it makes belongs to its task alone. A generator that was given by itself may have
been given to two tasks, or have begun already: then each would get a part of its steps, or none. So those are looked
at when they are given, and once more before their first step. (A generator that nobody else can have is not looked at:
asking for its frame makes one, which costs time and memory.)
"""

from __future__ import annotations

from types import CoroutineType
from typing import Any

from dari._kernel.contract import Operation

__all__ = ["check_fresh", "check_kind", "close_unbegun", "drop"]


def check_kind(main: Any, source: Any) -> None:
    """TypeError unless `source`, which `main` is or has made, can be stepped."""
    if not isinstance(source, CoroutineType) and not (
        hasattr(source, "send") and hasattr(source, "throw") and hasattr(source, "close")
    ):
        raise TypeError(
            f"{main!r} gave {source!r}: a task is a generator or a coroutine, or a function that makes one"
            " (is there a `yield` in it?)"
        )


def check_fresh(source: Any) -> None:
    """RuntimeError if it has begun or ended: `inspect.getgeneratorstate`, without importing that module."""
    prefix = "cr" if hasattr(source, "cr_frame") else "gi"
    if getattr(source, f"{prefix}_running", False) or getattr(source, f"{prefix}_suspended", False):
        state = "has begun already"
    elif getattr(source, f"{prefix}_frame", source) is None:
        state = "has ended already"
    else:
        return
    raise RuntimeError(f"{source!r} {state}: give each task one of its own, or the function that makes it")


def close_unbegun(coroutine: object) -> None:
    """It will not be run: if it is a coroutine that nobody has begun, Python need not warn of that."""
    if type(coroutine) is CoroutineType and not coroutine.cr_suspended:  # if so, somebody else has it, too
        coroutine.close()


def drop(yielded: object) -> None:
    """It was yielded, or is about to be, and will not be begun."""
    if isinstance(yielded, Operation):
        yielded.dropped()
    elif isinstance(yielded, list):
        for each in yielded:  # pyright: ignore[reportUnknownVariableType]
            drop(each)  # pyright: ignore[reportUnknownArgumentType]
    else:
        close_unbegun(yielded)
