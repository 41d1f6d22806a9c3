"""dari's own scheduler, with no other loop below it: main is one of its tasks."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any

from dari._kernel.scope import move_on_after
from dari.daemon.context import Stopping
from dari.daemon.entry import MainCall, MainCancelled
from dari.exceptions import DariError

if TYPE_CHECKING:
    from dari._kernel.task import Task
    from dari.scheduler import Scheduler


class StandaloneHost:
    def __init__(self) -> None:
        from dari.scheduler import Scheduler

        self._scheduler = Scheduler(name="service")
        self._main: Task[object] | None = None
        self._error: BaseException | None = None
        self._cancelled = False

    def make_event(self) -> Stopping:
        from dari.sync import Event

        return Event()

    def run(self, call: MainCall) -> object:
        self._main = task = self._scheduler.create_task(self._body(call), name="main")
        try:
            self._until_done(task)
        except BaseException:  # SystemExit, of main or of what runs beside it: main goes first
            task.cancel("the process is leaving")
            self._until_done(task)
            raise
        finally:
            call.ended()
            winding_up = self._scheduler.create_task(call.wind_up(), name="the end of main")
            self._until_done(winding_up)
            # As `dari.run`: what main leaves running is cancelled when it ends, and waited for.
            self._scheduler.cancel("main has ended")
            self._scheduler.run()
        if self._error is not None:
            raise self._error
        if task.cancelled() and self._cancelled:
            raise MainCancelled
        return task.result()

    def _until_done(self, task: Task[Any]) -> None:
        def ended(task: Task[Any]) -> None:
            task.kernel.observed(task)  # `run` gives main's error on
            self._scheduler.stop()

        task.add_done_callback(ended)
        while not task.done():
            self._scheduler.run()

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

    async def within(self, seconds: float, awaitable: Awaitable[None]) -> bool:
        with move_on_after(seconds) as limit:
            await awaitable
        return not limit.cancelled_caught

    def cancel(self) -> None:
        self.post(self._cancel_main)

    def _cancel_main(self) -> None:
        if self._main is not None and not self._cancelled:
            self._cancelled = True
            self._main.cancel("the service is stopping")

    def scheduler(self) -> Scheduler:
        return self._scheduler

    def tasks(self) -> list[Any]:
        return list(self._scheduler.tasks)


class _Steps:
    """A generator task that a coroutine awaits, where both are stepped by dari."""

    def __init__(self, steps: Generator[Any, Any, object]) -> None:
        self._steps = steps

    def __await__(self) -> Generator[Any, Any, object]:
        return (yield from self._steps)
