"""A guest: a driver that lives in somebody else's loop. What a scheduler asks of it, and which one it is here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from dari.drivers.hosts import in_trio

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from dari._kernel.contract import Operation
    from dari._kernel.kernel import Kernel
    from dari._kernel.outcome import Steppable
    from dari._kernel.task import Task
    from dari.drivers.mailbox import Mailbox

__all__ = ["Guest", "guest_of"]

T = TypeVar("T")


class Guest(Protocol):
    """A driver that lives in somebody else's loop: what the kernel asks of it, and what its scheduler asks."""

    mailbox: Mailbox

    def clock(self) -> float: ...
    def notify(self) -> None: ...
    def post(self, call: Callable[[], object]) -> None: ...
    def steps_of(self, coroutine: Any) -> Steppable: ...
    def adapt(self, foreign: object) -> Operation[Any] | None: ...
    def outside(self, task: Task[T]) -> Generator[Any, Any, T]: ...
    def report(self, what: str, error: BaseException | None) -> None: ...

    def lives_in(self, loop: object) -> bool:
        """Is it a guest of this very loop?"""
        ...

    def stay(self, end: Callable[[], object]) -> None:
        """Live as long as the loop does. When that ends: cancel all tasks, wait for their end, call `end`."""
        ...

    async def wait_finished(self) -> None:
        """Wait until every task has ended."""
        ...

    def close(self) -> None:
        """Let nothing more in, and leave nothing behind in the loop: what was posted last is called now."""
        ...


def guest_of(loop: Any, kernel: Kernel, max_slice: float) -> Guest:
    """The driver that drives `kernel` in `loop`, which runs here."""
    if in_trio():
        from dari.drivers.trio_guest import TrioGuest

        return TrioGuest(loop, kernel, max_slice)
    from dari.drivers.asyncio_guest import AsyncioGuest

    return AsyncioGuest(loop, kernel, max_slice)
