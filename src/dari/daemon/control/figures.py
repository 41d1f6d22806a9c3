"""What is known of a running service, as one mapping: for `dari status`, `ctx.report()`, metrics and whoever asks next.

Gathered in the service itself, from any of its threads. The loop is not asked here (`ctx.report()` is called in it):
its lag is the last one that somebody has measured, and whoever wants a fresh one measures first (`Pulse.feel`).
"""

from __future__ import annotations

import logging
from typing import Any, Protocol

from dari.daemon.answer import Answer
from dari.daemon.config import Settings
from dari.daemon.control.asking import VERSION
from dari.daemon.control.pulse import Beat, Pulse
from dari.daemon.control.vitals import Usage
from dari.daemon.lifecycle import State
from dari.daemon.listeners import Listener
from dari.daemon.pooling import ServicePool
from dari.daemon.process import Identity


class Observed(Protocol):
    """What the figures are taken from."""

    settings: Settings

    @property
    def identity(self) -> Identity: ...
    @property
    def state(self) -> State: ...
    @property
    def backend(self) -> str: ...
    @property
    def last_reload(self) -> tuple[Answer, float] | None: ...
    def count_tasks(self) -> int: ...
    def dropped_lines(self) -> int: ...
    def logs_to(self) -> str | None: ...


class Figures(Listener):
    """Its share of `ctx.report()` is all but `name`, `generation` and `status`."""

    def __init__(
        self, service: Observed, pool: ServicePool, pulse: Pulse, *, control: str | None, health: str | None
    ) -> None:
        self._service = service
        self._pool = pool
        self._pulse = pulse
        self._usage = Usage()
        self._control = control  # where it is asked, and
        self._health = health  # where its probes are answered

    def report(self) -> dict[str, Any]:
        service = self._service
        settings = service.settings
        pid, start, boot = service.identity
        uptime = service.identity.uptime()
        level = logging.getLevelName(logging.getLogger().level).lower()
        return {
            "version": VERSION,
            "state": service.state.value,
            "ready": service.state is State.RUNNING,
            "pid": pid,
            "starttime": start,
            "boot_id": boot,
            "uptime_s": None if uptime is None else round(uptime, 2),
            "target": str(settings.target) if settings.target is not None else None,
            "last_reload": _outcome(*service.last_reload) if service.last_reload is not None else None,
            "loop": {"kind": service.backend, "tasks": service.count_tasks(), **_beat(self._pulse.last)},
            "proc": self._usage.look(),
            "pool": self._pool.figures(),
            "log": {
                "level": None if settings.log_format == "none" else level,
                "dropped": service.dropped_lines(),
            },
            "paths": {
                "pidfile": settings.pidfile,
                "logfile": service.logs_to(),
                "config": settings.config,
                "control": self._control,
                "health": self._health,
            },
        }


def _outcome(answer: Answer, when: float) -> dict[str, Any]:
    error = None if answer.ok else answer.text
    return {"count": answer.number, "ok": answer.ok, "error": error, "time": round(when, 3)}


def _beat(beat: Beat | None) -> dict[str, Any]:
    """`lag_ms`: until the loop answered, or since it was asked; `answers`: whether it has. None: it was never asked."""
    if beat is None:
        return {"lag_ms": None, "answers": None}
    return {"lag_ms": round(beat.lag * 1000, 3), "answers": beat.answered}
