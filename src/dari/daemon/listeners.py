"""Who else is told what a service does: its control socket, its supervisor, whatever comes.

The pidfile, the launcher and the log are told by the service itself. Every other party is a `Listener`: a class in a
module of its own that overrides the moments it cares about. It joins by one line in `parties.listeners_of`, and the
service knows no more of it. The moments of one run, in order:

    starting ── ready ── (reloading ── reloaded)* ── stopping ── farewell     and a status whenever the program sets it

A service that fails or is stopped early skips what it never came to; `farewell` comes whenever `starting` has, but for
a SIGKILL. A reload that a stop interrupts ends after `stopping`.

Moments are told under one lock, so nobody hears "ready" after "stopping". In return no listener may wait: the keeper,
which ends a service that hangs, comes through here, too. What a listener raises is logged, and harms nobody else.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from typing import Any, Final

from dari.daemon.answer import Answer

_LOGGER: Final = logging.getLogger("dari.daemon")


class Listener:
    """One party. Each moment comes once but those of reloads and status, from the thread it happens in."""

    def starting(self) -> None:
        """Settings, log and host exist, and the program is imported; main is about to run. Main thread.

        The one moment that may refuse: a `Failure` raised here ends the start with its code.
        """

    def ready(self) -> None:
        """The program has said `ctx.ready()`; the pidfile says so, the caller of `dari start` does not know yet."""

    def reloading(self) -> None:
        """A reload has begun."""

    def reloaded(self, answer: Answer) -> None:
        """It has ended, `answer` says how; whoever waits for it has not been told yet."""

    def status(self, text: str) -> None:
        """The program says what it is doing (`ctx.set_status`)."""

    def stopping(self) -> None:
        """A stop was asked for, or main has ended. The pidfile says so; main does not know yet."""

    def farewell(self) -> None:
        """The process ends. From the main thread, or from the keeper's, while any other thread may hang."""

    def report(self) -> dict[str, Any]:
        """Return this party's share of `ctx.report()`. Any thread; plain values that JSON knows."""
        return {}


class Listeners:
    """All parties of one service, told in the order in which they joined."""

    def __init__(self) -> None:
        self._all: list[Listener] = []
        # Reentrant: a signal handler of the program may set a status in the midst of another one.
        self._telling = threading.RLock()

    def start(self, listeners: Iterable[Listener]) -> None:
        """Take them in, and tell them that main is about to run; what one of them raises passes through."""
        for listener in listeners:
            self._all.append(listener)
            listener.starting()

    def tell(self, moment: Callable[[Listener], None]) -> None:
        """Tell everybody, as in `tell(lambda each: each.ready())`. Any thread."""
        with self._telling:
            for listener in tuple(self._all):
                _call(listener, moment)

    def farewell(self) -> None:
        """Without the lock: on the way out of a process that hangs nobody waits for whoever holds it."""
        for listener in reversed(self._all):
            _call(listener, lambda each: each.farewell())

    def report(self) -> dict[str, Any]:
        """Return what all of them have to say, as one mapping."""
        found: dict[str, Any] = {}
        for listener in tuple(self._all):
            found |= listener.report()
        return found


def _call(listener: Listener, moment: Callable[[Listener], None]) -> None:
    try:
        moment(listener)
    except Exception:
        _LOGGER.exception("%s failed when it was told what the service does", type(listener).__name__)
