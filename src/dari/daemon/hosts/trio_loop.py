"""trio: main is its root task, in a scope that a stop cancels; what runs beside it are system tasks."""

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
    import trio

    from dari.scheduler import Scheduler


class TrioHost:
    def __init__(self, inbox: Inbox) -> None:
        import trio

        self._inbox = inbox
        self._lock = threading.Lock()
        self._waiting: list[Callable[[], object]] = []
        self._token: trio.lowlevel.TrioToken | None = None
        self._root: trio.lowlevel.Task | None = None
        self._scope = trio.CancelScope()
        self._escaped: BaseException | None = None

    def make_event(self) -> Stopping:
        import trio

        return trio.Event()

    def run(self, call: MainCall) -> object:
        import trio

        with self._inbox.lend():
            return trio.run(self._body, call)

    async def _body(self, call: MainCall) -> object:
        import trio

        token = trio.lowlevel.current_trio_token()
        with self._lock:
            self._token = token
            for fn in self._waiting:
                token.run_sync_soon(fn)
        self._root = trio.lowlevel.current_root_task()
        with self._inbox.borrow():
            try:
                return await self._main(call, token)
            finally:
                call.ended()
                await call.wind_up()

    async def _main(self, call: MainCall, token: trio.lowlevel.TrioToken) -> object:
        result: object = None
        with self._scope:
            if call.is_generator:
                from dari.scheduler import arun

                result = await arun(call.as_steps)
            else:
                token.run_sync_soon(call.after_first_step)  # main's first step comes before: it is in this very step
                result = await call.as_coroutine()
        if self._escaped is not None:
            raise self._escaped
        if self._scope.cancelled_caught:
            raise MainCancelled
        return result

    def post(self, fn: Callable[[], object]) -> None:
        import trio

        with self._lock:
            if self._token is None:
                self._waiting.append(fn)
                return
        with contextlib.suppress(trio.RunFinishedError):  # whoever was to hear it is gone
            self._token.run_sync_soon(fn)

    def spawn(self, main: Callable[[], Coroutine[Any, Any, None]]) -> None:
        import trio

        trio.lowlevel.spawn_system_task(self._run_beside, main)

    async def _run_beside(self, main: Callable[[], Coroutine[Any, Any, None]]) -> None:
        import trio

        try:
            await main()
        except trio.Cancelled:  # the program has ended
            raise
        except BaseException as error:  # noqa: BLE001 - of a system task it would crash trio; so main ends with it
            self._escaped = error
            self._scope.cancel()

    async def drive(self, steps: Generator[Any, Any, object]) -> None:
        from dari.scheduler import arun

        await arun(lambda: steps)

    async def within(self, seconds: float, awaitable: Awaitable[None]) -> bool:
        import trio

        with trio.move_on_after(seconds) as limit:
            await awaitable
        return not limit.cancelled_caught

    def cancel(self) -> None:
        self.post(self._scope.cancel)  # its second call changes nothing, and main leaves it at its end

    def scheduler(self) -> Scheduler:
        return scheduler_in(self._token)

    def tasks(self) -> list[Any]:
        found = [] if self._root is None else [self._root]
        for task in found:  # it grows meanwhile
            found += [child for nursery in task.child_nurseries for child in nursery.child_tasks]
        return [task for task in found if task.coro.cr_frame is not None]
