"""The sockets that a service is asked through: made before privileges are dropped, listened to when it is there.

The control socket is a file, and a file has a past and an owner. A stale one, of a service that was killed, is removed
only by who holds the lock of the pidfile: without that, two starts would remove each other's. Its mode is set twice:
on the socket before bind, so that the file is never open to more than the umask lets through (changing the umask is
process-wide, and there are threads by now), and on the file before listen, for what the umask took away. Until
`listen` nobody can connect, so there is no moment with the wrong mode.

A path has 107 bytes on Linux. A longer one is reached through its directory: /proc/self/fd/N/NAME.

What still leaks: without /proc (macOS, 103 bytes) a longer path stays an error.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Generator
from typing import NamedTuple

from dari.daemon.config import Settings
from dari.daemon.control.access import parse_address
from dari.daemon.lifecycle import Exit, Failure
from dari.daemon.rights.trust import distrusted

_LONGEST_PATH = 103  # bytes that every system takes
_BACKLOG = 64


class Doors(NamedTuple):
    """What is bound. `missing`: why there is no control socket, although nobody said that there should be none."""

    control: socket.socket | None = None
    health: socket.socket | None = None
    missing: str = ""


def open_doors(settings: Settings) -> Doors:
    """Bind what the settings name, and `Failure` where that cannot be. A control socket that nobody has asked for is
    no reason not to start."""
    health = open_health(settings.control_health) if settings.control_health else None
    if not settings.control_socket:
        return Doors(health=health)
    try:
        return Doors(open_control(settings.control_socket, settings.control_mode), health)
    except Failure as failure:
        if settings.told("control.socket"):
            raise
        return Doors(health=health, missing=str(failure))


@contextlib.contextmanager
def reachable(path: str) -> Generator[str, None, None]:
    """Give a path to the same socket that is short enough for bind and connect, for as long as the block lasts."""
    if len(os.fsencode(path)) <= _LONGEST_PATH or not os.path.isdir("/proc/self/fd"):
        yield path
        return
    directory = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{os.path.basename(path)}"
    finally:
        os.close(directory)


def open_control(path: str, mode: int) -> socket.socket:
    """Bind the control socket; `Failure` says why it cannot be. Only for the holder of the pidfile's lock."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    _leave_to_parent(listening)
    try:
        _require_trust(path)
        remove_stale(path)
        os.fchmod(listening.fileno(), mode)
        with reachable(path) as short:
            listening.bind(short)
        os.chmod(path, mode)
    except OSError as error:
        listening.close()
        raise _refusal(path, error) from error
    except Failure:
        listening.close()
        raise
    return listening


def try_control(path: str) -> None:
    """Raise what `open_control` would, and make nothing."""
    try:
        _require_trust(path)
        _is_stale(path)
        nobody = contextlib.suppress(FileNotFoundError, ConnectionRefusedError)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as trial, reachable(path) as short, nobody:
            trial.connect(short)  # which says of a path's length what bind does
    except OSError as error:
        raise _refusal(path, error) from error


def _require_trust(path: str) -> None:
    if reason := distrusted(os.path.dirname(path)):
        raise Failure(Exit.NOT_PERMITTED, f"{reason}: no place for a control socket")


def tidy_up(path: str, *, named_by: int | None = None) -> None:
    """After the end of a service: remove what it could not remove by itself. Only for the holder of its lock.

    `named_by` is the uid of the pidfile that names the socket: a user's leads root to that user's own sockets only.
    """
    if path:
        with contextlib.suppress(OSError, Failure):
            if os.geteuid() != 0 or not named_by or os.lstat(path).st_uid == named_by:
                remove_stale(path)


def remove_stale(path: str) -> None:
    """Remove what a killed service has left; `Failure` where that is no socket, or one that somebody listens on."""
    if _is_stale(path):
        os.unlink(path)


def _is_stale(path: str) -> bool:
    try:
        facts = os.lstat(path)
    except FileNotFoundError:
        return False
    if not stat.S_ISSOCK(facts.st_mode):
        raise Failure(Exit.FAILED, f"{path} is no socket, so none can be made there: remove it, or name another place")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as trial, reachable(path) as short:
        trial.setblocking(False)
        try:
            trial.connect(short)
        except ConnectionRefusedError:
            return True
        except BlockingIOError:  # so many callers wait that there is no room for one more
            pass
    raise Failure(Exit.FAILED, f"somebody else listens on the socket {path}; give another [daemon.control] socket")


def _refusal(path: str, error: OSError) -> Failure:
    if "too long" in str(error) or error.errno == errno.ENAMETOOLONG:
        text = f"the path of the control socket is too long, {len(os.fsencode(path))} bytes: {path}"
        return Failure(Exit.BAD_CONFIG, f"{text}; give a shorter [daemon.control] socket, or none")
    code = Exit.NOT_PERMITTED if isinstance(error, PermissionError) else Exit.FAILED
    return Failure(code, f"cannot make the control socket {path}: {error.strerror}; [daemon.control] socket names it")


def open_health(address: str) -> socket.socket:
    """Bind the port of health checks; `Failure` says why it cannot be."""
    parsed = parse_address(address)
    assert parsed is not None  # its reader has seen it
    listening: socket.socket | None = None
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            *parsed, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_NUMERICSERV
        )[0]
        listening = socket.socket(family, kind, protocol)
        _leave_to_parent(listening)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # of a service that has just ended
        listening.bind(place)
        # Bound twice is not refused on every system before somebody listens; and who comes now waits a moment.
        listening.listen(_BACKLOG)
    except OSError as error:
        if listening is not None:
            listening.close()
        code = Exit.NOT_PERMITTED if isinstance(error, PermissionError) else Exit.FAILED
        raise Failure(code, f"cannot listen on [daemon.control] health = {address}: {error.strerror}") from error
    return listening


def _leave_to_parent(listening: socket.socket) -> None:
    """In a forked child: close it, or callers of a service that has died would wait for ever."""
    os.register_at_fork(after_in_child=listening.close)


def place_of(listening: socket.socket) -> str:
    """Return the address as it is written in a configuration; the port is the real one where 0 was asked for."""
    host, port = listening.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def peer_uid(connected: socket.socket) -> int | None:
    """Return the user id of the process at the other end; None where the system does not tell."""
    return _peer(connected)[1]


def peer_pid(connected: socket.socket) -> int | None:
    """Return the pid of who connected, or of who listens; None where the system does not tell."""
    return _peer(connected)[0]


def _peer(connected: socket.socket) -> tuple[int | None, int | None]:
    import struct

    if hasattr(socket, "SO_PEERCRED"):
        pid, uid, _ = struct.unpack("3i", connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        return pid, uid
    try:  # macOS and the BSDs: SOL_LOCAL, LOCAL_PEERCRED, and of its answer the version and the uid
        _, uid = struct.unpack("2I", connected.getsockopt(0, 1, 8))
    except OSError:
        return None, None
    return None, uid
