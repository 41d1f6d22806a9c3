"""A guest: a driver that lives in somebody else's loop. What a scheduler asks of it; and the innermost one."""

from __future__ import annotations

from contextvars import Context, ContextVar
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from dari._kernel.contract import Operation
    from dari._kernel.kernel import Kernel
    from dari._kernel.outcome import Steppable
    from dari._kernel.task import Task
    from dari.drivers.mailbox import Mailbox

__all__ = ["Guest", "context_in", "guest_in", "innermost"]

T = TypeVar("T")


class Guest(Protocol):
    """A driver that lives in somebody else's loop: what the kernel asks of it, and what its scheduler asks."""

    mailbox: Mailbox
    kernel: Kernel
    outer: Guest | None  # the one around its `async with`

    def clock(self) -> float: ...
    def notify(self) -> None: ...
    def post(self, call: Callable[[], object]) -> None: ...
    def steps_of(self, coroutine: Any) -> Steppable: ...
    def adapt(self, foreign: object) -> Operation[Any] | None: ...
    def home(self) -> object: ...
    def outside(self, task: Task[T]) -> Generator[Any, Any, T]: ...
    def report(self, what: str, error: BaseException | None) -> None: ...

    def lives_in(self, loop: object) -> bool:
        """Is it a guest of this very loop?"""
        ...

    def stay(self) -> None:
        """Live as long as the loop does. When that ends: cancel all tasks, wait for their end, close the scheduler."""
        ...

    def dump_of_host(self) -> str:
        """The tasks of the host, and where they stand; empty if that is not known from here."""
        ...

    async def wait_finished(self) -> None:
        """Wait until every task has ended."""
        ...

    async def outlast(self) -> None:
        """Wait until every task has ended, whatever the host cancels meanwhile."""
        ...

    def close(self) -> None:
        """Let nothing more in, and leave nothing behind in the loop: what was posted last is called now."""
        ...


# The guest whose scheduler is the innermost around this code: entered by `async with`, or that of the task of ours that
# a coroutine runs for. It travels with the context, so it may have ended, or live in another loop.
innermost: ContextVar[Guest | None] = ContextVar("dari_guest", default=None)


def guest_in(loop: object) -> Guest | None:
    """The innermost one that lives in `loop`."""
    guest = innermost.get()
    while guest is not None and (guest.mailbox.closed or not guest.lives_in(loop)):
        guest = guest.outer
    return guest


def context_in(guest: Guest, context: Context) -> Context:
    """A copy of `context` for a coroutine that runs for a task of `guest`: what it sets stays with it."""
    context = context.copy()
    if context.get(innermost) is not guest:
        context.run(innermost.set, guest)
    return context
