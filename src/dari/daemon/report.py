"""What a service uses, told in its own log every `[daemon.log] report_every` seconds.

For the morning after: was it the memory, the descriptors, or the loop? A thread of its own asks, so that a blocked
loop is reported as what it is. The loop's lag is measured by asking: how long until a posted call is called.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Any, Final

_LOGGER: Final = logging.getLogger("dari.daemon")
_PATIENCE: Final = 5.0  # seconds for the loop to answer; who blocks it longer is told so


class Reporter:
    """`post` has a call made in the loop's thread; `dropped` counts the lines that the log had no room for."""

    def __init__(
        self, every: float, *, post: Callable[[Callable[[], object]], object], dropped: Callable[[], int]
    ) -> None:
        self._every = every
        self._post = post
        self._dropped = dropped

    def start(self) -> None:
        threading.Thread(target=self._work, name="dari-report", daemon=True).start()

    def _work(self) -> None:
        import psutil  # 20 ms, and only who wants reports pays them

        process = psutil.Process()
        before, since = _cpu(), time.monotonic()
        while True:
            time.sleep(self._every)
            lag = self._lag()
            cpu, now = _cpu(), time.monotonic()
            try:
                with process.oneshot():
                    used: dict[str, Any] = {
                        "cpu_percent": round(100 * (cpu - before) / (now - since), 1),
                        "rss": process.memory_info().rss,
                        "descriptors": process.num_fds(),
                        "threads": process.num_threads(),
                        "loop_lag": None if lag is None else round(lag, 6),
                        "dropped": self._dropped(),
                    }
            except psutil.Error as error:
                _LOGGER.warning("no more reports of what is used: %s", error)
                return
            before, since = cpu, now
            _LOGGER.info("%s", _sentence(used), extra=used)

    def _lag(self) -> float | None:
        answered = threading.Event()
        asked = time.perf_counter()
        self._post(answered.set)
        return time.perf_counter() - asked if answered.wait(min(_PATIENCE, self._every)) else None


def _cpu() -> float:
    times = os.times()
    return times.user + times.system


def _sentence(used: dict[str, Any]) -> str:
    lag = "the loop did not answer" if used["loop_lag"] is None else f"loop lag {used['loop_lag'] * 1000:.1f} ms"
    return (
        f"uses cpu {used['cpu_percent']} %, memory {used['rss'] / 1e6:.1f} MB, {used['descriptors']} descriptors, "
        f"{used['threads']} threads; {lag}; {used['dropped']} log lines dropped so far"
    )
