"""As whom a service runs: the keys `user`, `group` and `pass_environment` of [daemon], and whom they name.

A name is looked up by who starts the service, never by who only reads the configuration: `status` must not depend on
a directory server that is down.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any, Final, NamedTuple, cast

from dari.daemon.lifecycle import Exit, Refused


def _read_account(value: object, base: str) -> str:
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.@-]*\$?", value):
        return value
    raise ValueError("must be a name, or a number in quotes")


def _read_variables(value: object, base: str) -> list[str]:
    if isinstance(value, str):  # of the command line or the environment
        value = [word for word in value.split(",") if word]
    if isinstance(value, list):
        words = cast("list[object]", value)
        if all(isinstance(word, str) and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*\*?", word) for word in words):
            return cast("list[str]", words)
    raise ValueError('must be a list of variables, where "NAME_*" means all that begin so')


ACCOUNT_KEYS: Final[dict[str, Callable[[object, str], Any]]] = {
    "user": _read_account,
    "group": _read_account,
    "pass_environment": _read_variables,
}


class Account(NamedTuple):
    """Whom a service becomes, with everything that is his and nothing that was its starter's."""

    name: str
    uid: int
    gid: int
    groups: list[int]  # all of them, `gid` too
    home: str
    shell: str


def account(user: str | None, group: str | None) -> Account | None:
    """Return whom to become, or None where the service stays who it is.

    Raises `Refused`: nobody has that name (6), or only root could become somebody else (4).
    """
    if user is None:
        if group is not None:
            raise Refused(Exit.BAD_CONFIG, f"group = {group!r} needs a user to go with it")
        return None
    wanted = _look_up(user, group)
    if (wanted.uid, wanted.gid) == (os.geteuid(), os.getegid()):
        return None
    if os.geteuid() != 0:
        mine = f"uid {os.geteuid()}, gid {os.getegid()}"
        text = f"only root may start it as {user!r} (uid {wanted.uid}, gid {wanted.gid}); this is {mine}"
        raise Refused(Exit.NOT_PERMITTED, text)
    return wanted


def _look_up(user: str, group: str | None) -> Account:
    import grp  # not at the top: these two are for who starts a service as another user
    import pwd

    try:
        entry = pwd.getpwuid(int(user)) if user.isdigit() else pwd.getpwnam(user)
    except KeyError:
        raise Refused(Exit.BAD_CONFIG, f"user = {user!r}: there is no such user") from None
    try:
        gid = entry.pw_gid
        if group is not None:
            gid = grp.getgrgid(int(group)).gr_gid if group.isdigit() else grp.getgrnam(group).gr_gid
    except KeyError:
        raise Refused(Exit.BAD_CONFIG, f"group = {group!r}: there is no such group") from None
    groups = sorted(os.getgrouplist(entry.pw_name, gid))
    return Account(entry.pw_name, entry.pw_uid, gid, groups, entry.pw_dir, entry.pw_shell)
