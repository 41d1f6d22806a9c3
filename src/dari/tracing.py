"""TaskTimes: the tracer that tells where the time goes.

Two questions are asked of a scheduler that is slow: which tasks keep it busy, and who waits for a turn although ready.
The first is answered by run time and steps, the second by the *ready delay*: how long a task that was ready waited for
its step. Both are kept per task and per priority, in memory that is bounded: of tasks that have ended the last thousand
are remembered, of delays the last thousand per priority and the last hundred per task.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple, final

from dari._kernel.contract import Tracer
from dari._kernel.priority import named
from dari._kernel.stats import Percentiles, table

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["TaskTimes", "Times", "Tracer"]

_ENDED_TASKS = 1000
_DELAYS_OF_A_PRIORITY = 1024
_DELAYS_OF_A_TASK = 128
_SHOWN = 20  # tasks in the table


class Times(NamedTuple):
    """What a task, or all tasks of a priority, have used and waited for; in seconds."""

    name: str
    steps: int
    run_time: float
    longest_step: float
    ready_delay: Percentiles
    """How long it stood ready before a step; over its last 128 steps (1024 of a priority)."""


class _Account:
    """What is written down while tasks run."""

    __slots__ = ("delays", "longest", "name", "priority", "ready_since", "run_time", "steps")

    def __init__(self, name: str, delays: int) -> None:
        self.name = name
        self.priority = 0
        self.steps = 0
        self.run_time = self.longest = 0.0
        self.ready_since: float | None = None
        self.delays: deque[float] = deque(maxlen=delays)

    def read(self) -> Times:
        return Times(self.name, self.steps, self.run_time, self.longest, Percentiles.of(self.delays))


@final
class TaskTimes(Tracer):
    """A tracer that keeps times and steps, per task and per priority. `print(times)` shows a table of both.

    `clock`: gives seconds. A coroutine in a guest scheduler runs as a task of the host, which is not seen here: it
    counts as one step.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._alive: dict[int, _Account] = {}
        self._ended: deque[_Account] = deque(maxlen=_ENDED_TASKS)
        self._priorities: dict[int, _Account] = {}
        self._began = 0.0

    # ---- what the scheduler tells ------------------------------------------------------------------------------

    def task_created(self, task: Any) -> None:
        self._account(task).ready_since = self._clock()

    def task_woken(self, task: Any) -> None:
        self._account(task).ready_since = self._clock()

    def step_started(self, task: Any) -> None:
        account = self._account(task)
        account.priority = task.priority
        now = self._clock()
        if account.ready_since is not None:
            delay = now - account.ready_since
            account.delays.append(delay)
            self._of_priority(account).delays.append(delay)
        self._began = now

    def step_ended(self, task: Any) -> None:
        now = self._clock()
        took = now - self._began
        account = self._account(task)
        for each in (account, self._of_priority(account)):
            each.steps += 1
            each.run_time += took
            each.longest = max(each.longest, took)
        account.ready_since = now  # if it is not: `task_blocked` follows

    def task_blocked(self, task: Any, what: object) -> None:
        self._account(task).ready_since = None

    def task_ended(self, task: Any) -> None:
        account = self._alive.pop(task.id, None)
        if account is not None:
            self._ended.append(account)

    def _account(self, task: Any) -> _Account:
        account = self._alive.get(task.id)
        if account is None:  # it was there before the tracer
            account = self._alive[task.id] = _Account(f"{task.id} {task.name}", _DELAYS_OF_A_TASK)
        return account

    def _of_priority(self, account: _Account) -> _Account:
        known = self._priorities.get(account.priority)
        if known is None:
            known = self._priorities[account.priority] = _Account(named(account.priority), _DELAYS_OF_A_PRIORITY)
        return known

    # ---- what a user asks --------------------------------------------------------------------------------------

    @property
    def tasks(self) -> tuple[Times, ...]:
        """Those alive and the last thousand that have ended; who used most time first."""
        accounts = [*self._alive.values(), *self._ended]
        return tuple(account.read() for account in sorted(accounts, key=lambda account: -account.run_time))

    @property
    def priorities(self) -> dict[int, Times]:
        """Per priority, the most urgent first."""
        return {priority: account.read() for priority, account in sorted(self._priorities.items())}

    def __str__(self) -> str:
        tasks = self.tasks
        return "\n".join(
            (
                _shown("priority", tuple(self.priorities.values())),
                "",
                _shown("task", tasks[:_SHOWN]),
                *((f"and {len(tasks) - _SHOWN} more",) if len(tasks) > _SHOWN else ()),
            )
        )


def _shown(kind: str, all_times: tuple[Times, ...]) -> str:
    rows = [(kind, "steps", "run time", "longest step", "ready delay p50/p95/p99")]
    rows += [
        (
            times.name,
            str(times.steps),
            f"{times.run_time:.3f} s",
            f"{times.longest_step * 1000:.3f} ms",
            str(times.ready_delay),
        )
        for times in all_times
    ]
    return table(rows)
