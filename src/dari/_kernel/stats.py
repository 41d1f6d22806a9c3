"""What a scheduler has done, as numbers; and how numbers are shown to people."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["Percentiles", "SchedulerStats", "table"]


class Percentiles(NamedTuple):
    """Seconds that half, 95 and 99 of a hundred samples stayed below; 0.0 when there were none."""

    p50: float
    p95: float
    p99: float

    @classmethod
    def of(cls, samples: Iterable[float]) -> Percentiles:
        ordered = sorted(samples)
        if not ordered:
            return cls(0.0, 0.0, 0.0)
        last = len(ordered) - 1
        return cls(*(ordered[min(last, len(ordered) * percent // 100)] for percent in (50, 95, 99)))

    def __str__(self) -> str:
        return "/".join(f"{seconds * 1000:.3g}" for seconds in self) + " ms"


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


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as lines, each column as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
