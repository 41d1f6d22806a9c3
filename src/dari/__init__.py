"""dari: generator tasks, asyncio and trio code, blocking functions and Unix daemons as one program.

This module is the friendly face: names, nothing else. Each is loaded when it is first used, so that importing dari, and
the command `dari` with it, stays cheap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dari._kernel.world import World

__version__ = "0.1.0"

__all__ = [
    "ALL_COMPLETED",
    "FIRST_COMPLETED",
    "FIRST_EXCEPTION",
    "Barrier",
    "BlockingCallError",
    "BoundedSemaphore",
    "BrokenBarrierError",
    "CancelScope",
    "Cancelled",
    "Condition",
    "ConfigError",
    "Context",
    "Daemon",
    "DaemonError",
    "DariError",
    "DeadlockError",
    "Event",
    "EventLoop",
    "Job",
    "JobCancelled",
    "JobState",
    "JobTimeout",
    "LifoQueue",
    "Lock",
    "Operation",
    "Pipeline",
    "Pool",
    "PoolClosed",
    "PoolStats",
    "Priority",
    "PriorityQueue",
    "Queue",
    "QueueEmpty",
    "QueueFull",
    "QueueShutDown",
    "Retry",
    "Scheduler",
    "SchedulerClosed",
    "SchedulerFull",
    "SchedulerStats",
    "Semaphore",
    "Steps",
    "Task",
    "TaskCancelledError",
    "TaskGroup",
    "TaskState",
    "TaskTimes",
    "Tracer",
    "WorkerLost",
    "all_tasks",
    "anext",
    "arun",
    "as_completed",
    "checkpoint",
    "create_task",
    "current_effective_deadline",
    "current_job",
    "current_task",
    "enter",
    "every",
    "fail_after",
    "gather",
    "host",
    "move_on_after",
    "priority",
    "register_command",
    "run",
    "shield",
    "sleep",
    "sleep_until",
    "timeout",
    "timeout_at",
    "to_thread",
    "wait",
    "wait_readable",
    "wait_writable",
]

if TYPE_CHECKING:
    from collections.abc import Generator

    from dari._kernel.combine import (
        ALL_COMPLETED,
        FIRST_COMPLETED,
        FIRST_EXCEPTION,
        as_completed,
        gather,
        wait,
    )
    from dari._kernel.contract import Operation, Steps, Tracer
    from dari._kernel.group import TaskGroup
    from dari._kernel.operations import (
        anext,  # noqa: A004 - its name everywhere
        checkpoint,
        current_task,
        every,
        host,
        register_command,
        shield,
        sleep,
        sleep_until,
        wait_readable,
        wait_writable,
    )
    from dari._kernel.priority import Priority, priority
    from dari._kernel.scope import (
        CancelScope,
        current_effective_deadline,
        fail_after,
        move_on_after,
        timeout,
        timeout_at,
    )
    from dari._kernel.task import Task, TaskState
    from dari.daemon import Context, Daemon
    from dari.drivers.asyncio_host import EventLoop
    from dari.exceptions import (
        BlockingCallError,
        BrokenBarrierError,
        Cancelled,
        ConfigError,
        DaemonError,
        DariError,
        DeadlockError,
        JobCancelled,
        JobTimeout,
        PoolClosed,
        QueueEmpty,
        QueueFull,
        QueueShutDown,
        SchedulerClosed,
        SchedulerFull,
        TaskCancelledError,
        WorkerLost,
    )
    from dari.pipeline import Pipeline
    from dari.pool import Job, JobState, Pool, PoolStats, Retry, current_job, to_thread
    from dari.queues import LifoQueue, PriorityQueue, Queue
    from dari.resources import enter
    from dari.scheduler import Scheduler, SchedulerStats, all_tasks, arun, create_task, run
    from dari.sync import Barrier, BoundedSemaphore, Condition, Event, Lock, Semaphore
    from dari.tracing import TaskTimes
else:  # hidden from the checkers, who would believe that every name exists
    _HOMES = {
        "dari._kernel.combine": "ALL_COMPLETED FIRST_COMPLETED FIRST_EXCEPTION as_completed gather wait",
        "dari._kernel.contract": "Operation Steps Tracer",
        "dari._kernel.group": "TaskGroup",
        "dari._kernel.operations": "anext checkpoint current_task every host register_command shield sleep sleep_until"
        " wait_readable wait_writable",
        "dari._kernel.priority": "Priority priority",
        "dari._kernel.scope": "CancelScope current_effective_deadline fail_after move_on_after timeout timeout_at",
        "dari._kernel.task": "Task TaskState",
        "dari.daemon": "Context Daemon",
        "dari.drivers.asyncio_host": "EventLoop",
        "dari.exceptions": "BlockingCallError BrokenBarrierError Cancelled ConfigError DaemonError DariError"
        " DeadlockError JobCancelled JobTimeout PoolClosed QueueEmpty QueueFull QueueShutDown SchedulerClosed"
        " SchedulerFull TaskCancelledError WorkerLost",
        "dari.pipeline": "Pipeline",
        "dari.pool": "Job JobState Pool PoolStats Retry current_job to_thread",
        "dari.queues": "LifoQueue PriorityQueue Queue",
        "dari.resources": "enter",
        "dari.scheduler": "Scheduler SchedulerStats all_tasks arun create_task run",
        "dari.sync": "Barrier BoundedSemaphore Condition Event Lock Semaphore",
        "dari.tracing": "TaskTimes",
    }
    _HOME_OF = {name: home for home, names in _HOMES.items() for name in names.split()}

    def __getattr__(name: str) -> Any:
        home = _HOME_OF.get(name)
        if home is None:
            raise AttributeError(f"module 'dari' has no attribute {name!r}")
        from importlib import import_module

        value = globals()[name] = getattr(import_module(home), name)
        return value

    def _await_outside(operation: Operation[Any]) -> Generator[Any, Any, Any]:
        from dari.outside import await_outside

        return await_outside(operation)

    def _outsider(scope: CancelScope) -> Any:
        from dari.outside import outsider

        return outsider(scope)

    def _ended_jobs(things: tuple[Any, ...]) -> Any:
        from sys import modules

        if "dari.pool" not in modules:  # there are no jobs
            return None
        from dari.pool.flight import ended_jobs

        return ended_jobs(things)

    # What is set here and not only named: `await queue.get()` and `with dari.timeout(1)` work in any asyncio or trio
    # program that imports dari. The kernel may not know of schedulers, and a scheduler may never have been touched.
    World.host = staticmethod(_await_outside)
    World.outsider = staticmethod(_outsider)
    World.ended_jobs = staticmethod(_ended_jobs)

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
