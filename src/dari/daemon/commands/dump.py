"""`dari dump`: ask the service what it is doing, and show what it writes into its log about that.

Asked through its control socket, it answers with the text. Without one it gets USR1: the signal reaches a service whose
loop is blocked, and one that is starting or stopping. The log is where the answer is useful later, too; the command
finds it there by its first and last line, in text and in JSON, and after a rotation.
"""

from __future__ import annotations

import json
import os
import re
import signal
import time
from typing import Final

from dari.daemon.commands import tail
from dari.daemon.commands.operate import Report, require_meant, signallable
from dari.daemon.config import Settings
from dari.daemon.control.asking import ask
from dari.daemon.lifecycle import Exit, Refused, State
from dari.daemon.pidfile import Record, look
from dari.daemon.process import Handle

_PATIENCE: Final = 10.0  # seconds; a dump of ten thousand tasks takes one
_LOOK_AGAIN: Final = 0.02


def dump(settings: Settings) -> Report:
    """Return what every thread and every suspended task of the service is doing."""
    record = _running(settings)
    pid = record.identity.pid
    handle = Handle.open(record.identity)
    if handle is None:
        raise Refused(Exit.NOT_RUNNING, "not running")
    with handle:
        reply = ask(record, "dump", patience=_PATIENCE)
        if reply is not None and reply.result is not None:
            return Report(Exit.DONE, reply.result["text"], {"pid": pid, "dump": reply.result["text"]})
        log = _its_log(settings.logfile, pid)
        try:
            handle.send(signal.SIGUSR1)
        except PermissionError as error:
            raise Refused(Exit.NOT_PERMITTED, f"not permitted to signal pid {pid}", pid=pid) from error
        if log is None:
            text = (
                f"pid {pid} writes the dump into its log, which is not {settings.logfile}{_stderr_of(pid)}: see there"
            )
            return Report(Exit.DONE, text, {"pid": pid, "dump": None})
        text = _wait_for(settings.logfile, log, handle, pid)
    return Report(Exit.DONE, text, {"pid": pid, "dump": text})


def _running(settings: Settings) -> Record:
    seen = look(settings.pidfile)
    if seen.state in (State.STOPPED, State.DEAD):
        raise Refused(Exit.NOT_RUNNING, "not running")
    require_meant(settings, seen)
    return signallable(seen)


def _its_log(path: str, pid: int) -> int | None:
    """Return the log at its end, open; None when the service does not write there."""
    try:
        fd = tail.open_for_reading(path)
    except PermissionError as error:
        raise Refused(Exit.NOT_PERMITTED, f"cannot read the log {path}: {error.strerror}") from error
    except OSError:
        return None
    ours = os.fstat(fd)
    try:
        held = [os.stat(f"/proc/{pid}/fd/{number}") for number in os.listdir(f"/proc/{pid}/fd")]
    except OSError:  # one was closed in between, or there is no /proc: the log tells
        held = [ours]
    if not any((each.st_dev, each.st_ino) == (ours.st_dev, ours.st_ino) for each in held):
        os.close(fd)
        return None
    os.lseek(fd, 0, os.SEEK_END)
    return fd


def _stderr_of(pid: int) -> str:
    try:
        return f" (its stderr is {os.readlink(f'/proc/{pid}/fd/2')})"
    except OSError:
        return ""


def _wait_for(path: str, log: int, handle: Handle, pid: int) -> str:
    deadline = time.monotonic() + _PATIENCE
    text = b""
    over = False
    for raw in tail.coming(path, log):
        text += raw
        if raw and (found := _find(text.decode("utf-8", "replace"), pid)) is not None:
            return found
        if raw:
            continue
        if over:
            raise Refused(Exit.NOT_RUNNING, f"pid {pid} ended before it had written the dump", pid=pid)
        over = handle.wait(_LOOK_AGAIN)  # and one more look at what it has left
        if time.monotonic() > deadline:
            break
    raise Refused(
        Exit.FAILED,
        f"pid {pid} was asked, but {_PATIENCE:g} s later there is no dump in {path}: its disk is full, or C code keeps "
        "the interpreter to itself; py-spy or gdb show that",
        pid=pid,
    )


def _find(text: str, pid: int) -> str | None:
    lines: list[str] = []
    for line in text.split("\n"):
        if line.startswith("{"):
            try:
                line = str(json.loads(line)["message"])
            except (ValueError, KeyError):  # half a line, or a printed one
                pass
        lines.append(line)
    found = re.search(
        rf"dump (\d+) of [^\n]* \(pid {pid}\)\n(?:.*\n)?end of dump \1\n", "\n".join(lines) + "\n", re.DOTALL
    )
    return found[0].rstrip("\n") if found else None
