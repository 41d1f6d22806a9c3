"""The clock of a pool: one thread that waits for the next of all times, so that no worker ever does.

It starts when a time is set and nobody keeps the clock, and leaves when no time is set any more. Times stand in the
kernel's `Deadlines`, under the pool's lock: what is cleared is pruned, so a million delayed and cancelled leave none.

**Who is told may take its time.** That a job ran out of its time is told to callbacks of users, on this thread; they
may block, even for a job that waits for this very clock. So before such calls are made a successor takes over.

**No time is missed.** Reading the next time and noting it in `_until` happen in one section; who sets an earlier one
afterwards opens the gate. One opened for nothing only makes the clock look.
"""

from __future__ import annotations

from _thread import allocate_lock
from functools import partial
from math import inf
from threading import Thread, current_thread
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, Protocol, final

from dari._kernel.deadlines import Deadlines
from dari.pool.calls import make, open_gate, spawn

if TYPE_CHECKING:
    from _thread import LockType
    from collections import deque
    from collections.abc import Callable

__all__ = ["Alarm", "Clock"]

_AT_ONCE = 64  # times that come in one section: 0.1 ms, then others may have the lock
_LOOK_AGAIN = 10.0  # seconds: so soon it notices that all times were cleared, and leaves


class House(Protocol):
    """The pool, as its clock sees it."""

    lock: LockType
    name: str
    open: bool

    inside: bool
    in_doubt: bool

    def put_right(self) -> None:
        """Mend what a section that was broken off has left."""
        ...

    def leave(self) -> deque[Callable[[], object]] | None:
        """The last thing in a section: what is to be made after it."""
        ...

    def perform(self, step: Callable[..., Any], /, *args: Any) -> object:
        """Make `step(*args)` a section of its own."""
        ...

    def expired(self, job: Any, /) -> bool:
        """With the lock held: its time has come. False: callbacks of users are among the calls."""
        ...

    def clock_stands(self, error: BaseException, /) -> None:
        """With the lock held: no thread can be had for the clock."""
        ...


@final
class Alarm:
    """One time of one job."""

    __slots__ = ("_clock", "alarm", "job")

    def __init__(self, clock: Clock, job: Any) -> None:
        self._clock: Final = clock
        self.alarm = 0  # belongs to `Deadlines`
        self.job: Any = job

    def expire(self) -> None:
        job, self.job = self.job, None
        self._clock.expired(job)


@final
class Clock:
    """Every method but `_keep` is called with the pool's lock held."""

    __slots__ = ("_deadlines", "_foreign", "_gate", "_house", "_until", "thread")

    def __init__(self, house: House) -> None:
        self._house: Final = house
        self.forget_everything()

    def forget_everything(self) -> None:
        """At the start, and in the child of a fork: no time is set, nobody keeps it."""
        self._deadlines = Deadlines()
        self._gate: LockType | None = None  # of the thread that keeps the clock; None: there is none
        self._until = inf  # it waits until then; -inf: it is about to look anyway
        self._foreign = False
        self.thread: Thread | None = None

    def __len__(self) -> int:
        return len(self._deadlines)

    def set(self, job: Any, when: float) -> Alarm:
        """Let `expired(job)` be called at `when`."""
        alarm = Alarm(self, job)
        self._deadlines.set(alarm, when)
        if when < self._until:
            self.look()
        return alarm

    def clear(self, alarm: Alarm) -> None:
        self._deadlines.clear(alarm)
        if not self._house.open:
            self.dismiss()

    def dismiss(self) -> None:
        """The pool closes: who waits for its end waits for this thread, too, which leaves if no time is set."""
        if self._gate is not None:
            self.look()

    def look(self) -> None:
        """Something has changed: let somebody look at the times soon."""
        if self._until == -inf:
            return
        self._until = -inf
        if self._gate is None:
            self._gate = allocate_lock()
            self._gate.acquire()
            self.thread = None
            self._start(self._gate)
        else:
            open_gate(self._gate)

    def expired(self, job: Any) -> None:
        if not self._house.expired(job):
            self._foreign = True

    def starting(self) -> bool:
        """Is a thread on its way that is not there yet?"""
        return self._gate is not None and self.thread is None

    def _start(self, gate: LockType) -> None:
        name = f"{self._house.name}-clock"
        spawn(
            partial(Thread, target=self._keep, args=(gate,), name=name, daemon=True),
            partial(self._house.perform, self._stands, gate),
        )

    def _stands(self, gate: LockType, error: BaseException) -> None:
        self._retire(gate)
        self._house.clock_stands(error)

    def _keep(self, gate: LockType) -> None:
        house = self._house
        self.thread = current_thread()
        try:
            while True:
                with house.lock:
                    house.inside = True
                    if house.in_doubt:
                        house.put_right()
                    next_time = self._expire()
                    if next_time is None:
                        self._retire(gate)
                    elif self._foreign:
                        self._hand_over(gate)
                    else:
                        self._until = next_time
                    stays = self._gate is gate
                    self._foreign = False
                    calls = house.leave()
                if calls:
                    make(calls)
                    calls = None  # they hold what has ended
                if next_time is None or not stays:
                    return
                gate.acquire(True, min(max(0.0, next_time - monotonic()), _LOOK_AGAIN))
        except BaseException:  # SystemExit of a destructor, say: the times must come all the same
            house.perform(self._hand_over, gate)
            raise

    def _expire(self) -> float | None:
        """Let the times come that have come; gives the next."""
        now = monotonic()
        deadlines = self._deadlines
        for _ in range(_AT_ONCE):
            next_time = deadlines.next()
            if next_time is None or next_time > now:
                return next_time
            deadlines.expire(next_time)
        return deadlines.next()

    def _retire(self, gate: LockType) -> None:
        if self._gate is gate:
            self._gate = None
            self._until = inf

    def _hand_over(self, gate: LockType) -> None:
        self._retire(gate)
        if self._gate is None and self._deadlines.next() is not None:
            self.look()
