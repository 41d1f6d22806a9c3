"""EventLoop: asyncio itself, on the kernel's lanes.

How priorities come into asyncio's queue, and what of its inside is touched for that, stands in `asyncio_inside`; how
generator tasks come into the same lanes, in `asyncio_lanes`. Here is what users see of it, built on public asyncio.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dari._kernel.numbers import whole
from dari._kernel.tracing import install
from dari._kernel.waiting import dump
from dari.drivers.asyncio_inside import LanesLoop
from dari.drivers.asyncio_standstill import Selector, dump_of_tasks
from dari.drivers.asyncio_wait import awaited_in

if TYPE_CHECKING:
    from selectors import BaseSelector

    from dari._kernel.contract import Tracer
    from dari.drivers.guests import Guest

__all__ = ["EventLoop"]


class EventLoop(LanesLoop):
    """asyncio's own loop, with priorities: `asyncio.Runner(loop_factory=dari.EventLoop)`.

    What is scheduled in `with dari.priority(n):` (tasks, callbacks, timers, and what these start in turn) goes before
    what has a higher number; equal numbers stay first in, first out. `starvation_limit` (callbacks) is how long a lower
    priority is passed over at most, None: for ever.

    `seed` shuffles the steps of different tasks, reproducibly; what one task puts into the loop stays in order.
    `tracer` is told of every task and step of the program, of asyncio's as of generator tasks (`dari.TaskTimes`).
    """

    def __init__(
        self,
        selector: BaseSelector | None = None,
        *,
        starvation_limit: int | None = 64,
        seed: int | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        if starvation_limit is not None:
            whole("starvation_limit", starvation_limit, 1, " (or None: strict priorities)")
        super().__init__(Selector(self) if selector is None else selector, starvation_limit, seed)
        if tracer is not None:
            self.tracer = tracer

    def dump(self) -> str:
        """Every task of the program that has not ended, and the lines of its code where it stands.

        asyncio's first, then the generator tasks of the schedulers that run in this loop.
        """
        tasks = sorted((task for guest in self._own.guests for task in guest.kernel.tasks), key=lambda task: task.id)
        return "\n".join(filter(None, (dump_of_tasks(self), dump(tasks))))

    @property
    def tracer(self) -> Tracer | None:
        """Who is told of every task and step; it can be set and taken away (None) at any time."""
        return self._own.tracer

    @tracer.setter
    def tracer(self, tracer: Tracer | None) -> None:
        before, self._own.tracer = self._own.tracer, tracer
        if tracer is None:
            self._watch(None)
        else:
            from dari.drivers.asyncio_traced import Traced

            self._watch(Traced)
        for guest in self._own.guests:
            if guest.kernel.tracer is before:
                install(guest.kernel, tracer)

    def awaited_outside(self) -> int:
        """How many waits there are, of coroutines and of generator tasks, for what ends in another thread."""
        return awaited_in(self) + sum(guest.kernel.outside for guest in self._own.guests)

    def take_guest(self, guest: Guest) -> None:
        """`guest` drives its kernel in this loop from now on."""
        self._own.guests.add(guest)
        if self._own.tracer is not None and guest.kernel.tracer is None:
            install(guest.kernel, self._own.tracer)
