"""A program of asyncio's, run to its end with whatever it leaves behind."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from dari.drivers.reporting import report
from dari.exceptions import DeadlockError
from dari.scheduler import arun
from dari.testing.asyncio_loop import VirtualEventLoop, WatchedEventLoop

__all__ = ["run_in_asyncio"]


def run_in_asyncio(source: Any, virtual: bool, seed: int | None, timeout: float | None) -> Any:
    """Run a coroutine as asyncio's main task, or a generator as a task of the loop's own scheduler."""
    loop_class: type[WatchedEventLoop] = VirtualEventLoop if virtual else WatchedEventLoop
    runner = asyncio.Runner(loop_factory=partial(loop_class, seed=seed))
    try:
        return runner.run(_main(source, timeout))
    finally:
        try:
            runner.close()
        except DeadlockError as standstill:  # its loop is closed all the same
            report(f"main has ended, but what it left behind never will: {standstill}", None)


async def _main(source: Any, timeout: float | None) -> Any:
    main = source if hasattr(source, "__await__") else arun(source)
    limit = asyncio.timeout(timeout)
    try:
        async with limit:
            return await main
    except TimeoutError:
        if limit.expired():
            raise TimeoutError(f"dari.testing.run: main did not end within {timeout} seconds") from None
        raise
