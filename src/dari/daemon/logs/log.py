"""The log of a service, held by a descriptor whose number never changes.

Opened after the last fork (a handler from before it writes its lines into whatever file has its number by then,
facts c). A HUP opens the path again and puts the new file under the *same* number with dup2, which is atomic: the
log's writer, stdout and stderr, C code and a thread in the middle of a line all go on, and none of them has to
be told. Append mode is what makes logrotate's copytruncate work.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
import threading
from collections.abc import Generator
from typing import Final

from dari.daemon.config import Settings
from dari.daemon.lifecycle import Exit, Failure
from dari.daemon.logs.format import as_bytes, make_formatter
from dari.daemon.logs.output import Outputs
from dari.daemon.logs.rotation import Rotation
from dari.daemon.logs.writer import Writer
from dari.daemon.rights.trust import distrusted

_NO_FILE: Final = {
    errno.ELOOP: "it is a symbolic link; remove it",
    errno.ENXIO: "it is not a regular file; remove it",
    errno.EISDIR: "it is a directory",
}


@contextlib.contextmanager
def opening_log(settings: Settings, *, detached: bool) -> Generator[tuple[str | None, bool]]:
    """Give the log's path (None: stderr) and whether its directory is ours to make; OSErrors become `Failure`."""
    told = settings.told("logfile")
    path = settings.logfile if detached or told else None
    try:
        yield path, not told
    except OSError as error:
        code = Exit.NOT_PERMITTED if isinstance(error, PermissionError) else Exit.FAILED
        raise Failure(code, f"cannot open the log {path}: {error.strerror}") from error


def open_log(path: str, *, create_directory: bool) -> int:
    """Open a log file for appending: no symlink, no fifo, nobody else may read it. An OSError says what is wrong."""
    directory = os.path.dirname(path)
    if create_directory:
        os.makedirs(directory, mode=0o700, exist_ok=True)
    if reason := distrusted(directory):
        raise PermissionError(errno.EPERM, f"{reason}: no place for a log", path)
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
    try:
        fd = os.open(path, flags, 0o640)
    except OSError as error:
        if error.errno in _NO_FILE:
            raise OSError(error.errno, _NO_FILE[error.errno], path) from error
        raise
    if wrong := _wrong_with(os.fstat(fd), directory):
        os.close(fd)
        raise OSError(errno.EINVAL, wrong, path)
    return fd


def _wrong_with(facts: os.stat_result, directory: str) -> str | None:
    if not stat.S_ISREG(facts.st_mode):
        return "it is not a regular file; remove it"
    if facts.st_nlink != 1:
        return f"it has {facts.st_nlink} names (hard links); remove it"
    if facts.st_uid not in (0, os.geteuid()) and os.stat(directory).st_mode & stat.S_IWOTH:
        # In /tmp anybody could have put it there, to read what we write.
        return f"it belongs to uid {facts.st_uid}; remove it"
    return None


class Log:
    """Where this service's lines go; a file, or stderr when there is none (`path` is None)."""

    def __init__(self, path: str | None, settings: Settings, *, create_directory: bool, detached: bool) -> None:
        self.path = path
        self.fd = 2 if path is None else open_log(path, create_directory=create_directory)
        self._copies = [self.fd] if path is not None else []
        self._reopening = threading.Lock()
        self._bare = settings.log_format == "none"
        self._formatter = make_formatter(settings.log_format)
        rotation: Rotation | None = None
        if path is not None and settings.log_rotate != "none":
            rotation = Rotation(
                path,
                self.fd,
                self.reopen,
                by_time=settings.log_rotate == "time",
                max_bytes=settings.log_max_bytes,
                backups=settings.log_backups,
            )
        self._writer = Writer(self.fd, self._composed, rotating=rotation)
        self._outputs = Outputs(as_json=settings.log_format == "json") if detached else None
        if not self._bare:  # else the application does all of it
            handler = _ToWriter(self._writer)
            handler.setFormatter(self._formatter)
            logging.getLogger().addHandler(handler)
            self.set_level(settings.log_level)

    @staticmethod
    def set_level(level: str) -> None:
        logging.getLogger().setLevel(level.upper())

    def _composed(self, text: str, level: int = logging.WARNING) -> bytes:
        if self._bare:
            return as_bytes(f"dari: {text}")
        record = logging.LogRecord("dari.daemon", level, __file__, 0, text, None, None)
        return as_bytes(self._formatter.format(record))

    def tell(self, text: str, *, level: int) -> None:
        """Write it, whatever level and handlers the program has chosen. For what an operator has asked for."""
        self._writer.put(self._composed(text, level), always=True)

    @property
    def configures_logging(self) -> bool:
        return not self._bare

    def dropped(self) -> int:
        """How many lines there was no room for."""
        return self._writer.dropped()

    def take_over_output(self) -> None:
        """Point stdout and stderr at the file, so that the caller of `dari start` gets its own back."""
        if self._outputs is not None:
            self._outputs.switch(self._writer.put)
        with self._reopening:
            for number in (1, 2):
                os.dup2(self.fd, number, inheritable=True)
                self._copies.append(number)

    def reopen(self) -> None:
        """Open the path again; when that fails the old file stays in use and the error passes through."""
        if self.path is None:
            return
        # A reload and a rotation may both be at it: with the one's file the other would go back to what it has renamed.
        with self._reopening:
            fresh = open_log(self.path, create_directory=False)
            try:
                for number in self._copies:
                    os.dup2(fresh, number, inheritable=number in (1, 2))
            finally:
                os.close(fresh)
        self._writer.moved()

    def end_output(self) -> None:
        """Give away what was printed without the end of its line. In the main thread: a stream may have locks."""
        if self._outputs is not None:
            self._outputs.end()

    def close(self, timeout: float) -> None:
        """Write what waits, for `timeout` seconds at most; later lines are written where they are logged."""
        self._writer.close(timeout)


class _ToWriter(logging.Handler):
    def __init__(self, writer: Writer) -> None:
        super().__init__()
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = as_bytes(self.format(record))
        except Exception:  # noqa: BLE001 - whatever somebody's __str__ raises: logging tells it on stderr
            self.handleError(record)
            return
        self._writer.put(line)
