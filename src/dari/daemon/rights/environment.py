"""What a service finds in its environment.

`run` stands under a supervisor or in a container, which have put there what the service is to find: it stays. `start`
is typed into somebody's shell, and that one's agent, display and sudo are not the service's. Becoming another user goes
further: of the shell of root, where tokens lie around, only what every program needs is passed on, and what
`pass_environment` names. In both cases HOME, USER, LOGNAME and SHELL tell the truth.

What speaks to the launcher alone never reaches the program: the sockets of LISTEN_FDS are handed over by number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from dari.daemon import activation
from dari.daemon.config import Settings
from dari.daemon.rights.accounts import account

# Whose session it was. A name that ends with "*" means all that begin so.
_SESSION: Final = (
    *("SSH_*", "SUDO_*", "DISPLAY", "WAYLAND_DISPLAY", "XAUTHORITY", "DBUS_SESSION_BUS_ADDRESS", "GPG_*", "KRB5CCNAME"),
    *("MAIL", "TERM", "TERMCAP", "TERM_*", "TMUX*", "STY", "WINDOW*", "LS_COLORS", "OLDPWD", "PWD", "SHLVL", "_"),
    *("XDG_SESSION_*", "XDG_SEAT*", "XDG_VTNR", "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"),
)
_EVERYBODYS: Final = ("PATH", "LANG", "LANGUAGE", "LC_*", "TZ", "TZDIR", "PYTHON*", "VIRTUAL_ENV", "DARI_*")
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def for_service(environ: Mapping[str, str], settings: Settings, *, detached: bool) -> dict[str, str]:
    """Return the environment of a service that is started from this one."""
    who, passed = account(settings.user, settings.group), settings.pass_environment
    kept = {name: value for name, value in environ.items() if name not in activation.VARIABLES}
    if detached and who is None:
        kept = {name: value for name, value in kept.items() if not _among(name, _SESSION) or _among(name, passed)}
    if detached and who is not None:
        kept = {name: value for name, value in kept.items() if _among(name, (*_EVERYBODYS, *passed))}
    if who is not None:
        for name in [name for name in kept if name.startswith("XDG_") and not _among(name, passed)]:
            del kept[name]  # root's own runtime and configuration directories
        kept |= {"HOME": who.home, "USER": who.name, "LOGNAME": who.name, "SHELL": who.shell}
    if detached:
        # A relative part would be looked up wherever the service happens to be.
        parts = [part for part in kept.get("PATH", _PATH).split(":") if part.startswith("/")]
        kept["PATH"] = ":".join(parts) or _PATH
    return kept


def _among(name: str, names: Sequence[str]) -> bool:
    return any(name.startswith(each[:-1]) if each.endswith("*") else name == each for each in names)
