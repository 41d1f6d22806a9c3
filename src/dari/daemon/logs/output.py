"""`sys.stdout` and `sys.stderr` of a detached service: the caller's until it is ready, then lines of the log.

A plain `print` into a full disk raises OSError, and that must not end a service. So what Python prints goes the way
of every other log line, through the queue of `writer`: in its order, and dropped and counted where there is no
room. Descriptors 1 and 2 are the log file too, for C code and children; those meet the disk by themselves. Nothing
here goes through `logging`, or a handler that writes to stderr would feed itself.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any, Final, TextIO

from dari.daemon.logs.format import as_bytes, rfc3339


class _Output(io.RawIOBase):
    """One of the two. In JSON each printed line is an object as well, its logger "stdout" or "stderr"."""

    def __init__(self, number: int, name: str, *, as_json: bool) -> None:
        super().__init__()
        self.name = f"<{name}>"  # `sys.stdout.name`, as it was
        self._number = number
        self._name = name
        self._as_json = as_json
        self._put: Callable[[bytes], object] | None = None
        self._rest = b""

    def fileno(self) -> int:
        return self._number

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        if self._put is None:
            return os.write(self._number, data)
        raw = bytes(data)
        if not self._as_json:
            self._put(raw)
        else:
            *lines, self._rest = (self._rest + raw).split(b"\n")
            for line in lines:
                self._put(self._wrapped(line))
        return len(raw)

    def switch(self, put: Callable[[bytes], object]) -> None:
        self._put = put

    def end(self) -> None:
        """Give away the beginning of a line that nobody has ended."""
        if self._put is not None and self._rest:
            rest, self._rest = self._rest, b""
            self._put(self._wrapped(rest))

    def _wrapped(self, line: bytes) -> bytes:
        text = line.decode("utf-8", "backslashreplace")
        made = {"time": rfc3339(time.time()), "level": "INFO", "logger": self._name, "message": text}
        return as_bytes(json.dumps(made, ensure_ascii=False))


class Outputs:
    """Puts both in the place of `sys.stdout` and `sys.stderr`, before the program is imported and keeps one."""

    def __init__(self, *, as_json: bool) -> None:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        self._raw: Final = [_Output(1, "stdout", as_json=as_json), _Output(2, "stderr", as_json=as_json)]
        self._streams: Final[list[TextIO]] = [
            io.TextIOWrapper(io.BufferedWriter(raw), encoding="utf-8", errors="backslashreplace", line_buffering=True)
            for raw in self._raw
        ]
        sys.stdout, sys.stderr = self._streams

    def switch(self, put: Callable[[bytes], object]) -> None:
        """From now on what is printed goes to `put`."""
        self.flush()
        for raw in self._raw:
            raw.switch(put)

    def flush(self) -> None:
        for stream in self._streams:
            with contextlib.suppress(ValueError):  # the program has closed it, as daemons used to
                stream.flush()

    def end(self) -> None:
        self.flush()
        for raw in self._raw:
            raw.end()
