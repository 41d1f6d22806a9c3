"""What a service uses, told in its own log every `[daemon.log] report_every` seconds.

For the morning after: was it the memory, the descriptors, or the loop? A thread of its own asks, so that a blocked
loop is reported as what it is.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from dari.daemon.control.pulse import Pulse
from dari.daemon.control.vitals import Usage
from dari.daemon.listeners import Listener

_LOGGER: Final = logging.getLogger("dari.daemon")
_PATIENCE: Final = 5.0  # seconds for the loop to answer; who blocks it longer is told so


class Reporter(Listener):
    """`dropped` counts the lines that the log had no room for."""

    def __init__(self, every: float, pulse: Pulse, dropped: Callable[[], int]) -> None:
        self._every = every
        self._pulse = pulse
        self._dropped = dropped

    def starting(self) -> None:
        threading.Thread(target=self._work, name="dari-report", daemon=True).start()

    def _work(self) -> None:
        usage = Usage()
        usage.look()  # the first report is of what was used since here
        while True:
            time.sleep(self._every)
            beat = self._pulse.feel(min(_PATIENCE, self._every))
            look = usage.look()
            if look is None:
                _LOGGER.warning("no more reports of what is used: the system does not tell")
                return
            used: dict[str, Any] = {
                "cpu_percent": look["cpu"],
                "rss": look["rss"],
                "descriptors": look["fds"],
                "threads": look["threads"],
                "loop_lag": round(beat.lag, 6) if beat.answered else None,
                "dropped": self._dropped(),
            }
            _LOGGER.info("%s", _sentence(used), extra=used)


def _sentence(used: dict[str, Any]) -> str:
    lag = "the loop did not answer" if used["loop_lag"] is None else f"loop lag {used['loop_lag'] * 1000:.1f} ms"
    return (
        f"uses cpu {used['cpu_percent']} %, memory {used['rss'] / 1e6:.1f} MB, {used['descriptors']} descriptors, "
        f"{used['threads']} threads; {lag}; {used['dropped']} log lines dropped so far"
    )
