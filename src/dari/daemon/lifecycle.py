"""The life of a service, as literal tables: states, what moves them, what each signal means, what each exit code says.

Nothing but tables lives here. The documentation's tables are these; a test holds the two together, so that the
promise to operators (and to the scripts they wrote) changes in one place or not at all.
"""

from __future__ import annotations

import signal
from enum import Enum, IntEnum, StrEnum
from typing import Final, NamedTuple

from dari.exceptions import DaemonError


class State(StrEnum):
    """What a service is doing. The first three stand in the pidfile, the others are concluded from outside."""

    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"  # no lock, and the pidfile names nobody
    DEAD = "dead"  # no lock, but the pidfile names somebody: it went without saying goodbye
    ORPHANED = "orphaned"  # the lock is held, but not by whom the pidfile names
    UNKNOWN = "unknown"  # the pidfile cannot be read


class Event(Enum):
    """What moves a service from one state to the next."""

    READY = "ctx.ready()"
    STOP = "TERM, INT, QUIT"
    END = "main has ended"


# What is not in the table does not happen: a `ready()` that comes after the TERM changes nothing, a second stop
# changes no state (it forces, see `Intent`).
TRANSITIONS: Final[dict[tuple[State, Event], State]] = {
    (State.STARTING, Event.READY): State.RUNNING,
    (State.STARTING, Event.STOP): State.STOPPING,
    (State.STARTING, Event.END): State.STOPPING,
    (State.RUNNING, Event.STOP): State.STOPPING,
    (State.RUNNING, Event.END): State.STOPPING,
}


class Exit(IntEnum):
    """Exit codes of every command but `status`; 0-7 as LSB has them, 150-155 from its range for applications."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    NOT_POSSIBLE = 3
    NOT_PERMITTED = 4
    NO_TARGET = 5
    BAD_CONFIG = 6
    NOT_RUNNING = 7
    ALREADY_RUNNING = 150
    START_TIMEOUT = 151
    STOP_TIMEOUT = 152
    RELOAD_REFUSED = 153
    KILLED = 154
    ORPHANED = 155


# `status` speaks LSB, where the same small numbers mean other things.
STATUS_EXIT: Final[dict[State, int]] = {
    State.RUNNING: 0,
    State.DEAD: 1,
    State.STOPPED: 3,
    State.STARTING: 4,
    State.STOPPING: 4,
    State.ORPHANED: 4,
    State.UNKNOWN: 4,
}


class Intent(Enum):
    """What a signal asks of the service."""

    STOP = "graceful stop; the second one of the same kind forces"
    FAST_STOP = "main is cancelled at once"
    RELOAD = "read the configuration again and reopen the log"
    DUMP = "threads and suspended tasks into the log"
    RESERVED = "logged, nothing else"


# USR1 and USR2 are in the table because their default action would kill.
SIGNALS: Final[dict[signal.Signals, Intent]] = {
    signal.SIGTERM: Intent.STOP,
    signal.SIGINT: Intent.STOP,
    signal.SIGQUIT: Intent.FAST_STOP,
    signal.SIGHUP: Intent.RELOAD,
    signal.SIGUSR1: Intent.DUMP,
    signal.SIGUSR2: Intent.RESERVED,
}


# Between the cancel of main at the end of its grace and the hard exit: enough for `finally` blocks, and small
# against what supervisors allow (systemd: 90 s, docker stop: 10 s).
HARD_EXIT_AFTER: Final = 2.0


# All `ctx.on_stop` hooks together, inside of the timeline: one that hangs must leave something for the pool.
HOOKS_BUDGET: Final = 5.0


class Timeline(NamedTuple):
    """When what happens after a stop was asked for, in seconds from that moment."""

    cancel: float
    leave: float


def timeline(intent: Intent, grace: float) -> Timeline:
    """Return the moments of one stop.

    A main that is not ready, or never asked for `ctx.stopping`, would only waste its grace before the cancel: it is
    cancelled at once, by its own loop, and has the grace after that.
    """
    if intent is Intent.FAST_STOP:
        return Timeline(cancel=0.0, leave=HARD_EXIT_AFTER)
    return Timeline(cancel=grace, leave=grace + HARD_EXIT_AFTER)


class Refused(DaemonError):  # noqa: N818 - what it is, and the exit code says how bad
    """A command that cannot be done, with the exit code that says why."""

    def __init__(self, code: Exit, text: str, *, pid: int | None = None) -> None:
        super().__init__(text)
        self.code = code
        self.pid = pid


class StartFailed(DaemonError):  # noqa: N818 - what happened; an error it is for the caller to call
    """The service did not become ready. `code` is what `start` ends with, `origin` whose number that is."""

    def __init__(self, code: int, text: str, *, origin: str = "dari") -> None:
        super().__init__(text)
        self.code = code
        self.origin = origin


class Failure(Exception):  # noqa: N818 - it carries an exit code out of a service's own process
    """Why this process cannot be the service, and the exit code that says it."""

    def __init__(self, code: Exit, text: str) -> None:
        super().__init__(text)
        self.code = code
