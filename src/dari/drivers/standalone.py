"""The driver that owns its thread: it waits with a selector, and other threads wake it through a pair of sockets.

Neither is made before the first wait: a program that never waits costs no descriptor. Making them lazily is safe,
because a poster appends before it looks for the socket, and the driver makes the socket before it looks at the mailbox.
"""

from __future__ import annotations

import selectors
import socket
import time
from typing import TYPE_CHECKING, Any, NoReturn, final

from dari._kernel.contract import FINISHED, MORE, Direction, Idle
from dari.drivers.mailbox import Mailbox
from dari.drivers.wakeup import remote_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from dari._kernel.contract import Operation
    from dari._kernel.kernel import Kernel
    from dari._kernel.outcome import Steppable

__all__ = ["Standalone"]

# Between two looks at the clock, the mailbox and the descriptors: long enough that looking costs under 2 % of trivial
# steps, short enough that steps of 10 µs delay a deadline by 2.5 ms at most.
_STEPS = 256

_EVENTS: dict[Direction, int] = {"read": selectors.EVENT_READ, "write": selectors.EVENT_WRITE}


@final
class Standalone:
    """Drives a kernel on the calling thread, for as long as `drive` is asked to."""

    clock = staticmethod(time.monotonic)

    def __init__(self) -> None:
        self.mailbox = Mailbox(self._wake)
        self._stopped = False
        self._selector: selectors.BaseSelector | None = None
        self._sockets: tuple[socket.socket, socket.socket] | None = None

    # ---- what the kernel asks ----------------------------------------------------------------------------------

    def notify(self) -> None:
        """Nothing to do: `drive` looks at the kernel before it waits."""

    def post(self, call: Callable[[], object]) -> None:
        self.mailbox.put(call)

    def steps_of(self, coroutine: Any) -> Steppable:
        steps: Steppable = coroutine.__await__()
        return steps

    def adapt(self, foreign: object) -> Operation[Any] | None:
        return remote_of(foreign)

    def outside(self, task: Any) -> NoReturn:
        raise RuntimeError(
            f"{task!r} belongs to a scheduler that runs by itself, so no coroutine of another loop can await it: enter"
            " the scheduler by `async with`, or use dari.arun"
        )

    def report(self, what: str, error: BaseException | None) -> None:
        from dari.drivers.reporting import report

        report(what, error)

    # ---- what its owner asks -----------------------------------------------------------------------------------

    def drive(self, kernel: Kernel, until: Callable[[], bool] | None = None, deadline: float | None = None) -> bool:
        """Advance `kernel` until all have ended or `until()` holds (True), or `deadline` or `stop` come (False)."""
        while True:
            calls = self.mailbox.take() if self.mailbox else ()
            ready = self._poll(kernel, 0) if kernel.watching else ()
            need = kernel.advance(ready, calls, _STEPS)
            if until is not None and until():
                return True
            if need is FINISHED and not self.mailbox:
                return True
            if self._stopped:
                self._stopped = False
                return False
            if deadline is not None and self.clock() >= deadline:
                return False
            if isinstance(need, Idle):
                self._wait(kernel, need, deadline)
            else:
                assert need is MORE or self.mailbox

    def stop(self) -> None:
        """From any task, thread or signal handler: let the present `drive` (or the next) end with False."""
        self._stopped = True
        self._wake()

    def close(self) -> None:
        """Let nothing more in, and give the descriptors back."""
        self.mailbox.close()
        if self._selector is not None:
            self._selector.close()
        for end in self._sockets or ():
            end.close()
        self._selector = self._sockets = None

    # ---- waiting -----------------------------------------------------------------------------------------------

    def _wait(self, kernel: Kernel, need: Idle, deadline: float | None) -> None:
        if self._sockets is None:
            self._sockets = ours, theirs = socket.socketpair()
            ours.setblocking(False)
            theirs.setblocking(False)
            self._selector = selectors.DefaultSelector()
            self._selector.register(ours, selectors.EVENT_READ)
        if self.mailbox or self._stopped:
            return
        earliest = min((when for when in (need.deadline, deadline) if when is not None), default=None)
        timeout = None if earliest is None else max(0.0, earliest - self.clock())
        ready = self._poll(kernel, timeout)
        if ready:
            kernel.advance(ready, (), 0)

    def _poll(self, kernel: Kernel, timeout: float | None) -> list[tuple[int, Direction]]:
        """The watched descriptors that are ready, within `timeout` seconds."""
        selector = self._selector
        if selector is None:
            selector = self._selector = selectors.DefaultSelector()
        wanted: dict[int, int] = {}
        for fd, direction in kernel.watching:
            wanted[fd] = wanted.get(fd, 0) | _EVENTS[direction]
        waker = self._sockets[0].fileno() if self._sockets is not None else -1
        for key in list(selector.get_map().values()):
            if key.fd != waker and key.fd not in wanted:
                selector.unregister(key.fileobj)
        for fd, events in wanted.items():
            known = selector.get_map().get(fd)
            if known is None:
                selector.register(fd, events)
            elif known.events != events:
                selector.modify(fd, events)
        ready: list[tuple[int, Direction]] = []
        for key, events in selector.select(timeout):
            if key.fd == waker:
                self._drain()
            else:
                ready.extend((key.fd, direction) for direction, event in _EVENTS.items() if events & event)
        return ready

    def _wake(self) -> None:
        sockets = self._sockets
        if sockets is not None:
            try:
                sockets[1].send(b"\0")
            except OSError:
                pass  # full: it will wake up anyway; closed: it has ended

    def _drain(self) -> None:
        assert self._sockets is not None
        try:
            while self._sockets[0].recv(4096):
                pass
        except BlockingIOError:
            pass
