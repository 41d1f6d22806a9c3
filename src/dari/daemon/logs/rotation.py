"""Built-in rotation: NAME.log becomes NAME.log.1, .1 becomes .2, and the one beyond `backups` is gone.

For a service that has no logrotate around it. Done by the log's one writer between two lines, and by reopening the
path onto the same descriptor, so stdout, stderr and C code move to the new file in the same moment, and no line is
lost, doubled or cut in two. Forked children go on writing into the old file, which is what they have open.

If somebody else has moved the file already, it is reopened and nothing more: two rotators do no harm.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from typing import Final

_TRY_AGAIN: Final = 60.0  # seconds; a directory that refuses a rename now does so a moment later too


class Rotation:
    """`by_time`: at local midnight, else by size. `clock` gives seconds since the epoch."""

    def __init__(
        self,
        path: str,
        fd: int,
        reopen: Callable[[], None],
        *,
        by_time: bool,
        max_bytes: int,
        backups: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._path = path
        self._fd = fd
        self._reopen = reopen
        self._by_time = by_time
        self._max_bytes = max_bytes
        self._backups = backups
        self._clock = clock
        self._midnight = 0.0
        self._not_before = 0.0
        # A service that was down over midnight: the lines that are there are yesterday's.
        self._set_midnight(os.fstat(fd).st_mtime)

    def make_room(self, coming: int) -> str | None:
        """Rotate if `coming` more bytes would be too much, or a day is over; return what went wrong, or None."""
        now = self._clock()
        if self._by_time and now < self._midnight:
            return None
        size = os.fstat(self._fd).st_size
        due = size > 0 and (self._by_time or size + coming > self._max_bytes)
        if due and now < self._not_before:
            return None
        try:
            if due:
                self._rotate()
        except OSError as error:
            self._not_before = now + _TRY_AGAIN
            return f"cannot rotate {self._path}: {error.strerror or error}; tried again in {_TRY_AGAIN:g} s"
        self._set_midnight(now)
        return None

    def _rotate(self) -> None:
        ours = os.fstat(self._fd)
        with contextlib.suppress(FileNotFoundError):
            there = os.lstat(self._path)
            if (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino):
                for number in range(self._backups, 0, -1):
                    source = self._path if number == 1 else f"{self._path}.{number - 1}"
                    with contextlib.suppress(FileNotFoundError):  # a gap stays one
                        os.rename(source, f"{self._path}.{number}")
        self._reopen()

    def _set_midnight(self, after: float) -> None:
        day = time.localtime(after)
        self._midnight = time.mktime((day.tm_year, day.tm_mon, day.tm_mday + 1, 0, 0, 0, 0, 0, -1))
