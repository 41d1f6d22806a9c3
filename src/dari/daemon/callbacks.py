"""Functions of the program that the daemon calls in main's loop: plain, async or generator functions alike."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from dari.daemon.runner import Host


async def call(host: Host, fn: Callable[..., Any], *args: object) -> None:
    """Call it, and wait for its end."""
    result: Any = fn(*args)
    if inspect.isgenerator(result):
        await host.drive(result)
    elif inspect.isawaitable(result):
        await result


def name_of(fn: object) -> str:
    return str(getattr(fn, "__qualname__", None) or repr(fn))
