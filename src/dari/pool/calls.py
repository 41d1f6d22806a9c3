"""Calls that a section under the pool's lock leaves to be made when the lock is free: wakes, waiters, destructors.

None of them may be lost, whatever breaks in: Ctrl-C, which may come after any call, or the end of the stack, where none
can be made. Hence `make` takes a call out and puts it back without calling anything.
"""

from __future__ import annotations

from _thread import start_new_thread
from typing import TYPE_CHECKING

from dari.drivers.blocking import way_out
from dari.drivers.strangers import on_their_way

if TYPE_CHECKING:
    from _thread import LockType
    from collections import deque
    from collections.abc import Callable
    from threading import Thread

__all__ = ["make", "open_gate", "spawn"]


_OURS = frozenset(["dari.pool.calls", "dari.pool.executor", "dari.pool.hooks"])  # until they reach other code


def make(calls: deque[Callable[[], object]]) -> None:
    """Make the calls that a section left, outside of it, and take them away.

    One that fails does not keep the others from being made. One that the end of the stack kept from being begun stays.
    """
    while calls:
        call = calls[0]
        del calls[0]
        try:
            call()
        except RecursionError as error:
            traceback = error.__traceback__
            while traceback is not None and traceback.tb_frame.f_globals["__name__"] in _OURS:
                traceback = traceback.tb_next
            if traceback is None:  # nobody else's code was reached
                calls += (call,)
                raise
            _report_failure(call, error)
        except BaseException as error:
            make(calls)
            if not isinstance(error, Exception):
                raise  # Ctrl-C, in the middle of it
            _report_failure(call, error)


def _report_failure(call: Callable[[], object], error: BaseException) -> None:
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
    has not got. There a bare thread does it, and it takes 0.14 ms; meanwhile only `on_their_way` tells of it. (Not
    everywhere: a bare thread may come too late for a program that ends just now.) `failed` is called where no thread
    can be had, or (3.12) the interpreter is on its way out.
    """

    def start() -> None:
        try:
            thread().start()
        except RuntimeError as error:
            failed(error)
        finally:
            on_their_way.discard(start)

    if way_out(task="", loop="") is None:
        start()
        return
    on_their_way.add(start)
    try:
        start_new_thread(start, ())
    except RuntimeError as error:
        on_their_way.discard(start)
        failed(error)
