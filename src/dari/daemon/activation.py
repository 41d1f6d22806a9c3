"""Socket activation: descriptors from 3 on that the service was started with, as LISTEN_FDS announces them.

LISTEN_PID says whose they are. The process that systemd starts is the *launcher* (`dari run`, or `dari start` where
somebody likes that): under `run` the service has the same pid, under `start` it never has, and a service that compared
for itself would lose its sockets silently (facts c). So the launcher compares, and hands numbers and names over; the
descriptors go through forks and exec as they are. The variables are taken out: they are nobody else's.

Variables that name another process were inherited by accident, and the numbers are that one's.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple

from dari.daemon.lifecycle import Exit, Refused

if TYPE_CHECKING:
    import socket

VARIABLES: Final = ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "LISTEN_PIDFDID")
_FIRST: Final = 3
_UNNAMED: Final = "unknown"  # as sd_listen_fds_with_names calls them


class Passed(NamedTuple):
    """One descriptor that was passed on."""

    fd: int
    name: str


def passed(environ: Mapping[str, str], *, pid: int) -> list[Passed]:
    """Return what was passed to the process `pid`, in order; `Refused` where one of them is no socket.

    To be called before anything else is opened, so that a number in there cannot be something of our own.
    """
    count = environ.get("LISTEN_FDS", "")
    if environ.get("LISTEN_PID") != str(pid) or not (count.isascii() and count.isdigit()):
        return []
    names = environ.get("LISTEN_FDNAMES", "").split(":")
    names += [""] * (int(count) - len(names))
    found = [Passed(_FIRST + index, name or _UNNAMED) for index, name in enumerate(names[: int(count)])]
    for fd, name in found:
        try:
            is_socket = stat.S_ISSOCK(os.fstat(fd).st_mode)
        except OSError:
            is_socket = False
        if not is_socket:
            raise Refused(Exit.FAILED, f"LISTEN_FDS={count}, but descriptor {fd} ({name}) is no socket")
    return found


def as_sockets(descriptors: Sequence[Passed]) -> Mapping[str, tuple[socket.socket, ...]]:
    """Return the sockets by name, each name's in order."""
    import socket  # not at the top: a launcher reads the variables only

    found: dict[str, tuple[socket.socket, ...]] = {}
    for fd, name in descriptors:
        found[name] = (*found.get(name, ()), socket.socket(fileno=fd))
    return MappingProxyType(found)
