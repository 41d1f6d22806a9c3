"""Calls that a section under the pool's lock leaves to be made when the lock is free: wakes, waiters, destructors."""

from __future__ import annotations

from _thread import start_new_thread
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _thread import LockType
    from collections import deque
    from collections.abc import Callable
    from threading import Thread

__all__ = ["make", "open_gate", "spawn"]


def make(calls: deque[Callable[[], object]]) -> None:
    """Make the calls that a section left, outside of it, and take them away.

    One that fails does not keep the others from being made.
    """
    while calls:
        call = calls.popleft()
        try:
            call()
        except BaseException as error:
            make(calls)
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


def spawn(thread: Callable[[], Thread], failed: Callable[[RuntimeError], object]) -> None:
    """Start `thread()`, and wait for nothing.

    `Thread.start` waits until the new thread runs, in the midst of somebody's event loop: for 13 ms (median) beside a
    thread that computes. So a bare thread does that, and here it takes 0.14 ms. `failed` is called where none can be
    had, or (3.12) the interpreter is on its way out.
    """

    def start() -> None:
        try:
            thread().start()
        except RuntimeError as error:
            failed(error)

    try:
        start_new_thread(start, ())
    except RuntimeError as error:
        failed(error)
