"""What a process uses, in numbers that the kernel keeps: asked by a service of itself, or by a command of a service.

Nothing but that lives here. psutil is imported by who asks, not before: it costs 20 ms.
"""

from __future__ import annotations

import os
import time
from typing import Any, Final

_SHORTEST: Final = 0.5  # seconds over which a share of the cpu means anything: the kernel counts in 10 ms


class Usage:
    """One process. `pid` None: this one. Its answers are None where the process is gone, or not ours to look at."""

    def __init__(self, pid: int | None = None) -> None:
        self._pid = pid
        self._mark: tuple[float, float] | None = None  # (when by the monotonic clock, cpu seconds by then)
        self._share: float | None = None

    def look(self) -> dict[str, Any] | None:
        """Return `cpu` (percent of one core, since the look before, or its start), `cpu_s` (seconds), `rss` (bytes),
        `fds`, `threads` and `children` (pids)."""
        import psutil

        pid = os.getpid() if self._pid is None else self._pid
        try:
            process = psutil.Process(pid)
            with process.oneshot():
                times = process.cpu_times()
                spent = times.user + times.system
                return {
                    "cpu": self._cpu(spent, process.create_time()),
                    "cpu_s": round(spent, 2),
                    "rss": process.memory_info().rss,
                    "fds": process.num_fds(),
                    "threads": process.num_threads(),
                    "children": _children(process),
                }
        except psutil.Error:
            return None

    def _cpu(self, spent: float, born: float) -> float:
        now = time.monotonic()
        if self._mark is None:
            seconds, before = time.time() - born, 0.0
        else:
            seconds, before = now - self._mark[0], self._mark[1]
        if self._share is None or seconds >= _SHORTEST:
            self._share = max(0.0, round(100 * (spent - before) / max(seconds, 0.01), 1))
            self._mark = now, spent
        return self._share


def _children(process: Any) -> list[int]:
    """Return the pids of its children. Linux lists them; elsewhere all processes have to be looked at."""
    try:
        found: list[int] = []
        for thread in os.listdir(f"/proc/{process.pid}/task"):
            with open(f"/proc/{process.pid}/task/{thread}/children", encoding="ascii") as file:
                found += map(int, file.read().split())
        return sorted(found)
    except OSError:
        return sorted(child.pid for child in process.children())
