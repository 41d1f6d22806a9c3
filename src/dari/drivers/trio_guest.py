"""The driver that is a guest in a running trio program.

trio has no callbacks, it has tasks; so one system task of trio runs the slices. Between two of them it goes twice
through trio's queue, once for nothing: a timer of trio that came due during a slice then reaches its task before the
next slice. When nothing is ready it is parked until the earliest deadline, or for ever: an idle guest costs nothing.
Other threads reach it by trio's token.

**The end.** System tasks are cancelled when the main task has ended; ours then cancels its own tasks, and goes on
driving them until they have ended. So everything here runs under a shield, and one small task hears of the end.

**Coroutines are tasks of the host**, as in asyncio: what is yielded or given as a coroutine runs as a task of trio, in
a nursery of ours, so that all of trio and anyio works in it.

The clock is that of trio, shifted so that it shows `time.monotonic` in real programs: `trio.testing.MockClock` rules
our sleeps, too.
"""

from __future__ import annotations

import time
from _thread import get_ident
from contextlib import suppress
from types import CoroutineType
from typing import TYPE_CHECKING, Any, TypeVar, final
from weakref import ref

import trio
from trio import lowlevel

from dari._kernel.contract import FINISHED, MORE, Direction, Operation
from dari.drivers.hosts import running_loop
from dari.drivers.mailbox import Mailbox, strays
from dari.drivers.pending import accounts
from dari.drivers.refusal import refuse
from dari.drivers.slices import Slices
from dari.drivers.trio_face import await_task
from dari.drivers.trio_hosted import TrioAwaitable, step_as_host_task
from dari.drivers.wakeup import remote_of

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from dari._kernel.contract import Need
    from dari._kernel.kernel import Kernel
    from dari._kernel.task import Task
    from dari.drivers.guests import Guest

__all__ = ["TrioGuest"]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


@final
class TrioGuest:
    """Drives `kernel` from a system task of the trio program that `token` stands for, which runs here."""

    def __init__(self, token: lowlevel.TrioToken, kernel: Kernel, max_slice: float, end: Callable[[], object]) -> None:
        self._token_ref = ref(token)  # a guest does not keep its program alive: tables are keyed by tokens
        self.kernel = kernel
        self.outer: Guest | None = None
        self._host_time = lowlevel.current_clock().current_time
        self._ahead = self._host_time() - time.monotonic()  # of our clock is trio's
        account = accounts.get(token)
        if account is not None:
            account.guests.add(self)
            max_slice = 0.0  # the same program takes the same steps, on however busy a machine
            self._ahead = 0.0  # time is that of the program's tests, which begins at 0
        self._thread = get_ident()
        self._parked: lowlevel.Task | None = None
        self._noticed = False  # something became ready since the last slice began
        self._finished = trio.Event()
        self.nursery: trio.Nursery | None = None
        self._watched: dict[tuple[int, Direction], tuple[object, trio.CancelScope]] = {}
        self._ending = False  # the trio program has ended
        self._stays = False  # it is the implicit one, and nobody waits for its tasks
        self._end: Callable[[], object] | None = end  # closes the scheduler
        self._escaped: BaseException | None = None  # KeyboardInterrupt or SystemExit of a task
        self.mailbox = Mailbox(self._wake)
        self._slices = Slices(kernel, self.mailbox, max_slice)
        lowlevel.spawn_system_task(self._drive, name="dari scheduler")

    def clock(self) -> float:
        return self._host_time() - self._ahead

    # ---- what the kernel asks ----------------------------------------------------------------------------------

    def notify(self) -> None:
        if self._thread != get_ident():
            self.post(bool)  # a call that does nothing: come and look
            raise strays(self._thread)
        self._noticed = True
        if self._parked is not None:
            parked, self._parked = self._parked, None
            lowlevel.reschedule(parked)

    def post(self, call: Callable[[], object]) -> None:
        self.mailbox.put(call)

    def steps_of(self, coroutine: Any) -> Generator[Any, Any, Any]:
        return step_as_host_task(coroutine)

    def adapt(self, foreign: object) -> Operation[Any] | None:
        if getattr(foreign, "_asyncio_future_blocking", None) is not None:
            raise TypeError(f"{foreign!r} is asyncio's, and this scheduler is a guest of trio: nobody could wake it")
        if str(getattr(foreign, "__module__", "")).startswith("trio."):
            raise TypeError(
                f"{foreign!r} came from inside of foreign code: yield the coroutine itself, or dari.host(coroutine)"
            )
        if isinstance(foreign, CoroutineType) or hasattr(type(foreign), "__await__"):
            return TrioAwaitable(foreign)  # type: ignore[arg-type] # it has `__await__`
        return remote_of(foreign)

    def home(self) -> object:
        return self._token_ref()

    def outside(self, task: Task[T]) -> Generator[Any, Any, T]:
        """`await task` in a task of trio."""
        if not self.lives_in(running_loop()):
            raise RuntimeError(f"{task!r} belongs to a scheduler in another event loop: await it there")
        return await_task(task)

    def report(self, what: str, error: BaseException | None) -> None:
        from dari.drivers.reporting import report

        report(what, error)

    # ---- what its owner asks -----------------------------------------------------------------------------------

    def lives_in(self, loop: object) -> bool:
        return self._token_ref() is loop

    def dump_of_host(self) -> str:
        return ""

    def stay(self) -> None:
        self._stays = True  # as any system task: this one is nobody's

    async def wait_finished(self) -> None:
        while self._escaped is None and (self.kernel.tasks or self.mailbox):
            if self._finished.is_set():
                self._finished = trio.Event()
            self.notify()
            await self._finished.wait()
        if self._escaped is not None:
            escaped, self._escaped = self._escaped, None
            raise escaped

    async def outlast(self) -> None:
        with trio.CancelScope(shield=True):
            await self.wait_finished()

    def close(self) -> None:
        for call in self.mailbox.close():
            self.kernel.call(call)
        self._end = None  # contexts may keep the guest for long, and shall not keep its scheduler
        self._noticed = True
        if self._parked is not None:
            parked, self._parked = self._parked, None
            with suppress(RuntimeError):  # trio has ended already
                lowlevel.reschedule(parked)

    # ---- slices ------------------------------------------------------------------------------------------------

    async def _drive(self) -> None:
        async with trio.open_nursery() as ends:
            ends.start_soon(self._hear_of_the_end)
            with trio.CancelScope(shield=True):
                try:
                    async with trio.open_nursery() as self.nursery:
                        while not self.mailbox.closed:
                            need = self._slice()
                            self._watch(self.kernel.watching)
                            await self._rest(need)
                        self.nursery.cancel_scope.cancel()
                finally:
                    self.mailbox.close()
                    self.nursery = None
            ends.cancel_scope.cancel()

    async def _hear_of_the_end(self) -> None:
        try:
            await trio.sleep_forever()
        finally:
            if not self.mailbox.closed:
                self._ending = True
                self.kernel.cancel("the trio program is ending")
                self.notify()

    def _slice(self) -> Need:
        """A slice. A scope of trio that a generator leaves open in it would be around us all: it is undone."""
        need: Need | None = None
        self._noticed = False
        try:
            with trio.CancelScope():
                need = self._slices.run()
        except (KeyboardInterrupt, SystemExit) as error:  # of a task; a system task that raised it would crash trio
            self._escape(error)
        except RuntimeError as error:
            if need is None:
                raise
            self.report(
                "a generator task left a scope of trio, or of anyio, open when it yielded, which has now no effect any"
                " more: in a generator use dari's own (dari.move_on_after)",
                error,
            )
        return MORE if need is None else need

    def _escape(self, error: BaseException) -> None:
        """See to it that somebody hears of it: who waits for the task, else who waits for the scheduler."""
        if self.kernel.escape_is_heard:
            return
        if self._stays:
            self.report("a task of the implicit scheduler ended with", error)
        else:
            self._escaped = error
            self._finished.set()

    async def _rest(self, need: Need) -> None:
        """Give the loop back until there is something to do."""
        if need is MORE or self._noticed:  # (A post and a descriptor that is ready notify, too.)
            await lowlevel.cancel_shielded_checkpoint()
            await lowlevel.cancel_shielded_checkpoint()
            return
        if need is FINISHED:
            self._finished.set()
            if self._ending and self._end is not None:
                self._end()
                return
        await self._park(self.kernel.deadlines.next())  # of a scope in a task of trio, if there is no task of ours

    async def _park(self, deadline: float | None) -> None:
        def woken_by_the_deadline(_: object) -> lowlevel.Abort:
            self._parked = None
            return lowlevel.Abort.SUCCEEDED

        self._parked = lowlevel.current_task()
        with trio.CancelScope(deadline=float("inf") if deadline is None else deadline + self._ahead):
            await lowlevel.wait_task_rescheduled(woken_by_the_deadline)

    def _wake(self) -> None:
        """The mailbox has something: called on any thread."""
        try:
            token = self._token_ref()
            if token is None:
                raise trio.RunFinishedError
            token.run_sync_soon(self.notify, idempotent=True)
        except trio.RunFinishedError:
            self.mailbox.close()

    # ---- descriptors -------------------------------------------------------------------------------------------

    def _watch(self, wanted: Mapping[tuple[int, Direction], object]) -> None:
        """Let trio look at what tasks wait for."""
        watched, nursery = self._watched, self.nursery
        assert nursery is not None
        # What is watched is a wait, not a number: a number that was closed and given out again is something else.
        for key in [key for key, (wait, _) in watched.items() if wanted.get(key) is not wait]:
            _, scope = watched.pop(key)
            scope.cancel()
        for key, wait in wanted.items():
            if key not in watched:
                watched[key] = (wait, scope := trio.CancelScope())
                nursery.start_soon(self._await_descriptor, key, wait, scope)

    async def _await_descriptor(self, key: tuple[int, Direction], wait: object, scope: trio.CancelScope) -> None:
        error: Exception | None = None
        with scope:
            try:
                await (lowlevel.wait_readable if key[1] == "read" else lowlevel.wait_writable)(key[0])
            except Exception as refused:  # noqa: BLE001 - OSError, BusyResourceError, …: that of who waits for it
                error = refused
        if scope.cancel_called:
            return
        del self._watched[key]
        if self.kernel.watching.get(key) is not wait:
            return  # it was cancelled in the meantime
        if error is not None:
            refuse(self.kernel, [key], error)
        else:
            self._slices.ready.append(key)
            self.notify()
