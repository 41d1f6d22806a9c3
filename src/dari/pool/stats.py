"""Counting what a pool does: a `Tally` per priority while it works, a frozen `PoolStats` for who asks.

The tallies are written under the pool's lock, which the worker holds anyway when it ends one job and takes the next, so
counting costs additions and no synchronisation of its own. Times are kept as the last 1024 samples per priority, and
percentiles are sorted out of them when somebody asks: exact over that window, bounded in memory.
"""

from __future__ import annotations

from collections import deque
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple, final

from dari._kernel.priority import named
from dari._kernel.stats import Percentiles, table

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["PoolStats", "PriorityStats", "Tally", "WorkerStats"]

_SAMPLES = 1024
_COUNTS = ("scheduled", "queued", "running", "completed", "failed", "retried", "cancelled", "timed_out")


class PriorityStats(NamedTuple):
    """One priority of a pool."""

    scheduled: int
    queued: int
    running: int
    completed: int
    failed: int
    retried: int
    """Attempts that failed and were followed by another."""
    cancelled: int
    timed_out: int
    wait: Percentiles
    run: Percentiles
    longest_wait: float
    """Seconds; the longest that any job has waited to start, the one at the head of the queue included."""


class WorkerStats(NamedTuple):
    """One thread of a pool: what it ran, each attempt of a job counted, until now."""

    completed: int
    failed: int


class PoolStats(NamedTuple):
    """What a pool did and does, at one moment; `str(stats)` is a table."""

    workers: int
    idle: int
    abandoned: int
    """Threads among the workers that still run a job which has run out of its time."""
    priorities: Mapping[int, PriorityStats]
    by_worker: Mapping[str, WorkerStats]
    """The threads that there are now, by name."""

    @property
    def scheduled(self) -> int:
        return sum(each.scheduled for each in self.priorities.values())

    @property
    def queued(self) -> int:
        return sum(each.queued for each in self.priorities.values())

    @property
    def running(self) -> int:
        return sum(each.running for each in self.priorities.values())

    @property
    def completed(self) -> int:
        return sum(each.completed for each in self.priorities.values())

    @property
    def failed(self) -> int:
        return sum(each.failed for each in self.priorities.values())

    @property
    def cancelled(self) -> int:
        return sum(each.cancelled for each in self.priorities.values())

    @property
    def retried(self) -> int:
        return sum(each.retried for each in self.priorities.values())

    @property
    def timed_out(self) -> int:
        return sum(each.timed_out for each in self.priorities.values())

    def __str__(self) -> str:
        rows: list[tuple[str, ...]] = [
            ("priority", *_COUNTS, "wait p50/p95/p99", "run p50/p95/p99"),
        ]
        for priority, each in self.priorities.items():
            rows.append(
                (named(priority), *[str(getattr(each, count)) for count in _COUNTS], str(each.wait), str(each.run))
            )
        return f"{self.workers} workers, {self.idle} idle, {self.abandoned} abandoned\n{table(rows)}"


@final
class Tally:
    """The running counts of one priority. Written under the pool's lock."""

    __slots__ = (*_COUNTS, "longest_wait", "priority", "runs", "waits")

    scheduled: int
    queued: int
    running: int
    completed: int
    failed: int
    retried: int
    cancelled: int
    timed_out: int

    def __init__(self, priority: int) -> None:
        self.priority = priority
        self.scheduled = self.queued = self.running = self.completed = self.failed = 0
        self.retried = self.cancelled = self.timed_out = 0
        self.longest_wait = 0.0
        self.waits: deque[float] = deque(maxlen=_SAMPLES)
        self.runs: deque[float] = deque(maxlen=_SAMPLES)

    def read(self, head_waits: float) -> Callable[[], PriorityStats]:
        """Call what this gives without the lock: it sorts. `head_waits`: how long the first of the queue has waited."""
        counts: dict[str, int] = {count: getattr(self, count) for count in _COUNTS}
        waits, runs = list(self.waits), list(self.runs)
        longest = max(self.longest_wait, head_waits)
        return lambda: PriorityStats(
            **counts, wait=Percentiles.of(waits), run=Percentiles.of(runs), longest_wait=longest
        )


def frozen(
    by_worker: Mapping[str, WorkerStats], idle: int, abandoned: int, readings: Mapping[int, Callable[[], PriorityStats]]
) -> PoolStats:
    ordered = {priority: readings[priority]() for priority in sorted(readings)}
    return PoolStats(len(by_worker), idle, abandoned, MappingProxyType(ordered), MappingProxyType(by_worker))
