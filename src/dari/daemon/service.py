"""The service's own process: `python -m dari.daemon.service NAME TARGET --handover=FD`, started by `launch` alone.

The order is the design. First what can fail without the program (descriptors, signals, log), so that it is already
safe to be signalled and able to tell; then the import of the program, in the process it stays in; then its loop.
Until it is ready, whatever goes wrong is told three times: to the caller of `dari start` through the status pipe,
to the log, and by the exit code.

Long: the order from the first descriptor to the farewell is one story, and its parts share the service's few fields.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import json
import logging
import os
import resource
import sys
import threading
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, NamedTuple

from dari.daemon.answer import forget_answer
from dari.daemon.config import DEFAULT, KEYS, Settings
from dari.daemon.context import Context
from dari.daemon.launch import Handover, read_handover
from dari.daemon.lifecycle import TRANSITIONS, Event, Exit, State
from dari.daemon.logs import Log
from dari.daemon.pidfile import Record, Reloads, clear, write_record
from dari.daemon.process import Identity
from dari.daemon.program import Daemon
from dari.daemon.reload import Reloader
from dari.daemon.report import Reporter
from dari.daemon.runner import Host, MainCall, MainCancelled, check_main, make_host
from dari.daemon.signals import Inbox, StartInterrupted, reset_dispositions
from dari.daemon.stacks import Dumper, suspended
from dari.daemon.stopping import Keeper
from dari.daemon.target import load
from dari.exceptions import ConfigError

_LOGGER: Final = logging.getLogger("dari.daemon")
_LONGEST_WORD: Final = 60_000  # of a traceback through the pipe; a recursion error's would not fit into any terminal

# A main that says `ctx.ready()` and then `await ctx.stopping.wait()` may be told to stop between the two: whether it
# listens is known when its loop has its turn. One that blocks its loop for longer does not listen. Seconds.
_END_OF_STEP: Final = 0.25

_LIBRARY: Final = os.path.dirname(os.__file__)
_NOT_THE_PROGRAM: Final = (
    os.path.dirname(os.path.dirname(__file__)) + os.sep,
    os.path.join(_LIBRARY, "asyncio"),
    os.path.join(_LIBRARY, "importlib"),
    "<frozen",
    "uvloop/",  # as its compiled frames are called
)


class Failure(Exception):  # noqa: N818 - it carries an exit code out, nobody handles it as an error
    def __init__(self, code: Exit, text: str) -> None:
        super().__init__(text)
        self.code = code


class Service:
    """One run of one service: its state, and everybody who has to be told when it changes."""

    def __init__(self, handover: Handover, *, on_terminal: bool) -> None:
        self.settings = handover.settings
        self.detached = handover.mode == "start"
        self._lock_fd = handover.lock
        self._status_fd = handover.status
        self._identity = Identity.of(os.getpid())
        self._state = State.STARTING
        self._changing = threading.Lock()  # around a transition and its line in the pidfile
        self._log: Log | None = None
        self._host: Host | None = None
        self._dumper = Dumper(self.settings.name, tasks=self._known_tasks, tell=self._tell_dump)
        self._told = threading.Event()  # main's loop has heard that it is to stop
        self.context = Context(self.settings.name, {}, self.ready)
        self._reloader = Reloader(self, self.settings, self.context, verdict="never" if on_terminal else "none")

    def leave_to_parent(self) -> None:
        """In a forked child: let go of the lock and the pipe, or they would say that the service lives."""
        for fd in (self._lock_fd, self._status_fd):
            with contextlib.suppress(OSError):
                os.close(fd)
        self._lock_fd = self._status_fd = -1

    def open_log(self) -> None:
        told = self.settings.told("logfile")
        path = self.settings.logfile if self.detached or told else None
        self._log = Log(path, self.settings, create_directory=not told, detached=self.detached)
        atexit.register(self._log.end_output)

    def adopt(self, program: Program) -> None:
        self._reloader.adopt(program.parse, program.keywords)

    def use_host(self, host: Host) -> None:
        self._host = host
        self.context._event = host.make_event()
        if self.settings.log_report_every and self._log is not None:
            Reporter(self.settings.log_report_every, post=host.post, dropped=self._log.dropped).start()

    # -- the states ---------------------------------------------------------------------------------------------

    def _move(self, event: Event) -> bool:
        """Make the transition of the table, and write it down; False when the table has none."""
        with self._changing:
            state = TRANSITIONS.get((self._state, event))
            if state is None or self._lock_fd == -1:
                return False
            self._state = state
            self._write_record()
            return True

    def _write_record(self) -> None:
        with contextlib.suppress(OSError):  # a full disk must not stop a service from stopping
            write_record(self._lock_fd, Record(self._identity, self._state, self._lock_fd, self._reloader.reloads))

    @property
    def stopping(self) -> bool:
        return self._state is State.STOPPING

    def ready(self) -> None:
        if not self._move(Event.READY):
            return
        # Not under the lock: flushing what was printed so far waits when the caller does not read it, and the
        # keeper needs the lock to stop us then.
        if self.detached and self._log is not None:
            self._log.take_over_output()
        self._tell({"event": "ready"})
        _LOGGER.info("%s is ready (pid %d)", self.settings.name, os.getpid())

    def main_ended(self) -> None:
        self._move(Event.END)

    def failed(self, text: str, *, by: str) -> None:
        """Tell everybody who listens that the service has failed."""
        if self._status_fd != -1:
            self._tell({"event": "failed", "by": by, "text": text[-_LONGEST_WORD:]})
        if self._log is not None and self._log.configures_logging:
            _LOGGER.critical("%s", text)
        elif self._log is not None:
            self._log.tell(text, level=logging.CRITICAL)  # what the program would do with it, nobody knows
        elif not self.detached:
            print(text, file=sys.stderr)

    def _tell(self, word: dict[str, Any]) -> None:
        """Send the one word that the launcher waits for."""
        with self._changing:
            fd, self._status_fd = self._status_fd, -1
        if fd != -1:
            with contextlib.suppress(BrokenPipeError):  # the launcher was killed: the service goes on
                os.write(fd, json.dumps(word).encode() + b"\n")
            os.close(fd)

    # -- what a reload asks (in the loop's thread) ----------------------------------------------------------------

    def write_down(self, reloads: Reloads) -> None:
        with self._changing:
            if self._lock_fd != -1:
                self._write_record()

    def reopen_log(self) -> None:
        if self._log is not None:
            try:
                self._log.reopen()
            except OSError as error:
                _LOGGER.error("the log stays where it was, %s", error)

    def apply(self, settings: Settings) -> None:
        if settings.log_level != self.settings.log_level and settings.log_format != "none":
            Log.set_level(settings.log_level)
        self.settings = settings

    # -- what the keeper asks (from its own thread) -------------------------------------------------------------

    def grace(self) -> float:
        return self.settings.stop_grace  # a reload may have changed it

    def log_fd(self) -> int:
        return self._log.fd if self._log is not None else 2

    def ask_to_stop(self) -> bool:
        ready = self._state is State.RUNNING
        self._move(Event.STOP)
        if self._host is not None:
            self._host.post(self._set_stopping)
            if ready and not self.context._listens:
                self._told.wait(_END_OF_STEP)
        return ready and self.context._listens

    def _set_stopping(self) -> None:
        event: Any = self.context._event  # every host's event has it, but no type says so: set() is not main's
        event.set()
        self._told.set()

    def cancel(self) -> None:
        if self._host is not None:
            self._host.cancel()

    def reload(self) -> None:
        if self._host is not None and not self.stopping:
            self._reloader.ask(self._host)

    def note(self, text: str) -> None:
        if self._host is not None:
            self._host.post(lambda: _LOGGER.warning("%s", text))

    def dump(self) -> None:
        self._dumper.ask()

    def last_words(self) -> str:
        return suspended(self._known_tasks())

    def _known_tasks(self) -> list[Any]:
        # The loop makes tasks while we look. Then those are left that are found without it.
        with contextlib.suppress(RuntimeError):
            return self._host.tasks() if self._host is not None else []
        return []

    def _tell_dump(self, text: str) -> None:
        if self._log is not None:
            self._log.tell(text, level=logging.INFO)

    def farewell(self) -> None:
        """Write the log's last lines and clear the pidfile, as late as can be: until then it says who is stopping."""
        if self._log is not None:
            self._log.close()
        if self._lock_fd != -1 and os.getpid() == self._identity.pid:
            forget_answer(self.settings.pidfile)
            clear(self._lock_fd)


def main(argv: list[str]) -> int:
    """Be the service until it ends; return its exit code."""
    handover = read_handover(int(argv[-1].removeprefix("--handover=")))
    if handover.mode == "start":
        _close_others(keep={0, 1, 2, handover.lock, handover.status})
    for fd in (handover.lock, handover.status):
        if fd != -1:
            os.set_inheritable(fd, False)
    _name_process(handover.settings.name)
    reset_dispositions()
    on_terminal = handover.mode == "run" and os.isatty(0)
    try:
        service = Service(handover, on_terminal=on_terminal)
    except ConfigError as error:
        return _fail_early(handover, str(error))
    atexit.register(service.farewell)  # the first registered runs last
    os.register_at_fork(after_in_child=service.leave_to_parent)
    inbox = Inbox()
    keeper = Keeper(inbox, service, grace=service.grace, on_terminal=on_terminal, log_fd=service.log_fd)
    keeper.start()
    inbox.open()
    code = _live(service, inbox)
    keeper.main_ended(code)
    return code


def _live(service: Service, inbox: Inbox) -> int:
    """Set the process up, import the program, run main; return the exit code."""
    try:
        settle(service.settings, detached=service.detached)
        service.open_log()
        with inbox.interrupting():
            program = import_program(service.settings)
            service.adopt(program)
            host = make_host(program.backend, inbox)
        service.use_host(host)
        if service.stopping:
            return 0
        call = MainCall(program.main, service.context, ready=service.ready, ended=service.main_ended)
        host.run(call)
    except (StartInterrupted, MainCancelled):
        return 0
    except Failure as failure:
        service.failed(str(failure), by="dari")
        return failure.code
    except ConfigError as error:
        service.failed(str(error), by="dari")
        return Exit.BAD_CONFIG
    except SystemExit as leaving:
        return _exit_code(service, leaving)
    except BaseException as error:  # noqa: BLE001 - the end of the service's stack: it is told and becomes 1
        service.failed(_traceback(error), by="service")
        return 1
    return 0


def _exit_code(service: Service, leaving: SystemExit) -> int:
    if leaving.code is None or isinstance(leaving.code, int):
        return (leaving.code or 0) & 0xFF
    service.failed(str(leaving.code), by="service")
    return 1


class Program(NamedTuple):
    """What the import of TARGET gave."""

    main: Any
    backend: str
    parse: Callable[[Any], Any] | None
    keywords: dict[str, Any]


def import_program(settings: Settings) -> Program:
    """Return main and what goes with it; `Failure` when there is none or when it contradicts the launcher."""
    assert settings.target is not None  # the launcher started us for it
    try:
        found = load(settings.target)
    except (SystemExit, StartInterrupted):
        raise
    except BaseException as error:
        raise Failure(Exit.NO_TARGET, f"cannot import {settings.target}\n{_traceback(error)}") from error
    program = Program(found, settings.backend, None, {})
    if isinstance(found, Daemon):
        program = Program(found.main, _agree(found, settings), found.parse, found.keywords)
    if wrong := check_main(program.main):
        raise Failure(Exit.NO_TARGET, f"{settings.target}: {wrong}")
    if program.backend == "uvloop" and importlib.util.find_spec("uvloop") is None:
        raise Failure(Exit.BAD_CONFIG, "backend uvloop is not installed: pip install 'dari[uvloop]'")
    return program


def _agree(daemon: Daemon, settings: Settings) -> str:
    """Check a `Daemon`'s keywords against what the launcher has acted on by now; return the backend.

    What somebody wrote down wins over a keyword. But a mere default of the launcher, which cannot import the
    program to see the keyword, must not win silently.
    """
    for key, value in daemon.keywords.items():
        attribute = key.replace(".", "_")
        acted_on = getattr(settings, attribute)
        try:
            wanted = KEYS[key](value, os.path.dirname(settings.target.place) if settings.target else "/")
        except ValueError as error:
            raise Failure(Exit.BAD_CONFIG, f"Daemon(...): {key} {error}, not {value!r}") from error
        if settings.told(key) or wanted == acted_on:
            continue
        if key == "backend":
            return str(wanted)
        if key == "log.level":
            Log.set_level(str(wanted))
            continue
        raise Failure(
            Exit.BAD_CONFIG,
            f"{settings.target} says {key}={value!r}, but the command that started it, which does not import it, "
            f"used the {DEFAULT} {acted_on!r}; give --{key.replace('_', '-')}, write it into the [daemon] "
            f"table, or use the program's own command (daemon.cli())",
        )
    return settings.backend


def _traceback(error: BaseException) -> str:
    """Return the traceback from the first line of the program on: what called it is not its author's business."""
    tb: TracebackType | None = error.__traceback__
    while tb is not None and tb.tb_frame.f_code.co_filename.startswith(_NOT_THE_PROGRAM):
        tb = tb.tb_next
    return "".join(traceback.format_exception(type(error), error, tb or error.__traceback__)).rstrip()


def settle(settings: Settings, *, detached: bool) -> None:
    os.umask(settings.umask)
    _limit("nofile", resource.RLIMIT_NOFILE, settings.limits_nofile)
    _limit("core", resource.RLIMIT_CORE, settings.limits_core)
    if detached:
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        os.close(null)
    if detached or settings.told("chdir"):
        try:
            os.chdir(settings.chdir)
        except OSError as error:
            raise Failure(Exit.BAD_CONFIG, f"chdir {settings.chdir}: {error.strerror}") from error


def _limit(key: str, which: int, wanted: int | None) -> None:
    """Set the soft limit; the hard one stays, so that an operator may raise it later, or goes up where root asks."""
    if wanted is None:
        return
    _, hard = resource.getrlimit(which)
    enough = hard == resource.RLIM_INFINITY or wanted <= hard
    try:
        resource.setrlimit(which, (wanted, hard if enough else wanted))
    except (OSError, ValueError) as error:
        raise Failure(Exit.BAD_CONFIG, f"limits.{key} = {wanted}: {error}; the hard limit is {hard}") from error


def _close_others(keep: set[int]) -> None:
    """Close what the caller left open for us. The list is taken first: never a loop up to RLIMIT_NOFILE (facts b18)."""
    for name in os.listdir("/dev/fd"):
        if int(name) not in keep:
            with contextlib.suppress(OSError):  # the descriptor that listed the directory
                os.close(int(name))


def _name_process(name: str) -> None:
    # For `ps -o comm`, `pgrep` and top: "python3" tells nobody anything. Linux only, and 15 bytes of it.
    with contextlib.suppress(OSError), open("/proc/self/comm", "w", encoding="utf-8") as file:
        file.write(name)


def _fail_early(handover: Handover, text: str) -> int:
    if handover.status == -1:
        print(text, file=sys.stderr)
    else:
        word = {"event": "failed", "by": "dari", "text": text}
        os.write(handover.status, json.dumps(word).encode() + b"\n")
    clear(handover.lock)
    return Exit.BAD_CONFIG


if __name__ == "__main__":
    sys.exit(main(sys.argv))
