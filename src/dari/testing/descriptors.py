"""Which descriptors of a loop could bring something from outside of the process?

A TCP connection whose two ends are both in this process can bring only what the program itself has sent, and that is
there at once: when nothing is in flight, nothing of it holds virtual time. So an aiohttp server and its client, both in
the program under test, wait for each other in no time. Everything else (pipes, datagrams, sockets of Unix, whose other
end nobody tells) may be waited for by anyone.
"""

from __future__ import annotations

import array
import fcntl
import os
import socket
import termios
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Descriptors"]

Ends = tuple[object, object]
"""The addresses of this end and of the other."""


@final
class Descriptors:
    """Looks at them, again and again; it remembers where the ends of connections were found."""

    def __init__(self) -> None:
        self._here: dict[Ends, int] = {}  # the connections that this process had an end of, by that and the other end

    def from_outside(self, fds: Iterable[int], listening: bool) -> list[str]:
        """Those by which something may come from outside, as text. `listening`: also by a new connection."""
        held: list[str] = []
        for fd in fds:
            ends = _ends_of(fd)
            if ends == "listens" and not listening:
                continue
            if isinstance(ends, tuple):
                other = self._find((ends[1], ends[0]))
                if other is not None and not _in_flight(fd) and not _in_flight(other):
                    continue
            held.append(f"descriptor {fd} ({_named(fd, ends)})")
        return held

    def _find(self, ends: Ends) -> int | None:
        """The descriptor of a connection with these ends. (A number may be closed meanwhile, and given out again.)"""
        found = self._here.get(ends)
        if found is None or _ends_of(found) != ends:
            self._here = _connections()
            found = self._here.get(ends)
        return found


def _named(fd: int, ends: object) -> str:
    if isinstance(ends, tuple):
        return f"TCP, {ends[0]} to {ends[1]}"
    if ends is not None:
        return "a socket that listens"
    try:
        return os.readlink(f"/dev/fd/{fd}")
    except OSError:
        return "unknown"


def _ends_of(fd: int) -> Ends | str | None:
    """The addresses of both ends of a TCP connection; "listens"; None: anything else."""
    try:
        sock = socket.socket(fileno=fd)
    except OSError:
        return None
    try:
        if sock.type != socket.SOCK_STREAM:
            return None
        if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return "listens"
        if sock.family not in (socket.AF_INET, socket.AF_INET6):
            return None
        return sock.getsockname(), sock.getpeername()
    except OSError:
        return None
    finally:
        sock.detach()


def _connections() -> dict[Ends, int]:
    """Every TCP connection that this process has an end of, by the addresses of that end and of the other one."""
    found: dict[Ends, int] = {}
    for name in os.listdir("/dev/fd"):
        ends = _ends_of(int(name))
        if isinstance(ends, tuple):
            found[ends] = int(name)
    return found


def _in_flight(fd: int) -> bool:
    """Has it sent what the other end has not received yet?"""
    unsent = array.array("i", [0])
    try:
        fcntl.ioctl(fd, termios.TIOCOUTQ, unsent)
    except OSError:
        return True  # closed meanwhile
    return unsent[0] > 0
