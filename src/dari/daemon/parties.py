"""Who else is told what a service does, and asks it: put together in one place, in the order in which they are told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from dari.daemon.context import Context
from dari.daemon.control.figures import Figures
from dari.daemon.control.health import Health
from dari.daemon.control.listening import Doors, place_of
from dari.daemon.control.pulse import Pulse
from dari.daemon.control.report import Reporter
from dari.daemon.control.requests import Control, Controlled
from dari.daemon.listeners import Listener
from dari.daemon.notify import Supervisor


class Observable(Controlled, Protocol):
    """A service, as far as its parties know it."""

    context: Context
    doors: Doors
    supervisor: Supervisor | None

    def post(self, fn: Callable[[], object]) -> None: ...


def listeners_of(service: Observable) -> list[Listener]:
    """Return them. The supervisor is first to hear that it stops: it counts the seconds from then on."""
    settings, doors = service.settings, service.doors
    pulse = Pulse(service.post)
    listeners: list[Listener] = [] if service.supervisor is None else [service.supervisor]
    listeners.append(
        Figures(
            service,
            service.context._pool,
            pulse,
            control=settings.control_socket if doors.control is not None else None,
            health=place_of(doors.health) if doors.health is not None else None,
        )
    )
    if settings.log_report_every:
        listeners.append(Reporter(settings.log_report_every, pulse, service.dropped_lines))
    if doors.control is not None:
        listeners.append(Control(service, doors.control, pulse))
    if doors.health is not None:
        listeners.append(Health(service, doors.health, pulse))
    return listeners
