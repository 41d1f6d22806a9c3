"""What a service makes of its process before its program is imported: umask, limits, directory, descriptors, name.

In two halves: what only its starter may do (raise a limit), and what its user must be able to do.
"""

from __future__ import annotations

import contextlib
import os
import resource

from dari.daemon.config import Settings
from dari.daemon.lifecycle import Exit, Failure


def settle(settings: Settings, *, detached: bool) -> None:
    """Before the service becomes its user."""
    os.umask(settings.umask)
    _limit("nofile", resource.RLIMIT_NOFILE, settings.limits_nofile, settings.where("limits.nofile"))
    _limit("core", resource.RLIMIT_CORE, settings.limits_core, settings.where("limits.core"))
    if detached:
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        os.close(null)


def go_home(settings: Settings, *, detached: bool) -> None:
    """Change to the service's directory, as its user."""
    if detached or settings.told("chdir"):
        try:
            os.chdir(settings.chdir)
        except OSError as error:
            raise Failure(
                Exit.BAD_CONFIG, f"{settings.where('chdir')}chdir {settings.chdir}: {error.strerror}"
            ) from error


def _limit(key: str, which: int, wanted: int | None, where: str) -> None:
    """Set the soft limit; the hard one stays, so that an operator may raise it later, or goes up where root asks."""
    if wanted is None:
        return
    _, hard = resource.getrlimit(which)
    enough = hard == resource.RLIM_INFINITY or wanted <= hard
    try:
        resource.setrlimit(which, (wanted, hard if enough else wanted))
    except (OSError, ValueError) as error:
        raise Failure(Exit.BAD_CONFIG, f"{where}limits.{key} = {wanted}: {error}; the hard limit is {hard}") from error


def close_others(keep: set[int]) -> None:
    """Close what the caller left open for us. The list is taken first: never a loop up to RLIMIT_NOFILE (facts b18)."""
    for name in os.listdir("/dev/fd"):
        if int(name) not in keep:
            with contextlib.suppress(OSError):  # the descriptor that listed the directory
                os.close(int(name))


def name_process(name: str) -> None:
    # For `ps -o comm`, `pgrep` and top: "python3" tells nobody anything. Linux only, and 15 bytes of it.
    with contextlib.suppress(OSError), open("/proc/self/comm", "w", encoding="utf-8") as file:
        file.write(name)
