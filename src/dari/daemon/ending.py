"""Between the end of main and that of its loop: the `ctx.on_stop` hooks, then the service's pool.

Both are asked while the loop still runs, for a hook may have to wait, and a job may want something from the loop. They
have a share of the one timeline (`stopping`) and no seconds beyond it: whatever they do, the keeper's clock runs on.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

from dari.daemon.callbacks import call, name_of
from dari.daemon.context import Context, OnStop
from dari.daemon.lifecycle import HOOKS_BUDGET
from dari.daemon.runner import Host

_LOGGER: Final = logging.getLogger("dari.daemon")
_FOR_THE_EXIT: Final = 0.5  # seconds kept back for closing the loop, the log's last lines, the pidfile


async def wind_up(host: Host, context: Context, left: Callable[[], float]) -> None:
    """Call the hooks and drain the pool; `left` tells how many seconds there are before the process leaves hard."""
    await run_hooks(host, context._on_stop, min(HOOKS_BUDGET, _usable(left())))
    await context._pool.drain(_usable(left()))


def _usable(seconds: float) -> float:
    return seconds - min(_FOR_THE_EXIT, seconds / 4)  # a short stop_grace is not all kept back


async def run_hooks(host: Host, hooks: list[OnStop], seconds: float) -> None:
    """Call every hook, the last one first: what was opened last is closed first. They have `seconds` together.

    One that fails, or is cancelled at the end of that time, is logged; the next one has what is left of it.
    """
    deadline = time.monotonic() + seconds
    while hooks:
        fn = hooks.pop()  # one that a hook adds comes next
        left = deadline - time.monotonic()
        if left <= 0:
            _LOGGER.error("on_stop hook %s was not called: there was no time left for it", name_of(fn))
            continue
        try:
            if not await host.within(left, call(host, fn)):
                _LOGGER.error("on_stop hook %s did not end in time, and was cancelled", name_of(fn))
        except (SystemExit, KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException:  # a stray cancel, too: nobody cancels what comes after main
            _LOGGER.exception("on_stop hook %s failed", name_of(fn))
