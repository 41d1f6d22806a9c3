"""Answers callers on a socket, in threads of its own, whatever the callers do and whatever the service's loop does.

One thread accepts, and each caller is answered in a thread of its own by plain blocking code, because an answer may
have to wait (for a reload, for the loop). Everything is bounded: how many callers there are at a time, how much one may
send before it is a whole request, how long he may take to send it or to take its answer. When all places are taken,
the one who has been waited for longest loses his: a thousand callers that say nothing keep nobody out. When all have
asked for something that takes its time, the next one waits a second, and is hung up on.

A forked child closes its copies: with one of them open, callers of a service that has died would wait for ever.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable
from typing import Final

_MOST: Final = 32  # callers at a time
_BACKLOG: Final = 128  # callers that wait to be accepted; the kernel keeps them
_PATIENCE: Final = 5.0  # seconds for a caller to send one request, and to take its answer
_LARGEST: Final = 64 * 1024  # bytes of one request
_FOR_A_PLACE: Final = 1.0  # seconds that one waits when all the others are being answered
_TRY_AGAIN: Final = 0.1  # seconds, when there is no descriptor or no thread left to answer with


class HungUp(Exception):  # noqa: N818 - the caller's doing, and nobody's error
    """The caller has gone, sends nonsense without end, or takes too long."""


class Caller:
    """One connection. All its waits have deadlines, and end with `HungUp`."""

    def __init__(self, connected: socket.socket) -> None:
        self.socket: Final = connected
        self.waited_for = True  # for his request, so that he may be hung up on
        self._rest = b""

    def read_until(self, end: bytes) -> bytes | None:
        """Return what he sends up to `end`, without it; None when he ends before he has begun."""
        self.waited_for = True
        deadline = time.monotonic() + _PATIENCE
        while end not in self._rest:
            if len(self._rest) > _LARGEST:
                raise HungUp("a request without end")
            more = self._receive(deadline)
            if not more:
                if self._rest:
                    raise HungUp("half a request")
                return None
            self._rest += more
        request, self._rest = self._rest.split(end, 1)
        self.waited_for = False
        return request

    def _receive(self, deadline: float) -> bytes:
        try:
            self.socket.settimeout(max(0.001, deadline - time.monotonic()))
            return self.socket.recv(65536)
        except OSError as error:
            raise HungUp(str(error)) from error

    def send(self, raw: bytes) -> None:
        """Send all of it."""
        deadline = time.monotonic() + _PATIENCE
        rest = memoryview(raw)
        try:
            while rest:
                self.socket.settimeout(max(0.001, deadline - time.monotonic()))
                rest = rest[self.socket.send(rest) :]
        except OSError as error:
            raise HungUp(str(error)) from error

    def hang_up(self) -> None:
        """Wake whoever waits for him. Any thread."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)


class Server:
    """Calls `converse(caller)` for everyone who connects; the connection ends with it."""

    def __init__(self, name: str, listening: socket.socket, converse: Callable[[Caller], None]) -> None:
        self._name = name
        self._listening = listening
        self._converse = converse
        self._callers: dict[Caller, None] = {}  # in the order in which they came
        self._changed = threading.Condition()

    def start(self) -> None:
        self._listening.listen(_BACKLOG)
        os.register_at_fork(after_in_child=self._leave_to_parent)
        threading.Thread(target=self._accept, name=self._name, daemon=True).start()

    def _leave_to_parent(self) -> None:
        # No lock: whoever held it is not here. Nor shutdown: that would end the parent's connection.
        for caller in tuple(self._callers):
            caller.socket.close()

    def _accept(self) -> None:
        while True:
            try:
                connected, _ = self._listening.accept()
            except OSError:
                if self._listening.fileno() == -1:
                    return  # it was closed
                time.sleep(_TRY_AGAIN)  # EMFILE, mostly: the backlog keeps them until there is a descriptor again
                continue
            if not self._admit(Caller(connected)):
                connected.close()

    def _admit(self, caller: Caller) -> bool:
        deadline = time.monotonic() + _FOR_A_PLACE
        with self._changed:
            while len(self._callers) >= _MOST:
                silent = next((each for each in self._callers if each.waited_for), None)
                if silent is not None:
                    silent.hang_up()
                elif time.monotonic() > deadline:
                    return False
                self._changed.wait(_TRY_AGAIN)
            self._callers[caller] = None
        try:
            threading.Thread(target=self._answer, args=(caller,), name=f"{self._name}-answer", daemon=True).start()
        except RuntimeError:  # no thread left
            self._forget(caller)
            time.sleep(_TRY_AGAIN)
            return False
        return True

    def _answer(self, caller: Caller) -> None:
        try:
            self._converse(caller)
        except HungUp:
            pass
        finally:
            self._forget(caller)
            caller.socket.close()

    def _forget(self, caller: Caller) -> None:
        with self._changed:
            self._callers.pop(caller, None)
            self._changed.notify()
