"""The hosts of `soak.py`: how programs run in asyncio and trio, what is left in a loop, and what anybody reports."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import trio
from soak_programs import job
from soak_wave import Payload, Provoked, expected

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator

    from soak_wave import Visit, Wave

# ---- the hosts -------------------------------------------------------------------------------------------------------


class Watched:
    """Counts what dari has in a loop of asyncio: mixed in before the loop's class, it sees its public calls only."""

    def __init__(self) -> None:
        super().__init__()
        self.timers: WeakSet[asyncio.TimerHandle] = WeakSet()
        self.descriptors: set[tuple[Any, str]] = set()

    def call_at(self, when: float, callback: Callable[..., object], *args: Any, **context: Any) -> Any:
        inherited: Any = super()
        handle = inherited.call_at(when, callback, *args, **context)
        if getattr(callback, "__module__", "").startswith("dari") and hasattr(handle, "when"):
            self.timers.add(handle)  # (what is due at once is a plain handle in uvloop)
        return handle

    def armed(self) -> int:
        """Timers of dari's that will still come."""
        now = time.monotonic()  # the clock of both loops
        return sum(not timer.cancelled() and timer.when() > now for timer in self.timers)

    def add_reader(self, fd: Any, *args: Any) -> None:
        inherited: Any = super()
        inherited.add_reader(fd, *args)
        self.descriptors.add((fd, "read"))

    def add_writer(self, fd: Any, *args: Any) -> None:
        inherited: Any = super()
        inherited.add_writer(fd, *args)
        self.descriptors.add((fd, "write"))

    def remove_reader(self, fd: Any) -> Any:
        inherited: Any = super()
        self.descriptors.discard((fd, "read"))
        return inherited.remove_reader(fd)

    def remove_writer(self, fd: Any) -> Any:
        inherited: Any = super()
        self.descriptors.discard((fd, "write"))
        return inherited.remove_writer(fd)


class Asyncio:
    """asyncio, on the loop that `base` is the class of."""

    cancelled: type[BaseException] = asyncio.CancelledError

    def __init__(self, base: Any) -> None:
        self._loop: Any = type("WatchedLoop", (Watched, base), {})()
        self._spawned: set[asyncio.Task[Any]] = set()

    def run(self, main: Callable[[], Coroutine[Any, Any, None]]) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            self._loop.set_exception_handler(told)
            runner.run(main())

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def tidy(self) -> None:
        """asyncio keeps timers that were cancelled, and their contexts, until these are many; so make them many."""
        for _ in range(500):
            self._loop.call_later(60.0, self.tidy).cancel()

    def spawn(self, visit: Visit) -> None:
        task = asyncio.create_task(visit)
        self._spawned.add(task)
        task.add_done_callback(self._spawned.discard)

    @contextmanager
    def cuttable(self) -> Generator[Callable[[], object]]:
        task = asyncio.current_task()
        assert task is not None
        yield lambda: task.cancel("cut")

    def future(self, wave: Wave) -> object:
        if wave.chance(0.3):
            return wave.executor.submit(job, wave.payload(), wave.blink())
        future: asyncio.Future[Payload] = self._loop.create_future()
        payload, kind = wave.payload(), wave.dice.randrange(3)

        def settle() -> None:
            if future.done():
                return
            if kind == 0:
                future.cancel()
            elif kind == 1:
                future.set_exception(Provoked())
                future.exception()  # maybe nobody waits for it any more
            else:
                future.set_result(payload)

        self._loop.call_later(wave.blink(), settle)
        return wave.watch("future", future)

    async def bounded(self, wave: Wave, make: Callable[[], Visit]) -> object:
        kind = wave.dice.randrange(4)
        if kind == 0:
            result = await asyncio.wait_for(outcome(make), wave.patience())
            if isinstance(result, Exception):
                raise result
            return result
        if kind == 1:
            async with asyncio.timeout(wave.patience()):
                return await make()
        if kind == 2:
            return await asyncio.gather(make(), make(), return_exceptions=True)
        async with asyncio.TaskGroup() as group:
            group.create_task(make())
            return await make()

    def census(self) -> dict[str, float]:
        return {
            "tasks of the host": len(asyncio.all_tasks(self._loop)) if self._loop.is_running() else 0,
            "descriptors": len(self._loop.descriptors),
            "timers": self._loop.armed(),
        }


async def outcome(make: Callable[[], Visit]) -> object:
    """Its error as a value: 3.11's `wait_for`, when it is cancelled itself, looks at no error of what it waits for."""
    try:
        return await make()
    except Exception as error:  # noqa: BLE001 - raised by who gets it
        return error


class Trio:
    """trio."""

    cancelled: type[BaseException] = trio.Cancelled

    def __init__(self) -> None:
        self._nursery: trio.Nursery | None = None

    def run(self, main: Callable[[], Coroutine[Any, Any, None]]) -> None:
        async def in_a_nursery() -> None:
            async with trio.open_nursery() as self._nursery:
                await main()
            self._nursery = None

        trio.run(in_a_nursery)

    async def sleep(self, seconds: float) -> None:
        await trio.sleep(seconds)

    def tidy(self) -> None:
        pass

    def spawn(self, visit: Visit) -> None:
        async def spawned() -> None:
            await visit

        assert self._nursery is not None
        self._nursery.start_soon(spawned)

    @contextmanager
    def cuttable(self) -> Generator[Callable[[], object]]:
        with trio.CancelScope() as scope:
            yield lambda: scope.cancel()  # noqa: PLW0108 - each one is a key of its own

    def future(self, wave: Wave) -> object:
        return wave.executor.submit(job, wave.payload(), wave.blink())

    async def bounded(self, wave: Wave, make: Callable[[], Visit]) -> object:
        kind = wave.dice.randrange(3)
        if kind == 0:
            with trio.move_on_after(wave.patience()):
                return await make()
        elif kind == 1:
            with trio.fail_after(wave.patience()):
                return await make()
        else:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(make)
                await make()
        return None

    def census(self) -> dict[str, float]:
        if self._nursery is None:
            return {}
        seen = trio.lowlevel.current_statistics()
        waiting = seen.io_statistics
        return {
            "tasks of the host": seen.tasks_living,
            "descriptors": waiting.tasks_waiting_read + waiting.tasks_waiting_write,
            "timers": seen.seconds_to_next_deadline < float("inf"),
            "calls of other threads": seen.run_sync_soon_queue_size,
        }


# ---- who listens -----------------------------------------------------------------------------------------------------

REPORTS: list[str] = []  # what somebody reported that was not provoked


class Listener(logging.Handler):
    """What dari and asyncio log."""

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if error is None or not expected(error):
            REPORTS.append(f"{record.name}: {self.format(record)}")


def told(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    REPORTS.append(f"asyncio: {context}")


def listen() -> None:
    """Hear of whatever Python, asyncio and dari tell nobody in particular."""
    logging.getLogger().addHandler(Listener())
    logging.getLogger().setLevel(logging.WARNING)
    warnings.simplefilter("always")
    warnings.showwarning = warned  # type: ignore[assignment] # it looks at the first only
    sys.unraisablehook = lambda raised: REPORTS.append(f"unraisable: {raised.exc_value!r} in {raised.object!r}")
    threading.excepthook = lambda raised: REPORTS.append(f"a thread ended with {raised.exc_value!r}")


def warned(message: Warning | str, *_: Any) -> None:
    REPORTS.append(f"warning: {message}")
