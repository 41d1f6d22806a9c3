"""What main gets: `async def main(ctx)` or `def main(ctx)` with yields. Nothing but that one object lives here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, final


class Stopping(Protocol):
    """An event of the host's own kind: `asyncio.Event` under asyncio and uvloop, `dari.Event` standalone.

    `wait()` is therefore awaited, or yielded, as that kind wants it, and no one type fits them all.
    """

    def is_set(self) -> bool: ...
    def wait(self) -> Any: ...


@final
class Context:
    """The service's line to its daemon. Made by the daemon, one for each run."""

    __slots__ = ("_ask_ready", "_config", "_event", "_listens", "name")

    def __init__(self, name: str, config: Mapping[str, Any], ask_ready: Callable[[], None]) -> None:
        self.name = name
        self._config = config
        self._ask_ready = ask_ready
        self._event: Stopping | None = None
        self._listens = False

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
    def config(self) -> Mapping[str, Any]:
        """The whole configuration file, immutable; after a HUP with a valid file it is another object."""
        return self._config
