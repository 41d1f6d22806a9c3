"""`dari logs --level LEVEL`: change the log level of a running service, until it ends or a reload changes it."""

from __future__ import annotations

from dari.daemon.commands.operate import Report, require_meant, signallable
from dari.daemon.config import Settings
from dari.daemon.control.asking import ask
from dari.daemon.keys import LEVELS
from dari.daemon.lifecycle import Exit, Refused, State
from dari.daemon.pidfile import look


def set_level(settings: Settings, level: str) -> Report:
    """Have the service log from this level on; only its control socket can do that."""
    if level.lower() not in LEVELS:
        raise Refused(Exit.USAGE, f"--level must be one of {', '.join(LEVELS)}, not {level!r}")
    seen = look(settings.pidfile)
    if seen.state in (State.STOPPED, State.DEAD):
        raise Refused(Exit.NOT_RUNNING, seen.text)
    require_meant(settings, seen)
    record = signallable(seen)
    pid = record.identity.pid
    reply = ask(record, "log-level", level=level)
    if reply is None:
        where = record.control or "there is none"
        text = (
            f"pid {pid} cannot be asked through its control socket ({where}); [daemon.log] level and `dari reload` can"
        )
        raise Refused(Exit.NOT_POSSIBLE, text, pid=pid)
    if reply.result is None:
        raise Refused(Exit.NOT_POSSIBLE, f"pid {pid}: {reply.error}", pid=pid)
    text = f"the log level is {reply.result['level']} now, it was {reply.result['was']} (pid {pid})"
    return Report(Exit.DONE, text, {"pid": pid, **reply.result})
