"""The hosts of a main: the only module of the daemon that knows what a loop is.

A host runs main to its end in the main thread and takes three orders from any other thread: post a call, set the
stopping event, cancel main. Orders that come before the loop runs are kept for its first turn. Signals are not a
host's business (`signals`), nor is time (`stopping`).
"""

from __future__ import annotations

import contextlib
import inspect
import io
import threading
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol

from dari.daemon.context import Stopping
from dari.daemon.signals import Inbox

if TYPE_CHECKING:
    import asyncio


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

    def cancel(self) -> None: ...
    def stacks(self) -> str:
        """Return where main is suspended, for the log of a forced exit."""
        ...


class MainCall:
    """One call of main, and the two moments in it that the daemon wants to know."""

    def __init__(
        self, main: Callable[..., Any], ctx: object, *, ready: Callable[[], None], ended: Callable[[], None]
    ) -> None:
        self._main = main
        self._ready = ready
        self._report_end = ended
        self.arguments: tuple[object, ...] = (ctx,) if _wants_context(main) else ()
        self._over = False

    @property
    def is_generator(self) -> bool:
        return inspect.isgeneratorfunction(self._main)

    @property
    def main(self) -> Callable[..., Any]:
        return self._main

    def after_first_step(self) -> None:
        """A main that has no context cannot say "ready": it is, when it has come to its first wait."""
        if not self.arguments and not self._over:
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


def _wants_context(main: Callable[..., Any]) -> bool:
    return bool(_parameters(main))


def make_host(backend: str, inbox: Inbox) -> Host:
    """Return the host of that name; `ImportError` when its package is missing."""
    if backend == "uvloop":
        import uvloop

        return _AsyncioHost(inbox, uvloop.new_event_loop)
    if backend == "asyncio":
        return _AsyncioHost(inbox, None)
    raise ImportError(f"backend {backend!r} is not there yet")


class _AsyncioHost:
    """asyncio, on the stdlib's loop or on any that a factory makes."""

    def __init__(self, inbox: Inbox, factory: Callable[[], asyncio.AbstractEventLoop] | None) -> None:
        self._inbox = inbox
        self._factory = factory
        self._lock = threading.Lock()
        self._waiting: list[Callable[[], object]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[object] | None = None
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
                loop.call_soon(call.after_first_step)
                return await self._start(call)
        except asyncio.CancelledError as error:
            if self._cancelled:
                raise MainCancelled from error
            raise
        finally:
            call.ended()

    @staticmethod
    def _start(call: MainCall) -> Awaitable[object]:
        if not call.is_generator:
            coroutine: Awaitable[object] = call.main(*call.arguments)
            return coroutine
        from dari.scheduler import arun

        guest: Awaitable[object] = arun(call.main, *call.arguments)
        return guest

    def post(self, fn: Callable[[], object]) -> None:
        with self._lock:
            if self._loop is None:
                self._waiting.append(fn)
                return
        with contextlib.suppress(RuntimeError):  # the loop is closed: whoever was to hear it is gone
            self._loop.call_soon_threadsafe(fn)

    def cancel(self) -> None:
        self._cancelled = True
        self.post(self._cancel_task)

    def _cancel_task(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def stacks(self) -> str:
        import asyncio

        text = io.StringIO()
        if self._loop is not None and not self._loop.is_closed():
            for task in asyncio.all_tasks(self._loop):
                task.print_stack(file=text)
        return text.getvalue()
