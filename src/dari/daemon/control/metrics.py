"""The figures of a service in the text format of Prometheus. One table says all of it; the docs' table is this one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


class Metric(NamedTuple):
    """`path` leads to the figure, as `loop.lag_ms`; a figure that is not known is left out."""

    name: str
    kind: str
    path: str
    help: str
    scale: float = 1


METRICS: Final = (
    Metric("dari_ready", "gauge", "ready", "1 when the service is ready and not stopping."),
    Metric("dari_uptime_seconds", "gauge", "uptime_s", "Since the process was started."),
    Metric("dari_generation", "gauge", "generation", "Of the configuration: 1, and one more with each reload."),
    Metric("dari_reloads_total", "counter", "last_reload.count", "Reloads that have ended, refused ones included."),
    Metric("dari_last_reload_successful", "gauge", "last_reload.ok", "1 when the last reload was accepted."),
    Metric("dari_last_reload_timestamp_seconds", "gauge", "last_reload.time", "When the last reload ended."),
    Metric("dari_loop_answers", "gauge", "loop.answers", "1 when the loop has answered within a second."),
    Metric("dari_loop_lag_seconds", "gauge", "loop.lag_ms", "Until the loop answered, or since it was asked.", 0.001),
    Metric("dari_tasks", "gauge", "loop.tasks", "Tasks of the loop that have not ended."),
    Metric("dari_log_lines_dropped_total", "counter", "log.dropped", "Lines for which the log had no room."),
    Metric("process_cpu_seconds_total", "counter", "proc.cpu_s", "Of user and system."),
    Metric("process_resident_memory_bytes", "gauge", "proc.rss", "Resident memory."),
    Metric("process_open_fds", "gauge", "proc.fds", "Open descriptors."),
    Metric("process_threads", "gauge", "proc.threads", "Threads, of C code too."),
    Metric("dari_pool_workers", "gauge", "pool.workers", "Threads of ctx.pool."),
    Metric("dari_pool_idle", "gauge", "pool.idle", "Of these, those that wait for a job."),
    Metric("dari_pool_queued", "gauge", "pool.queued", "Jobs that wait for a worker."),
    Metric("dari_pool_running", "gauge", "pool.running", "Jobs that run."),
    Metric("dari_pool_completed_total", "counter", "pool.completed", "Jobs that gave a result."),
    Metric("dari_pool_failed_total", "counter", "pool.failed", "Jobs that raised."),
    Metric("dari_pool_retried_total", "counter", "pool.retried", "Attempts that failed and were followed by another."),
    Metric("dari_pool_cancelled_total", "counter", "pool.cancelled", "Jobs that were cancelled."),
    Metric("dari_pool_timed_out_total", "counter", "pool.timed_out", "Jobs that ran out of their time."),
    Metric("dari_pool_abandoned", "gauge", "pool.abandoned", "Threads that still run such a job."),
)


def as_text(report: Mapping[str, Any]) -> str:
    """Return what a scrape gets; `report` is `ctx.report()`."""
    labels = "".join(f'{key}="{_escaped(report.get(key))}",' for key in ("name", "state"))
    lines = [
        "# HELP dari_info Which service this is, and what it is doing.",
        "# TYPE dari_info gauge",
        f"dari_info{{{labels[:-1]}}} 1",
    ]
    for metric in METRICS:
        value = _find(report, metric.path)
        if value is not None:
            lines += [f"# HELP {metric.name} {metric.help}", f"# TYPE {metric.name} {metric.kind}"]
            lines.append(f"{metric.name} {_number(value, metric.scale)}")
    return "\n".join(lines) + "\n"


def _find(report: Mapping[str, Any], path: str) -> Any:
    found: Any = report
    for part in path.split("."):
        if not isinstance(found, Mapping):
            return None
        found = found.get(part)  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType] - JSON's values
    return found  # pyright: ignore[reportUnknownVariableType]


def _number(value: Any, scale: float) -> str:
    # repr: as many digits as the number has, and no more.
    return str(int(value)) if isinstance(value, (bool, int)) and scale == 1 else repr(round(value * scale, 9))


def _escaped(value: object) -> str:
    return str(value).replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
