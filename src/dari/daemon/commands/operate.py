"""What an operator asks for: start, stop, restart, run. Each returns a `Report`; nothing is printed here.

The three questions that every one of them has to answer right: who is it (never by pid alone), who else is at it
at this moment (another `start`, another `stop`), and is it over (a process that has gone, and a lock that is free).
"""

from __future__ import annotations

import os
import signal
import time
from typing import Any, Final, NamedTuple, NoReturn

from dari.daemon.answer import forget_answer
from dari.daemon.config import Settings
from dari.daemon.lifecycle import HARD_EXIT_AFTER, Exit, Refused, StartFailed, State
from dari.daemon.pidfile import SERVICE_BYTE, STOP_BYTE, Record, Seen, clear, look, open_pidfile, try_lock
from dari.daemon.process import Handle
from dari.daemon.target import may_be_same

LOOK_AGAIN: Final = 0.02  # a lock whose holder is somebody else cannot be waited for without taking it: looked at
_NAMELESS: Final = 5.0  # how long a held lock may go without a name in the file: two forks, on a loaded machine
_MISNAMED: Final = 1.0  # and how long with an old name: one ftruncate
_AFTER_KILL: Final = 5.0  # a process that is still there then is stuck in the kernel
_LONGEST_WAIT: Final = 1e6  # seconds; poll counts milliseconds in 32 bits
_LATE: Final = 1.0  # what the service's own hard exit may need beyond its timeline


class Report(NamedTuple):
    """How a command ended: the exit code, a sentence for people, fields for machines."""

    code: int
    text: str
    fields: dict[str, Any]
    details: tuple[str, ...] = ()  # further lines for people


def start(settings: Settings, *, strict: bool, stdout: int = 1) -> Report:
    """Start the service and wait until it is ready; join a start that is under way.

    What the program prints until then goes to the descriptor `stdout`.
    """
    if os.getpid() == 1:
        text = "this is process 1: the container would end with the command, and the service with it; use `dari run`"
        raise Refused(Exit.NOT_POSSIBLE, text)
    from dari.daemon import launch  # here as in `run` and `restart`: `status` and `stop` are quicker without it

    began = time.monotonic()
    while True:
        try:
            pid = launch.start(settings, stdout=stdout)
        except Refused as refused:
            if refused.code is not Exit.ALREADY_RUNNING:
                raise
            report = _join(settings, deadline=began + settings.start_timeout, strict=strict)
            if report is not None:
                return report
        else:
            seconds = round(time.monotonic() - began, 3)
            fields = {"state": "running", "pid": pid, "already": False, "seconds": seconds}
            return Report(Exit.DONE, f"running (pid {pid})", fields, _advice())


def _advice() -> tuple[str, ...]:
    if os.environ.get("SYSTEMD_EXEC_PID") != str(os.getpid()):
        return ()
    return (
        "systemd has started this command, and loses sight of the service: a unit wants `dari run` (see `dari unit`)",
    )


def _join(settings: Settings, *, deadline: float, strict: bool) -> Report | None:
    """The lock is someone else's: wait for that one's readiness. None: nobody was there after all, try again."""
    pid = _name_holder(settings) if strict else None
    if strict and pid is not None:
        _leave_room(settings, look(settings.pidfile))
        raise Refused(Exit.ALREADY_RUNNING, f"already running (pid {pid})", pid=pid)
    nameless_since = time.monotonic()
    while True:
        seen = look(settings.pidfile)
        pid = seen.pid if seen.state in (State.RUNNING, State.STARTING, State.STOPPING) else pid
        now = time.monotonic()
        _leave_room(settings, seen)
        if seen.state is State.RUNNING:
            fields = {"state": "running", "pid": pid, "already": True}
            return Report(Exit.DONE, f"already running (pid {pid})", fields)
        if seen.state in (State.STOPPED, State.DEAD):
            if pid is None:
                return None
            raise Refused(Exit.FAILED, f"pid {pid} was being started and ended before it was ready", pid=pid)
        if seen.state is State.STOPPING:
            raise Refused(Exit.FAILED, f"pid {pid} is stopping; try again when it is gone", pid=pid)
        if seen.state is State.UNKNOWN:
            raise Refused(Exit.FAILED, seen.text)
        if pid is None and now - nameless_since > (_MISNAMED if seen.state is State.ORPHANED else _NAMELESS):
            raise orphaned(seen)
        if now > deadline:
            raise Refused(Exit.START_TIMEOUT, f"pid {pid} is being started and is not ready yet", pid=pid)
        time.sleep(LOOK_AGAIN)


def _name_holder(settings: Settings) -> int | None:
    """Return the pid of who holds the lock, waiting for the moment between its lock and its first line."""
    deadline = time.monotonic() + _NAMELESS
    while time.monotonic() < deadline:
        seen = look(settings.pidfile)
        if seen.state in (State.RUNNING, State.STARTING, State.STOPPING) and seen.pid is not None:
            return seen.pid
        if seen.state in (State.STOPPED, State.DEAD, State.UNKNOWN):
            return None
        time.sleep(LOOK_AGAIN)
    return None


def orphaned(seen: Seen) -> Refused:
    text = "the lock is held by an orphan: a child of an earlier service, or a start that was killed half-way"
    return Refused(Exit.ORPHANED, f"{text}; `lslocks` or `fuser` on the pidfile name it", pid=seen.pid)


def _is_another(settings: Settings, seen: Seen, *, attributes: bool) -> str | None:
    """Return which program it is that runs, when that is known and not TARGET.

    Two programs of the same file name have the same default name, and with it the same pidfile.
    """
    record = seen.record
    if seen.state not in (State.STARTING, State.RUNNING, State.STOPPING) or record is None or not record.target:
        return None
    if settings.target is None or may_be_same(str(settings.target), record.target, attributes=attributes):
        return None
    return f"{record.target} (pid {seen.pid})"


def _leave_room(settings: Settings, seen: Seen) -> None:
    """Refuse to take another program that runs under this name for the one that is to be started."""
    if (other := _is_another(settings, seen, attributes=True)) is not None:
        text = f"{settings.name} runs already, but it is {other}: give --name, or stop that one"
        raise Refused(Exit.ALREADY_RUNNING, text, pid=seen.pid)


def require_meant(settings: Settings, seen: Seen) -> None:
    """Refuse to do to another program what TARGET was meant for.

    Whoever has given the name or the pidfile means what runs there, whatever program that is. Another attribute of
    the same file is the same program, in a new version perhaps: `restart` is how it becomes that one.
    """
    named = settings.told("name") or settings.told("pidfile")
    other = None if named else _is_another(settings, seen, attributes=False)
    if other is not None:
        text = f"{settings.target} is not running: {settings.name} is {other}; --name {settings.name} means that one"
        raise Refused(Exit.NOT_RUNNING, text, pid=seen.pid)


def signallable(seen: Seen) -> Record:
    """Return the record of what runs, if a signal is known to reach the right process; else `Refused` says why."""
    if seen.state is State.UNKNOWN:
        raise Refused(Exit.NOT_PERMITTED, seen.text)
    if seen.state is State.ORPHANED or seen.record is None:
        raise orphaned(seen)
    if not seen.may_be_signalled():
        text = f"pid {seen.pid} is not the pidfile owner's process (uid {seen.owner}): not signalled"
        raise Refused(Exit.NOT_PERMITTED, text, pid=seen.pid)
    return seen.record


def run(settings: Settings) -> NoReturn:
    """Become the service, in the foreground."""
    from dari.daemon import launch

    while True:
        try:
            launch.replace_process(settings)
        except Refused as refused:
            if refused.code is not Exit.ALREADY_RUNNING:
                raise
            pid = _name_holder(settings)
            _leave_room(settings, look(settings.pidfile))
            if pid is not None or look(settings.pidfile).state not in (State.STOPPED, State.DEAD):
                text = f"already running (pid {pid})"
                raise Refused(Exit.ALREADY_RUNNING, text, pid=pid) from refused


def stop(settings: Settings, *, strict: bool) -> Report:
    """Stop the service: TERM, its grace, KILL. Done when the process has gone and the lock is free."""
    try:
        fd = open_pidfile(settings.pidfile, create=False)
    except (FileNotFoundError, NotADirectoryError):
        return _nothing_to_stop(strict)
    except PermissionError as error:
        raise Refused(Exit.NOT_PERMITTED, f"not permitted: {error.strerror}: {settings.pidfile}") from error
    try:
        # Only one `stop` signals: the TERM of a second one would be the service's second TERM, which forces. The
        # other one waits for the same end.
        return _stop(settings, fd, first=try_lock(fd, STOP_BYTE), strict=strict)
    finally:
        os.close(fd)


def _nothing_to_stop(strict: bool) -> Report:
    code = Exit.NOT_RUNNING if strict else Exit.DONE
    return Report(code, "not running", {"state": "stopped", "pid": None, "already": True, "killed": False})


def _stop(settings: Settings, fd: int, *, first: bool, strict: bool) -> Report:
    seen = look(settings.pidfile)
    if seen.state is State.STARTING and seen.pid is None:
        _name_holder(settings)
        seen = look(settings.pidfile)
    if seen.state in (State.STOPPED, State.DEAD):
        _tidy(settings, fd, gone=None)
        return _nothing_to_stop(strict)
    require_meant(settings, seen)
    record = signallable(seen)

    began = time.monotonic()
    killed = False
    handle = Handle.open(record.identity)
    if handle is not None:
        with handle:
            grace = _grace(settings, record)
            killed = _end(handle, grace, tell=first and seen.state is not State.STOPPING, pid=seen.pid)
    _tidy(settings, fd, gone=record)
    seconds = round(time.monotonic() - began, 3)
    fields = {"state": "stopped", "pid": seen.pid, "already": False, "killed": killed, "seconds": seconds}
    code = Exit.KILLED if killed and strict else Exit.DONE
    return Report(code, f"{'killed' if killed else 'stopped'} (pid {seen.pid})", fields)


def _grace(settings: Settings, record: Record) -> float:
    """Return the service's own stop_grace in seconds, unless this very command was given another."""
    given = settings.origins.get("stop_grace", "").startswith(("--", "DARI_"))
    return settings.stop_grace if given or record.grace is None else min(record.grace, _LONGEST_WAIT)


def _end(handle: Handle, grace: float, *, tell: bool, pid: int | None) -> bool:
    """Bring the process to its end; True when only KILL did."""
    try:
        if tell:
            handle.send(signal.SIGTERM)
        if handle.wait(grace + HARD_EXIT_AFTER + _LATE):
            return False
        handle.send(signal.SIGKILL)
    except PermissionError as error:
        raise Refused(Exit.NOT_PERMITTED, f"not permitted to signal pid {pid}", pid=pid) from error
    if not handle.wait(_AFTER_KILL):
        raise Refused(Exit.STOP_TIMEOUT, f"pid {pid} is still there, {_AFTER_KILL:g} s after KILL", pid=pid)
    return True


def _tidy(settings: Settings, fd: int, *, gone: Record | None) -> None:
    """See that the lock is free, that the pidfile names nobody, and that the control socket is gone.

    Who was killed could not see to that, nor who gave root's rights away, in root's directory.
    """
    pid = gone.identity.pid if gone is not None else None
    deadline = time.monotonic() + HARD_EXIT_AFTER  # a launcher whose service we stopped lets go a moment later
    while True:
        seen = look(settings.pidfile)
        if seen.record is not None and seen.pid != pid and seen.may_be_signalled():
            return  # the next one is there already
        last = seen.record or gone
        left = last.control if last is not None else ""
        if seen.state is State.STOPPED and not (left and os.path.lexists(left)):
            return
        if seen.state in (State.STOPPED, State.DEAD) and try_lock(fd, SERVICE_BYTE):
            from dari.daemon.control import listening  # here: `stop` is quicker without sockets

            forget_answer(settings.pidfile)
            listening.tidy_up(left, named_by=seen.owner)
            clear(fd)
            return
        if time.monotonic() > deadline:
            raise orphaned(seen)
        time.sleep(LOOK_AGAIN)


def check(settings: Settings) -> Report:
    """Say what a start would use and where that comes from, and whether TARGET can be imported. Starts nothing."""
    from dari.daemon.commands.check import as_lines, check_target, explain
    from dari.daemon.keys import unread

    checked = check_target(settings)
    values = explain(settings, checked.keywords)
    warnings = unread(os.environ)
    fields = {"config": settings.config, "target": str(settings.target), "values": values, "warnings": warnings}
    if checked.code != Exit.DONE:
        return Report(checked.code, checked.text, fields)
    lines = [
        *as_lines(values),
        *(f"warning: {each}" for each in warnings),
        "the configuration is valid, and TARGET can be imported",
    ]
    return Report(Exit.DONE, "\n".join(lines), fields)


def restart(settings: Settings, *, stdout: int = 1) -> Report:
    """Stop and start again; the running one is left alone when the configuration or TARGET is broken."""
    from dari.daemon.commands.check import check_target

    checked = check_target(settings)
    if checked.code != Exit.DONE:
        seen = look(settings.pidfile)
        text = f"{checked.text}\n{settings.target} cannot be started, so what runs was left alone ({seen.text})"
        return Report(checked.code, text, {"state": seen.state.value, "pid": seen.pid, "stopped": None})
    stopped: int | None = stop(settings, strict=False).fields["pid"]
    try:
        report = start(settings, strict=False, stdout=stdout)
    except (StartFailed, Refused) as error:
        if stopped is None:
            raise
        return _half_done(settings, error, stopped)
    pid = report.fields["pid"]
    if report.fields["already"]:  # somebody else was quicker
        text = report.text if stopped is None else f"pid {stopped} was stopped; {report.text}"
    else:
        text = f"was not running; started (pid {pid})" if stopped is None else f"restarted (pid {stopped} -> {pid})"
    return report._replace(text=text, fields={**report.fields, "stopped": stopped})


def _half_done(settings: Settings, error: StartFailed | Refused, stopped: int) -> Report:
    """What an operator has to know of a start that failed after the stop: that nothing is as it was."""
    seen = look(settings.pidfile)
    now = "nothing runs now" if seen.state in (State.STOPPED, State.DEAD) else f"now it is {seen.text}"
    fields = {"state": seen.state.value, "pid": seen.pid, "stopped": stopped}
    fields |= {"origin": error.origin} if isinstance(error, StartFailed) else {}
    return Report(error.code, f"{error}\npid {stopped} was stopped for it; {now}", fields)
