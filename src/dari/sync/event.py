"""Event: a flag to wait for."""

from __future__ import annotations

from typing import Any, Final, final

from dari._kernel.contract import Operation
from dari.sync.waiters import Waiters

__all__ = ["Event"]


@final
class Event:
    """A flag to wait for: `yield event.wait()`."""

    __slots__ = ("_set", "_waiters")

    def __init__(self) -> None:
        self._set = False
        self._waiters: Final = Waiters()

    def __repr__(self) -> str:
        return f"<Event {'set' if self._set else 'not set'}, {len(self._waiters)} waiting>"

    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        """Wake all who wait, and let nobody wait until `clear`. On the scheduler's thread."""
        self._set = True
        while self._waiters:
            self._waiters.pop()[0].wake()

    def clear(self) -> None:
        self._set = False

    def wait(self) -> Operation[None]:
        """Wait until the flag is set. Woken by `set`; cancelling ends it at once."""
        return _EventWait(self)


@final
class _EventWait(Operation[None]):
    __slots__ = ("_event",)

    def __init__(self, event: Event) -> None:
        self._event: Final = event

    def __repr__(self) -> str:
        return f"wait of {self._event!r}"

    def begin(self, task: Any) -> None:
        if self._event._set:
            task.resume()
        else:
            self._event._waiters.block(task, self)
