"""`dari reload`: have the service reload, and wait until a reload that began after that has ended (see `reload`).

Asked for through the control socket where there is one. Without it: HUP, and the numbers in the pidfile.
"""

from __future__ import annotations

import signal
import time
from typing import Any, Final

from dari.daemon.answer import Answer, read_answer
from dari.daemon.commands.operate import LOOK_AGAIN, Report, require_meant, signallable
from dari.daemon.config import Settings
from dari.daemon.control.asking import ask
from dari.daemon.lifecycle import Exit, Refused, State
from dari.daemon.pidfile import Record, Seen, look
from dari.daemon.process import Handle

_LATE: Final = 2.0  # beyond what the service allows its callbacks, and their calling back


def reload(settings: Settings) -> Report:
    """Have the service read its configuration again; 0 when it is swapped, 153 when the old one was kept."""
    seen = look(settings.pidfile)
    record = _reloadable(settings, seen)
    pid = record.identity.pid
    handle = Handle.open(record.identity)
    if handle is None:
        raise Refused(Exit.NOT_RUNNING, "not running")
    began = time.monotonic()
    patience = 2 * settings.start_timeout + _LATE
    with handle:
        if (answer := _asked_for(record, patience)) is not None:
            return answered(answer, seconds=time.monotonic() - began)
        try:
            handle.send(signal.SIGHUP)
        except PermissionError as error:
            raise Refused(Exit.NOT_PERMITTED, f"not permitted to signal pid {pid}", pid=pid) from error
        while record.reloads.ended <= seen_begun(seen):
            if handle.wait(LOOK_AGAIN):
                raise Refused(Exit.FAILED, f"pid {pid} ended while it was to reload", pid=pid)
            now = look(settings.pidfile)
            if now.state is State.STOPPING:
                raise Refused(Exit.FAILED, f"pid {pid} is stopping, and does not reload any more", pid=pid)
            if now.record is not None and now.pid == pid:
                record = now.record
            if time.monotonic() > began + patience:
                text = f"pid {pid} has not answered within {patience:g} s: its loop, or a callback of its, is blocked"
                raise Refused(Exit.FAILED, f"{text}; what it holds now is the old configuration", pid=pid)
    return _report(settings, record, since=seen_begun(seen) + 1, seconds=time.monotonic() - began)


def _asked_for(record: Record, patience: float) -> Answer | None:
    """Have the service reload through its control socket, and return what came of it; None where there is none."""
    reply = ask(record, "reload", patience=patience + _LATE, timeout=patience)
    if reply is None:
        return None
    pid = record.identity.pid
    if reply.result is None:
        raise Refused(Exit.FAILED, f"pid {pid}: {reply.error}", pid=pid)
    return Answer(**reply.result)


def seen_begun(seen: Seen) -> int:
    return seen.record.reloads.begun if seen.record is not None else 0


def _reloadable(settings: Settings, seen: Seen) -> Record:
    if seen.state in (State.STOPPED, State.DEAD):
        raise Refused(Exit.NOT_RUNNING, seen.text)
    require_meant(settings, seen)
    if seen.state in (State.STARTING, State.STOPPING):
        raise Refused(Exit.NOT_RUNNING, f"{seen.text}, and does not reload now", pid=seen.pid)
    record = signallable(seen)
    if record.reloads.verdict == "never":
        text = f"pid {seen.pid} runs in the foreground of a terminal, where HUP stops it: use `dari restart`"
        raise Refused(Exit.NOT_POSSIBLE, text, pid=seen.pid)
    return record


def _report(settings: Settings, record: Record, *, since: int, seconds: float) -> Report:
    reloads = record.reloads
    pid = record.identity.pid
    answer = read_answer(settings.pidfile, pid=pid, since=since)
    if answer is not None:
        return answered(answer, seconds=seconds)
    ok = reloads.verdict == "ok"
    text = f"reloaded, generation {reloads.generation}" if ok else "refused, and the old configuration kept"
    fields = {"pid": pid, "generation": reloads.generation, "seconds": round(seconds, 3)}
    text += f"; the details are in the log, {settings.logfile}"
    return Report(Exit.DONE if ok else Exit.RELOAD_REFUSED, text, fields)


def answered(answer: Answer, *, seconds: float) -> Report:
    fields: dict[str, Any] = {"pid": answer.pid, "seconds": round(seconds, 3)}
    fields |= {key: getattr(answer, key) for key in ("generation", "config", "changed", "restart")}
    return Report(Exit.DONE if answer.ok else Exit.RELOAD_REFUSED, answer.text, fields)
