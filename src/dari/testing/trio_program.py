"""A program of trio's, run to its end: in virtual time by trio's own `MockClock`, under seeds by trio's own chance.

`MockClock(autojump_threshold=0)` jumps whenever every task is blocked; but it knows nothing of threads. So an
instrument looks after each step of a task at what is pending outside, and sets the threshold: for ever while a thread
or a job works; a moment of silence while a descriptor is waited for, whose other end trio tells nobody; else 0.

With no deadline left a clock that jumps would spin; the instrument sees that, cancels main, and DeadlockError tells
where everybody stands. What still leaks: threads with a limiter of their own, and a shielded wait that never ends.
"""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any, final

import trio
from trio import lowlevel
from trio.testing import MockClock, wait_all_tasks_blocked

from dari._kernel.waiting import dump
from dari.drivers.pending import Account, accounts
from dari.exceptions import DeadlockError
from dari.scheduler import arun

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

__all__ = ["run_in_trio"]

_SILENCE = 0.01  # seconds of real time without an event before the clock jumps although a descriptor is waited for


def run_in_trio(source: Any, virtual: bool, seed: int | None, timeout: float | None) -> Any:
    """Run a coroutine as trio's main task, or a generator as a task of a guest."""
    clock = MockClock(autojump_threshold=0) if virtual else None
    watch = _Watch(clock) if clock is not None else None
    with _seeded(seed):
        return trio.run(_main, source, seed, timeout, watch, clock=clock, instruments=() if watch is None else (watch,))


async def _main(source: Any, seed: int | None, timeout: float | None, watch: _Watch | None) -> Any:
    account = accounts[lowlevel.current_trio_token()] = Account(trio.current_time, seed=seed, look_on=_look_on)
    with trio.move_on_after(inf if timeout is None else timeout) as scope:
        if watch is not None:
            watch.begin(account, scope)
        try:
            return await (source if hasattr(source, "__await__") else arun(source))
        finally:
            if watch is not None and watch.standstill is not None:
                raise DeadlockError(watch.standstill)
    raise TimeoutError(f"dari.testing.run: main did not end within {timeout} seconds")


def _look_on(account: Account) -> None:
    async def look() -> None:
        await wait_all_tasks_blocked()
        account.tell_onlookers()

    lowlevel.spawn_system_task(look, name="dari.testing looks on")


@final
class _Watch(trio.abc.Instrument):
    """Holds the clock while something outside is pending; sees when nothing ever will."""

    def __init__(self, clock: MockClock) -> None:
        self.standstill: str | None = None  # where everybody stood
        self._clock = clock
        self._account: Account | None = None  # before main has begun, and
        self._idle = False  # since the last step of a task: it could not even be woken by that everybody is blocked

    def begin(self, account: Account, scope: trio.CancelScope) -> None:
        """In main."""
        self._account, self._scope, self._main = account, scope, lowlevel.current_task()
        self._limiter = trio.to_thread.current_default_thread_limiter()

    def after_task_step(self, task: lowlevel.Task) -> None:
        self._idle = False
        if self._account is None:
            return
        if self._account.total() or self._limiter.borrowed_tokens:
            threshold = inf
        else:
            threshold = _SILENCE if _descriptors_waited_for() else 0.0
        if self._clock.autojump_threshold != threshold:
            self._clock.autojump_threshold = threshold

    def before_io_wait(self, timeout: float) -> None:
        if timeout > 0 or self._account is None or self._clock.autojump_threshold > 0:
            return
        now = lowlevel.current_statistics()
        if now.tasks_runnable or now.run_sync_soon_queue_size or now.seconds_to_next_deadline < inf:
            return
        if self._idle and self.standstill is None:
            where = "\n".join((*_frames(self._main), *(dump(guest.kernel.tasks) for guest in self._account.guests)))
            self.standstill = f"every task waits, and nothing is left that could wake one:\n{where}"
            self._scope.cancel()
        self._idle = True


def _descriptors_waited_for() -> bool:
    waiting: Any = lowlevel.current_statistics().io_statistics
    read, write = getattr(waiting, "tasks_waiting_read", 0), getattr(waiting, "tasks_waiting_write", 0)
    return bool(read > 1 or write)  # one is trio's own, by which other threads wake it


def _frames(task: lowlevel.Task) -> Iterator[str]:
    """Where a task and its children stand."""
    yield repr(task)
    for frame, line in task.iter_await_frames():
        if not frame.f_globals.get("__name__", "").startswith(("dari.", "trio.")):
            yield f"    {frame.f_code.co_filename}:{line} in {frame.f_code.co_name}"
    for nursery in task.child_nurseries:
        for child in nursery.child_tasks:
            yield from _frames(child)


@contextmanager
def _seeded(seed: int | None) -> Generator[None]:
    """Let trio draw the order of its tasks from `seed`.

    The one place that touches trio's inside. `trio._core._run` draws from its `_r`, and sorts what it shuffles (so that
    the same draws are the same order) when `_ALLOW_DETERMINISTIC_SCHEDULING` is set, which Hypothesis and pytest-trio
    use. (`tests/testing/test_trio.py` fails where a version of trio has changed that.)
    """
    if seed is None:
        yield
        return
    from trio._core import _run as scheduling

    allow = partial(setattr, scheduling, "_ALLOW_DETERMINISTIC_SCHEDULING")
    state, allowed = scheduling._r.getstate(), scheduling._ALLOW_DETERMINISTIC_SCHEDULING
    scheduling._r.seed(seed)
    allow(True)
    try:
        yield
    finally:
        allow(allowed)
        scheduling._r.setstate(state)
