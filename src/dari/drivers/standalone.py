"""The driver that owns its thread: it waits with a selector, and other threads wake it through a pipe.

Neither is made before the first wait: a program that never waits costs no descriptor. Making the pipe lazily is safe,
because a poster looks for the pipe last of all, and the driver, when it has made one, looks at the mailbox once more.
`close` closes the selector, and lets the waker go: the pipe is closed when nobody holds that any more, not at that
very moment. A thread that is just about to write would else write into whatever got the number next.
"""

from __future__ import annotations

import os
import selectors
import signal
import threading
import time
from _thread import get_ident
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, NoReturn, final

from dari._kernel.contract import FINISHED, MORE, Direction, Idle
from dari._kernel.waiting import dump
from dari.drivers.chunk import Chunk
from dari.drivers.mailbox import Mailbox, strays
from dari.drivers.refusal import refuse
from dari.drivers.strangers import on_their_way
from dari.drivers.wakeup import remote_of
from dari.exceptions import DeadlockError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from dari._kernel.contract import Operation
    from dari._kernel.kernel import Kernel
    from dari._kernel.outcome import Steppable

__all__ = ["Standalone"]

_CHUNK = 0.000_25  # seconds of steps between two looks at the clock, the mailbox and the descriptors

_LONGEST_WAIT = 86_400.0  # seconds; what is further away is asked for again: selectors overflow at some weeks

_LOOK_AGAIN = 0.05  # seconds

_EVENTS: dict[Direction, int] = {"read": selectors.EVENT_READ, "write": selectors.EVENT_WRITE}


@final
class _Waker:
    """Wakes the one thread that selects on `reading`."""

    __slots__ = ("reading", "writing")

    def __init__(self) -> None:
        self.reading = self.writing = -1

    def open(self) -> None:
        """On the thread to be woken, before it waits."""
        self.reading, writing = os.pipe()
        os.set_blocking(self.reading, False)
        os.set_blocking(writing, False)
        self.writing = writing

    def wake(self) -> None:
        """From any thread or signal handler."""
        if self.writing >= 0:
            try:
                os.write(self.writing, b"\0")
            except BlockingIOError:
                pass  # full: it will wake up anyway

    def drain(self) -> None:
        try:
            while os.read(self.reading, 4096):
                pass
        except BlockingIOError:
            pass

    def __del__(self) -> None:
        if self.reading >= 0:
            os.close(self.reading)
            os.close(self.writing)


@contextmanager
def _signals_wake(waker: _Waker) -> Generator[None]:
    """Let a signal end the wait: one that comes just before the system call would else be seen only after it.

    On the main thread, where signals come; unless somebody else hears them by their own descriptor.
    """
    if get_ident() != threading.main_thread().ident:
        yield
        return
    theirs = signal.set_wakeup_fd(waker.writing, warn_on_full_buffer=False)
    if theirs != -1:
        signal.set_wakeup_fd(theirs)
    try:
        yield
    finally:
        if theirs == -1:
            signal.set_wakeup_fd(-1)


class Standalone:
    """Drives a kernel on the calling thread, for as long as `drive` is asked to."""

    clock = staticmethod(time.monotonic)

    def __init__(self) -> None:
        self._waker = _Waker()
        self.mailbox: Final = Mailbox(self._wake)
        self.reports_deadlocks = False
        self._chunk: Final = Chunk(_CHUNK)
        self._stopped = False
        self._noticed = False  # something became ready since the last advance began
        self._thread: int | None = None  # that drives
        self._selector: selectors.BaseSelector | None = None

    # ---- what the kernel asks ----------------------------------------------------------------------------------

    def notify(self) -> None:
        """Nothing to do but to note it, for when a signal handler calls just before the wait. No other thread may."""
        if self._thread is not None and self._thread != get_ident():
            self.post(bool)  # a call that does nothing: come and look
            raise strays(self._thread)
        self._noticed = True

    def post(self, call: Callable[[], object]) -> None:
        self.mailbox.put(call)

    def steps_of(self, coroutine: Any) -> Steppable:
        steps: Steppable = coroutine.__await__()
        return steps

    def adapt(self, foreign: object) -> Operation[Any] | None:
        return remote_of(foreign)

    def home(self) -> object:
        return get_ident() if self._thread is None else self._thread

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
        if self._thread is not None:
            raise RuntimeError(f"this scheduler is run by thread {self._thread} already, not by {get_ident()} too")
        self._thread = get_ident()
        try:
            return self._drive(kernel, until, deadline)
        finally:
            self._thread = None

    def _drive(self, kernel: Kernel, until: Callable[[], bool] | None, deadline: float | None) -> bool:
        chunk, before = self._chunk, self.clock()
        while True:
            ready = self._poll(kernel, 0) if kernel.watching else ()
            self._noticed = False
            need = kernel.advance(ready, self.mailbox.take(), chunk.steps)  # after the poll, which may be a wake
            now = self.clock()
            chunk.took(now - before, whole=need is MORE)
            before = now
            if until is not None and until():
                return True
            if need is FINISHED and not self.mailbox:
                return True
            if self._stopped:
                self._stopped = False
                return False
            if deadline is not None and now >= deadline:
                return False
            if isinstance(need, Idle):
                self._wait(kernel, need, deadline)
                before = self.clock()
            else:
                assert need is MORE or self.mailbox

    def stop(self) -> None:
        """From any task, thread or signal handler: let the present `drive` (or the next) end with False."""
        self._stopped = True
        self._wake()

    def close(self) -> Sequence[Callable[[], object]]:
        """Let nothing more in, and keep no descriptor. Gives what was posted and not called."""
        posted = self.mailbox.close()
        self._waker = _Waker()
        if self._selector is not None:
            self._selector.close()
            self._selector = None
        return posted

    # ---- waiting -----------------------------------------------------------------------------------------------

    def _wake(self) -> None:
        """From any thread or signal handler. Who is in here holds the waker, so its pipe stays open meanwhile."""
        self._waker.wake()

    def _wait(self, kernel: Kernel, need: Idle, deadline: float | None) -> None:
        if self._waker.reading < 0:
            self._waker.open()
            return  # a wake may have come that found no pipe: look again
        if self._called():
            return
        if (
            self.reports_deadlocks
            and deadline is None
            and need.deadline is None
            and not (need.watching or kernel.outside)
        ):
            deadline = self._look_at_deadlock(kernel)
        earliest = min((when for when in (need.deadline, deadline) if when is not None), default=None)
        timeout = None if earliest is None else min(max(0.0, earliest - self.clock()), _LONGEST_WAIT)
        with _signals_wake(self._waker):
            # A signal handler that ran before this line has left its trace; one that runs later wakes the selector.
            ready = [] if self._called() else self._poll(kernel, timeout)
        if ready:
            kernel.advance(ready, (), 0)

    def _called(self) -> bool:
        """Has something come since the last advance, so that there is no reason to wait?"""
        return bool(self.mailbox) or self._stopped or self._noticed

    def _look_at_deadlock(self, kernel: Kernel) -> float | None:
        """Nothing that the kernel knows of can wake anybody. Raise DeadlockError, or warn once if a stranger might.

        Gives the time to look again: a thread will be there soon that is not yet.
        """
        if on_their_way:
            return self.clock() + _LOOK_AGAIN
        stands = f"every task waits, and no task, deadline, job or descriptor can wake one:\n{dump(kernel.tasks)}"
        strangers = [thread.name for thread in threading.enumerate() if thread is not threading.current_thread()]
        strangers += [
            number.name
            for number in set(signal.Signals) & signal.valid_signals() - {signal.SIGINT}
            if callable(signal.getsignal(number))
        ]
        if not strangers:
            if self._called():  # by a thread that has ended since
                return None
            raise DeadlockError(stands)
        self.reports_deadlocks = False
        self.report(f"perhaps a deadlock (only {', '.join(strangers)} could end it): {stands}", None)
        return None

    def _poll(self, kernel: Kernel, timeout: float | None) -> list[tuple[int, Direction]]:
        """The watched descriptors that are ready, within `timeout` seconds."""
        selector = self._selector
        if selector is None:
            selector = self._selector = selectors.DefaultSelector()
        wanted: dict[int, tuple[int, list[object]]] = {}
        if self._waker.reading >= 0:
            wanted[self._waker.reading] = (selectors.EVENT_READ, [])
        for (fd, direction), wait in kernel.watching.items():
            events, waits = wanted.get(fd, (0, []))
            wanted[fd] = (events | _EVENTS[direction], [*waits, wait])
        # Registered is who waits, not which number: a number that was closed meanwhile, and given out again, belongs to
        # something else, which epoll has never heard of.
        for key in list(selector.get_map().values()):
            if wanted.get(key.fd) == (key.events, key.data):
                del wanted[key.fd]
            else:
                selector.unregister(key.fd)
        for fd, (events, waits) in wanted.items():
            try:
                selector.register(fd, events, waits)
            except Exception as error:
                if fd == self._waker.reading:
                    raise
                refuse(kernel, [(fd, direction) for direction, event in _EVENTS.items() if events & event], error)
                timeout = 0  # it is ready
        ready: list[tuple[int, Direction]] = []
        for key, events in selector.select(timeout):
            if key.fd == self._waker.reading:
                self._waker.drain()
            else:
                ready.extend((key.fd, direction) for direction, event in _EVENTS.items() if events & event)
        return ready
