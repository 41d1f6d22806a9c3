"""`dari logs`: the end of the log, and what comes, over rotations of every kind.

The follower holds the file open, so a rename takes it nowhere. The service writes into the old file until it has
heard the signal, so the follower leaves it only when the new one has its first line: from then on nothing comes to the
old one, whose rest is shown first. If there were several rotations between two looks, our file has a number by now,
and the files between it and the log's name are shown in their order. A file that is shorter than what was read was
truncated (copytruncate): it is read from its beginning again.

It looks ten times a second; the wait is a poll on stdout, which also tells when its reader has gone.
"""

from __future__ import annotations

import errno
import os
import select
import stat
import sys
from collections.abc import Iterator
from typing import Final

from dari.daemon.lifecycle import Exit, Refused

_LOOK_AGAIN: Final = 0.1  # seconds; below what a reader notices, and a stat costs 2 µs
_BLOCK: Final = 65536
_MOST_NUMBERS: Final = 100  # of rotated files that are searched for ours


def show(path: str, *, lines: int, follow: bool) -> None:
    """Write the last `lines` lines to stdout; with `follow` go on until Ctrl-C or until the reader goes."""
    try:
        fd = open_for_reading(path)
    except FileNotFoundError as error:
        text = f"there is no log {path}: the service never ran, or it logs elsewhere (-c FILE or --logfile says where)"
        raise Refused(Exit.FAILED, text) from error
    except OSError as error:
        code = Exit.NOT_PERMITTED if isinstance(error, PermissionError) else Exit.FAILED
        raise Refused(code, f"cannot read the log {path}: {error.strerror}") from error
    sys.stdout.flush()
    try:
        _seek_last(fd, lines)
        while raw := os.read(fd, _BLOCK):
            _write(raw)
        if follow:
            reader_gone = select.poll()
            reader_gone.register(1, 0)  # asks for nothing: POLLERR and POLLHUP are told all the same
            for raw in coming(path, fd):
                _write(raw)
                if not raw and reader_gone.poll(_LOOK_AGAIN * 1000):
                    break
    except (BrokenPipeError, KeyboardInterrupt):
        pass  # both are how people end this


def open_for_reading(path: str) -> int:
    """Open a log, and nothing that is no file."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "not a regular file", path)
    return fd


def _write(raw: bytes) -> None:
    rest = memoryview(raw)
    while rest:
        rest = rest[os.write(1, rest) :]


def _seek_last(fd: int, lines: int) -> None:
    """Stand at the beginning of the last so many lines; the one that has no end yet counts as one."""
    end = position = os.lseek(fd, 0, os.SEEK_END)
    wanted = lines
    while position > 0 and wanted > 0:
        start = max(0, position - _BLOCK)
        block = os.pread(fd, position - start, start)
        # The newline that ends the file begins no line.
        found = len(block) - 1 if position == end and block.endswith(b"\n") else len(block)
        while wanted > 0 and (found := block.rfind(b"\n", 0, found)) != -1:
            wanted -= 1
            if wanted == 0:
                os.lseek(fd, start + found + 1, os.SEEK_SET)
                return
        position = start
    os.lseek(fd, 0 if lines > 0 else end, os.SEEK_SET)


def coming(path: str, fd: int) -> Iterator[bytes]:
    """Give what is written from now on, in order; nothing (`b""`) whenever there is nothing to give. Never waits."""
    while True:
        successors = _successors(path, fd)  # first: what our file has after that is its rest
        if os.fstat(fd).st_size < os.lseek(fd, 0, os.SEEK_CUR):
            os.lseek(fd, 0, os.SEEK_SET)
        while raw := os.read(fd, _BLOCK):
            yield raw
        if successors:
            os.close(fd)
            fd = successors.pop(0)
            for number in successors:  # looked for again when this one is read
                os.close(number)
        else:
            yield b""


def _successors(path: str, fd: int) -> list[int]:
    """Return the files that came after ours, opened, the oldest first; none while the new one is still empty."""
    ours = os.fstat(fd)
    opened: list[int] = []
    for number in range(_MOST_NUMBERS):
        try:
            other = open_for_reading(f"{path}.{number}" if number else path)
        except OSError:
            break
        there = os.fstat(other)
        if (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino):
            os.close(other)
            return opened
        if number == 0 and there.st_size == 0:
            os.close(other)
            return []
        opened.insert(0, other)
    # Ours has gone, or has another kind of name: the log's own name is what comes next.
    for other in opened[:-1]:
        os.close(other)
    return opened[-1:]
