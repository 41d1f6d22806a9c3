"""The log file of a service, held by a descriptor whose number never changes.

Opened after the last fork (a handler from before it writes its lines into whatever file has its number by then,
facts c). A HUP opens the path again and puts the new file under the *same* number with dup2, which is atomic: the
logging handler, stdout and stderr, C code and a thread in the middle of a line all go on, and none of them has to
be told. Append mode is what makes logrotate's copytruncate work.
"""

from __future__ import annotations

import logging
import os
import stat
import sys

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def open_log(path: str, *, create_directory: bool) -> int:
    """Open a log file for appending: no symlink, no fifo, nobody else may read it."""
    if create_directory:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
    fd = os.open(path, flags, 0o640)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(f"{path} is not a regular file")
    return fd


class Log:
    """Where this service's lines go; a file, or stderr when there is none (`path` is None)."""

    def __init__(self, path: str | None, *, create_directory: bool, level: str) -> None:
        self._path = path
        self.fd = 2 if path is None else open_log(path, create_directory=create_directory)
        self._copies = [self.fd] if path is not None else []
        stream = sys.stderr if path is None else open(self.fd, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - for life
        handler = logging.StreamHandler(stream)
        handler.setFormatter(logging.Formatter(FORMAT))
        logging.getLogger().addHandler(handler)
        self.set_level(level)

    @staticmethod
    def set_level(level: str) -> None:
        logging.getLogger().setLevel(level.upper())

    def take_over_output(self) -> None:
        """Point stdout and stderr at the file, so that the caller of `dari start` gets its own back."""
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        for number in (1, 2):
            os.dup2(self.fd, number, inheritable=True)
            self._copies.append(number)

    def reopen(self) -> None:
        """Open the path again; when that fails the old file stays in use and the error passes through."""
        if self._path is None:
            return
        fresh = open_log(self._path, create_directory=False)
        try:
            for number in self._copies:
                os.dup2(fresh, number, inheritable=number in (1, 2))
        finally:
            os.close(fresh)
