"""How a signal reaches the service, whatever its main thread is doing.

A Python signal handler runs in the main thread, between two bytecodes. A loop's own `add_signal_handler` is later
still: when the loop comes round (0.9 s after the signal where the loop was blocked for a second, facts c). Neither
helps when the main thread sits in a C call. What does help is the byte that CPython's C-level handler writes at
once into the wakeup descriptor, with a thread of ours at the other end (`stopping.Keeper`).

But the wakeup descriptor is one per process, and loops take it: asyncio with the first `add_signal_handler`,
uvloop whenever it runs. So each signal is counted twice, by its byte and by the Python handler, and what counts is
the larger number. One signal gives at most one of each, so nothing is ever counted double (a single TERM must not
look like two, which would force); bypassed, the handler alone is as good as it is everywhere else. For uvloop,
`borrow` puts our descriptor in front and hands every byte on.

Before these handlers exist the signals are blocked, from before the fork on: a HUP 100 ms into the start killed
the prototype. They are unblocked here and nowhere earlier. (Blocking for good and `sigwait` in a thread would be
simpler still, but a blocked mask is inherited by every child that the service starts.)

What still leaks: more than 64 KiB of unread signals drop bytes, which merges signals of one kind, as the kernel does.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections import Counter
from collections.abc import Generator, Iterator
from types import FrameType
from typing import Final

from dari.daemon.lifecycle import SIGNALS, Intent

_NUDGE: Final = b"\0"


class StartInterrupted(BaseException):
    """A stop came while the program was being imported. A BaseException, so that its `except Exception` lets go."""


def block() -> set[signal.Signals | int]:
    """Hold back what `SIGNALS` lists (fork and exec inherit this); return the mask as it was."""
    return set(signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS))


def restore(mask: set[signal.Signals | int]) -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


@contextlib.contextmanager
def leaving() -> Generator[None, None, None]:
    """In a command: TERM and HUP raise SystemExit in here, so that it tidies up as after Ctrl-C.

    They end it at once where they come again, as ever. Only where nobody else has a handler, and only the main thread
    can have one.
    """
    ours = threading.current_thread() is threading.main_thread()
    taken = [each for each in (signal.SIGTERM, signal.SIGHUP) if ours and signal.getsignal(each) is signal.SIG_DFL]

    def leave(signum: int, _: FrameType | None) -> None:
        signal.signal(signum, signal.SIG_DFL)
        raise SystemExit(128 + signum)

    for each in taken:
        signal.signal(each, leave)
    try:
        yield
    finally:
        for each in taken:
            signal.signal(each, signal.SIG_DFL)


def reset_dispositions() -> None:
    """Undo what nohup, `sh -c 'cmd &'` or the caller left ignored: an ignored signal survives fork and exec."""
    for signum in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGPIPE, signal.SIGXFSZ}:
        # The C library keeps some of the real-time signals to itself.
        with contextlib.suppress(OSError, ValueError):
            if signal.getsignal(signum) is signal.SIG_IGN:
                signal.signal(signum, signal.SIG_DFL)


class Inbox:
    """Counts the signals of this process; made once, in the main thread, by the service itself."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC) if hasattr(os, "pipe2") else _pipe()
        self._by_byte: Counter[int] = Counter()
        self._by_handler: Counter[int] = Counter()
        self._told: Counter[int] = Counter()
        self._pass_on: int | None = None
        self._interrupting = False
        self._nudged = False
        self._masks: dict[int, set[signal.Signals | int]] = {}  # of the threads that are in a fork

    def fileno(self) -> int:
        return self._reader

    def open(self) -> None:
        """Install the handlers, then let in what waited."""
        signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        for signum in SIGNALS:
            signal.signal(signum, self._on_signal)
            signal.siginterrupt(signum, False)  # library code that does not expect EINTR
        os.register_at_fork(
            before=self._before_fork, after_in_parent=self._after_fork, after_in_child=self._leave_to_parent
        )
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        # Runs between any two bytecodes of the main thread, also inside a logging handler or a lock: so it
        # counts and nudges, and does nothing that could wait, nor (but in `interrupting`) raise.
        self._by_handler[signum] += 1
        self.nudge()
        if self._interrupting and SIGNALS[signal.Signals(signum)] in (Intent.STOP, Intent.FAST_STOP):
            self._interrupting = False
            raise StartInterrupted

    @contextlib.contextmanager
    def interrupting(self) -> Generator[None, None, None]:
        """Let a stop raise `StartInterrupted` inside the block, as Ctrl-C does in plain Python.

        For the import of the program, where there is no main yet that could be cancelled.
        """
        self._interrupting = True
        try:
            yield
        finally:
            self._interrupting = False

    def nudge(self) -> None:
        # One is enough until the reader has come round: in a storm of signals, one system call less in each.
        if not self._nudged:
            self._nudged = True
            with contextlib.suppress(BlockingIOError):  # full: then the reader has enough to wake up for
                os.write(self._writer, _NUDGE)

    def take(self) -> Iterator[tuple[signal.Signals, int]]:
        """Empty the pipe; give each signal that came and how often it has come by now. Never waits."""
        self._nudged = False  # before the counts are read, so that whoever counts after that nudges again
        with contextlib.suppress(BlockingIOError):
            while raw := os.read(self._reader, 65536):
                self._by_byte.update(raw)
                if self._pass_on is not None and raw.strip(_NUDGE):
                    with contextlib.suppress(OSError):
                        os.write(self._pass_on, raw.replace(_NUDGE, b""))
        for signum in SIGNALS:
            count = max(self._by_byte[signum], self._by_handler[signum])
            if count > self._told[signum]:
                self._told[signum] = count
                yield signum, count

    @contextlib.contextmanager
    def borrow(self) -> Generator[None, None, None]:
        """Take the wakeup descriptor back from a running loop; every byte is handed on to it. Main thread only."""
        theirs = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        if theirs in (-1, self._writer):
            yield
            return
        self._pass_on = theirs
        try:
            yield
        finally:
            # Before the loop closes it: its number may belong to any file a moment later.
            self._pass_on = None
            signal.set_wakeup_fd(theirs, warn_on_full_buffer=False)

    @contextlib.contextmanager
    def lend(self) -> Generator[None, None, None]:
        """Leave the wakeup descriptor to a loop that insists on taking it itself, and `borrow` it back inside.

        trio warns when it finds it taken. In the moments before and after the Python handler alone counts: the main
        thread is in Python then. Main thread only.
        """
        signal.set_wakeup_fd(-1)
        try:
            yield
        finally:
            signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)

    def deafen(self) -> None:
        """Ignore from now on what is not about the end: the interpreter goes, and takes the handlers away first.

        A HUP after that would kill a service that has ended well. (A TERM may: whoever sends one means it.) Main thread
        only.
        """
        for signum, intent in SIGNALS.items():
            if intent not in (Intent.STOP, Intent.FAST_STOP):
                signal.signal(signum, signal.SIG_IGN)

    def _before_fork(self) -> None:
        # A signal that reaches the child before `_leave_to_parent` has run would be told to the parent and do
        # nothing to the child (seen in tests: a TERM right after the fork).
        self._masks[threading.get_ident()] = block()

    def _after_fork(self) -> None:
        restore(self._masks.pop(threading.get_ident()))

    def _leave_to_parent(self) -> None:
        # A forked child shares the pipe (its signals would stop the parent, facts b23) and the handlers, but not
        # the thread that acts on them: `terminate()` of a multiprocessing child would do nothing.
        signal.set_wakeup_fd(-1)
        for signum in SIGNALS:
            if signal.getsignal(signum) == self._on_signal:
                signal.signal(signum, signal.SIG_DFL)
        self._after_fork()


def _pipe() -> tuple[int, int]:
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    return reader, writer
