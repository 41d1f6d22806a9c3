"""The drivers of tests that need no other loop: by the clock on the wall, and in virtual time."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from dari._kernel.contract import Idle
from dari._kernel.waiting import dump
from dari.drivers.standalone import Standalone
from dari.exceptions import DeadlockError

if TYPE_CHECKING:
    from dari._kernel.contract import Wait
    from dari._kernel.kernel import Kernel

__all__ = ["VirtualTime", "Watched"]


class Watched(Standalone):
    """A driver that tells those who wait for everybody else to be blocked."""

    def __init__(self) -> None:
        super().__init__()
        self.onlookers: list[Wait] = []

    def _wait(self, kernel: Kernel, need: Idle, deadline: float | None) -> None:
        if self.onlookers:
            onlookers, self.onlookers = self.onlookers, []
            for wait in onlookers:
                wait.wake()
        else:
            self._rest(kernel, need, deadline)

    def _rest(self, kernel: Kernel, need: Idle, deadline: float | None) -> None:
        super()._wait(kernel, need, deadline)


@final
class VirtualTime(Watched):
    """Does not wait: sets its clock to the next deadline."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def clock(self) -> float:  # pyright: ignore[reportIncompatibleMethodOverride, reportIncompatibleVariableOverride]
        return self.now

    def _rest(self, kernel: Kernel, need: Idle, deadline: float | None) -> None:
        if kernel.outside or need.watching:
            super()._rest(kernel, Idle(None, need.watching), None)
        elif need.deadline is not None:
            self.now = max(self.now, need.deadline)
        elif not self.mailbox:
            raise DeadlockError(f"every task waits, and nothing is left that could wake one:\n{dump(kernel.tasks)}")
