"""What is waited for across threads: something that ends elsewhere and says so. Nothing but this contract is here."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from dari._kernel.outcome import Outcome

__all__ = ["Ending"]

T_co = TypeVar("T_co", covariant=True)


class Ending(ABC, Generic[T_co]):
    """Something that ends in another thread."""

    __slots__ = ()

    @abstractmethod
    def call_when_ended(self, call: Callable[[], object]) -> None:
        """Make `call()` once, when it has ended, on whatever thread (here and now, if it has). It must not block."""

    def forget(self, call: Callable[[], object]) -> None:
        """Who only looked has left: `call` need not be made any more. It may be, all the same."""
        return

    @abstractmethod
    def request_end(self) -> object:
        """The only waiter was cancelled: end soon. `call_when_ended`'s call comes in any case."""

    @abstractmethod
    def outcome(self) -> Outcome[T_co] | None:
        """How it ended; None: it was cancelled. Only asked after the end."""

    def unwrap(self) -> T_co:
        """What `outcome` gives or raises, for who awaits it. Only asked after the end."""
        outcome = self.outcome()
        if outcome is None:
            raise self.cancelled_error()
        return outcome.unwrap()

    @abstractmethod
    def ended(self) -> bool: ...

    def give_back(self) -> None:
        """It ended, but its waiter was cancelled at the same time, so what was won reaches nobody: undo it."""
        return

    @abstractmethod
    def cancelled_error(self) -> Exception:
        """What the waiter gets when it was cancelled, and not by the waiter."""
