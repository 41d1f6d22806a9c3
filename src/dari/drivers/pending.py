"""What a program in virtual time waits for in real time: jobs of a pool, futures of threads.

A clock that jumps must not jump past them. Only a loop that `dari.testing` watches, whose clock may be virtual, has an
account here; for all others this costs one look into an empty table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final
from weakref import WeakKeyDictionary, WeakSet

if TYPE_CHECKING:
    from collections.abc import Callable

    from dari._kernel.contract import Wait
    from dari.drivers.guests import Guest

__all__ = ["Account", "accounts"]


@final
class Account:
    """What is pending outside of one loop."""

    __slots__ = ("__weakref__", "clock", "guests", "look_on", "onlookers", "seed", "waits")

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        seed: int | None = None,
        look_on: Callable[[Account], object] | None = None,
    ) -> None:
        self.clock = clock  # what guests tell the time by; it must not hold the loop
        self.seed = seed  # for the loop's implicit scheduler
        self.waits = 0  # of coroutines, for what ends in another thread
        self.guests: WeakSet[Guest] = WeakSet()  # whose kernels count the waits of tasks
        self.onlookers: list[Wait] = []  # of those who wait for everybody else to be blocked
        self.look_on = look_on  # called when there is one

    def total(self) -> int:
        """How many waits there are that only another thread can end."""
        return self.waits + sum(guest.kernel.outside for guest in self.guests)

    def tell_onlookers(self) -> bool:
        """Everybody else is blocked: wake those who wait for that. False: nobody does."""
        onlookers, self.onlookers = self.onlookers, []
        for wait in onlookers:
            wait.wake()
        return bool(onlookers)


accounts: WeakKeyDictionary[Any, Account] = WeakKeyDictionary()  # by what identifies the loop: see `hosts`
