"""The runner: what the daemon asks of a loop, and the one place that knows which loops there are.

A host runs main to its end in the main thread, then what `MainCall.wind_up` has to do, and takes orders from any other
thread: post a call, cancel main. Orders that come before the loop runs are kept for its first turn. The signal pipe
stays the daemon's own: loops that want the wakeup descriptor for themselves get what passes through it (`signals`).
When they come is not a host's business, either (`stopping`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any, Protocol

from dari.daemon.context import Stopping
from dari.daemon.entry import MainCall
from dari.daemon.signals import Inbox

if TYPE_CHECKING:
    from dari.scheduler import Scheduler


class Host(Protocol):
    def run(self, call: MainCall) -> object:
        """Run main and return its result; `MainCancelled` after a cancel that took."""
        ...

    def make_event(self) -> Stopping: ...
    def post(self, fn: Callable[[], object]) -> None:
        """Have `fn` called in the loop's thread, soon, between two steps of main.

        Any thread; nothing happens once the loop is over.
        """
        ...

    def spawn(self, main: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a coroutine beside main. In the loop's thread only."""
        ...

    async def drive(self, steps: Generator[Any, Any, object]) -> None:
        """Run a generator task to its end, from a coroutine of the loop."""
        ...

    async def within(self, seconds: float, awaitable: Awaitable[None]) -> bool:
        """Wait for it; cancel it after so many seconds, and return False. By the loop's own means: nothing is imported
        at the end of a process, whose packages may have been replaced meanwhile.
        """
        ...

    def cancel(self) -> None:
        """Cancel main: once, however often it is asked for, and nothing that comes after main. Any thread."""
        ...

    def scheduler(self) -> Scheduler:
        """Return dari's scheduler on this loop. In the loop's thread only."""
        ...

    def tasks(self) -> list[Any]:
        """Return the tasks that have not ended. Any thread."""
        ...


def make_host(backend: str, inbox: Inbox) -> Host:
    """Return the host of that name; `ImportError` when its package is missing."""
    if backend == "standalone":
        from dari.daemon.hosts.standalone import StandaloneHost

        return StandaloneHost()
    if backend == "trio":
        from dari.daemon.hosts.trio_loop import TrioHost

        return TrioHost(inbox)
    from dari.daemon.hosts.asyncio_loop import AsyncioHost

    if backend == "uvloop":
        import uvloop

        return AsyncioHost(inbox, uvloop.new_event_loop)
    if backend == "dari":
        from dari.drivers.asyncio_host import EventLoop

        return AsyncioHost(inbox, EventLoop)
    return AsyncioHost(inbox, None)
