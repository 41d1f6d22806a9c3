"""dari in coroutines that the host steps: operations, scopes and task groups.

`await operation` is done by a small task, on the loop's implicit scheduler. `with scope` acts through a scope of anyio,
which knows how the host cancels: an `Outsider` stands for the coroutine in the tree of scopes, and passes on what the
tree tells it. A group's children are tasks of ours, and hang below it as they hang below a task.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, final

from dari._kernel.operations import current_task
from dari._kernel.outcome import Value
from dari._kernel.scope import cancelled_by
from dari.drivers.hosts import in_trio, running_loop, running_task
from dari.exceptions import SchedulerClosed
from dari.scheduler import implicit_scheduler, kernel_here

if TYPE_CHECKING:
    from collections.abc import Generator

    from dari._kernel.contract import Operation
    from dari._kernel.group import TaskGroup
    from dari._kernel.kernel import Kernel
    from dari._kernel.scope import CancelScope
    from dari._kernel.task import Task

__all__ = ["await_outside", "outsider"]

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


def outsider(scope: CancelScope) -> Outsider | None:
    """What stands for the host's task that enters `scope` now; None where no task of a host runs."""
    task, kernel = running_task(), kernel_here()
    if task is None or kernel is None:
        return None
    if scope.grace is not None:
        raise RuntimeError(
            f"{scope!r}: `grace` is for tasks that dari steps; in a coroutine of the host a scope can have shield=True"
        )
    return Outsider(scope, task, kernel)


@final
class Outsider:
    """A task of the host in one scope. (Those around it are the host's affair.)"""

    def __init__(self, scope: CancelScope, task: Any, kernel: Kernel) -> None:
        import anyio

        self.kernel = kernel
        self._task = task
        self._scope: CancelScope | None = None
        self._wait = None  # circles through it are the host's affair, too
        self._host_scope = anyio.CancelScope(shield=scope.shield)
        self._host_scope.__enter__()

    @property
    def name(self) -> str:
        name: str = self._task.name if in_trio() else self._task.get_name()
        return name

    def _interrupt(self) -> None:
        self._host_scope.cancel()

    def _remark(self) -> None:
        if self._scope is not None and self._scope.cancel_called:  # before it was entered
            self._host_scope.cancel()

    def _released(self) -> None:
        pass

    def _runs(self) -> bool:
        return running_task() is self._task

    def _shielded(self, hides: bool) -> None:
        self._host_scope.shield = hides

    def _catches(self, _: CancelScope, error: BaseException | None) -> bool:
        if error is None:
            self._host_scope.__exit__(None, None, None)
            return False
        try:
            return bool(self._host_scope.__exit__(type(error), error, error.__traceback__))
        except BaseExceptionGroup:  # trio takes its cancels out of a group, and gives a new one even if it has none
            if _has_no(error, _cancelled_error()):
                return False
            raise

    def _is_cancel(self, error: BaseException) -> bool:
        return isinstance(error, _cancelled_error())

    def _may_join(self, _: Task[Any]) -> bool:
        return True  # the small task that does it: `_Join._outside` has looked

    def _owe(self, group: TaskGroup) -> None:
        """A plain `with` was left with children running. Nothing can wait for them here, so their errors are told."""

        def emptied() -> None:
            for error in group._take_errors():
                self.kernel.driver.report(f"a child failed that was left behind by {group!r}", error)

        group._emptied = emptied
        if not group._children:
            emptied()


def _cancelled_error() -> type[BaseException]:
    """By which the host tells that it cancels."""
    from anyio import get_cancelled_exc_class

    return get_cancelled_exc_class()


def _has_no(error: Any, kind: type[BaseException]) -> bool:
    if not isinstance(error, BaseExceptionGroup):
        return False
    return error.subgroup(kind) is None  # pyright: ignore[reportUnknownMemberType]
