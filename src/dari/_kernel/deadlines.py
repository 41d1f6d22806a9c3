"""Deadlines: who wants to be told when the clock passes a certain time.

Most timeouts never fire: they are set, and cleared a moment later. Taking an entry out of the middle of a heap
costs O(n), so an entry that is cleared stays where it is and is recognised as stale when it comes up; and when the
stale outnumber the living, the heap is built anew, so that a million timeouts set and cleared leave it small
(trio's `Deadlines` and asyncio's `_run_once` do the same; facts/scheduler.md d.4).

An entry is `[when, sequence, alarm]`. Sequences are never used twice, so equal times are served in the order they
were set, never by `id()`. An alarm knows its entry; one that is cleared is taken out of it, so what is stale keeps
nobody alive (a timeout of an hour in a task that has ended long ago).
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from itertools import count
from math import inf
from typing import Any, Protocol

__all__ = ["Alarm", "Deadlines"]

_SLACK = 64  # stale entries that are tolerated beyond the living ones: rebuilding a tiny heap for ever is no gain


class Alarm(Protocol):
    """Somebody who waits for a time. `alarm`, its entry, belongs to `Deadlines`; 0 means: no deadline is set."""

    alarm: Any

    def expire(self) -> object:
        """The time has come. Called once, and only if the deadline was not cleared or moved meanwhile."""
        ...


class Deadlines:
    __slots__ = ("_heap", "_sequence", "_stale")

    def __init__(self) -> None:
        self._heap: list[list[Any]] = []
        self._sequence = count(1)
        self._stale = 0

    def __len__(self) -> int:
        """Entries held, the stale ones included: what memory is spent on."""
        return len(self._heap)

    def set(self, alarm: Alarm, when: float) -> None:
        """Let `alarm` expire at `when` (on the kernel's clock, in seconds). The alarm must not be set already.

        Infinity is never: nobody could wait for it, selectors and loops refuse it.
        """
        if when == inf:
            return
        alarm.alarm = entry = [when, next(self._sequence), alarm]
        heappush(self._heap, entry)

    def clear(self, alarm: Alarm) -> None:
        """Forget the deadline of `alarm`, if it has one."""
        if alarm.alarm:
            alarm.alarm[2] = None
            alarm.alarm = 0
            self._stale += 1
            if self._stale * 2 > len(self._heap) + _SLACK:
                self._heap = [entry for entry in self._heap if entry[2] is not None]
                heapify(self._heap)
                self._stale = 0

    def next(self) -> float | None:
        """The earliest deadline that is still wanted."""
        heap = self._heap
        while heap:
            when, _, alarm = heap[0]
            if alarm is not None:
                earliest: float = when
                return earliest
            heappop(heap)
            self._popped_stale()
        return None

    def expire(self, now: float) -> None:
        """Tell everyone whose time has come, earliest first."""
        # A snapshot of the clock: what an alarm sets anew while this runs lies after `now` or waits for the next call.
        # `self._heap` is read each time: an alarm may clear others, and `clear` may build the heap anew.
        while self._heap and self._heap[0][0] <= now:
            alarm = heappop(self._heap)[2]
            if alarm is not None:
                alarm.alarm = 0
                alarm.expire()
            else:
                self._popped_stale()

    def _popped_stale(self) -> None:
        if self._stale:  # a scope in a generator that was collected becomes stale uncounted, in any thread
            self._stale -= 1
