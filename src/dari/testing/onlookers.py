"""`wait_all_blocked`: go on when everybody else waits. Each driver of the tests finds that out in its own way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

from dari._kernel.contract import Operation
from dari.drivers.pending import Account, accounts
from dari.drivers.standalone import Standalone
from dari.testing import standalone

if TYPE_CHECKING:
    from dari._kernel.contract import Wait

__all__ = ["wait_all_blocked"]


def _watched(driver: Any) -> standalone.Watched | Account | None:
    if isinstance(driver, Standalone):
        return driver if isinstance(driver, standalone.Watched) else None
    return accounts.get(driver.home())


@final
class _AllBlocked(Operation[None]):
    __slots__ = ()

    def __repr__(self) -> str:
        return "wait_all_blocked()"

    def begin(self, task: Any) -> None:
        watched = _watched(task.kernel.driver)
        if watched is None:
            task.fail(
                RuntimeError(
                    "wait_all_blocked works in programs that dari.testing.run runs, and on its VirtualEventLoop"
                )
            )
            return

        def undo(wait: Wait) -> bool:
            watched.onlookers.remove(wait)
            return True

        watched.onlookers.append(task.block(self, undo))
        if isinstance(watched, Account) and watched.look_on is not None:
            watched.look_on(watched)


def wait_all_blocked() -> Operation[None]:
    """Wait until no other task can run: all wait, and no time has passed.

    In programs that `dari.testing.run` runs, on each loop, and on `VirtualEventLoop`.
    """
    return _AllBlocked()
