"""sd_notify without libraries: datagrams that tell systemd, or who listens on NOTIFY_SOCKET, what the service does.

    READY=1 ── (RELOADING=1 + MONOTONIC_USEC ── READY=1)* ── STOPPING=1    STATUS=… when it is set, WATCHDOG=1 meanwhile

What goes wrong elsewhere, and the way taken:
  - RELOADING without MONOTONIC_USEC in the same datagram, or without a READY after it, hangs `systemctl reload` of a
    `Type=notify-reload` unit (facts b22). READY comes after a refused reload too: the service is as ready as before.
  - STOPPING that is sent when the stop is over tells nobody anything. Here it is the first thing that a stop does.
  - A watchdog thread that reports by itself proves that threads run. Ours asks the loop to do it: one that is blocked
    says nothing, and the supervisor does what it was told to.
  - The variables are taken out of the environment before the program is imported, as `unset_environment` of
    sd_notify does it: a child of the service that speaks sd_notify would speak in the service's name.
  - Why a reload was refused may quote a password, and everybody may read STATUS: it is said where to look instead.

Under `dari start` nobody is told: there the caller of `start` is who waits for the readiness, and a socket in its
environment is about that caller.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, MutableMapping
from typing import Final

from dari.daemon.answer import Answer
from dari.daemon.listeners import Listener

_LOGGER: Final = logging.getLogger("dari.daemon")
_VARIABLES: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
_PATIENCE: Final = 1.0  # seconds with a supervisor whose queue is full; the keeper of a stop comes by here, too


class Supervisor(Listener):
    """Whoever started the service and wants to be told. Knows `address` ("/path" or "@abstract"), and its watchdog."""

    def __init__(self, address: str, watchdog: float | None) -> None:
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._watchdog = watchdog
        self._stopping = False
        self._failed = False

    def ready(self) -> None:
        self._send("READY=1")

    def status(self, text: str) -> None:
        self._send(f"STATUS={text}")

    def reloading(self) -> None:
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def reloaded(self, answer: Answer) -> None:
        if self._stopping:
            return  # READY would take it back
        said = "reloaded" if answer.ok else "reload refused, the log says why"
        self._send(f"READY=1\nSTATUS={said}; configuration {answer.generation}")

    def stopping(self) -> None:
        self._stopping = True
        self._send("STOPPING=1")

    def watch(self, post: Callable[[Callable[[], object]], object]) -> None:
        """Say that the service is alive as long as its loop does what `post` gives it; twice in the watchdog's time."""
        if self._watchdog is not None:
            period = self._watchdog / 2
            threading.Thread(target=self._watch, args=(post, period), name="dari-watchdog", daemon=True).start()

    def _watch(self, post: Callable[[Callable[[], object]], object], period: float) -> None:
        done = threading.Event()

        def alive() -> None:
            self._send("WATCHDOG=1")
            done.set()

        while True:
            done.clear()
            post(alive)
            done.wait()  # one question at a time: a loop that comes back after an hour has not been alive for an hour
            time.sleep(period)

    def _send(self, text: str) -> None:
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sending:
                sending.settimeout(_PATIENCE)
                sending.sendto(text.encode(), self._address)  # by name each time: systemd may have made its socket anew
        except OSError as error:
            if not self._failed:  # it is gone, or never was there: once is enough
                self._failed = True
                _LOGGER.warning("cannot tell the supervisor (NOTIFY_SOCKET): %s", error)


def take(environ: MutableMapping[str, str], *, pid: int) -> Supervisor | None:
    """Return who is to be told by this process, if anybody is, and remove what says so from the environment."""
    address, period, watched = (environ.pop(variable, "") for variable in _VARIABLES)
    if not address.startswith(("/", "@")):
        return None  # none; or vsock:, a virtual machine's manager, which is for that machine's own init
    # WATCHDOG_PID: the watchdog is that process's, and a child that inherited the variable has none.
    has_watchdog = period.isascii() and period.isdigit() and int(period) > 0 and watched in ("", str(pid))
    return Supervisor(address, int(period) / 1e6 if has_watchdog else None)
