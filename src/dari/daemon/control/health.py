"""`/livez`, `/readyz` and `/metrics` over HTTP, for who cannot run a command: kubelet, load balancers, Prometheus.

Spoken by hand, and no more of it than probes speak: one GET or HEAD, one answer, the end. Whoever reaches the port
may ask; there is nothing to be changed here.

`/livez` asks whether a restart would help: no (200), unless the service is ready and its loop does not answer (503).
One that is starting or stopping has deadlines of its own. `/readyz` asks whether it should be given work: 200 when it
is ready, not stopping, and its loop answers.
"""

from __future__ import annotations

import socket
from typing import Any, Final, NamedTuple, Protocol

from dari.daemon.control.metrics import CONTENT_TYPE, as_text
from dari.daemon.control.pulse import Pulse
from dari.daemon.control.server import Caller, Server
from dari.daemon.lifecycle import State
from dari.daemon.listeners import Listener

_LOOP_PATIENCE: Final = 0.8  # seconds; kubelet gives a probe one second, unless told otherwise
_REASONS: Final = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    503: "Service Unavailable",
}


class Answer(NamedTuple):
    """One response."""

    status: int
    text: str
    kind: str = "text/plain; charset=utf-8"

    def encode(self) -> bytes:
        body = self.text.rstrip("\n").encode("utf-8", "backslashreplace") + b"\n"
        lines = [
            f"HTTP/1.1 {self.status} {_REASONS[self.status]}",
            f"Content-Type: {self.kind}",
            f"Content-Length: {len(body)}",
            *(["Allow: GET, HEAD"] if self.status == 405 else []),
            "Cache-Control: no-store",
            "Connection: close",
        ]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class Probed(Protocol):
    """What is asked of the service."""

    @property
    def state(self) -> State: ...
    def report(self) -> dict[str, Any]: ...


class Health(Listener):
    """`listening` is bound already."""

    def __init__(self, service: Probed, listening: socket.socket, pulse: Pulse) -> None:
        self._service = service
        self._pulse = pulse
        self._server = Server("dari-health", listening, self._converse)

    def starting(self) -> None:
        self._server.start()

    def _converse(self, caller: Caller) -> None:
        head = caller.read_until(b"\r\n\r\n")
        if head is None:
            return
        method, path, version = [*head.split(b"\r\n")[0].split(b" "), b"", b"", b""][:3]
        if not version.startswith(b"HTTP/1."):
            answer = Answer(400, "this is not HTTP/1")
        elif method not in (b"GET", b"HEAD"):
            answer = Answer(405, "GET or HEAD")
        else:
            answer = self._look(path.split(b"?")[0])
        raw = answer.encode()
        caller.send(raw[: raw.index(b"\r\n\r\n") + 4] if method == b"HEAD" else raw)

    def _look(self, path: bytes) -> Answer:
        if path == b"/metrics":
            self._pulse.feel(_LOOP_PATIENCE)
            return Answer(200, as_text(self._service.report()), CONTENT_TYPE)
        if path not in (b"/livez", b"/readyz"):
            return Answer(404, "there are /livez, /readyz and /metrics")
        state = self._service.state
        if state is not State.RUNNING:
            return Answer(200 if path == b"/livez" else 503, state.value)
        beat = self._pulse.feel(_LOOP_PATIENCE)
        if not beat.answered:
            return Answer(503, f"the loop has not answered for {beat.lag:.1f} s")
        return Answer(200, state.value)
