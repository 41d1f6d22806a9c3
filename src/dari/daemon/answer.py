"""What became of a reload, for whoever asked: a small file beside the pidfile, PIDFILE.reload.

That a reload is over, and whether it was accepted, stands in the pidfile, which everybody may read. The reason does
not: what a program says of a bad configuration may quote a password. So it has a file that only the service's user and
root can read. It is put in place by a rename, before the pidfile says that the reload is over: who has seen that
finds the answer complete. It is gone with the service.

What still leaks: where the service may not write beside its pidfile, or the disk is full, only the log has the reason.
"""

from __future__ import annotations

import contextlib
import os
import stat
from typing import Any, Final, NamedTuple

_LARGEST: Final = 1 << 20


class Answer(NamedTuple):
    """What became of one reload."""

    pid: int
    number: int  # of the reloads of this process
    ok: bool
    generation: int
    text: str
    config: str | None  # the file that was read
    changed: list[str]
    restart: list[str]  # of these, what takes effect after a restart only


def place(pidfile: str) -> str:
    return f"{pidfile}.reload"


def write_answer(pidfile: str, answer: Answer) -> None:
    """Put the answer in place, whole or not at all."""
    import json

    fresh = f"{place(pidfile)}.new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(fresh)  # of one that was killed while it wrote
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(fresh, flags, 0o600), "w", encoding="utf-8") as file:
        json.dump(answer._asdict(), file)
    os.replace(fresh, place(pidfile))


def read_answer(pidfile: str, *, pid: int, since: int) -> Answer | None:
    """Return what became of reload number `since` or a later one; None where it cannot be read."""
    import json  # not at the top: a `status` of a service that was never reloaded does not need it

    try:
        fd = os.open(place(pidfile), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        with open(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                return None
            fields: Any = json.loads(file.read(_LARGEST))
        answer = Answer(**fields)
    except (OSError, ValueError, TypeError):
        return None
    return answer if answer.pid == pid and answer.number >= since else None


def forget_answer(pidfile: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(place(pidfile))
