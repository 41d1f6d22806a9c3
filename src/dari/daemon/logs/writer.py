"""The one writer of a service's log: a bounded queue, and a thread that empties it.

A log line must never cost the service more than an append. Writing it where it is logged does: a disk that hangs
hangs the loop, and a full one raises OSError out of `print`. So lines are put into a queue, which waits for nobody
and is safe inside of signal handlers and destructors (a `SimpleQueue` is), and one thread writes them, in their
order. Where there is no room (ENOSPC, EDQUOT, EFBIG, EIO) it keeps what it has in hand and tries again; the queue
fills, and what comes then is dropped and *counted*. The count stands in the log as soon as there is room again.

A forked child has the queue but not the thread: there, and after `close`, lines are written where they are logged.

What still leaks: what was logged in the last milliseconds before a SIGKILL or a crash of the interpreter.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import select
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Final, Protocol

LIMIT: Final = 10_000  # lines; some megabytes of memory, and a minute of a busy service
_BATCH: Final = 256  # lines in one write: 2 µs a line, instead of 5
_TRY_AGAIN: Final = 1.0  # seconds; nobody frees a disk faster, and no test waits long for it
_FULL_QUEUE: Final = "the queue was full"
_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})


class Rotating(Protocol):
    """Who moves the file away before a line that would be too much for it (`rotation`)."""

    def make_room(self, coming: int) -> str | None:
        """Rotate if it is time to; return what went wrong, once, or None."""
        ...


class Writer:
    """Writes to one descriptor, whose number never changes. Made after the last fork."""

    def __init__(
        self, fd: int, compose: Callable[[str], bytes], *, limit: int = LIMIT, rotating: Rotating | None = None
    ) -> None:
        self._fd = fd
        self._compose = compose
        self._limit = limit
        self._rotating = rotating
        self._lines: SimpleQueue[bytes | threading.Event] = SimpleQueue()
        self._direct = False
        self._closing = threading.Event()
        self._moved = 0
        # next() of a count is one step that no thread, signal or destructor can come between; += is not.
        self._drops = itertools.count(1)
        self._looks = 0
        self._looking = threading.Lock()
        self._told = 0
        self._why = _FULL_QUEUE
        os.register_at_fork(after_in_child=self._in_child)
        threading.Thread(target=self._work, name="dari-log", daemon=True).start()

    def put(self, line: bytes, *, always: bool = False) -> None:
        """Take a line (with its end), or count it as dropped. Never waits, never raises."""
        if self._direct:
            with contextlib.suppress(OSError):
                os.write(self._fd, line)
        elif self._lines.qsize() >= self._limit and not always:
            next(self._drops)
        else:
            self._lines.put(line)

    def dropped(self) -> int:
        """How many lines were dropped so far."""
        with self._looking:
            self._looks += 1
            return next(self._drops) - self._looks

    def moved(self) -> None:
        """Say that the descriptor leads to another file by now: a line that was cut short starts anew there."""
        self._moved += 1

    def flush(self, timeout: float) -> bool:
        """Wait until what was put so far is written; False when that took too long."""
        done = threading.Event()
        self._lines.put(done)
        return done.wait(timeout)

    def close(self, timeout: float) -> None:
        """Write what is left, if there is room, and from now on each line where it is logged."""
        if not self._direct:
            self._direct = True
            self._closing.set()
            self.flush(timeout)

    def _in_child(self) -> None:
        self._direct = True

    def _work(self) -> None:
        while True:
            batch, waiting = self._next_batch()
            if batch:
                self._deliver(batch)
            for event in waiting:
                event.set()

    def _next_batch(self) -> tuple[list[bytes], list[threading.Event]]:
        batch: list[bytes] = []
        waiting: list[threading.Event] = []
        item = self._lines.get()
        while True:
            if isinstance(item, bytes):
                batch.append(item)
            else:
                waiting.append(item)
            if len(batch) + len(waiting) == _BATCH:
                break
            try:
                item = self._lines.get_nowait()
            except Empty:
                break
        return batch, waiting

    def _deliver(self, batch: list[bytes]) -> None:
        if self._rotating is None:
            self._write(b"".join(batch))
        else:
            for line in batch:
                self._rotate_for(line)
                self._write(line)
        dropped = self.dropped()
        if dropped > self._told:
            text = f"{dropped - self._told} lines were dropped here: the log had no room ({self._why})"
            self._told, self._why = dropped, _FULL_QUEUE
            self._write(self._compose(text))

    def _rotate_for(self, line: bytes) -> None:
        assert self._rotating is not None
        if wrong := self._rotating.make_room(len(line)):
            self._write(self._compose(wrong))

    def _write(self, chunk: bytes) -> None:
        """Write all of it, however long that takes; give up at the end of the process, or where it cannot help."""
        moved, written = self._moved, 0
        while written < len(chunk):
            try:
                written += os.write(self._fd, memoryview(chunk)[written:])
            except BlockingIOError:  # stderr, as the caller has left it
                poll = select.poll()
                poll.register(self._fd, select.POLLOUT)
                poll.poll(_TRY_AGAIN * 1000)
            except OSError as error:
                self._why = error.strerror or str(error)
                if error.errno not in _NO_ROOM or self._closing.wait(_TRY_AGAIN):
                    for _ in range(max(1, chunk.count(b"\n", written))):
                        next(self._drops)
                    return
            if moved != self._moved:
                moved, written = self._moved, chunk.rfind(b"\n", 0, written) + 1
