"""Deadlines: who wants to be told when the clock passes a certain time.

Most timeouts never fire: they are set, and cleared a moment later. Taking an entry out of the middle of a heap
costs O(n), so an entry that is cleared stays where it is and is recognised as stale when it comes up; and when the
stale outnumber the living, they are swept out, so that a million timeouts set and cleared leave the heap small (trio's
`Deadlines` and asyncio's `_run_once` do the same; facts/scheduler.md d.4).

**A stretch at a time.** To build a heap of a hundred thousand anew takes 40 ms, for which a loop would stand still. A
heap without its last entry is still a heap: so a sweep moves the living from the end of the old one into a new one, a
few with each deadline that is cleared, and until the old one is gone there are two, of which the earlier head counts.

An entry is `[when, sequence, alarm]`. Sequences are never used twice, so equal times are served in the order they
were set, never by `id()`. An alarm knows its entry; one that is cleared is taken out of it, so what is stale keeps
nobody alive (a timeout of an hour in a task that has ended long ago).
"""

from __future__ import annotations

from heapq import heappop, heappush
from itertools import count
from math import inf
from typing import Any, Protocol

__all__ = ["Alarm", "Deadlines"]

_SLACK = 64  # stale entries that are tolerated beyond the living ones: sweeping a tiny heap for ever is no gain
_STRETCH = 64  # entries that one call looks at: 10 µs


class Alarm(Protocol):
    """Somebody who waits for a time. `alarm`, its entry, belongs to `Deadlines`; 0 means: no deadline is set."""

    alarm: Any

    def expire(self) -> object:
        """The time has come. Called once, and only if the deadline was not cleared or moved meanwhile."""
        ...


class Deadlines:
    __slots__ = ("_heap", "_into", "_sequence", "_stale")

    def __init__(self) -> None:
        self._heap: list[list[Any]] = []  # empty only if both are
        self._into = self._heap  # where new ones go: another heap while this one is swept
        self._sequence = count(1)
        self._stale = 0

    def __len__(self) -> int:
        """Entries held, the stale ones included: what memory is spent on."""
        return len(self._heap) if self._into is self._heap else len(self._heap) + len(self._into)

    def set(self, alarm: Alarm, when: float) -> None:
        """Let `alarm` expire at `when` (on the kernel's clock, in seconds). The alarm must not be set already.

        Infinity is never: nobody could wait for it, selectors and loops refuse it.
        """
        if when == inf:
            return
        alarm.alarm = entry = [when, next(self._sequence), alarm]
        heappush(self._into, entry)

    def clear(self, alarm: Alarm) -> None:
        """Forget the deadline of `alarm`, if it has one."""
        if alarm.alarm:
            alarm.alarm[2] = None
            alarm.alarm = 0
            self._stale += 1
            if self._into is not self._heap:
                self._sweep()
            elif self._stale * 2 > len(self._heap) + _SLACK:
                self._into = []
                self._sweep()

    def next(self) -> float | None:
        """The earliest deadline that is still wanted."""
        while heap := self._earlier():
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
        # The heap is read each time: an alarm may clear others, and `clear` may sweep.
        while self._heap:
            heap = self._heap if self._into is self._heap else self._earlier()
            if heap[0][0] > now:
                return
            entry = heappop(heap)
            if not self._heap:
                self._heap = self._into
            alarm = entry[2]
            if alarm is not None:
                entry[2] = None
                alarm.alarm = 0
                alarm.expire()
            else:
                self._popped_stale()

    def _earlier(self) -> list[list[Any]]:
        """The heap with the earliest entry; empty if there is none."""
        if not self._heap:
            self._heap = self._into
        heap, into = self._heap, self._into
        return into if into and into[0] < heap[0] else heap

    def _sweep(self) -> None:
        """Of the next few entries, from the end on, move those into the new heap that are still wanted."""
        # Ctrl-C may come after each call: an entry may then stand in both heaps, and still tells its alarm once.
        heap, into = self._heap, self._into
        stretch = heap[-_STRETCH:]
        living = [entry for entry in stretch if entry[2] is not None]
        for entry in living:
            heappush(into, entry)
        self._stale = max(0, self._stale - len(stretch) + len(living))
        if len(heap) > _STRETCH:
            del heap[-_STRETCH:]
        else:
            self._heap = into

    def _popped_stale(self) -> None:
        if self._stale:  # a scope in a generator that was collected becomes stale uncounted, in any thread
            self._stale -= 1
