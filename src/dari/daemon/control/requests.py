"""The control socket: one JSON object a line asks, one JSON object a line answers, as often as the caller likes.

    {"version": 1, "command": "log-level", "level": "debug"}
    {"version": 1, "ok": true, "result": {"level": "debug", "was": "info"}}

Answered in threads of their own (`server`), so that a service whose loop hangs can still say that it does. Who may ask:
root, the service's user, and `allow_uids`, by the credentials that the kernel vouches for; the file's mode comes
before that. A command never needs the socket: where there is none, signals and the pidfile do.

Nothing but the protocol lives here. What the answers say is `figures`, `stacks`, `reload`.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, Final, Protocol, cast

from dari.daemon.answer import Answer
from dari.daemon.control.asking import VERSION
from dari.daemon.control.figures import Observed
from dari.daemon.control.listening import peer_uid
from dari.daemon.control.metrics import as_text
from dari.daemon.control.pulse import Pulse
from dari.daemon.control.server import Caller, Server
from dari.daemon.keys import LEVELS
from dari.daemon.lifecycle import State
from dari.daemon.listeners import Listener
from dari.daemon.logs.log import Log
from dari.daemon.pidfile import Reloads

_LOGGER: Final = logging.getLogger("dari.daemon")
_LOOP_PATIENCE: Final = 1.0  # seconds; a loop that needs longer is what the asker wants to know about
_RELOAD_LATE: Final = 2.0  # beyond what a service allows its callbacks, and their calling back


class Controlled(Observed, Protocol):
    """What the socket asks of the service."""

    @property
    def reloads(self) -> Reloads: ...
    def reload(self) -> None: ...
    def dump_now(self) -> str: ...
    def report(self) -> dict[str, Any]: ...


class Unable(Exception):  # noqa: N818 - an answer, not a failure
    """Why a request is not done."""


class Control(Listener):
    """`listening` is bound already."""

    def __init__(self, service: Controlled, listening: socket.socket, pulse: Pulse) -> None:
        self._service = service
        self._pulse = pulse
        self._pid = os.getpid()
        self._uids = {0, os.geteuid(), *service.settings.control_allow_uids}
        self._server = Server("dari-control", listening, self._converse)
        self._answer: Answer | None = None
        self._reloaded = threading.Condition()

    def starting(self) -> None:
        self._server.start()

    def reloaded(self, answer: Answer) -> None:
        with self._reloaded:
            self._answer = answer
            self._reloaded.notify_all()

    # -- the protocol ---------------------------------------------------------------------------------------------

    def _converse(self, caller: Caller) -> None:
        uid = peer_uid(caller.socket)
        while (line := caller.read_until(b"\n")) is not None:
            if uid is not None and uid not in self._uids:
                caller.send(_line(error=f"uid {uid} may not ask: [daemon.control] allow_uids says who may"))
                return
            caller.send(self._answer_to(line))

    def _answer_to(self, line: bytes) -> bytes:
        try:
            request = _read(line)
            return _line(result=_COMMANDS[request["command"]](self, request))
        except Unable as unable:
            return _line(error=str(unable))
        except Exception as error:
            _LOGGER.exception("the control socket could not answer")
            return _line(error=f"{type(error).__name__}: {error}")

    # -- the commands: any of them may wait, none for ever --------------------------------------------------------

    def _ping(self, request: dict[str, Any]) -> dict[str, Any]:
        beat = self._pulse.feel(_LOOP_PATIENCE)
        lag = round(beat.lag * 1000, 3)
        return {"pid": self._pid, "state": self._service.state.value, "lag_ms": lag, "answers": beat.answered}

    def _status(self, request: dict[str, Any]) -> dict[str, Any]:
        self._pulse.feel(_LOOP_PATIENCE)
        return self._service.report()

    def _report(self, request: dict[str, Any]) -> dict[str, Any]:
        return self._service.report()

    def _metrics(self, request: dict[str, Any]) -> dict[str, Any]:
        return {"text": as_text(self._status(request))}

    def _dump(self, request: dict[str, Any]) -> dict[str, Any]:
        return {"text": self._service.dump_now()}

    def _log_level(self, request: dict[str, Any]) -> dict[str, Any]:
        if self._service.settings.log_format == "none":
            raise Unable('the program configures logging itself ([daemon.log] format = "none")')
        was = logging.getLevelName(logging.getLogger().level).lower()
        level: object = request.get("level", was)
        if not isinstance(level, str) or level.lower() not in LEVELS:
            raise Unable(f"level must be one of {', '.join(LEVELS)}, not {level!r}")
        if level.lower() != was:
            Log.set_level(level)
            _LOGGER.log(logging.getLogger().level, "the log level is %s now, it was %s", level.lower(), was)
        return {"level": level.lower(), "was": was}

    def _reload(self, request: dict[str, Any]) -> dict[str, Any]:
        service = self._service
        if service.state is not State.RUNNING:
            raise Unable(f"it is {service.state.value}, and does not reload now")
        begun = service.reloads.begun  # one that has begun may have read the file before it was what it is now
        patience = min(_seconds(request), 2 * service.settings.start_timeout + _RELOAD_LATE)
        deadline = time.monotonic() + patience
        service.reload()
        with self._reloaded:
            while self._answer is None or self._answer.number <= begun:
                if self._stopping():
                    raise Unable("it is stopping, and does not reload any more")
                if time.monotonic() > deadline:
                    text = f"it has not answered within {patience:g} s: its loop, or a callback of its, is blocked"
                    raise Unable(f"{text}; what it holds now is the old configuration")
                self._reloaded.wait(min(_LOOP_PATIENCE, max(0.0, deadline - time.monotonic())))
            answer = self._answer
        if self._stopping() and not answer.ok:
            raise Unable(f"it is stopping, and does not reload any more: {answer.text}")
        return answer._asdict()

    def _stopping(self) -> bool:
        return self._service.state is State.STOPPING


_COMMANDS: Final[dict[str, Callable[[Control, dict[str, Any]], dict[str, Any]]]] = {
    "ping": Control._ping,
    "status": Control._status,
    "report": Control._report,
    "metrics": Control._metrics,
    "dump": Control._dump,
    "log-level": Control._log_level,
    "reload": Control._reload,
}


def _read(line: bytes) -> dict[str, Any]:
    try:
        request: object = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise Unable('a request is a JSON object in one line, like {"version": 1, "command": "status"}') from error
    if not isinstance(request, dict):
        raise Unable('a request is a JSON object, like {"version": 1, "command": "status"}')
    fields = cast("dict[str, Any]", request)
    if fields.get("version", VERSION) != VERSION:
        raise Unable(f"version {fields['version']!r} is not spoken here, version {VERSION} is")
    if not isinstance(fields.get("command"), str) or fields["command"] not in _COMMANDS:
        raise Unable(f"command must be one of {', '.join(_COMMANDS)}")
    return fields


def _seconds(request: dict[str, Any]) -> float:
    seconds: object = request.get("timeout", float("inf"))
    if isinstance(seconds, (int, float)) and not isinstance(seconds, bool) and seconds >= 0:
        return seconds
    raise Unable(f"timeout must be a number of seconds, not {seconds!r}")


def _line(**fields: Any) -> bytes:
    return json.dumps({"version": VERSION, "ok": "error" not in fields, **fields}, default=repr).encode() + b"\n"
