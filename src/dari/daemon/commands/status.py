"""`dari status`: what a service is doing, for people and for machines.

Whether it runs is the pidfile's to say (the exit code comes from there alone). What it uses and how its loop is, the
service itself knows best, and is asked; where it cannot be asked, the kernel says what it can, and the rest is None.
"""

from __future__ import annotations

import time
from typing import Any, Final

from dari.daemon.answer import read_answer
from dari.daemon.commands.operate import Report
from dari.daemon.config import Settings
from dari.daemon.control.asking import VERSION, ask_or_time_out
from dari.daemon.lifecycle import STATUS_EXIT, Exit, State
from dari.daemon.pidfile import Record, look
from dari.daemon.process import is_stopped

_PATIENCE: Final = 5.0  # seconds, for an answer that waits for nothing but the loop's one second
_UNITS: Final = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))


def status(settings: Settings) -> Report:
    """Say what the service is doing."""
    seen = look(settings.pidfile)
    record = seen.record if seen.state not in (State.DEAD, State.ORPHANED) else None
    fields = _nothing_known(settings)
    silence = ""
    if record is not None:
        fields |= _from_outside(settings, record)
        answer, silence = _ask(record)
        fields |= answer
    fields |= {"state": seen.state.value, "ready": seen.state is State.RUNNING}
    text = seen.text
    details: tuple[str, ...] = ()
    if record is not None:
        text += f", up {_duration(fields['uptime_s'])}" if fields["uptime_s"] is not None else ""
        text += f", generation {fields['generation']}"
        text += ", reloading" if record.reloads.begun > record.reloads.ended else ""
        details = (*filter(None, [silence]), *_details(fields))
    return Report(STATUS_EXIT[seen.state], text, fields, details)


def _ask(record: Record) -> tuple[dict[str, Any], str]:
    """Return what the service says of itself, or the kernel of it; and what its silence means, if that is bad."""
    pid = record.identity.pid
    silence, lag_ms = "", None
    if is_stopped(pid):
        silence = f"it is stopped (SIGSTOP): `kill -CONT {pid}` lets it go on"
    else:
        try:
            reply = ask_or_time_out(record, "status", patience=_PATIENCE)
        except TimeoutError:
            why = "C code keeps the interpreter to itself (py-spy or gdb show where), or the machine is overloaded"
            silence = f"has not answered for {_PATIENCE:g} s: {why}"
            lag_ms = _PATIENCE * 1000
        else:
            if reply is not None and reply.result is not None:
                return reply.result, ""
    loop = {"kind": None, "tasks": None, "lag_ms": lag_ms, "answers": False} if silence else None
    return {"proc": _usage_of(record), "loop": loop}, silence


def metrics(settings: Settings) -> Report:
    """Return the same in the text format of Prometheus, whatever the service's state is: 0 is a figure, too."""
    from dari.daemon.control.metrics import as_text

    text = as_text({"name": settings.name, **status(settings).fields})
    return Report(Exit.DONE, text.rstrip("\n"), {"metrics": text})


def _nothing_known(settings: Settings) -> dict[str, Any]:
    unknown = (
        *("pid", "starttime", "boot_id", "uptime_s", "target", "generation", "status"),
        *("last_reload", "loop", "proc", "pool", "log"),
    )
    paths = {
        "pidfile": settings.pidfile,
        "logfile": settings.logfile,
        "config": settings.config,
        "control": settings.control_socket or None,
        "health": settings.control_health or None,
    }
    return {"version": VERSION, **dict.fromkeys(unknown), "paths": paths}


def _from_outside(settings: Settings, record: Record) -> dict[str, Any]:
    pid, start, boot = record.identity
    uptime = record.identity.uptime()
    return {
        "pid": pid,
        "starttime": start,
        "boot_id": boot,
        "uptime_s": None if uptime is None else round(uptime, 2),
        "target": record.target or None,
        "generation": record.reloads.generation,
        "last_reload": _last_reload(settings, record),
    }


def _last_reload(settings: Settings, record: Record) -> dict[str, Any] | None:
    reloads = record.reloads
    if not reloads.ended:
        return None
    ok = reloads.verdict == "ok"
    answer = None if ok else read_answer(settings.pidfile, pid=record.identity.pid, since=reloads.ended)
    error = answer.text if answer is not None else "" if ok else "the log has the reason"
    return {"count": reloads.ended, "ok": ok, "error": error or None, "time": reloads.at}


def _usage_of(record: Record) -> dict[str, Any] | None:
    from dari.daemon.control.vitals import Usage  # and with it psutil, which a service that answers makes needless

    return Usage(record.identity.pid).look()


def _details(fields: dict[str, Any]) -> list[str]:
    """Return the lines below the sentence: what is known, and nothing of what is not."""
    lines: list[str] = [fields["status"]] if fields["status"] else []
    if proc := fields["proc"]:
        children = f", {_many(len(proc['children']), 'child', 'children')}" if proc["children"] else ""
        lines.append(
            f"cpu {proc['cpu']} %, memory {proc['rss'] / 1e6:.1f} MB, {_many(proc['fds'], 'descriptor')}, "
            f"{_many(proc['threads'], 'thread')}{children}"
        )
    if (loop := fields["loop"]) and loop["kind"]:
        lines.append(f"{loop['kind']}: {_many(loop['tasks'], 'task')}, {_lag(loop)}")
    if pool := fields["pool"]:
        lines.append(
            f"pool: {_many(pool['workers'], 'worker')}, {pool['idle']} idle; {_many(pool['queued'], 'job')} queued, "
            f"{pool['running']} running, {pool['completed']} completed, {pool['failed']} failed"
        )
    if last := fields["last_reload"]:
        ago = _duration(max(0.0, time.time() - last["time"]))
        lines.append(f"last reload {'ok' if last['ok'] else 'refused'} {ago} ago")
        lines[-1] += f": {last['error']}" if last["error"] else ""
    if fields["target"]:
        lines.append(f"target {fields['target']}")
    lines.append(f"log {fields['paths']['logfile'] or 'to stderr'}")
    if fields["log"] and fields["log"]["dropped"]:
        lines[-1] += f", {fields['log']['dropped']} lines dropped"
    return lines


def _many(number: int, word: str, plural: str = "") -> str:
    return f"{number} {word if number == 1 else plural or f'{word}s'}"


def _lag(loop: dict[str, Any]) -> str:
    if loop["lag_ms"] is None:
        return "its lag is not known"
    if not loop["answers"]:
        return f"the loop has not answered for {_duration(loop['lag_ms'] / 1000)}: `dari dump` shows what it is doing"
    return f"loop lag {loop['lag_ms']:.1f} ms"


def _duration(seconds: float) -> str:
    """Return it in the two largest units that are not zero."""
    left = round(seconds)
    parts: list[str] = []
    for unit, size in _UNITS:
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2]) or "0 s"
