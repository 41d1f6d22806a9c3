"""The service's own process: `python -m dari.daemon.service NAME TARGET --handover=FD`, started by `launch` alone.

The order is the design. First what can fail without the program (descriptors, signals, log), so that it is already
safe to be signalled and able to tell; then the import of the program, in the process it stays in; then its loop.
Until it is ready, whatever goes wrong is told three times: to the caller of `dari start` through the status pipe,
to the log, and by the exit code.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import json
import logging
import os
import sys
import threading
from collections.abc import Callable, Generator
from typing import Any, Final

from dari.daemon.accounts import account
from dari.daemon.activation import as_sockets
from dari.daemon.answer import Answer, forget_answer
from dari.daemon.config import Settings
from dari.daemon.context import Context
from dari.daemon.ending import wind_up
from dari.daemon.entry import MainCall, MainCancelled
from dari.daemon.importing import Program, import_program, own_traceback
from dari.daemon.launch import Handover, read_handover
from dari.daemon.lifecycle import TRANSITIONS, Event, Exit, Failure, Refused, State
from dari.daemon.listeners import Listener, Listeners
from dari.daemon.listening import Doors, open_doors
from dari.daemon.logs import Log
from dari.daemon.notify import take as take_supervisor
from dari.daemon.parties import listeners_of
from dari.daemon.pidfile import Record, Reloads, clear, write_record
from dari.daemon.pooling import ServicePool
from dari.daemon.privileges import drop, give_log, require_access
from dari.daemon.process import Identity
from dari.daemon.reload import Reloader
from dari.daemon.runner import Host, make_host
from dari.daemon.setup import close_others, go_home, name_process, settle
from dari.daemon.signals import Inbox, StartInterrupted, reset_dispositions
from dari.daemon.stacks import Dumper, suspended
from dari.daemon.stopping import Keeper
from dari.exceptions import ConfigError

_LOGGER: Final = logging.getLogger("dari.daemon")
_LAST_LINES: Final = 5.0  # seconds that a slow disk may take from the end of a process, where its timeline has them
_LONGEST_WORD: Final = 60_000  # of a traceback through the pipe; a recursion error's would not fit into any terminal


class Service:
    """One run of one service: its state, and everybody who has to be told when it changes."""

    def __init__(self, handover: Handover, *, on_terminal: bool) -> None:
        self.settings = handover.settings
        self.detached = handover.mode == "start"
        self.sockets = handover.sockets
        self._lock_fd = handover.lock
        self._status_fd = handover.status
        self.identity = Identity.of(os.getpid())
        self._state = State.STARTING
        self._changing = threading.RLock()  # around a transition, its line in the pidfile, and telling of it
        self._log: Log | None = None
        self._host: Host | None = None
        self.backend = self.settings.backend
        self.doors = Doors()
        self._dumper = Dumper(self.settings.name, tasks=self._known_tasks, tell=self._tell_dump)
        self.listeners = Listeners()
        self.supervisor = take_supervisor(os.environ, pid=os.getpid())
        self.context = Context(self.settings.name, self.ready, self.listeners, ServicePool(self.settings.name))
        self._reloader = Reloader(self, self.settings, self.context, verdict="never" if on_terminal else "none")

    def leave_to_parent(self) -> None:
        """In a forked child: let go of the lock and the pipe, or they would say that the service lives."""
        for fd in (self._lock_fd, self._status_fd):
            with contextlib.suppress(OSError):
                os.close(fd)
        self._lock_fd = self._status_fd = -1

    def become_user(self) -> None:
        """Leave root's rights behind, where `user` says so, and what was opened with them open."""
        if who := account(self.settings.user, self.settings.group):
            with self._opening_log() as (path, create_directory):
                if path is not None:
                    give_log(path, who, create_directory=create_directory)
            drop(who)
            require_access(self.settings, who, log=path)

    def open_log(self) -> None:
        with self._opening_log() as (path, create_directory):
            self._log = Log(path, self.settings, create_directory=create_directory, detached=self.detached)
        faulthandler.enable(self._log.fd)  # a crash of C code shows its stack: the descriptor's number never changes
        atexit.register(self._log.end_output)
        if self.settings.config is not None and not os.access(self.settings.config, os.R_OK):
            _LOGGER.warning("every reload will be refused: this user cannot read %s", self.settings.config)
        if self.doors.missing:
            self._log.tell(f"nobody can ask this service: {self.doors.missing}", level=logging.WARNING)

    @contextlib.contextmanager
    def _opening_log(self) -> Generator[tuple[str | None, bool]]:
        told = self.settings.told("logfile")
        path = self.settings.logfile if self.detached or told else None
        try:
            yield path, not told
        except OSError as error:
            code = Exit.NOT_PERMITTED if isinstance(error, PermissionError) else Exit.FAILED
            raise Failure(code, f"cannot open the log {path}: {error.strerror}") from error

    def open_doors(self) -> None:
        self.doors = open_doors(self.settings)
        with self._changing:
            self._write_record()

    def adopt(self, program: Program) -> None:
        self.backend = program.backend
        self._reloader.adopt(program.parse, program.keywords)

    def use_host(self, host: Host) -> None:
        self._host = host
        self.context._event = host.make_event()
        self.context._make_scheduler = host.scheduler
        if self.supervisor is not None:
            self.supervisor.watch(host.post)

    # -- the states ---------------------------------------------------------------------------------------------

    def _move(self, event: Event) -> State | None:
        """Make the transition of the table, write it down and tell of it; return the state before.

        None when the table has none.
        """
        with self._changing:
            state = TRANSITIONS.get((self._state, event))
            if state is None or self._lock_fd == -1:
                return None
            before, self._state = self._state, state
            self._write_record()
            if state is State.STOPPING:
                self.listeners.tell(lambda each: each.stopping())
            elif before is State.STARTING:
                self.listeners.tell(lambda each: each.ready())
            return before

    def _write_record(self) -> None:
        control = self.settings.control_socket if self.doors.control is not None else ""
        with contextlib.suppress(OSError):  # a full disk must not stop a service from stopping
            record = Record(self.identity, self._state, self._lock_fd, self._reloader.reloads, control)
            write_record(self._lock_fd, record)

    @property
    def state(self) -> State:
        return self._state

    def begin(self, listeners: list[Listener]) -> bool:
        """Take the listeners in before main runs; False when a stop has come first."""
        with self._changing:
            if self._state is State.STARTING:
                self.listeners.start(listeners)
            return self._state is State.STARTING

    def ready(self) -> None:
        if self._move(Event.READY) is None:
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

    def reloading(self) -> None:
        self.listeners.tell(lambda each: each.reloading())

    def reloaded(self, answer: Answer) -> None:
        self.listeners.tell(lambda each: each.reloaded(answer))

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

    # -- what whoever observes it asks (from any thread) ----------------------------------------------------------

    @property
    def reloads(self) -> Reloads:
        return self._reloader.reloads

    def report(self) -> dict[str, Any]:
        return self.context.report()

    def count_tasks(self) -> int:
        return len(self._known_tasks())

    def dropped_lines(self) -> int:
        return self._log.dropped() if self._log is not None else 0

    def logs_to(self) -> str | None:
        return self._log.path if self._log is not None else None

    def dump_now(self) -> str:
        return self._dumper.write()

    def post(self, fn: Callable[[], object]) -> None:
        if self._host is not None:
            self._host.post(fn)

    # -- what the keeper asks (from its own thread) -------------------------------------------------------------

    def grace(self) -> float:
        return self.settings.stop_grace  # a reload may have changed it

    def log_fd(self) -> int:
        return self._log.fd if self._log is not None else 2

    def ask_to_stop(self) -> None:
        was_ready = self._move(Event.STOP) is State.RUNNING
        if self._host is not None:
            self._host.post(lambda: self._tell_main(was_ready))

    def _tell_main(self, was_ready: bool) -> None:
        """Set `ctx.stopping`, and cancel a main that does not listen to it. Between two steps of main.

        A main that says `ctx.ready()` and then `await ctx.stopping.wait()` may be told to stop between the two. Here
        its step is over, however long it took: if it listens, it has asked by now.
        """
        event: Any = self.context._event  # every host's event has it, but no type says so: set() is not main's
        event.set()
        if not (was_ready and self.context._listens):
            self.cancel()

    def cancel(self) -> None:
        if self._host is not None:
            self._host.cancel()

    def reload(self) -> None:
        if self._host is not None and self._state is not State.STOPPING:
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

    def farewell(self, patience: float) -> None:
        """Write the log's last lines, in `patience` seconds at most, and clear the pidfile.

        As late as can be: until then it says who is stopping.
        """
        here = os.getpid() == self.identity.pid  # a forked child comes by here, too
        if here:
            self.listeners.farewell()
        if self._log is not None:
            self._log.close(patience)
        if self._lock_fd != -1 and here:
            forget_answer(self.settings.pidfile)
            if self.doors.control is not None:
                with contextlib.suppress(OSError):  # the directory is root's, and we are not any more: see `launch`
                    os.unlink(self.settings.control_socket)
            clear(self._lock_fd)


def main(argv: list[str]) -> int:
    """Be the service until it ends; return its exit code."""
    handover = read_handover(int(argv[-1].removeprefix("--handover=")))
    sockets = {each.fd for each in handover.sockets}
    if handover.mode == "start":
        close_others(keep={0, 1, 2, handover.lock, handover.status, *sockets})
    for fd in (handover.lock, handover.status, *sockets):
        if fd != -1:
            os.set_inheritable(fd, False)
    name_process(handover.settings.name)
    reset_dispositions()
    on_terminal = handover.mode == "run" and os.isatty(0)
    try:
        service = Service(handover, on_terminal=on_terminal)
    except ConfigError as error:
        return _fail_early(handover, str(error))
    inbox = Inbox()
    keeper = Keeper(inbox, service, grace=service.grace, on_terminal=on_terminal, log_fd=service.log_fd)
    atexit.register(_say_farewell, service, inbox, keeper)  # the first registered runs last
    os.register_at_fork(after_in_child=service.leave_to_parent)
    keeper.start()
    inbox.open()
    code = _live(service, inbox, keeper)
    keeper.main_ended(code)
    return code


def _say_farewell(service: Service, inbox: Inbox, keeper: Keeper) -> None:
    left = max(0.0, keeper.left())
    service.farewell(min(_LAST_LINES, 0.75 * left))  # the interpreter's own end takes time, too
    inbox.deafen()


def _live(service: Service, inbox: Inbox, keeper: Keeper) -> int:
    """Set the process up, import the program, run main; return the exit code."""
    try:
        service.open_doors()
        settle(service.settings, detached=service.detached)
        service.become_user()
        go_home(service.settings, detached=service.detached)
        service.open_log()
        service.context.sockets = as_sockets(service.sockets)
        with inbox.interrupting():
            program = import_program(service.settings)
            service.adopt(program)
            host = make_host(program.backend, inbox)
        service.use_host(host)
        if not service.begin(listeners_of(service)):
            return 0

        def main_ended() -> None:
            service.main_ended()
            keeper.main_ended(1)  # until its own code is known: who does not come that far has failed

        host.run(
            MainCall(
                program.main,
                service.context,
                ready=service.ready,
                ended=main_ended,
                wind_up=lambda: wind_up(host, service.context, keeper.left),
            )
        )
    except (StartInterrupted, MainCancelled):
        return 0
    except (Failure, Refused) as failure:
        service.failed(str(failure), by="dari")
        return failure.code
    except ConfigError as error:
        service.failed(str(error), by="dari")
        return Exit.BAD_CONFIG
    except SystemExit as leaving:
        return _exit_code(service, leaving)
    except BaseException as error:  # noqa: BLE001 - the end of the service's stack: it is told and becomes 1
        service.failed(own_traceback(error), by="service")
        return 1
    return 0


def _exit_code(service: Service, leaving: SystemExit) -> int:
    if leaving.code is None or isinstance(leaving.code, int):
        return (leaving.code or 0) & 0xFF
    service.failed(str(leaving.code), by="service")
    return 1


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
