"""The other end of the control socket: what `dari`'s commands ask a running service.

Only the process that the pidfile names is believed: its pid is compared with what the kernel says of the one who
listens. Where there is no socket, or no right to use it, the answer is None, and a command does without.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

from dari.daemon.pidfile import Record

if TYPE_CHECKING:
    import socket

VERSION: Final = 1  # of the protocol, and of what it carries: a key may come, but none goes or changes
_PATIENCE: Final = 5.0  # seconds, for an answer that waits for nothing but the loop's one second
_TRY_AGAIN: Final = 0.02


class Reply(NamedTuple):
    """What the service answered: a result, or the reason why there is none."""

    result: dict[str, Any] | None
    error: str


def _connect(connected: socket.socket, path: str, deadline: float) -> None:
    while True:
        try:
            connected.connect(path)
            return
        except BlockingIOError as error:  # a thousand others are at it, and the queue is full for a moment
            if time.monotonic() > deadline:
                raise TimeoutError("the queue stays full") from error
            time.sleep(_TRY_AGAIN)


def ask(record: Record, command: str, *, patience: float = _PATIENCE, **arguments: Any) -> Reply | None:
    """Ask the service that `record` names; None where it cannot be asked, or does not answer within `patience` s."""
    try:
        return ask_or_time_out(record, command, patience=patience, **arguments)
    except TimeoutError:
        return None


def ask_or_time_out(record: Record, command: str, *, patience: float, **arguments: Any) -> Reply | None:
    """Ask the service that `record` names; None where it cannot be asked.

    `TimeoutError` when it was asked, and has not answered within `patience` seconds: its threads do not run.
    """
    if not record.control:
        return None
    import json  # not at the top: a command that finds nobody to ask needs neither
    import socket

    from dari.daemon.control.listening import peer_pid, reachable

    request = json.dumps({"version": VERSION, "command": command, **arguments}).encode() + b"\n"
    deadline = time.monotonic() + patience
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connected:
            connected.settimeout(patience)
            with reachable(record.control) as path:
                _connect(connected, path, deadline)
            if peer_pid(connected) not in (record.identity.pid, None):
                return None
            connected.sendall(request)
            raw = bytearray()
            while not raw.endswith(b"\n"):
                connected.settimeout(max(0.001, deadline - time.monotonic()))
                more = connected.recv(1 << 16)
                if not more:
                    return None
                raw += more
        answer = cast("dict[str, Any]", json.loads(raw))
        return Reply(answer["result"], "") if answer["ok"] else Reply(None, str(answer["error"]))
    except TimeoutError:
        raise
    except (OSError, ValueError, KeyError, TypeError):
        return None
