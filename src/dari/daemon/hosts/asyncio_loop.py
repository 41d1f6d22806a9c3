"""asyncio, on the stdlib's loop or on any that a factory makes: main is the task that its runner runs."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any

from dari.daemon.context import Stopping
from dari.daemon.entry import MainCall, MainCancelled
from dari.daemon.hosts import scheduler_in
from dari.daemon.signals import Inbox

if TYPE_CHECKING:
    import asyncio

    from dari.scheduler import Scheduler


class AsyncioHost:
    def __init__(self, inbox: Inbox, factory: Callable[[], asyncio.AbstractEventLoop] | None) -> None:
        self._inbox = inbox
        self._factory = factory
        self._lock = threading.Lock()
        self._waiting: list[Callable[[], object]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[object] | None = None  # while main runs
        self._beside: set[asyncio.Task[None]] = set()  # asyncio itself holds tasks weakly
        self._cancelled = False

    def make_event(self) -> Stopping:
        import asyncio

        return asyncio.Event()

    def run(self, call: MainCall) -> object:
        import asyncio

        with asyncio.Runner(loop_factory=self._factory) as runner:
            return runner.run(self._body(call))

    async def _body(self, call: MainCall) -> object:
        import asyncio

        loop = asyncio.get_running_loop()
        with self._lock:
            self._loop = loop
            for fn in self._waiting:
                loop.call_soon(fn)
        with self._inbox.borrow():
            try:
                return await self._main(call, loop)
            finally:
                call.ended()
                await call.wind_up()

    async def _main(self, call: MainCall, loop: asyncio.AbstractEventLoop) -> object:
        import asyncio

        self._task = task = asyncio.current_task()
        assert task is not None
        try:
            return await self._start(call, loop)
        except asyncio.CancelledError as error:
            if not self._cancelled:
                raise
            raise MainCancelled from error
        finally:
            self._task = None
            if self._cancelled:
                task.uncancel()  # main alone was: scopes and groups in what comes after it count the requests

    @staticmethod
    def _start(call: MainCall, loop: asyncio.AbstractEventLoop) -> Awaitable[object]:
        if not call.is_generator:
            loop.call_soon(call.after_first_step)  # main's first step comes before: it is in this very callback
            return call.as_coroutine()
        from dari.scheduler import arun

        return arun(call.as_steps)

    def post(self, fn: Callable[[], object]) -> None:
        with self._lock:
            if self._loop is None:
                self._waiting.append(fn)
                return
        with contextlib.suppress(RuntimeError):  # the loop is closed: whoever was to hear it is gone
            self._loop.call_soon_threadsafe(fn)

    def spawn(self, main: Callable[[], Coroutine[Any, Any, None]]) -> None:
        assert self._loop is not None  # it calls us
        task = self._loop.create_task(main())
        self._beside.add(task)
        task.add_done_callback(self._beside.discard)

    async def drive(self, steps: Generator[Any, Any, object]) -> None:
        from dari.scheduler import arun

        await arun(lambda: steps)

    async def within(self, seconds: float, awaitable: Awaitable[None]) -> bool:
        import asyncio

        limit = asyncio.timeout(seconds)
        try:
            async with limit:
                await awaitable
        except TimeoutError:
            if not limit.expired():
                raise  # its own
        return not limit.expired()

    def cancel(self) -> None:
        self.post(self._cancel_main)

    def _cancel_main(self) -> None:
        if self._task is not None and not self._cancelled:
            self._cancelled = True
            self._task.cancel()

    def scheduler(self) -> Scheduler:
        return scheduler_in(self._loop)

    def tasks(self) -> list[Any]:
        import asyncio

        return [] if self._loop is None or self._loop.is_closed() else list(asyncio.all_tasks(self._loop))
