"""From root to the service's user, for good; and whether that user can live with what is there.

Supplementary groups first (services have kept root's `wheel`, facts b16), then the three group ids, then the three
user ids, because each step takes away the right to take the next. Then it is *verified*: the ids are what they should
be, and the way back is closed. All threads change with us: the C library sees to that.

What root does for the user comes before: limits, and the log, which is created in a directory where the user could not,
and given to him by its descriptor. The user opens it himself, afterwards, so that a reopening on HUP is known to work.
What stays root's: the pidfile, which the service goes on writing by its inherited descriptor, and the control socket.

The kernel lets nobody but root look into a process that was root: no core files, no debugger of the user's. That is
what keeps the user's other processes away from the pidfile's descriptor, so it is left so.

What still leaks: the interpreter and dari itself are imported before the drop. Who may write to them is root.
"""

from __future__ import annotations

import os
import stat
import sys
from typing import Final

from dari.daemon.config import Settings
from dari.daemon.lifecycle import Exit, Failure
from dari.daemon.logs.log import open_log
from dari.daemon.rights.accounts import Account
from dari.daemon.rights.trust import distrusted

_LIBRARY: Final = os.path.abspath(os.__file__)
_DARI: Final = os.path.abspath(__file__)


def give_log(path: str, who: Account, *, create_directory: bool) -> None:
    """As root: see that the log exists and is the user's, if root may touch it at all."""
    if not is_for_root(path, who, create_directory=create_directory):
        return
    fd = open_log(path, create_directory=create_directory)
    try:
        if os.fstat(fd).st_uid == 0:
            os.fchown(fd, who.uid, who.gid)
    finally:
        os.close(fd)


def is_for_root(path: str, who: Account, *, create_directory: bool) -> bool:
    """Tell whether root sees to the user's log, or leaves it to him and his own rights."""
    directory = os.path.dirname(path)
    try:
        return os.stat(directory).st_uid != who.uid and not distrusted(directory)
    except FileNotFoundError:
        if not create_directory:
            raise
        return True


def drop(who: Account) -> None:
    """Become that user in every thread; `Failure` where the system will not let us, or lets us back."""
    try:
        os.setgroups(who.groups)
        os.setresgid(who.gid, who.gid, who.gid)
        os.setresuid(who.uid, who.uid, who.uid)
    except OSError as error:
        raise Failure(Exit.NOT_PERMITTED, f"cannot become user {who.name!r}: {error.strerror}") from error
    is_now = (os.getresuid(), os.getresgid(), sorted(os.getgroups()))
    wanted = ((who.uid,) * 3, (who.gid,) * 3, who.groups)
    if is_now != wanted:
        raise Failure(Exit.NOT_PERMITTED, f"cannot become user {who.name!r}: ids are {is_now}, not {wanted}")
    if who.uid != 0 and _can_return():
        raise Failure(Exit.NOT_PERMITTED, f"user {who.name!r} could become root again: this system keeps capabilities")


def _can_return() -> bool:
    try:
        os.setresuid(-1, 0, -1)
    except PermissionError:
        return False
    return True


def require_access(settings: Settings, who: Account, *, log: str | None) -> None:
    """As the user: `Failure` where he cannot read the interpreter (6) or the program (5), and why not."""
    for path in (_LIBRARY, _DARI):
        if shut := _shut(path, os.R_OK):
            text = f"user {who.name!r} cannot read the interpreter that is to run the service, {path}: {shut}"
            raise Failure(Exit.BAD_CONFIG, f"{text}; give him that, or an interpreter that is not in somebody's home")
    if shut := _shut(os.path.abspath(sys.executable), os.X_OK):
        raise Failure(Exit.BAD_CONFIG, f"user {who.name!r} cannot run the interpreter {sys.executable}: {shut}")
    target = settings.target
    if target is not None and (shut := _shut(target.place if target.is_file else target.directory, os.R_OK)):
        raise Failure(Exit.NO_TARGET, f"cannot import {target}: user {who.name!r} cannot read it: {shut}")
    if log is None or settings.log_rotate == "none":
        return
    directory = os.path.dirname(log)
    if not os.access(directory, os.W_OK | os.X_OK):
        text = (
            f"log.rotate = {settings.log_rotate!r} renames files in {directory}, where user {who.name!r} may not write"
        )
        raise Failure(Exit.BAD_CONFIG, f"{text}; give logfile a directory of his, or leave it to logrotate")


def _shut(path: str, wanted: int) -> str | None:
    """Return what keeps us from the path, the outermost of it, or None."""
    place = "/"
    parts = os.path.realpath(path).strip("/").split("/")
    for part in parts:
        place = os.path.join(place, part)
        if not os.path.exists(place):
            return f"there is no {place}"
        if not os.access(place, wanted if part is parts[-1] else os.X_OK):
            return f"{place} is closed to him ({stat.filemode(os.stat(place).st_mode)})"
    return None
