"""Calls that a section under the pool's lock leaves to be made when the lock is free: wakes, waiters, destructors."""

from __future__ import annotations

from _thread import start_new_thread
from typing import TYPE_CHECKING

from dari.drivers.blocking import way_out

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
    """Start `thread()`; where a loop or a scheduler runs, without waiting for anything.

    `Thread.start` waits until the new thread runs, beside a thread that computes for 13 ms (median), which a loop
    has not got. There a bare thread does it, and it takes 0.14 ms. (Not everywhere: a bare thread may come too late
    for a program that ends just now.) `failed` is called where no thread can be had, or (3.12) the interpreter is on
    its way out.
    """

    def start() -> None:
        try:
            thread().start()
        except RuntimeError as error:
            failed(error)

    if way_out(task="", loop="") is None:
        start()
        return
    try:
        start_new_thread(start, ())
    except RuntimeError as error:
        failed(error)
