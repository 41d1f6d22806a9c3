"""Scheduler: a kernel and whoever drives it. And the ways in: `run`, `arun`, `create_task`.

A scheduler begins on its own driver. `async with` puts the driver of the running loop in its place, for as long as the
block lasts. The kernel does not notice.
"""

from __future__ import annotations

import sys
import time
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeVar, TypeVarTuple
from weakref import WeakKeyDictionary

from dari._kernel.kernel import Kernel
from dari._kernel.numbers import seconds, whole
from dari._kernel.outcome import Error
from dari._kernel.stats import SchedulerStats
from dari._kernel.waiting import dump
from dari._kernel.world import world
from dari.drivers.guests import guest_in, innermost
from dari.drivers.hosts import in_trio, running_loop
from dari.drivers.main import Interrupts, run_main
from dari.drivers.pending import accounts
from dari.drivers.standalone import Standalone
from dari.exceptions import SchedulerClosed

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future
    from types import TracebackType

    from dari._kernel.contract import Main, Tracer
    from dari._kernel.task import Task
    from dari.drivers.guests import Guest

__all__ = ["Scheduler", "SchedulerStats", "all_tasks", "arun", "create_task", "run"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Scheduler:
    """Runs tasks: by itself (`run`, `schedule`), or inside a running asyncio or trio program (`async with`).

    `max_tasks` bounds the tasks alive; `starvation_limit` (steps) is how long a lower priority is passed over at most,
    None: for ever; `max_slice` (seconds) how long a guest keeps the loop; `seed` shuffles ready tasks of equal priority
    reproducibly. `debug` (also `python -X dev`) warns of operations that were made without being waited for, and
    remembers where tasks were created. `tracer` is told of every task and step (`dari.TaskTimes` keeps their times).
    """

    def __init__(
        self,
        *,
        max_tasks: int | None = None,
        starvation_limit: int | None = 64,
        max_slice: float = 0.002,
        seed: int | None = None,
        debug: bool = False,
        name: str | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        seconds("max_slice", max_slice, above=True)
        if max_tasks is not None:
            whole("max_tasks", max_tasks, 1, " (or None)")
        self.name = name
        self.debug = debug or sys.flags.dev_mode
        if self.debug:
            from dari._kernel.forgotten import watch

            watch()
        self._max_slice = max_slice
        self._born = time.monotonic()
        self._own = Standalone()
        self._guest: Guest | None = None
        self._closed = False
        self._kernel = Kernel(self._own, starvation_limit=starvation_limit, max_tasks=max_tasks, seed=seed)
        self._kernel.sites = self.debug
        if tracer is not None:
            self.tracer = tracer

    def __repr__(self) -> str:
        state = "ended" if self._closed else "guest" if self._guest is not None else "standalone"
        return f"<Scheduler{'' if self.name is None else f' {self.name!r}'} {state}, {len(self._kernel.tasks)} tasks>"

    # ---- tasks -------------------------------------------------------------------------------------------------

    def create_task(
        self,
        main: Main[T, *Ts],
        *args: *Ts,
        priority: int | None = None,
        name: str | None = None,
    ) -> Task[T]:
        """Start a task: a generator or coroutine, or a function that makes one, and its arguments.

        Its priority is `priority`, or that of whoever creates it. Raises SchedulerFull at `max_tasks`, SchedulerClosed
        after the end. On the scheduler's thread only.
        """
        if self._closed:
            raise SchedulerClosed(f"{self!r} takes no more tasks")
        task: Task[T] = self._kernel.create_task(main, args, priority, name)
        return task

    @property
    def tasks(self) -> tuple[Task[Any], ...]:
        """The tasks that have not ended, in the order of their creation."""
        return tuple(self._kernel.tasks)

    def cancel(self, reason: object = None) -> None:
        """Cancel all its tasks. On the scheduler's thread only."""
        self._kernel.cancel(reason)

    def call_soon_threadsafe(self, function: Callable[[*Ts], object], *args: *Ts) -> None:
        """From any thread or signal handler: let `function(*args)` be called on the scheduler's, between two steps.

        In a copy of the present context. SchedulerClosed after the end.
        """
        self._kernel.driver.post(partial(copy_context().run, function, *args))

    def create_task_threadsafe(
        self,
        main: Main[T, *Ts],
        *args: *Ts,
        priority: int | None = None,
        name: str | None = None,
    ) -> Future[T]:
        """From any thread: start a task; gives what that thread can wait for, and cancel.

        The task inherits the caller's context variables and priority. Cancelling the future asks the task to end; the
        future ends as cancelled when that has really ended. SchedulerClosed after the end.
        """
        from dari.drivers.threadsafe import TaskFuture

        future: TaskFuture[T] = TaskFuture(self.call_soon_threadsafe)
        create = partial(self.create_task, main, *args, priority=priority, name=name)
        self.call_soon_threadsafe(future.start, create)
        return future

    def stats(self) -> SchedulerStats:
        """Counts and times up to now."""
        return self._kernel.stats(time.monotonic() - self._born)

    def dump(self) -> str:
        """Every task that has not ended, what it waits for, and the lines of its code where it stands.

        As a guest in asyncio: the tasks of asyncio in its loop, too.
        """
        own = dump(self._kernel.tasks)
        neighbours = "" if self._guest is None or self._closed else self._guest.dump_of_host()
        return "\n".join(filter(None, (own, neighbours)))

    @property
    def tracer(self) -> Tracer | None:
        """Who is told of every task and step; it can be set and taken away (None) at any time."""
        return self._kernel.tracer

    @tracer.setter
    def tracer(self, tracer: Tracer | None) -> None:
        from dari._kernel.tracing import install

        install(self._kernel, tracer)

    # ---- by itself ---------------------------------------------------------------------------------------------

    def schedule(self) -> bool:
        """Run one step of one task, without waiting; False when nothing could run."""
        driver = self._standing_alone("schedule()")
        before = self._kernel.switches
        self._kernel.advance((), driver.mailbox.take(), 1)
        return self._kernel.switches != before

    def run(self, timeout: float | None = None) -> bool:
        """Run until every task has ended (True), or until `timeout` seconds or `stop` (False). Failures are logged.

        Ctrl-C ends it between two steps, with KeyboardInterrupt; it can be called again. The second one is hard.
        """
        driver = self._standing_alone("run()")
        deadline = None if timeout is None else driver.clock() + seconds("a timeout", timeout)
        with Interrupts(driver, driver.stop) as interrupts:
            ended = driver.drive(self._kernel, deadline=deadline)
        if interrupts.came:
            raise KeyboardInterrupt
        return ended

    def stop(self) -> None:
        """From any task, thread or signal handler: end `run` (it can be called again); as a guest, cancel all tasks."""
        if self._guest is None:
            self._own.stop()
        else:
            self._guest.post(lambda: self._kernel.cancel("the scheduler was stopped"))

    def _standing_alone(self, what: str) -> Standalone:
        if self._guest is not None:
            why = "it has ended" if self._closed else "it is driven by the loop that it is a guest of"
            raise RuntimeError(f"{what} of {self!r}: {why}")
        _refuse_nested(f"Scheduler.{what}")
        return self._own

    # ---- as a guest --------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        if self._guest is not None or self._closed:
            raise RuntimeError(f"{self!r} was entered before: make a new one")
        guest = self._become_guest()
        guest.outer = innermost.get()
        innermost.set(guest)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Wait for all tasks (after cancelling them, if the block failed), then raise what nobody has observed."""
        guest = self._guest
        assert guest is not None
        if innermost.get() is guest:  # else one inside of it is still open, and finds out by itself
            innermost.set(guest.outer)
        if error is not None:
            self._kernel.cancel("the block of its scheduler failed")
        try:
            await guest.wait_finished()
        except GeneratorExit:  # nobody drives this coroutine any more
            self._kernel.cancel("who waited for its scheduler is gone")
            raise
        except BaseException:  # the host's way of cancelling
            self._kernel.cancel("who waited for its scheduler was cancelled")
            await guest.outlast()
            self._close()
            raise
        self._close()
        if error is None:
            self._raise_unobserved()

    def _become_guest(self) -> Guest:
        loop = running_loop()
        if loop is None:
            raise RuntimeError(f"{self!r} can be a guest only where a loop of asyncio or trio is running")
        self._guest = guest = _guest_of(loop, self._kernel, self._max_slice, self._close)
        self._kernel.attach(guest)
        for call in self._own.close():
            guest.post(call)
        guest.notify()
        return guest

    def _close(self) -> None:
        self._closed = True
        self._own.close()
        if self._guest is not None:
            self._guest.close()

    def _raise_unobserved(self) -> None:
        kernel = self._kernel
        errors: list[BaseException] = [
            task._outcome.error for task in kernel.unobserved if isinstance(task._outcome, Error)
        ]
        if errors:
            raise BaseExceptionGroup(f"{kernel.unobserved_count} tasks failed, and nobody waited for them", errors)


def _guest_of(loop: Any, kernel: Kernel, max_slice: float, end: Callable[[], object]) -> Guest:
    """The driver that drives `kernel` in `loop`, which runs here. `end` closes the scheduler if the loop ends first."""
    if in_trio():
        from dari.drivers.trio_guest import TrioGuest

        return TrioGuest(loop, kernel, max_slice, end)
    host = sys.modules.get("dari.drivers.asyncio_host")
    if host is not None and isinstance(loop, host.EventLoop):
        from dari.drivers.asyncio_lanes import LanesGuest

        return LanesGuest(loop, kernel, max_slice, end)
    from dari.drivers.asyncio_guest import AsyncioGuest

    return AsyncioGuest(loop, kernel, max_slice, end)


# One scheduler per loop for those who never made one.
_implicit: WeakKeyDictionary[Any, Scheduler] = WeakKeyDictionary()


def kernel_here() -> Kernel | None:
    """That of the innermost scheduler on the running loop, or of the loop's implicit one. None where no loop runs."""
    loop = running_loop()
    if loop is None:
        return None
    guest = guest_in(loop)
    if guest is None:
        guest = implicit_scheduler(loop)._guest
        assert guest is not None
        innermost.set(guest)  # found at once the next time
    return guest.kernel


def implicit_scheduler(loop: Any) -> Scheduler:
    """The scheduler that `loop`, which runs here, has for those who never made one."""
    scheduler = _implicit.get(loop)
    if scheduler is None or scheduler._closed:
        watched = accounts.get(loop)  # by dari.testing: trio's token has no seed to tell
        scheduler = _implicit[loop] = Scheduler(
            name="implicit",
            starvation_limit=getattr(loop, "starvation_limit", 64),  # a loop of ours: one rule for both
            seed=getattr(watched or loop, "seed", None),
        )
        scheduler._kernel.keeps_failures = 0  # they are logged
        scheduler._become_guest().stay()
    return scheduler


async def arun(
    main: Main[T, *Ts],
    *args: *Ts,
    priority: int | None = None,
    name: str | None = None,
) -> T:
    """Run a task from inside a running asyncio or trio program, and give its result.

    On the scheduler of the innermost `async with dari.Scheduler()`, or on one that the loop has for this. Cancelling
    it cancels the task, and waits for its end.
    """
    if world.kernel is not None:
        raise RuntimeError("arun inside a task that dari steps: use `yield from`, or create_task and wait for the task")
    kernel = kernel_here()
    if kernel is None:
        raise RuntimeError("arun needs a running loop of asyncio or trio; without one, dari.run(main) runs a task")
    task: Task[T] = kernel.create_task(main, args, priority, name)
    return await task


def create_task(
    main: Main[T, *Ts],
    *args: *Ts,
    priority: int | None = None,
    name: str | None = None,
) -> Task[T]:
    """Start a task: from inside a task, on its scheduler; from a coroutine of the host, on that which `arun` takes."""
    kernel: Kernel | None = world.kernel
    if kernel is None:
        kernel = kernel_here()
        if kernel is None:
            raise RuntimeError(
                "create_task outside of a task: use the create_task of a Scheduler, or start by dari.run(main)"
                " (inside a running asyncio or trio program: await dari.arun(main))"
            )
    task: Task[T] = kernel.create_task(main, args, priority, name)
    return task


def all_tasks() -> set[Task[Any]]:
    """The tasks that have not ended, of the scheduler on which `create_task` would start one here."""
    kernel: Kernel | None = world.kernel or kernel_here()
    if kernel is None:
        raise RuntimeError("all_tasks outside of a task: scheduler.tasks are those of a Scheduler")
    return set(kernel.tasks)


def run(
    main: Main[T, *Ts],
    *args: *Ts,
    timeout: float | None = None,
    seed: int | None = None,
    debug: bool = False,
    tracer: Tracer | None = None,
) -> T:
    """Run a task and all that it starts; give its result, or raise its error.

    What main leaves running is cancelled when it ends, and waited for. After `timeout` seconds main is cancelled and
    TimeoutError raised. `seed`, `debug` and `tracer` are those of `Scheduler`. Ctrl-C cancels main, lets it clean up,
    and then raises KeyboardInterrupt; a second one is hard.
    """
    _refuse_nested("run()")
    scheduler = Scheduler(seed=seed, debug=debug, tracer=tracer)
    result: T = run_main(scheduler._own, scheduler._kernel, main, args, timeout)
    return result


def _refuse_nested(what: str) -> None:
    if world.kernel is not None:
        raise RuntimeError(
            f"{what} inside a task that dari steps: use `yield from`, or create_task and wait for the task"
        )
    if running_loop() is not None:
        host = "trio" if in_trio() else "asyncio"
        raise RuntimeError(f"{what} inside a running {host} program: use `await dari.arun(main)`")
