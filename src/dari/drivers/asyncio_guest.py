"""The driver that is a guest in a running asyncio loop: any loop, public asyncio API only.

**Slices.** One callback of the loop runs a slice (`slices`), then it gives the loop back.

**Two turns between.** A timer of the loop that came due during a slice needs two turns to reach the coroutine behind
it: in the first its future is settled, in the second the coroutine runs. Were the next slice put right into the next
turn, it would run between the two. So a slice is re-armed by a `call_soon` that re-arms by `call_soon`: two turns of
the loop without us. After idleness the next turn is used at once. When nothing is ready, one `call_at` is armed for the
earliest deadline, or nothing at all: an idle guest costs nothing.

What tasks wait for of the host's, coroutines above all, is in `asyncio_hosted`.
"""

from __future__ import annotations

import asyncio
import time
from _thread import get_ident
from contextlib import suppress
from contextvars import Context
from types import CoroutineType
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import ref

from dari._kernel.contract import MORE, Direction, Idle, Need, Operation
from dari.drivers.asyncio_face import await_task
from dari.drivers.asyncio_hosted import AsyncioAwaitable, AsyncioFuture, step_as_host_task
from dari.drivers.hosts import running_loop, shielded
from dari.drivers.mailbox import Mailbox, strays
from dari.drivers.pending import accounts
from dari.drivers.refusal import refuse
from dari.drivers.slices import Slices
from dari.drivers.wakeup import remote_of
from dari.exceptions import SchedulerClosed

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator, Mapping

    from dari._kernel.kernel import Kernel
    from dari._kernel.task import Task
    from dari.drivers.guests import Guest

__all__ = ["AsyncioGuest"]

T = TypeVar("T")

_LONGEST_WAIT = 86_400.0  # seconds; what is further away is asked for again: timers overflow somewhere


class AsyncioGuest:
    """Drives `kernel` from callbacks of `loop`."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, kernel: Kernel, max_slice: float, end: Callable[[], object]
    ) -> None:
        # A guest does not keep its loop alive: the loop's own callbacks keep the guest, and tables are keyed by loops.
        self._loop_ref = ref(loop)
        self.kernel = kernel
        self.clock: Callable[[], float] = time.monotonic
        account = accounts.get(loop)
        if account is not None:
            account.guests.add(self)
            self.clock = account.clock
            max_slice = 0.0  # the same program takes the same steps, on however busy a machine
        self.outer: Guest | None = None
        self.context = Context()  # slices run in no one's context; every task has its own
        self._armed = False  # a slice is on its way, or running
        self._again = False  # something became ready while a slice was running, outside of advance
        self._timer: asyncio.TimerHandle | None = None
        self._timer_deadline = 0.0
        self._watched: dict[tuple[int, Direction], object] = {}
        self._finished: asyncio.Future[None] | None = None
        self._end: Callable[[], object] | None = end  # closes the scheduler
        self._keeper: AsyncGenerator[None, None] | None = None
        self._ending: bool | None = None  # see `is_ending`
        self._thread = get_ident()
        self.mailbox = Mailbox(self._wake)
        self._slices = Slices(kernel, self.mailbox, max_slice)

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        loop = self._loop_ref()
        if loop is None or loop.is_closed():
            raise SchedulerClosed("the event loop of this scheduler is closed")
        return loop

    # ---- what the kernel asks ----------------------------------------------------------------------------------

    def notify(self) -> None:
        if self._thread != get_ident():
            self.post(bool)  # a call that does nothing: come and look
            raise strays(self._thread)
        if self._armed:
            self._again = True
        else:
            self._armed = True
            self._arm(self._slice)

    def _arm(self, call: Callable[[], object]) -> None:
        self.loop.call_soon(call, context=self.context)

    def post(self, call: Callable[[], object]) -> None:
        self.mailbox.put(call)

    def steps_of(self, coroutine: Any) -> Generator[Any, Any, Any]:
        return step_as_host_task(coroutine)

    def adapt(self, foreign: object) -> Operation[Any] | None:
        if type(foreign) is CoroutineType:
            return AsyncioAwaitable(foreign)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType] - Any
        if asyncio.isfuture(foreign):
            return AsyncioFuture(foreign)
        if hasattr(type(foreign), "__await__"):
            return AsyncioAwaitable(foreign)  # type: ignore[arg-type] # it has `__await__`
        return remote_of(foreign)

    def home(self) -> object:
        return self._loop_ref()

    def outside(self, task: Task[T]) -> Generator[Any, Any, T]:
        """`await task` in a coroutine of the loop."""
        loop: asyncio.AbstractEventLoop = running_loop()
        if not self.lives_in(loop):
            raise RuntimeError(f"{task!r} belongs to a scheduler in another event loop: await it there")
        return await_task(task, loop)

    def report(self, what: str, error: BaseException | None) -> None:
        from dari.drivers.reporting import report

        report(what, error)

    # ---- what its owner asks -----------------------------------------------------------------------------------

    def lives_in(self, loop: object) -> bool:
        return self._loop_ref() is loop

    def dump_of_host(self) -> str:
        from dari.drivers.asyncio_standstill import dump_of_tasks

        return dump_of_tasks(self.loop)

    def stay(self) -> None:
        self._keeper = self._keep()
        with suppress(StopIteration):
            anext(self._keeper).send(None)  # its first step, by which the loop gets to know it; it waits for nothing

    async def _keep(self) -> AsyncGenerator[None, None]:
        """Ends with the loop: asyncio.run, like every runner, closes async generators at the end."""
        try:
            yield
        finally:
            self.kernel.cancel("its event loop is closing")
            await self.outlast()
            if self._end is not None:
                self._end()

    async def wait_finished(self) -> None:
        while self.kernel.tasks or self.mailbox:
            if self._finished is None or self._finished.done():
                self._finished = self.loop.create_future()
            self.notify()
            await self._finished

    async def outlast(self) -> None:
        with shielded():
            while self.kernel.tasks or self.mailbox:
                with suppress(asyncio.CancelledError):
                    await self.wait_finished()

    def close(self) -> None:
        for call in self.mailbox.close():
            self.kernel.call(call)
        self._end = None  # contexts may keep the guest for long, and shall not keep its scheduler
        self._disarm_timer()

    def is_ending(self) -> bool:
        """Is every task of the loop being cancelled that is left? So asyncio.run ends, before it comes to ours.

        Looked at once between two slices: it takes as long as there are tasks, and thousands may end together.
        """
        if self._ending is None:
            self._ending = all(task.cancelling() for task in asyncio.all_tasks(self.loop))
        return self._ending

    def start_later(self, start: Callable[[], object]) -> None:
        """Call `start` when the present advance is over."""
        self._slices.starting.append(start)
        if not self._armed:
            self.notify()

    # ---- slices ------------------------------------------------------------------------------------------------

    def _slice(self) -> None:
        self._armed = True
        self._again = False  # what became ready before the slice is in it
        self._ending = None
        self._thread = get_ident()  # a loop may be run again on another one
        try:
            need = self._run_slice()
        except BaseException:  # KeyboardInterrupt or SystemExit of a task: the loop ends with it, but may be run again
            self._rest(MORE)
            raise
        self._rest(need)

    def _run_slice(self) -> Need:
        return self._slices.run()

    def _rest(self, need: Need) -> None:
        """Give the loop back, and see to it that it comes back to us when there is something to do."""
        if self._watched or self.kernel.watching:
            self._watch(self.kernel.watching)
        # `_again` only now: who waits for what cannot be watched is ready again. (What was posted meanwhile wakes us.)
        if need is MORE or self._again or self._slices.ready:
            self._arm(self._first_turn)
            return
        self._armed = False
        if isinstance(need, Idle):
            deadline = need.deadline
        else:
            deadline = self.kernel.deadlines.next()  # of a scope in a coroutine of the host
            if self._finished is not None and not self._finished.done():
                self._finished.set_result(None)
        if deadline is not None:
            self._arm_timer(self.loop, deadline)
        elif self._timer is not None:
            self._disarm_timer()

    def _first_turn(self) -> None:
        self._arm(self._second_turn)

    def _second_turn(self) -> None:
        self._arm(self._slice)

    def _arm_timer(self, loop: asyncio.AbstractEventLoop, deadline: float) -> None:
        if self._timer is not None:
            if self._timer_deadline == deadline:
                return
            self._timer.cancel()
        self._timer_deadline = deadline
        # The loop's clock is asked for the distance only: uvloop's counts in cached milliseconds.
        when = loop.time() + min(max(0.0, deadline - self.clock()), _LONGEST_WAIT)
        self._timer = loop.call_at(when, self._timer_fired, context=self.context)

    def _disarm_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _timer_fired(self) -> None:
        self._timer = None
        if not self._armed:
            self._slice()

    def _wake(self) -> None:
        """The mailbox has something: called on any thread."""
        loop = self._loop_ref()
        try:
            if loop is None:
                raise RuntimeError("gone")
            loop.call_soon_threadsafe(self._woken, context=self.context)
        except RuntimeError:  # closed meanwhile
            self.mailbox.close()

    def _woken(self) -> None:
        if not self._armed:
            self._slice()

    # ---- descriptors -------------------------------------------------------------------------------------------

    def _watch(self, wanted: Mapping[tuple[int, Direction], object]) -> None:
        """Let the loop look at what tasks wait for: between two slices too, or what spins would keep it out."""
        loop, watched = self.loop, self._watched
        # What is watched is a wait, not a number: a number that was closed and given out again is something else.
        for key in [key for key, wait in watched.items() if wanted.get(key) is not wait]:
            del watched[key]
            _unwatch(loop, key)
        for key, wait in tuple(wanted.items()):
            if key not in watched:
                try:
                    (loop.add_reader if key[1] == "read" else loop.add_writer)(key[0], self._became_ready, key)
                except Exception as error:  # noqa: BLE001 - OSError, ValueError, RuntimeError: that of who waits for it
                    refuse(self.kernel, [key], error)
                else:
                    watched[key] = wait

    def _became_ready(self, key: tuple[int, Direction]) -> None:
        self._slices.ready.append(key)
        self._watched.pop(key, None)
        _unwatch(self.loop, key)
        self._look_in()

    def _look_in(self) -> None:
        """A descriptor became ready: several may do so in one turn."""
        self.notify()


def _unwatch(loop: asyncio.AbstractEventLoop, key: tuple[int, Direction]) -> None:
    with suppress(RuntimeError):  # it was closed, and a transport of the loop got the number: nothing of ours is left
        (loop.remove_reader if key[1] == "read" else loop.remove_writer)(key[0])
