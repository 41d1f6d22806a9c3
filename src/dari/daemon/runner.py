"""The hosts of a main: the only module of the daemon that knows what a loop is.

A host runs main to its end in the main thread and takes three orders from any other thread: post a call, set the
stopping event, cancel main. Orders that come before the loop runs are kept for its first turn. Signals are not a
host's business (`signals`), nor is time (`stopping`).
"""

from __future__ import annotations

import contextlib
import inspect
import threading
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any, Protocol

from dari.daemon.context import Stopping
from dari.daemon.signals import Inbox
from dari.exceptions import DariError

if TYPE_CHECKING:
    import asyncio

    from dari._kernel.task import Task


class MainCancelled(Exception):  # noqa: N818 - an end, no error
    """Main ended because `Host.cancel` asked for it."""


class Host(Protocol):
    def run(self, call: MainCall) -> object:
        """Run main and return its result; `MainCancelled` after a cancel that took."""
        ...

    def make_event(self) -> Stopping: ...
    def post(self, fn: Callable[[], object]) -> None:
        """Have `fn` called in the loop's thread, soon. Any thread; nothing happens once the loop is over."""
        ...

    def spawn(self, main: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a coroutine beside main. In the loop's thread only."""
        ...

    async def drive(self, steps: Generator[Any, Any, object]) -> None:
        """Run a generator task to its end, from inside of what was spawned."""
        ...

    def cancel(self) -> None: ...
    def tasks(self) -> list[Any]:
        """Return the tasks that have not ended. Any thread."""
        ...


class MainCall:
    """One call of main, and the two moments in it that the daemon wants to know."""

    def __init__(
        self, main: Callable[..., Any], ctx: object, *, ready: Callable[[], None], ended: Callable[[], None]
    ) -> None:
        self._main = main
        self._ready = ready
        self._report_end = ended
        self._arguments: tuple[object, ...] = (ctx,) if _parameters(main) else ()
        self._over = False

    @property
    def is_generator(self) -> bool:
        return inspect.isgeneratorfunction(self._main)

    def as_coroutine(self) -> Awaitable[object]:
        coroutine: Awaitable[object] = self._main(*self._arguments)
        return coroutine

    def as_steps(self) -> Generator[Any, Any, object]:
        """Main as a task of dari's, whichever way it is written."""
        from dari.scheduler import create_task

        def announce() -> Generator[None, None, None]:
            self.after_first_step()
            yield from ()

        try:
            if not self._arguments:
                create_task(announce)  # queued behind us: it runs when main has come to its first wait
            if self.is_generator:
                steps: Generator[Any, Any, object] = self._main(*self._arguments)
                return (yield from steps)
            return (yield from self.as_coroutine().__await__())
        finally:
            self._over = True

    def after_first_step(self) -> None:
        """A main that has no context cannot say "ready": it is, when it has come to its first wait."""
        if not self._arguments and not self._over:
            self._ready()

    def ended(self) -> None:
        self._over = True
        self._report_end()


def check_main(main: object) -> str | None:
    """Return what is wrong with a main, or None."""
    if not callable(main):
        return f"main must be a function, not {main!r}"
    call = getattr(main, "__call__", None)  # noqa: B004 - an object with `async def __call__` is a main too
    if not any(map(inspect.iscoroutinefunction, (main, call))) and not inspect.isgeneratorfunction(main):
        return f"main must be an `async def` or a generator function, not the plain function {main!r}"
    required = [p for p in _parameters(main) if p.default is p.empty]
    if len(required) > 1:
        return f"main takes the context and nothing else, not {len(required)} arguments"
    return None


def _parameters(main: Callable[..., Any]) -> list[inspect.Parameter]:
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [p for p in inspect.signature(main).parameters.values() if p.kind in positional]


def make_host(backend: str, inbox: Inbox) -> Host:
    """Return the host of that name; `ImportError` when its package is missing."""
    if backend == "uvloop":
        import uvloop

        return _AsyncioHost(inbox, uvloop.new_event_loop)
    if backend == "asyncio":
        return _AsyncioHost(inbox, None)
    return _StandaloneHost()


class _AsyncioHost:
    """asyncio, on the stdlib's loop or on any that a factory makes."""

    def __init__(self, inbox: Inbox, factory: Callable[[], asyncio.AbstractEventLoop] | None) -> None:
        self._inbox = inbox
        self._factory = factory
        self._lock = threading.Lock()
        self._waiting: list[Callable[[], object]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[object] | None = None
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
        self._task = asyncio.current_task()
        with self._lock:
            self._loop = loop
            for fn in self._waiting:
                loop.call_soon(fn)
        try:
            with self._inbox.borrow():
                return await self._start(call, loop)
        except asyncio.CancelledError as error:
            if self._cancelled:
                raise MainCancelled from error
            raise
        finally:
            call.ended()

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

    def cancel(self) -> None:
        self._cancelled = True
        self.post(self._cancel_task)

    def _cancel_task(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def tasks(self) -> list[Any]:
        import asyncio

        return [] if self._loop is None or self._loop.is_closed() else list(asyncio.all_tasks(self._loop))


class _Steps:
    """A generator task that a coroutine awaits, where both are stepped by dari."""

    def __init__(self, steps: Generator[Any, Any, object]) -> None:
        self._steps = steps

    def __await__(self) -> Generator[Any, Any, object]:
        return (yield from self._steps)


class _StandaloneHost:
    """dari's own scheduler, with no other loop below it."""

    def __init__(self) -> None:
        from dari.scheduler import Scheduler

        self._scheduler = Scheduler(name="service")
        self._main: Generator[Any, Any, object] | None = None
        self._error: BaseException | None = None
        self._cancelled = False

    def make_event(self) -> Stopping:
        from dari.sync import Event

        return Event()

    def _main_ended(self, task: Task[object]) -> None:
        task.kernel.observed(task)  # `run` gives its error on
        self._scheduler.stop()

    def run(self, call: MainCall) -> object:
        self._main = self._body(call)
        task = self._scheduler.create_task(self._main, name="main")
        task.add_done_callback(self._main_ended)
        try:
            while not task.done():
                self._scheduler.run()
            call.ended()
            # As `dari.run`: what main leaves running is cancelled when it ends, and waited for.
            self._scheduler.cancel("main has ended")
            self._scheduler.run()
        finally:
            call.ended()
        if self._error is not None:
            raise self._error
        if task.cancelled() and self._cancelled:
            raise MainCancelled
        return task.result()

    def _body(self, call: MainCall) -> Generator[Any, Any, object]:
        try:
            return (yield from call.as_steps())
        except Exception as error:  # noqa: BLE001 - observed here and raised by `run`, so it is not logged twice
            self._error = error
            return None

    def post(self, fn: Callable[[], object]) -> None:
        with contextlib.suppress(DariError):  # the scheduler has ended: whoever was to hear it is gone
            self._scheduler.call_soon_threadsafe(fn)

    def spawn(self, main: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._scheduler.create_task(main)

    async def drive(self, steps: Generator[Any, Any, object]) -> None:
        await _Steps(steps)

    def cancel(self) -> None:
        self._cancelled = True
        self.post(lambda: self._scheduler.cancel("the service is stopping"))

    def tasks(self) -> list[Any]:
        return list(self._scheduler.tasks)
