"""What becomes of a task that swallows cancellation for ever: it waits, longer each time, before it gets the next one.

A cancelled scope makes every `yield` in it raise. Cleanup may well yield a few times, so the first ones come at once; a
loop around `except Cancelled: pass` would take the processor from everybody else. It is reported by name, and slowed
down.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, final

from dari._kernel.contract import Operation
from dari._kernel.task import CANCEL

if TYPE_CHECKING:
    from dari._kernel.task import TaskWait

__all__ = ["PATIENCE", "Penance"]

PATIENCE: Final = 32  # cancels that a task may swallow in one scope before it is made to wait
_FIRST_WAIT = 0.001  # seconds, doubled each time
_LONGEST_WAIT = 1.0


@final
class Penance(Operation[None]):
    __slots__ = ("_times",)

    def __init__(self, times: int) -> None:
        self._times: Final = times

    def __repr__(self) -> str:
        return f"the next Cancelled, after having swallowed {PATIENCE + self._times}"

    def begin(self, task: Any) -> None:
        kernel = task.kernel
        if self._times == 0:
            kernel.driver.report(
                f"{task!r} has swallowed Cancelled {PATIENCE} times and is made to wait: let it out of the task", None
            )
        task._rarely().patient = True
        delay = min(_LONGEST_WAIT, _FIRST_WAIT * 2 ** min(self._times, 20))
        kernel.set_deadline(_CancelAgain(task.block(self, _stay)), kernel.clock() + delay)


@final
class _CancelAgain:
    __slots__ = ("_wait", "alarm")

    def __init__(self, wait: TaskWait) -> None:
        self._wait = wait
        self.alarm: Any = 0

    def expire(self) -> None:
        self._wait.wake(CANCEL)


def _stay(_wait: object) -> bool:
    return False
