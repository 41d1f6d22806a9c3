"""`ctx.pool`: the service's own pool of threads, as [pool] describes it.

Made when it is first asked for, which is in the process that stays, after the last fork; a service that never asks
pays nothing. A reload resizes it; what else stands in [pool] is how a pool is made, and waits for a restart.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from dari.pool import Pool

_LOGGER: Final = logging.getLogger("dari.daemon")
_COUNTS: Final = (
    "workers", "idle", "abandoned", "queued", "running", "completed", "failed", "retried", "cancelled", "timed_out"
)  # fmt: skip


class ServicePool:
    """The pool that a service may have. Its methods are for any thread, but for `drain`."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._values: dict[str, Any] = {}  # of [pool], checked: keywords for `Pool`
        self._making = threading.Lock()
        self.made: Pool | None = None

    def configure(self, values: dict[str, Any]) -> None:
        """Take on what [pool] says now: all of it for a pool that is still to be made, else what it can change."""
        with self._making:
            if self.made is None:
                self._values = values
            elif (workers := values.get("max_workers")) not in (None, self._values.get("max_workers")):
                self.made.resize(workers)
                self._values = {**self._values, "max_workers": workers}

    def needs_restart(self, values: dict[str, Any]) -> list[str]:
        """Return the keys that the present pool could not take on; ValueError for a number that it cannot have."""
        if self.made is None:
            return []
        least = self._values.get("min_workers", 0)
        if values.get("max_workers", least) < least:
            raise ValueError(f"max_workers must be at least the running pool's min_workers ({least}) until a restart")
        changed = {key for key in values.keys() | self._values.keys() if values.get(key) != self._values.get(key)}
        return sorted(changed - ({"max_workers"} if "max_workers" in values else set()))

    def get(self) -> Pool:
        """Return the pool, and make it if this is the first time."""
        with self._making:
            if self.made is None:
                from dari.pool import Pool

                self.made = Pool(**self._values, thread_name_prefix=self._name)
            return self.made

    def figures(self) -> dict[str, int] | None:
        """Return its counts; None when nobody has asked for a pool yet."""
        if self.made is None:
            return None
        stats = self.made.stats()
        return {count: getattr(stats, count) for count in _COUNTS}

    async def drain(self, seconds: float) -> None:
        """Take no more jobs, and wait until all have ended, `exit_timeout` (or `seconds`, if that is less) at most.

        Then what is queued is cancelled and what runs is asked to end; the process's exit waits for that as any pool's
        does, and names what is stuck. In the loop's thread.
        """
        pool = self.made
        if pool is None:
            return
        from dari.pool.closing import Drained

        desk = pool._desk
        desk.close(cancel=False)
        if desk.unfinished:
            await Drained(desk, max(0.0, min(desk.exit_timeout, seconds)), 0.0)
        if desk.unfinished:
            jobs = "1 job" if desk.unfinished == 1 else f"{desk.unfinished} jobs"
            _LOGGER.warning("%s of the pool had not ended in time: cancelled, or asked to end", jobs)
            desk.close(cancel=True, ask=True)
