"""`await operation` in a coroutine that the host steps: a small task does it, on the loop's implicit scheduler."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from dari._kernel.operations import current_task
from dari._kernel.outcome import Value
from dari._kernel.scope import cancelled_by
from dari.drivers.hosts import running_loop
from dari.exceptions import SchedulerClosed
from dari.scheduler import implicit_scheduler

if TYPE_CHECKING:
    from collections.abc import Generator

    from dari._kernel.contract import Operation
    from dari._kernel.task import Task

__all__ = ["await_outside"]

T = TypeVar("T")


def await_outside(operation: Operation[T]) -> Generator[Any, Any, T]:
    """`await operation` in a coroutine that the host steps: a small task does it, on the loop's implicit scheduler."""
    return _await_by_task(operation).__await__()


async def _await_by_task(operation: Operation[T]) -> T:
    """The host's cancel can come when the small task has won its value: then that is taken back, and the cancel stands.

    It comes either to the small task, when that has won and not run yet (`_do`), or to the coroutine, when the small
    task has ended and the coroutine has not run yet.
    """
    loop = running_loop()
    if loop is None:
        raise RuntimeError(
            f"{operation!r} was awaited where neither dari nor a loop of asyncio or trio runs: dari.run(main) needs"
            " none, and in a running loop `await dari.arun(main)` does"
        )
    scheduler = implicit_scheduler(loop)
    task: Task[T] = scheduler.create_task(_do, operation)
    try:
        return await task
    except GeneratorExit:  # the coroutine was closed, maybe by the collector and in another thread
        try:
            scheduler.call_soon_threadsafe(_abandon, task, operation)
        except SchedulerClosed:
            pass
        raise
    except BaseException:
        _take_back(task, operation)
        raise


def _do(operation: Operation[T]) -> Generator[Any, Any, T]:
    value = yield from operation
    if cancelled_by(current_task()._scope) is not None:
        operation.take_back(value)
        yield  # raises
    return value


def _take_back(task: Task[T], operation: Operation[T]) -> None:
    if isinstance(task._outcome, Value):
        operation.take_back(task._outcome.value)


def _abandon(task: Task[Any], operation: Operation[Any]) -> None:
    if not task.cancel("the coroutine that awaited it was closed"):
        _take_back(task, operation)
