"""Where root may open a file by its name: in directories that nobody else can change.

Who can write to a directory chooses what its names mean. A service's user who owns /run/app puts a link there, and
root's next start writes, truncates or gives away whatever it leads to (facts b14, b15). O_NOFOLLOW looks at the last
part of a path only, so all the others are looked at here: each directory up to / is root's, and everybody may write to
none but those like /tmp, where nobody can rename what is not his. Symbolic links on the way are fine where root made
them (/var/run); what they lead to is looked at likewise.

A group that may write is trusted, because an administrator gave it that (Ubuntu's /var/log is the group syslog's).
Users other than root have nobody but themselves to lose, and are only kept out of directories that are everybody's.

What still leaks: between the look and the open an administrator can change the directories, and only he.
"""

from __future__ import annotations

import os
import stat
from typing import Final

_LINKS: Final = 40  # as many as the kernel follows in one path


def distrusted(directory: str) -> str | None:
    """Return why a file of ours must not be opened by its name in this directory, or None. OSError passes through."""
    if os.geteuid() != 0:
        return anybodys(directory)
    return _distrusted(directory, links=_LINKS)


def anybodys(directory: str) -> str | None:
    """Return the reason where anybody could rename what is in this directory, whoever owns it."""
    mode = os.stat(directory).st_mode
    return f"everybody may write to {directory}" if mode & stat.S_IWOTH and not mode & stat.S_ISVTX else None


def _distrusted(directory: str, *, links: int) -> str | None:
    """Walk from / down to the directory, as root."""
    place = "/"
    for part in ("", *directory.strip("/").split("/")):
        place = os.path.join(place, part)
        facts = os.lstat(place)
        if facts.st_uid != 0:
            return f"{place} belongs to uid {facts.st_uid}, who could replace it while root uses it"
        if stat.S_ISLNK(facts.st_mode):
            if not links:
                return f"{place} leads through too many symbolic links"
            real = os.path.join(os.path.dirname(place), os.readlink(place))
            if reason := _distrusted(os.path.normpath(real), links=links - 1):
                return reason
        elif reason := anybodys(place):
            return reason
    return None
