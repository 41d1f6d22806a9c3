"""Task groups: children that do not outlive the block that started them.

**The difficulty.** In a coroutine `async with` waits at the end of the block. A generator's `with` cannot: only `yield`
waits. So the join is written out (`yield group.join()`), and the promise is kept by a *debt*: however the block is
left, its children are cancelled, and the parent's next `yield`, or its end, first waits for theirs, and raises what
they raised.

The group's scope is the parent's while the block runs, and the end of the chain of every child: the first failure
cancels it, which stops the other children and the body alike.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Self, TypeVar, TypeVarTuple, final

from dari._kernel.contract import Operation
from dari._kernel.outcome import Error
from dari._kernel.scope import CancelScope, cancelled_by
from dari._kernel.waiting import cycle, deadlock, refuse

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable
    from types import TracebackType

    from dari._kernel.contract import Main
    from dari._kernel.task import Task, TaskWait

__all__ = ["TaskGroup", "grouped", "settle_debts"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


@final
class TaskGroup:
    """Tasks that belong together: `with TaskGroup() as group: group.create_task(…); yield group.join()`.

    In a coroutine, `async with` joins by itself. The first child that fails cancels the others and the body; `join` (or
    leaving the block) then raises an `ExceptionGroup` of what failed.
    """

    def __init__(self) -> None:
        self._scope: Final = CancelScope()
        self._parent: Any = None
        self._children: dict[Task[Any], None] = {}
        self._errors: list[BaseException] = []
        self._raised: BaseException | None = None
        self._left = False
        self._emptied: Callable[[], None] | None = None

    def __repr__(self) -> str:
        return (
            f"<TaskGroup of {self._parent.name!r}, {len(self._children)} running>"
            if self._parent
            else "<TaskGroup new>"
        )

    def create_task(
        self,
        main: Main[T, *Ts],
        *args: *Ts,
        priority: int | None = None,
        name: str | None = None,
    ) -> Task[T]:
        """Start a child. RuntimeError before the block is entered and after it was left."""
        if self._parent is None or self._left or self._raised is not None:
            state = (
                "was left already"
                if self._left
                else "was not entered"
                if self._parent is None
                else "has failed, and was joined"
            )
            raise RuntimeError(f"{self!r} {state}: children are started inside `with TaskGroup() as group:`")
        task: Task[T] = self._parent.kernel.create_task(main, args, priority, name, self._scope, self._child_ended)
        self._children[task] = None
        return task

    def cancel(self, reason: object = None) -> None:
        """Cancel the children and the body; the block is then left without an error."""
        self._scope.cancel(reason)

    def join(self) -> Operation[None]:
        """Wait for all children; raises an `ExceptionGroup` if one failed. Cancelling it cancels them too."""
        return _Join(self)

    def __enter__(self) -> Self:
        self._scope.__enter__()
        self._scope._members = {}
        self._parent = self._scope._owner
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        self._left = True
        collected = isinstance(error, GeneratorExit) and not self._parent._runs()
        try:
            caught = self._scope.__exit__(kind, error, traceback)
        except BaseExceptionGroup as rest:  # a host takes its cancels out of a group
            error, caught = rest, False
        if collected:
            return False
        running = len(self._children)
        if running:
            self._scope._closed = False  # the body has left it, the children have not
            self._scope.cancel("the block of its task group was left")
        as_it_is = isinstance(error, (GeneratorExit, KeyboardInterrupt, SystemExit))
        if running or (as_it_is and self._errors):
            self._parent._owe(self)
        if as_it_is:
            return False
        errors = self._take_errors()
        if error is None or caught:
            if errors:
                raise grouped(errors) from None
            if running and error is None:
                raise RuntimeError(
                    f"a TaskGroup was left with {running} tasks running, which are now cancelled: the last line of the"
                    " block must be `yield group.join()`"
                )
            return caught
        if isinstance(error, Exception) and error is not self._raised:
            raise grouped([error, *errors])
        if errors:
            raise grouped(errors if self._parent._is_cancel(error) else [error, *errors])
        return False

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        last = error
        if error is None:
            try:
                await self.join()
            except BaseException as joined:  # noqa: BLE001 - `__exit__` looks at it, and it is raised below
                last = joined
        if last is None:
            return self.__exit__(None, None, None)
        last = await self._see_the_end_of(last)
        caught = self.__exit__(type(last), last, last.__traceback__)
        if caught or last is error:
            return caught
        raise last

    async def _see_the_end_of(self, error: BaseException) -> BaseException:
        """What `async with` promises: the block is left when no child runs any more, whatever stops the body."""
        while self._children and not isinstance(error, GeneratorExit):
            self._scope.cancel("the body of its task group failed")
            try:
                with CancelScope(shield=True):
                    await _Outlast(self)
            except (
                BaseExceptionGroup
            ) as late:  # from a group that was left by `with` in this block: its debt comes here
                self._errors.append(late)
            except BaseException as cancelled:  # noqa: BLE001 - asyncio's plain cancel comes through every shield
                error = cancelled
        return error

    @property
    def _waiter(self) -> Task[Any]:
        """Who waits for the children, if anybody does."""
        waiter: Task[Any] = self._parent
        return waiter

    def _child_ended(self, task: Task[Any]) -> None:
        del self._children[task]
        if isinstance(task._outcome, Error) and not task.cancelled():
            self._errors.append(task._outcome.error)
            self._scope.cancel(f"task {task.name!r} of its group failed")
        if not self._children and self._emptied is not None:
            emptied, self._emptied = self._emptied, None
            emptied()

    def _take_errors(self) -> list[BaseException]:
        errors, self._errors = self._errors, []
        return errors

    def _close(self) -> BaseException | None:
        """After a join: what failed, as one error. Its scope has done its work; code that handles the error goes on."""
        errors = self._take_errors()
        if not errors:
            return None
        self._scope._closed = True
        self._raised = grouped(errors)
        return self._raised


@final
class _Join(Operation[None]):
    __slots__ = ("_group",)

    def __init__(self, group: TaskGroup) -> None:
        self._group: Final = group

    def __repr__(self) -> str:
        return f"join of {self._group!r}"

    def waits_for(self) -> Iterable[Task[Any]]:
        return self._group._children

    def begin(self, task: Any) -> None:
        group = self._group
        if group._parent is None or not group._parent._may_join(task):
            task.fail(_not_the_parent(group, task))
        elif not group._children:
            error = group._close()
            if error is None:
                task.resume()
            else:
                task.fail(error)
        else:
            wait: TaskWait = task.block(self, self._let_go)

            def emptied() -> None:
                error = group._close()
                if error is not None:
                    wait.wake(Error(error))
                else:
                    wait.wake_done()

            group._emptied = emptied

    def _outside(self) -> Generator[Any, Any, None]:
        parent = self._group._parent
        if parent is None or not parent._runs():
            raise _not_the_parent(self._group, "a coroutine of the host")
        return super()._outside()

    def _let_go(self, _wait: object) -> bool:
        """The undo: whoever waits owns. The children's end is awaited."""
        if cancelled_by(self._group._scope) is None:  # else it was around the children too, and they know
            for child in tuple(self._group._children):
                child.cancel("the join of its task group was cancelled")
        return False


def _not_the_parent(group: TaskGroup, who: object) -> RuntimeError:
    return RuntimeError(f"{group!r} is joined by {who}: only the task that opened a group can join it")


@final
class _Outlast(Operation[None]):
    """Wait for the end of the children, who are cancelled already, without hearing of their errors."""

    __slots__ = ("_group",)

    def __init__(self, group: TaskGroup) -> None:
        self._group: Final = group

    def begin(self, task: Any) -> None:
        if self._group._children:
            wait = _outlast(task, [self._group])

            def emptied() -> None:
                wait.wake_done()

            self._group._emptied = emptied
        else:
            task.resume()


@final
class _Remains:
    """What a task waits for that left these groups with children running."""

    __slots__ = ("_groups",)

    def __init__(self, groups: list[TaskGroup]) -> None:
        self._groups: Final = groups

    def __repr__(self) -> str:
        return f"the end of {', '.join(map(repr, self._groups))}"

    def waits_for(self) -> Iterable[Task[Any]]:
        return [child for group in self._groups for child in group._children]


def _await_children(_: object) -> bool:
    """The undo: nothing cancels this wait. The children are cancelled already, and their end is awaited."""
    return False


def _outlast(task: Any, groups: list[TaskGroup]) -> TaskWait:
    """Make `task` wait for the children of `groups`. This cannot be refused: where it closes a circle, the other is."""
    remains = _Remains(groups)
    while circle := cycle(task, remains):
        *before, waiter, last = circle
        refuse(waiter, deadlock([last, *before, waiter]))
    wait: TaskWait = task.block(remains, _await_children)
    return wait


def settle_debts(task: Task[Any], then: Callable[[list[BaseException]], None]) -> None:
    """Let `task` wait for the children of the groups that it left; then go on by `then(their errors)`.

    Nothing cancels this wait: the children are cancelled already, and their end is awaited whatever comes.
    """
    rare = task._rarely()
    groups: list[TaskGroup] = rare.debts or []

    def settle() -> None:
        if any(group._children for group in groups):
            return
        rare.debts = None
        task._wait = None
        errors = [error for group in groups for error in group._take_errors()]
        task.kernel.in_turn(lambda: then(errors))

    running = [group for group in groups if group._children]
    if running:
        _outlast(task, running)
        for group in running:
            group._emptied = settle
    else:
        settle()


def grouped(errors: list[BaseException]) -> BaseExceptionGroup[BaseException]:
    return BaseExceptionGroup(f"{len(errors)} of a task group failed", errors)
