"""What main gets: `async def main(ctx)` or `def main(ctx)` with yields. Nothing but that one object lives here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar, final

if TYPE_CHECKING:
    from socket import socket

    from dari.daemon.listeners import Listeners
    from dari.daemon.pooling import ServicePool
    from dari.pool import Pool
    from dari.scheduler import Scheduler

OnReload: TypeAlias = Callable[[Any, Any], object]
OnStop: TypeAlias = Callable[[], object]
OnReloadT = TypeVar("OnReloadT", bound=OnReload)
OnStopT = TypeVar("OnStopT", bound=OnStop)


class Stopping(Protocol):
    """An event of the host's own kind: `asyncio.Event` under asyncio and uvloop, `trio.Event`, `dari.Event` standalone.

    `wait()` is therefore awaited, or yielded, as that kind wants it, and no one type fits them all.
    """

    def is_set(self) -> bool: ...
    def wait(self) -> Any: ...


@final
class Context:
    """The service's line to its daemon. Made by the daemon, one for each run."""

    __slots__ = (
        "_ask_ready", "_config", "_event", "_generation", "_listeners", "_listens", "_make_scheduler", "_on_reload",
        "_on_stop", "_pool", "_scheduler", "_status", "name", "sockets",
    )  # fmt: skip

    def __init__(self, name: str, ask_ready: Callable[[], None], listeners: Listeners, pool: ServicePool) -> None:
        self.name = name
        self.sockets: Mapping[str, tuple[socket, ...]] = MappingProxyType({})
        """The sockets that the service was started with (LISTEN_FDS), by name, each name's in order."""
        self._config: Any = {}
        self._generation = 1
        self._on_reload: list[OnReload] = []
        self._on_stop: list[OnStop] = []
        self._pool = pool
        self._make_scheduler: Callable[[], Scheduler] | None = None
        self._scheduler: Scheduler | None = None
        self._ask_ready = ask_ready
        self._event: Stopping | None = None
        self._listens = False
        self._listeners = listeners
        self._status = ""

    def ready(self) -> None:
        """Say that the service does its work now: `dari start` returns, and stdout and stderr go to the log.

        A plain call from any thread; the second one and those during a stop change nothing.
        """
        self._ask_ready()

    @property
    def stopping(self) -> Stopping:
        """The event that is set when the service is to stop. Who asks for it is given `stop_grace` seconds to end
        by itself; a main that never asks is cancelled at once.
        """
        if self._event is None:
            raise RuntimeError("ctx.stopping exists once main runs")
        self._listens = True
        return self._event

    @property
    def scheduler(self) -> Scheduler:
        """dari's scheduler on the service's loop: for tasks beside main, and for other threads to hand something in.

        Ask for it first in main's thread, while main runs; from then on any thread may. Its tasks that are left are
        cancelled when the loop ends.
        """
        if self._scheduler is None:
            if self._make_scheduler is None:
                raise RuntimeError("ctx.scheduler exists once main runs")
            self._scheduler = self._make_scheduler()
        return self._scheduler

    @property
    def pool(self) -> Pool:
        """The service's pool of threads, made of [pool] in the configuration when it is first asked for. Any thread.

        After main and the `on_stop` hooks it takes no more jobs, and what it has is waited for, `exit_timeout` seconds.
        """
        return self._pool.get()

    def on_stop(self, fn: OnStopT) -> OnStopT:
        """Have `fn()` called when main has ended, in whatever way; the last one first. Returns `fn`.

        A plain, async or generator function, in main's loop, which is still there with its tasks, as `ctx.pool` is. All
        of them have 5 seconds together, less where the stop's timeline has less. What one raises is logged, and changes
        nothing.
        """
        if not callable(fn):
            raise TypeError(f"on_stop takes a function without arguments, not {fn!r}")
        self._on_stop.append(fn)
        return fn

    def set_status(self, text: str) -> None:
        """Say in a few words what the service is doing, for its operators. A plain call from any thread; one line."""
        self._status = " ".join(text.split())
        self._listeners.tell(lambda each: each.status(self._status))

    def report(self) -> dict[str, Any]:
        """Return what is known of this service as plain values, `status` (as it was set last) among them."""
        return {"name": self.name, "generation": self._generation, "status": self._status} | self._listeners.report()

    @property
    def config(self) -> Any:
        """The whole configuration file, immutable, or what `Daemon(parse=…)` made of it.

        A snapshot: a reload puts another object in its place, and never changes this one.
        """
        return self._config

    @property
    def generation(self) -> int:
        """Which configuration this is: 1 from the start on, one more with every reload that was accepted."""
        return self._generation

    def on_reload(self, fn: OnReloadT) -> OnReloadT:
        """Have `fn(new, old)` called with both configurations before a reload swaps them. Returns `fn`.

        A plain, async or generator function, in the loop of main; several are called in the order in which they came.
        What it raises refuses the reload: those that were called before it are called back, in reverse, as
        `fn(old, new)`, and `ctx.config` stays. All of them together have `start_timeout` seconds.
        """
        if not callable(fn):
            raise TypeError(f"on_reload takes a function fn(new, old), not {fn!r}")
        self._on_reload.append(fn)
        return fn
