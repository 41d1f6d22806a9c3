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

    def offer(self, job: Job[Any], /) -> bool:
        """Let the job in if there is a place for it. Raises PoolClosed."""
        ...

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

    may_be_dropped = False

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
        try:
            self.enter()
        except BaseException:
            waiting.close()  # in trio a coroutine, which would complain that nobody awaited it
            raise
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
class Run(Remote[T_co]):
    """`await pool.run_sync(fn)`: wait for a place and for the result.

    Cancelled, it cancels the job and awaits its end.
    """

    __slots__ = ("_begun", "_door", "_job")

    may_be_dropped = False

    def __init__(self, door: Door, job: Job[T_co]) -> None:
        self._door: Final = door
        self._job: Final = job
        self._begun = False

    def __repr__(self) -> str:
        return f"run_sync of {self._job!r}"

    def begin(self, task: Any) -> None:
        try:
            self._begin(None)
        except (PoolClosed, RuntimeError) as error:
            task.fail(error)
        else:
            self._job.begin(task)

    def call_when_ended(self, call: Callable[[], object]) -> None:
        self._begin(call)

    def request_end(self) -> object:
        return self._job.request_end()

    def ended(self) -> bool:
        return self._begun and self._job.ended()

    def outcome(self) -> Outcome[T_co] | None:
        return self._job.outcome()

    def unwrap(self) -> T_co:
        return self._job.unwrap()

    def cancelled_error(self) -> JobCancelled:
        return self._job.cancelled_error()

    def _outside(self) -> Generator[Any, Any, T_co]:
        if self._begun:
            raise self._refusal()
        return super()._outside()

    def _begin(self, call: Callable[[], object] | None) -> None:
        if self._begun:
            raise self._refusal()
        self._begun = True
        self._job._waiters = call  # nobody else knows the job yet, so this needs no lock
        if not self._door.offer(self._job):
            self._door.stand(Place(self._door, self._job))

    def _refusal(self) -> RuntimeError:
        return RuntimeError(f"{self!r} was waited for before: each job needs a call of its own")
