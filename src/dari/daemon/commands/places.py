"""Where a start makes its files and its port, tried beforehand by what opens them there, and with nothing made.

What exists is opened as a start opens it; for what does not, its directory is looked at. The port is bound, and let
go. The running service of the same pidfile is in nobody's way: who checks wants to put this one in its place, so its
control socket counts as free, and so does a port that it listens on.

What still leaks: a file system that is full or mounted read-only, and whoever comes between this look and the start.
"""

from __future__ import annotations

import errno
import os
from typing import Final

from dari.daemon.config import Settings
from dari.daemon.control.access import parse_address
from dari.daemon.control.listening import open_health, try_control
from dari.daemon.lifecycle import Exit, Failure, Refused
from dari.daemon.logs.log import open_log, opening_log
from dari.daemon.pidfile import Seen, look, open_pidfile
from dari.daemon.rights.accounts import Account
from dari.daemon.rights.privileges import is_for_root
from dari.daemon.rights.trust import distrusted

_WRITE: Final = os.W_OK | os.X_OK


def try_places(settings: Settings, who: Account | None) -> None:
    """Raise the `Failure` or `Refused` of a start as this user, who becomes `who` later."""
    _try_pidfile(settings)
    seen = look(settings.pidfile)
    if settings.control_health:
        _try_health(settings.control_health, seen)
    if settings.told("control.socket") and settings.control_socket:
        _try_control(settings.control_socket, seen)
    with opening_log(settings, detached=True) as (path, create_directory):
        if path is not None and (who is None or is_for_root(path, who, create_directory=create_directory)):
            _try_log(path, create_directory=create_directory)


def try_own_log(settings: Settings, who: Account) -> None:
    """As `who`, whom root has left the log to: raise what keeps him from opening it."""
    with opening_log(settings, detached=True) as (path, create_directory):
        if path is not None and os.stat(os.path.dirname(path)).st_uid == who.uid:
            _try_log(path, create_directory=create_directory)


def _try_log(path: str, *, create_directory: bool) -> None:
    if os.path.lexists(path):
        os.close(open_log(path, create_directory=False))
    else:
        _require_room(os.path.dirname(path), "a log", is_made=create_directory)


def _try_pidfile(settings: Settings) -> None:
    path = settings.pidfile
    directory = os.path.dirname(path)
    try:
        if os.path.lexists(path):
            os.close(open_pidfile(path, create=True))
        else:
            _require_room(directory, "a pidfile", is_made=directory == settings.rundir)
    except OSError as error:
        code = Exit.NOT_PERMITTED if isinstance(error, PermissionError) else Exit.FAILED
        raise Refused(code, f"cannot open the pidfile {path}: {error.strerror}") from error


def _try_control(path: str, seen: Seen) -> None:
    if seen.record is not None and seen.record.control == path:
        return
    try_control(path)
    if not os.access(directory := os.path.dirname(path), _WRITE):
        raise Failure(Exit.NOT_PERMITTED, f"cannot make the control socket {path}: {directory} may not be written to")


def _try_health(address: str, seen: Seen) -> None:
    try:
        open_health(address).close()
    except Failure as failure:
        taken = isinstance(failure.__cause__, OSError) and failure.__cause__.errno == errno.EADDRINUSE
        parsed = parse_address(address)
        if not taken or seen.pid is None or parsed is None or not _listens(seen.pid, parsed[1]):
            raise


def _listens(pid: int, port: int) -> bool:
    """Tell whether that process listens on the port; True where we may not look."""
    import psutil

    try:
        sockets = psutil.Process(pid).net_connections("tcp")
    except psutil.AccessDenied:
        return True
    except psutil.Error:
        return False
    return any(each.status == psutil.CONN_LISTEN and each.laddr.port == port for each in sockets)


def _require_room(directory: str, what: str, *, is_made: bool) -> None:
    """Raise an OSError, or nothing where a file can be made in this directory, which a start makes if `is_made`."""
    while is_made and not os.path.lexists(directory):
        directory = os.path.dirname(directory)
    if reason := distrusted(directory):
        raise PermissionError(errno.EPERM, f"{reason}: no place for {what}", directory)
    if not os.path.isdir(directory):
        raise NotADirectoryError(errno.ENOTDIR, f"{directory} is not a directory", directory)
    if not os.access(directory, _WRITE):
        raise PermissionError(errno.EACCES, f"{directory} may not be written to", directory)
