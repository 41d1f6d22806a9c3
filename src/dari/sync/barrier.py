"""Barrier: tasks that wait for each other at the same place."""

from __future__ import annotations

from typing import Any, Final, final

from dari._kernel.contract import Operation
from dari._kernel.numbers import whole
from dari._kernel.outcome import Error, Value
from dari.exceptions import BrokenBarrierError
from dari.sync.waiters import Waiters

__all__ = ["Barrier"]


@final
class Barrier:
    """`parties` tasks wait here for each other: `yield barrier.wait()` ends for all of them at once."""

    __slots__ = ("_broken", "_parties", "_waiters")

    def __init__(self, parties: int) -> None:
        self._parties: Final = whole("the number of parties of a Barrier", parties, 1)
        self._waiters: Final = Waiters()
        self._broken = False

    def __repr__(self) -> str:
        return f"<Barrier {len(self._waiters)} of {self._parties} waiting{', broken' if self._broken else ''}>"

    @property
    def parties(self) -> int:
        return self._parties

    @property
    def n_waiting(self) -> int:
        return len(self._waiters)

    @property
    def broken(self) -> bool:
        return self._broken

    def wait(self) -> Operation[int]:
        """Wait for the other parties; gives each another number from 0 to `parties` - 1.

        Woken by the last to come, `reset` or `abort` (`BrokenBarrierError`). One that is cancelled is not counted any
        more; the barrier is whole.
        """
        return _BarrierWait(self)

    def reset(self) -> None:
        """Make it empty and whole. Those who wait get `BrokenBarrierError`."""
        self._broken = False
        self._send_away("was reset while they waited: wait again")

    def abort(self) -> None:
        """Break it, for when somebody will never come: who waits, or comes later, gets `BrokenBarrierError`."""
        self._broken = True
        self._send_away("was aborted: reset() makes it whole")

    async def __aenter__(self) -> int:
        return await self.wait()

    async def __aexit__(self, *_: object) -> None:
        pass

    def _send_away(self, why: str) -> None:
        shown = repr(self)
        while self._waiters:
            self._waiters.pop()[0].wake(Error(BrokenBarrierError(f"{shown} {why}")))


@final
class _BarrierWait(Operation[int]):
    __slots__ = ("_barrier",)

    def __init__(self, barrier: Barrier) -> None:
        self._barrier: Final = barrier

    def __repr__(self) -> str:
        return f"wait of {self._barrier!r}"

    def begin(self, task: Any) -> None:
        barrier = self._barrier
        waiters = barrier._waiters
        if barrier._broken:
            task.fail(BrokenBarrierError(f"{barrier!r} is broken: reset() makes it whole"))
        elif len(waiters) + 1 < barrier._parties:
            waiters.block(task, self)
        else:
            # The numbers are given out now, not on arrival, so that after a cancel no two are equal (asyncio's can be).
            for number in range(barrier._parties - 1):
                waiters.pop()[0].wake(Value(number))
            task.resume(barrier._parties - 1)
