"""One run of one service: its state, and everybody who has to be told when it changes.

The pidfile, the launcher, the log and main are told from here; every other party is a `Listener`. What asks the service
to change stands around it: the keeper (from its thread), reloads (from the loop's), main by its context (from any).
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
from collections.abc import Callable
from typing import Any, Final

from dari.daemon.answer import Answer, forget_answer
from dari.daemon.config import Settings
from dari.daemon.context import Context
from dari.daemon.control.listening import Doors, open_doors
from dari.daemon.importing import Program
from dari.daemon.launch import Handover
from dari.daemon.lifecycle import TRANSITIONS, Event, State
from dari.daemon.listeners import Listener, Listeners
from dari.daemon.logs.log import Log, opening_log
from dari.daemon.notify import take as take_supervisor
from dari.daemon.pidfile import Record, Reloads, clear, write_record
from dari.daemon.pooling import ServicePool
from dari.daemon.process import Identity
from dari.daemon.reload import Reloader
from dari.daemon.rights.accounts import account
from dari.daemon.rights.privileges import drop, give_log, require_access
from dari.daemon.runner import Host
from dari.daemon.stacks import Dumper, suspended

_LOGGER: Final = logging.getLogger("dari.daemon")
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
            with opening_log(self.settings, detached=self.detached) as (path, create_directory):
                if path is not None:
                    give_log(path, who, create_directory=create_directory)
            drop(who)
            require_access(self.settings, who, log=path)

    def open_log(self) -> None:
        with opening_log(self.settings, detached=self.detached) as (path, create_directory):
            self._log = Log(path, self.settings, create_directory=create_directory, detached=self.detached)
        faulthandler.enable(self._log.fd)  # a crash of C code shows its stack: the descriptor's number never changes
        atexit.register(self._log.end_output)
        if self.settings.config is not None and not os.access(self.settings.config, os.R_OK):
            _LOGGER.warning("every reload will be refused: this user cannot read %s", self.settings.config)
        if self.doors.missing:
            self._log.tell(f"nobody can ask this service: {self.doors.missing}", level=logging.WARNING)

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
            write_record(
                self._lock_fd,
                Record(
                    *(self.identity, self._state, self._lock_fd, self._reloader.reloads, control),
                    target=str(self.settings.target or ""),
                    grace=self.settings.stop_grace,
                ),
            )

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

    @property
    def last_reload(self) -> tuple[Answer, float] | None:
        return self._reloader.last

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
