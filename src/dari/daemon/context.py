"""What main gets: `async def main(ctx)` or `def main(ctx)` with yields. Nothing but that one object lives here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias, TypeVar, final

from dari.daemon.listeners import Listeners

OnReload: TypeAlias = Callable[[Any, Any], object]
OnReloadT = TypeVar("OnReloadT", bound=OnReload)


class Stopping(Protocol):
    """An event of the host's own kind: `asyncio.Event` under asyncio and uvloop, `dari.Event` standalone.

    `wait()` is therefore awaited, or yielded, as that kind wants it, and no one type fits them all.
    """

    def is_set(self) -> bool: ...
    def wait(self) -> Any: ...


@final
class Context:
    """The service's line to its daemon. Made by the daemon, one for each run."""

    __slots__ = (
        "_ask_ready", "_config", "_event", "_generation", "_listeners", "_listens", "_on_reload", "_status", "name"
    )  # fmt: skip

    def __init__(self, name: str, config: Any, ask_ready: Callable[[], None], listeners: Listeners) -> None:
        self.name = name
        self._config = config
        self._generation = 1
        self._on_reload: list[OnReload] = []
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
