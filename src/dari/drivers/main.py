"""Running one main task to its end, with whatever it leaves behind: by the clock on the wall, or by another.

Here is what `dari.run` means: main's result or error, a timeout, Ctrl-C, and that nothing runs on.
"""

from __future__ import annotations

import signal
import threading
from contextlib import closing
from typing import TYPE_CHECKING, Any, Self

from dari._kernel.numbers import seconds
from dari.exceptions import DeadlockError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from dari._kernel.kernel import Kernel
    from dari._kernel.task import Task
    from dari.drivers.standalone import Standalone

__all__ = ["Interrupts", "run_main"]


def run_main(driver: Standalone, kernel: Kernel, main: Any, args: tuple[Any, ...], timeout: float | None) -> Any:
    """Drive `kernel` until main has ended, and what it left behind; give main's result, or raise its error."""
    limit = None if timeout is None else seconds("a timeout", timeout)
    task: Task[Any] = kernel.create_task(main, args, on_end=lambda _: None)  # observed here
    out_of_time = _OutOfTime(task)
    if limit is not None:
        kernel.set_deadline(out_of_time, driver.clock() + limit)
    with closing(driver), Interrupts(driver, lambda: task.cancel("Ctrl-C")) as interrupts:
        try:
            driver.reports_deadlocks = True
            driver.drive(kernel, until=task.done)
        finally:
            kernel.clear_deadline(out_of_time)
            if not interrupts.hard:
                kernel.cancel("main has ended")
                _outlast(driver, kernel)
            driver.reports_deadlocks = False
    if interrupts.due:
        raise KeyboardInterrupt
    # Main may end with what it has won last (a job's result), before it could see that it was to end: it does not win.
    if task.cancelled() or not (interrupts.hard or task._saw_cancelled() or task.exception()):
        if interrupts.came:
            raise KeyboardInterrupt
        if out_of_time.came:
            raise TimeoutError(f"dari.run: {task.name!r} did not end within {timeout} seconds")
    return task.result()


def _outlast(driver: Standalone, kernel: Kernel) -> None:
    """Drive until what main left behind has ended. What can never end is left where it stands, and reported.

    It is not raised: that would cost main's result, or its error, which matters more.
    """
    driver.reports_deadlocks = True  # again: what was warned of while main ran was another standstill
    try:
        driver.drive(kernel)
    except DeadlockError as standstill:
        driver.report(f"main has ended, but what it left behind never will: {standstill}", None)


class _OutOfTime:
    """The alarm of `run(timeout=…)`."""

    def __init__(self, task: Task[Any]) -> None:
        self.alarm: Any = 0
        self.came = False
        self._task = task

    def expire(self) -> None:
        self.came = True
        self._task.cancel("timeout")


class Interrupts:
    """Ctrl-C while a driver drives: the first calls `ask` between two steps, the second is Python's KeyboardInterrupt.

    In a task, or where the driver waits, that comes at once; in the middle of the kernel it waits for the next step.

    Only where it would have been Python's own from the start: on the main thread, with nobody else's handler set.
    """

    def __init__(self, driver: Standalone, ask: Callable[[], object]) -> None:
        self.came = self.hard = False
        self.due = False  # hard, but not raised yet
        self._driver = driver
        self._ask = ask
        self._set = False

    def __enter__(self) -> Self:
        if (
            threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        ):
            signal.signal(signal.SIGINT, self._interrupt)
            self._set = True
        return self

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if not self.came:
            self.came = True
            self._driver.post(self._ask)
            return
        self.hard = True
        if _in_the_kernel(frame):
            self.due = True
            self._driver.post(self._break_off)
        else:
            signal.default_int_handler(number, frame)

    def _break_off(self) -> None:
        self.due = False
        raise KeyboardInterrupt

    def __exit__(self, *_: object) -> None:
        if self._set:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _in_the_kernel(frame: FrameType | None) -> bool:
    """Would an exception at `frame` break off what the kernel is doing, rather than a task?"""
    module = "" if frame is None else frame.f_globals.get("__name__", "")
    return module.startswith(("dari._kernel.", "dari.sync.", "dari.pipeline.")) or module == "dari.queues"
