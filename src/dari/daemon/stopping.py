"""The one timeline of a stop, kept by a thread that needs nothing from the loop.

A service that hangs is the one that must be stoppable. So nobody asks its loop to watch the clock: this thread
reads the signals, says what is to be done through `Stoppable`, and when the time is up, or the second signal of
one kind comes, leaves the process itself, with the stacks of what would not stop in the log.

Everything it does on the way out is a plain system call: logging's locks, the allocator of some extension or the
import lock may be what hangs. The forced exit re-raises the signal, so that `wait` in the parent tells the truth.

What still leaks: where C code holds the GIL and does not give it back, no thread of Python runs. Then only the
KILL at the end of `dari stop` helps.
"""

from __future__ import annotations

import contextlib
import faulthandler
import math
import os
import select
import signal
import threading
import time
from collections.abc import Callable
from typing import Final, NoReturn, Protocol

from dari.daemon.lifecycle import SIGNALS, Intent, Timeline, timeline
from dari.daemon.signals import Inbox

_LAST_LINES: Final = 0.5  # seconds that the log may take from a hard exit


class Stoppable(Protocol):
    """What the keeper can ask of a service. Called from the keeper's thread; none of these may wait for long."""

    def ask_to_stop(self) -> None:
        """Have `ctx.stopping` set in main's loop, and main cancelled there if it does not listen."""
        ...

    def cancel(self) -> None:
        """Have main cancelled in its loop, if it was not before."""
        ...

    def reload(self) -> None: ...
    def dump(self) -> None: ...
    def note(self, text: str) -> None: ...
    def last_words(self) -> str:
        """Return the stacks of the tasks that are suspended (threads are dumped by the keeper)."""
        ...

    def farewell(self, patience: float) -> None:
        """Write the log's last lines, for so many seconds at most, and clear the pidfile."""
        ...


class Keeper:
    """Watches the signals and the clock of one service, from its first line to its last."""

    def __init__(
        self,
        inbox: Inbox,
        service: Stoppable,
        *,
        grace: Callable[[], float],
        on_terminal: bool,
        log_fd: Callable[[], int],
    ) -> None:
        self._inbox = inbox
        self._service = service
        self._grace = grace
        # There a HUP says that the terminal was closed, and nobody is left to see a reload.
        self._on_terminal = on_terminal
        self._log_fd = log_fd
        self._asked: signal.Signals | None = None
        self._since = 0.0
        self._line: Timeline | None = None  # written after those two: who reads it in another thread finds them
        self._cancelled = False
        self._ended_at: float | None = None
        self._code = 1
        self._thread = threading.Thread(target=self._keep, name="dari-keeper", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def main_ended(self, code: int) -> None:
        """Say that main is over: what is left (hooks, pool, atexit, threads that are joined) has `stop_grace`, too.

        `code` is what a process that overstays it ends with; said again when it is known better.
        """
        self._code = code
        if self._ended_at is None:
            self._ended_at = time.monotonic()
            self._inbox.nudge()

    def left(self) -> float:
        """Return how many seconds there are before the process leaves hard; infinity while nothing ends it."""
        return self._leave_at() - time.monotonic()

    def _leave_at(self) -> float:
        if self._line is not None:
            return self._since + self._line.leave
        if self._ended_at is not None:
            return self._ended_at + self._grace()
        return math.inf

    def _keep(self) -> None:
        poll = select.poll()
        poll.register(self._inbox.fileno(), select.POLLIN)
        while True:
            poll.poll(self._patience())
            for signum, count in self._inbox.take():
                self._receive(signum, count)
            now = time.monotonic()
            if self._line is not None and not self._cancelled and now >= self._since + self._line.cancel:
                self._cancelled = True
                self._service.cancel()
            if now >= self._leave_at():
                if self._line is not None and self._asked is not None:
                    self._leave(f"still running {self._line.leave:g} s after {self._asked.name}", self._asked)
                self._leave(f"main has ended, and {self._grace():g} s later the process has not", None)

    def _patience(self) -> float | None:
        """Return for how many milliseconds nothing is due; None: until a signal comes."""
        due = self._leave_at()
        if self._line is not None and not self._cancelled:
            due = self._since + self._line.cancel
        return None if due == math.inf else max(0.0, due - time.monotonic()) * 1000 + 1

    def _receive(self, signum: signal.Signals, count: int) -> None:
        intent = SIGNALS[signum]
        if signum == signal.SIGHUP and self._on_terminal:
            intent = Intent.STOP
        if intent is Intent.RELOAD:
            self._service.reload()
        elif intent is Intent.DUMP:
            self._service.dump()
        elif intent is Intent.RESERVED:
            self._service.note(f"{signum.name} is reserved and does nothing yet")
        elif count > 1:
            self._leave(f"{signum.name} came again", signum)
        else:
            self._stop(signum, intent)

    def _stop(self, signum: signal.Signals, intent: Intent) -> None:
        now = time.monotonic()
        line = timeline(intent, self._grace())
        if self._line is None:
            left = self._leave_at() - now  # of a main that has ended by itself: a stop gives it no more
            self._asked, self._since = signum, now
            self._line = line._replace(leave=min(line.leave, left))
            self._service.ask_to_stop()
        elif intent is Intent.FAST_STOP:
            # QUIT shortens a stop that is under way; TERM after INT leaves it as it is.
            spent = now - self._since
            self._line = Timeline(
                min(self._line.cancel, spent + line.cancel), min(self._line.leave, spent + line.leave)
            )

    def _leave(self, reason: str, signum: signal.Signals | None) -> NoReturn:
        """Leave now. Never returns."""
        fd = self._log_fd()
        with contextlib.suppress(Exception):
            os.write(fd, f"dari: leaving hard: {reason}. What would not stop:\n".encode())
            faulthandler.dump_traceback(file=fd, all_threads=True)
            os.write(fd, self._service.last_words().encode("utf-8", "replace"))
        with contextlib.suppress(Exception):
            self._service.farewell(_LAST_LINES)
        if signum is None:
            os._exit(self._code)
        with contextlib.suppress(Exception):
            _default_action(signum)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signum})
            os.kill(os.getpid(), signum)
        os._exit(128 + signum)  # as PID 1, where the default action does nothing


def _default_action(signum: signal.Signals) -> None:
    # `signal.signal` works in the main thread only, and that one may be what hangs. PyOS_setsig is the same
    # sigaction call in CPython's documented C interface.
    import ctypes

    ctypes.pythonapi.PyOS_setsig(ctypes.c_int(int(signum)), ctypes.c_void_p(int(signal.SIG_DFL)))
