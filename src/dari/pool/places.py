"""Waiting for a free place in a full pool, and for the job behind it: `asubmit`, `run_sync`, and a blocking `submit`.

**Who waits for a place brings the job along.** When a place comes free, whoever freed it puts the job of the first in
line into the queue, under the lock, and tells the waiter later. The other way, to grant the place and let the waiter
come for it, has a moment in which a place is neither free nor used; a waiter cancelled in that moment loses it for ever
(anyio #1170, aiojobs #98), and the queue shrinks. Here a place always holds a job, so what a cancelled waiter
leaves behind is a job, and cancelling that is what gives the place back.

A waiter for a place is not a job yet: it counts nowhere, and a pool that closes refuses it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar, final

from dari._kernel.contract import Operation
from dari._kernel.outcome import Value
from dari.drivers.wakeup import Remote
from dari.exceptions import JobCancelled, PoolClosed
from dari.pool.job import Job

if TYPE_CHECKING:
    from _thread import LockType
    from collections.abc import Callable, Generator

    from dari._kernel.outcome import Outcome

__all__ = ["Place", "Run"]

T_co = TypeVar("T_co", covariant=True)


class Door(Protocol):
    """The pool, as those who wait for a place see it."""

    lock: LockType

    def stand(self, place: Place[Any], /) -> None:
        """Let its job in now, or put it in line. Raises PoolClosed."""
        ...

    def withdraw(self, place: Place[Any], /) -> None:
        """It waits no more. What was let in already stays."""
        ...


@final
class Place(Remote[Job[T_co]]):
    """`await pool.asubmit(fn)`: wait until the queue has a place for the job, then get the job.

    Cancelled before that, the job was never submitted; cancelled just after, in asyncio, the job is cancelled.
    """

    __slots__ = ("answer", "call", "door", "job", "settled", "stood")

    def __init__(self, door: Door, job: Job[T_co]) -> None:
        self.door: Final = door
        self.job: Final = job
        self.stood = False
        self.settled = False  # written last, under the lock
        self.answer: Outcome[Job[T_co]] | None = None  # None, settled: withdrawn
        self.call: Callable[[], object] | None = None

    def __repr__(self) -> str:
        return f"a place for {self.job!r}"

    def begin(self, task: Any) -> None:
        try:
            self.enter()
        except (PoolClosed, RuntimeError) as error:
            task.fail(error)
        else:
            super().begin(task)

    def _outside(self) -> Generator[Any, Any, Job[T_co]]:
        waiting = super()._outside()  # raises where nothing can wait: then nothing must have been submitted
        self.enter()
        return waiting

    def enter(self) -> None:
        if self.stood:
            raise RuntimeError(f"{self!r} was waited for before: each job needs a call of its own")
        self.stood = True
        self.door.stand(self)

    def call_when_ended(self, call: Callable[[], object]) -> None:
        with self.door.lock:
            settled = self.settled
            if not settled:
                self.call = call
        if settled:
            call()

    def request_end(self) -> object:
        self.door.withdraw(self)
        return None

    def give_back(self) -> None:
        if isinstance(self.answer, Value):
            self.answer.value.cancel()

    def ended(self) -> bool:
        return self.settled

    def outcome(self) -> Outcome[Job[T_co]] | None:
        return self.answer

    def cancelled_error(self) -> JobCancelled:
        return JobCancelled(f"waiting for {self!r} was given up")


@final
class Run(Operation[T_co]):
    """`await pool.run_sync(fn)`: wait for a place and for the result.

    Cancelled, it cancels the job and awaits its end.
    """

    __slots__ = ("_place",)

    def __init__(self, place: Place[T_co]) -> None:
        self._place: Final = place

    def __repr__(self) -> str:
        return f"run_sync of {self._place.job!r}"

    def begin(self, task: Any) -> None:
        try:
            self._place.enter()
        except (PoolClosed, RuntimeError) as error:
            task.fail(error)
        else:
            self._place.job.begin(task)

    def _outside(self) -> Generator[Any, Any, T_co]:
        waiting = self._place.job._outside()
        self._place.enter()
        return waiting
