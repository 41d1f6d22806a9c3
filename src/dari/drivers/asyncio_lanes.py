"""The guest in our own loop: its slices stand in the loop's lanes, so that one rule orders tasks and callbacks.

**A slice has a priority**, that of the most urgent task which is ready: it stands in that lane of the loop, steps no
task of a lower priority, and ends when the loop has something more urgent. What is left stands in the next lane then.
Among equals a slice is one callback among the others.

**What becomes ready** while a slice stands in its lane may be more urgent: then the slice goes to that lane instead.
And what only tells that something has happened (a timer, a descriptor, another thread's call) goes ahead of all, does
nothing but take that in, and lets a slice stand where whoever was woken belongs. So no urgent task waits for its
deadline to be seen by a slice of a low one.
"""

from __future__ import annotations

from _thread import get_ident
from contextvars import Context
from typing import TYPE_CHECKING, Any, final

from dari._kernel.contract import MORE, Direction
from dari._kernel.world import AHEAD_OF_ALL, chain_priority
from dari.drivers.asyncio_guest import AsyncioGuest

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping

    from dari._kernel.contract import Need
    from dari._kernel.kernel import Kernel

__all__ = ["LanesGuest"]


@final
class LanesGuest(AsyncioGuest):
    """Drives `kernel` in a loop of ours."""

    def __init__(self, loop: Any, kernel: Kernel, max_slice: float, end: Callable[[], object]) -> None:
        super().__init__(loop, kernel, max_slice, end)
        loop.take_guest(self)
        self.context.run(chain_priority.set, AHEAD_OF_ALL)
        self._priority = 0  # of the slice that stands in a lane, or runs
        self._standing: asyncio.Handle | None = None

    # ---- where a slice stands ----------------------------------------------------------------------------------

    def _arm(self, call: Callable[[], object]) -> None:
        most_urgent = self.kernel.most_urgent()
        self._priority = 0 if most_urgent is None else most_urgent
        context = Context()
        context.run(chain_priority.set, self._priority)
        self._standing = self.loop.call_soon(call, context=context)

    def notify(self) -> None:
        super().notify()
        self._move_up()

    def _move_up(self) -> None:
        """Let the slice stand in the lane of the most urgent task, if that has become ready since."""
        if self._standing is not None:
            most_urgent = self.kernel.most_urgent()
            if most_urgent is not None and most_urgent < self._priority:
                self._standing.cancel()
                self._arm(self._slice)

    # ---- slices ------------------------------------------------------------------------------------------------

    def _run_slice(self) -> Need:
        self._standing = None
        self.kernel.step_only(self._priority)
        return self._slices.run(self._may_go_on)

    def _may_go_on(self) -> bool:
        most_urgent = self.kernel.most_urgent()
        return (
            most_urgent is not None and most_urgent <= self._priority and not self.loop.more_urgent_than(most_urgent)  # type: ignore[attr-defined] # it is ours
        )

    def _rest(self, need: Need) -> None:
        super()._rest(need)
        if self._armed:
            self._look_out()

    def _look_out(self) -> None:
        """The slice may have to wait for long: meanwhile the loop looks at the deadlines."""
        deadline = self.kernel.deadlines.next()
        if deadline is not None:
            self._arm_timer(self.loop, deadline)

    # ---- what has happened -------------------------------------------------------------------------------------

    def _take_in(self) -> None:
        self._ending = None
        self._thread = get_ident()
        self.kernel.step_only(AHEAD_OF_ALL)
        need = self._slices.run(bool)
        if need is not MORE:
            if not self._armed:
                self._rest(need)
            return
        if self._watched or self.kernel.watching:
            self._watch(self.kernel.watching)
        self._look_out()
        if self._armed:
            self._move_up()
        else:
            self._armed = True
            self._arm(self._slice)

    def _timer_fired(self) -> None:
        self._timer = None
        self._take_in()

    def _woken(self) -> None:
        self._take_in()

    def _look_in(self) -> None:
        self._take_in()

    def _watch(self, wanted: Mapping[tuple[int, Direction], object]) -> None:
        self.context.copy().run(super()._watch, wanted)
