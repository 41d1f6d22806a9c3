"""The loops that a main can be run in, one module each: what `runner.Host` asks, done by that loop's own means."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dari.scheduler import Scheduler


def scheduler_in(loop: object) -> Scheduler:
    """Return the scheduler of dari's that `loop` keeps for those who never made one; RuntimeError outside of it."""
    from dari.drivers.hosts import running_loop
    from dari.scheduler import implicit_scheduler

    if loop is None or running_loop() is not loop:
        raise RuntimeError("ctx.scheduler is made in main's loop: ask for it there first, then any thread may have it")
    return implicit_scheduler(loop)
