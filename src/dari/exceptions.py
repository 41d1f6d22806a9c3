"""Every public exception of dari. Nothing else lives here, and nothing is imported.

They are divided by whose fault it is: the caller's misuse (`SchedulerFull`, `QueueFull`, `BlockingCallError`, …),
the other side's failure (`TaskCancelledError`, `WorkerLost`, …), and the wish of a scope (`Cancelled`), which
is no error at all and therefore no `DariError`.
"""

from __future__ import annotations

__all__ = [
    "BlockingCallError",
    "BrokenBarrierError",
    "Cancelled",
    "ConfigError",
    "DaemonError",
    "DariError",
    "DeadlockError",
    "JobCancelled",
    "JobTimeout",
    "PoolClosed",
    "QueueEmpty",
    "QueueFull",
    "QueueShutDown",
    "SchedulerClosed",
    "SchedulerFull",
    "TaskCancelledError",
    "WorkerLost",
]


class Cancelled(BaseException):
    """You are being cancelled: a scope around this `yield` wants the work inside it to end.

    A BaseException, so that `except Exception` lets it pass. Let it out; a task that swallows it meets it
    again at its next `yield`, until the cancelled scope is left.
    """

    def __init__(self, reason: object = None, scope: object = None) -> None:
        super().__init__(*(() if reason is None else (reason,)))
        self.reason = reason
        self._scope = scope  # the scope that catches it; None: no scope of this task does


class DariError(Exception):
    """The root of all errors that are dari's own."""


class SchedulerFull(DariError):  # noqa: N818 - the names of the field: queue.Full, asyncio.QueueFull
    """`create_task` on a scheduler that already holds `max_tasks` tasks."""


class SchedulerClosed(DariError):  # noqa: N818
    """The scheduler has ended (or its loop has): what is posted now would vanish, so it is refused."""


class DeadlockError(DariError):
    """This would never end: tasks wait for each other in a circle, or all wait and nothing could wake one of them."""


class TaskCancelledError(DariError):
    """What you waited for was cancelled. (You were not: that would be `Cancelled`.)"""


class QueueFull(DariError):  # noqa: N818
    """There is no free place, and this call does not wait for one."""


class QueueEmpty(DariError):  # noqa: N818
    """There is no item, and this call does not wait for one."""


class QueueShutDown(DariError):  # noqa: N818
    """The queue was shut down: nothing more goes in, or nothing is left to come out."""


class BrokenBarrierError(DariError, RuntimeError):
    """The barrier was aborted, or it was reset while you waited at it."""


class PoolClosed(DariError):  # noqa: N818
    """The pool was shut down and takes no more jobs."""


class JobCancelled(DariError):  # noqa: N818
    """The job that you waited for was cancelled."""


class JobTimeout(DariError, TimeoutError):  # noqa: N818
    """The job did not end (or did not start) in the time that its options allow."""


class WorkerLost(DariError):  # noqa: N818
    """The worker that ran the job is gone, and the job with it."""


class BlockingCallError(DariError):
    """A call that would block the thread of a running loop; the message names the one that waits instead."""


class DaemonError(DariError):
    """A daemon could not be started, found, stopped or spoken to."""


class ConfigError(DaemonError):
    """The configuration is wrong; the message names the file, the key and what would be right."""
