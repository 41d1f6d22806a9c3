"""Calls that a section under the pool's lock leaves to be made when the lock is free: wakes, waiters, destructors."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _thread import LockType
    from collections.abc import Callable, Iterable

__all__ = ["make", "open_gate"]


def make(calls: Iterable[Callable[[], object]]) -> None:
    """Make the calls that a section left, outside of it. One that fails does not keep the others from being made."""
    rest = iter(calls)
    for call in rest:
        try:
            call()
        except BaseException as error:
            make(rest)
            if not isinstance(error, Exception):
                raise  # Ctrl-C, in the middle of it
            from dari.drivers.reporting import report  # loads logging

            report(f"{call!r} failed", error)


def open_gate(gate: LockType) -> None:
    """Let go on who waits for it, if more than one may do so."""
    try:
        gate.release()
    except RuntimeError:
        pass  # it stands open already
