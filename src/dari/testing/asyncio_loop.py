"""asyncio in virtual time: the loop's selector is asked to wait only when nothing is ready, so there the clock jumps.

`asyncio` computes how long to wait, up to its next timer, and calls `selector.select(timeout)`. A timeout above 0 says
that nothing is ready; None, that there is no timer either. So the selector is the place, and a public one
(`asyncio.SelectorEventLoop(selector)`): it looks for what is there at once; else it wakes those who wait for all to be
blocked; else it waits, in real time, as long as something outside is pending; else it sets the clock to the next timer.
With no timer left nothing can ever wake the program: DeadlockError.

**What is outside**: jobs and futures of threads that coroutines and tasks wait for (`drivers.pending`), what runs in an
executor (`to_thread`, `getaddrinfo`, and anyio's threads by their limiter), child processes until they end, and
descriptors (`descriptors` tells which). What still leaks: a bare thread that will post something,
`asyncio.wrap_future`, signals.
"""

from __future__ import annotations

import asyncio
import selectors
import sys
import time
from math import inf, nextafter
from typing import TYPE_CHECKING, Any, TypeVar, TypeVarTuple, final

from dari.drivers.asyncio_host import EventLoop
from dari.drivers.pending import Account, accounts
from dari.drivers.reporting import report
from dari.exceptions import DeadlockError
from dari.testing.descriptors import Descriptors

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor

    from dari._kernel.contract import Tracer

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

__all__ = ["VirtualEventLoop", "WatchedEventLoop"]

_LOOK_AGAIN = 0.01  # seconds: a connection's other end may come, or what is in flight arrive, without any event
# Before 3.15 asyncio runs the timers that are due within a nanosecond. Above this many seconds (97 days) a float has no
# nanoseconds, so that one due this very moment would never run: there the clock creeps on by its smallest step.
_COARSE = 2.0**23

_LONG = 5.0  # seconds that virtual time stands still before the log is told why


@final
class _Selector(selectors.DefaultSelector):
    """Asks its loop what to do where others would wait."""

    def __init__(self) -> None:
        super().__init__()
        self.loop: WatchedEventLoop | None = None

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(0)
        if self.loop is None:
            return events
        self.loop._look()
        if events or (timeout is not None and timeout <= 0):
            return events
        rest = self.loop._rest(timeout)
        return events if rest == 0 else super().select(rest)

    def fds(self) -> set[int]:
        return {key.fd for key in self.get_map().values()}

    def close(self) -> None:
        super().close()
        self.loop = None  # they held each other


class WatchedEventLoop(EventLoop):
    """A `dari.EventLoop` that tells those who wait for everybody else to be blocked."""

    _batch_seconds = inf  # the same program takes the same steps, on however busy a machine

    def __init__(
        self, *, starvation_limit: int | None = 64, seed: int | None = None, tracer: Tracer | None = None
    ) -> None:
        self._watching = selector = _Selector()
        super().__init__(selector, starvation_limit=starvation_limit, seed=seed, tracer=tracer)
        selector.loop = self
        self._account = accounts[self] = Account(self._make_clock(), seed=seed)

    def _make_clock(self) -> Callable[[], float]:
        return time.monotonic

    def _look(self) -> None:
        """It looks at its selector."""

    def _rest(self, timeout: float | None) -> float | None:
        """Nothing is ready. How many seconds may the selector wait? None: for ever."""
        return 0 if self._account.tell_onlookers() else timeout


@final
class _Clock:
    """Stands still until it is set."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@final
class VirtualEventLoop(WatchedEventLoop):
    """A `dari.EventLoop` in virtual time, which begins at 0: for whoever makes loops.

    `asyncio.Runner(loop_factory=VirtualEventLoop)`, `unittest.IsolatedAsyncioTestCase.loop_factory`, pytest-asyncio's
    `pytest_asyncio_loop_factories`, anyio's `backend_options`. The clock (`loop.time()`, and that of dari's own sleeps)
    jumps to the next timer when nothing is ready and nothing outside is pending. When nothing could ever wake the
    program, the runner raises DeadlockError. The arguments are those of `dari.EventLoop`.
    """

    def __init__(
        self, *, starvation_limit: int | None = 64, seed: int | None = None, tracer: Tracer | None = None
    ) -> None:
        self._virtual = _Clock()
        self._children: list[asyncio.SubprocessTransport] = []
        self._limiter: Any = None  # of anyio's threads
        self._descriptors = Descriptors()
        self._still_since: float | None = None  # real time; inf: it was told
        super().__init__(starvation_limit=starvation_limit, seed=seed, tracer=tracer)
        self._own_fds = self._watching.fds()  # those by which other threads wake it

    def _make_clock(self) -> Callable[[], float]:
        return self._virtual

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._virtual.now

    # ---- waiting -----------------------------------------------------------------------------------------------

    def _look(self) -> None:
        if self._virtual.now >= _COARSE:
            self._virtual.now = nextafter(self._virtual.now, inf)

    def _rest(self, timeout: float | None) -> float | None:
        if self._account.tell_onlookers() or self._asks_anyio():
            return 0
        outside = self._outside(timeout is None)
        if outside:
            self._tell_why_it_stands(outside)
            return _LOOK_AGAIN
        self._still_since = None
        if timeout is None:
            raise DeadlockError(f"every task waits, and nothing is left that could wake one:\n{self.dump()}")
        self._virtual.now += timeout
        return 0

    def _outside(self, for_ever: bool) -> list[str]:
        """What is pending outside, as text. `for_ever`: there is no timer, so that a listening socket counts, too."""
        outside: list[str] = []
        waits = self._account.total()
        if waits:
            outside.append(f"{waits} jobs or futures of threads")
        if self._limiter is not None and self._limiter.borrowed_tokens:
            outside.append(f"{self._limiter.borrowed_tokens} threads of anyio")
        self._children = [child for child in self._children if child.get_returncode() is None]
        outside += [f"child process {child.get_pid()}" for child in self._children]
        outside += self._descriptors.from_outside(self._watching.fds() - self._own_fds, for_ever)
        return outside

    def _tell_why_it_stands(self, outside: list[str]) -> None:
        now = time.monotonic()
        if self._still_since is None:
            self._still_since = now
        elif now - self._still_since > _LONG:
            self._still_since = inf
            report(f"virtual time stands still, for this is pending outside: {', '.join(outside)}", None)

    def _asks_anyio(self) -> bool:
        """Get to know the limiter of anyio's threads, once: it can be asked for in a task only."""
        if self._limiter is not None or "anyio.to_thread" not in sys.modules:
            return False
        to_thread = sys.modules["anyio.to_thread"]

        async def ask() -> None:
            self._limiter = to_thread.current_default_thread_limiter()

        self._asking = self.create_task(ask(), name="dari.testing asks anyio")
        return True

    # ---- what is begun outside ---------------------------------------------------------------------------------

    def run_in_executor(self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts) -> asyncio.Future[T]:
        """As the base's; the clock stands still until it has ended."""
        future = super().run_in_executor(executor, func, *args)
        self._account.waits += 1
        future.add_done_callback(self._ended)
        return future

    def _ended(self, _: object) -> None:
        self._account.waits -= 1

    async def shutdown_default_executor(self, *args: Any, **kwargs: Any) -> None:
        """As the base's: a thread waits for the executor's threads."""
        self._account.waits += 1
        try:
            await super().shutdown_default_executor(*args, **kwargs)
        finally:
            self._account.waits -= 1

    async def subprocess_exec(self, *args: Any, **kwargs: Any) -> Any:
        """As the base's; the clock stands still until the process has ended."""
        transport, protocol = await super().subprocess_exec(*args, **kwargs)
        self._children.append(transport)
        return transport, protocol

    async def subprocess_shell(self, *args: Any, **kwargs: Any) -> Any:
        """As the base's; the clock stands still until the process has ended."""
        transport, protocol = await super().subprocess_shell(*args, **kwargs)
        self._children.append(transport)
        return transport, protocol
