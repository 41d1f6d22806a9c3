"""What a scheduler has done, as numbers."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["SchedulerStats"]


class SchedulerStats(NamedTuple):
    """What a scheduler has done so far. `str()` of it is a table for people."""

    created: int
    completed: int
    failed: int
    cancelled: int
    switches: int
    """Steps taken, of all tasks."""
    ready: int
    waiting: int
    uptime: float
    """Seconds since the scheduler was made."""
    mean_time: float
    """Mean seconds from the creation of a task to its end, of those that have ended."""
    priorities: dict[int, int]
    """Tasks that have not ended, per priority."""

    def __str__(self) -> str:
        rows = [
            ("tasks created", f"{self.created}"),
            ("completed", f"{self.completed}"),
            ("failed", f"{self.failed}"),
            ("cancelled", f"{self.cancelled}"),
            ("ready or running", f"{self.ready}"),
            ("waiting", f"{self.waiting}"),
            ("switches", f"{self.switches}"),
            ("uptime", f"{self.uptime:.3f} s"),
            ("mean time of a task", f"{self.mean_time * 1000:.3f} ms"),
            *((f"alive at priority {priority}", f"{count}") for priority, count in sorted(self.priorities.items())),
        ]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {value:>12}" for name, value in rows)
