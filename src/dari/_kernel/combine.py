"""Waiting for several things at once: `gather`, `wait`, `as_completed`.

Whatever can be yielded can be given. A task is waited for as it is; anything else gets a small task of its own that
yields it, so that each kind of thing needs no code here. `gather` owns what it waits for, as every wait does; `wait`
and `as_completed` only look at tasks, as asyncio's do, but own the small tasks that they made.
"""

from __future__ import annotations

from collections import deque
from enum import Enum
from types import CoroutineType, GeneratorType, MethodType
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast, final

from dari._kernel.contract import Operation
from dari._kernel.joining import check_home
from dari._kernel.numbers import seconds
from dari._kernel.outcome import Error, Value
from dari._kernel.scope import current_member
from dari._kernel.sources import drop
from dari._kernel.task import Task
from dari._kernel.world import world
from dari.exceptions import TaskCancelledError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

    from dari._kernel.task import TaskWait

__all__ = ["ALL_COMPLETED", "FIRST_COMPLETED", "FIRST_EXCEPTION", "ReturnWhen", "as_completed", "gather", "wait"]

T = TypeVar("T")


class ReturnWhen(Enum):
    """When `wait` is satisfied."""

    FIRST_COMPLETED = "FIRST_COMPLETED"
    FIRST_EXCEPTION = "FIRST_EXCEPTION"
    ALL_COMPLETED = "ALL_COMPLETED"


FIRST_COMPLETED: Final = ReturnWhen.FIRST_COMPLETED
FIRST_EXCEPTION: Final = ReturnWhen.FIRST_EXCEPTION
ALL_COMPLETED: Final = ReturnWhen.ALL_COMPLETED


def _yield_it(thing: Any) -> Generator[Any, Any, Any]:
    return (yield thing)


_yield_it.__qualname__ = "one of several"  # so its tasks are called, in dumps and errors


def _hear(task: Task[Any], on_end: Callable[[Task[Any]], object]) -> None:
    """Let `on_end` hear of the task's end; at once, if it has ended."""
    task.kernel.observed(task)
    if task._outcome is not None:
        on_end(task)
        return
    if task._on_end is None:
        task._on_end = []
    task._on_end.append(on_end)


def _unhear(task: Task[Any], on_end: Callable[[Task[Any]], object]) -> None:
    if task._on_end is not None and on_end in task._on_end:
        task._on_end.remove(on_end)


def _task_of(kernel: Any, thing: Any, on_end: Callable[[Task[Any]], object]) -> Task[Any]:
    """The task that is waited for: `thing` itself, or a new one that runs or yields it. `on_end` hears of its end."""
    if isinstance(thing, Task):
        task: Task[Any] = thing  # pyright: ignore[reportUnknownVariableType] - narrowed from Any
        check_home(task, kernel)
        _hear(task, on_end)
        return task
    if isinstance(thing, (GeneratorType, CoroutineType)):
        made: Task[Any] = kernel.create_task(thing, on_end=on_end)
    else:
        made = kernel.create_task(_yield_it, (thing,), on_end=on_end)
        _hear(made, lambda task: drop(thing) if task.started_at is None else None)
    return made


@final
class _Gather(Operation[list[Any]]):
    __slots__ = ("_return_exceptions", "_things")

    def __init__(self, things: tuple[Any, ...], return_exceptions: bool) -> None:
        self._things: Final = things
        self._return_exceptions: Final = return_exceptions

    def __repr__(self) -> str:
        return f"gather of {len(self._things)}"

    def dropped(self) -> None:
        for thing in self._things:
            drop(thing)

    def waits_for(self) -> Iterable[Task[Any]]:
        return [thing for thing in self._things if isinstance(thing, Task)]  # pyright: ignore[reportUnknownVariableType]

    def begin(self, task: Any) -> None:
        if task in self._things:
            task.fail(RuntimeError(f"{task!r} gathers itself: that would never end"))
        elif all(isinstance(thing, Task) and thing.done() for thing in self._things):
            self._give(task)
        else:
            self._wait(task)

    def _wait(self, task: Any) -> None:
        left = len(self._things)
        first_error: Error | None = None
        tasks: list[Task[Any]] = []
        early: list[Task[Any]] = []

        def undo(_: object) -> bool:
            for member in tasks:
                member.kernel.cancel_awaited(member)
            return False

        def ended(member: Task[Any]) -> None:
            nonlocal left, first_error
            left -= 1
            outcome = member._seen_from_outside()
            if isinstance(outcome, Error) and not self._return_exceptions:
                if first_error is None:
                    first_error = outcome
                    for other in tasks:
                        other.cancel("another one that was gathered with it failed")
                elif wait.asked and isinstance(first_error.error, TaskCancelledError):
                    first_error = outcome  # that one ended by our own wish; an error of its own says more
            if left == 0:
                finish()

        def heard(_: TaskWait, member: Task[Any]) -> None:
            if len(tasks) == len(self._things):
                ended(member)
            else:  # it had ended already: whom it may cancel is not known yet
                early.append(member)

        def finish() -> None:
            if first_error is None:
                outcomes = [member._seen_from_outside() for member in tasks]
                wait.wake(Value([o.value if isinstance(o, Value) else o.error for o in outcomes]))
                return
            for thing, member in zip(self._things, tasks, strict=True):
                if isinstance(thing, Operation) and isinstance(member._outcome, Value):
                    thing.take_back(member._outcome.value)  # an item, a lock: nobody will get to know of it
            if isinstance(first_error.error, TaskCancelledError):
                wait.wake_cancelled(first_error.error)
            else:
                wait.wake(first_error)

        wait: TaskWait = task.block(_Gathered(self, tasks), undo)
        hears = MethodType(heard, wait)  # it is the wait that hears: so a search for circles finds the way back
        try:
            for thing in self._things:
                tasks.append(task._context.run(_task_of, task.kernel, thing, hears))  # what is started inherits from it
        except BaseException:
            for member in tasks:
                _unhear(member, hears)
                member.cancel("what it was to be gathered with could not be started")
            raise
        for member in early:
            ended(member)

    def _give(self, task: Any) -> None:
        """All have ended already, or there are none: no wait, so the task steps aside."""
        outcomes: list[Value[Any] | Error] = []
        for member in self._things:
            member.kernel.observed(member)
            outcomes.append(member._seen_from_outside())
        failed = next((outcome for outcome in outcomes if isinstance(outcome, Error)), None)
        if failed is not None and not self._return_exceptions:
            task.fail_with(failed)
        else:
            task.resume([o.value if isinstance(o, Value) else o.error for o in outcomes])


@final
class _Gathered:
    """What a gather that has begun waits for: also for the tasks that it made."""

    __slots__ = ("_gather", "_tasks")

    def __init__(self, gather: _Gather, tasks: list[Task[Any]]) -> None:
        self._gather: Final = gather
        self._tasks: Final = tasks

    def __repr__(self) -> str:
        return repr(self._gather)

    def waits_for(self) -> Iterable[Task[Any]]:
        return self._tasks


def gather(*things: Any, return_exceptions: bool = False) -> Operation[list[Any]]:
    """Wait for all of them, and give their results in order: `a, b = yield dari.gather(fetch(1), fetch(2))`.

    Tasks, generators, coroutines, operations, jobs and futures. The first error cancels the others, waits for their end
    and is raised (asyncio lets them run on); what operations had won goes back (an item to its queue). With
    `return_exceptions` errors are results. Cancelling it cancels all.
    """
    return _Gather(things, return_exceptions)


@final
class _Wait(Operation[tuple[set[Task[Any]], set[Task[Any]]]]):
    __slots__ = ("_tasks", "_timeout", "_when")

    def __init__(self, tasks: tuple[Task[Any], ...], timeout: float | None, when: ReturnWhen) -> None:
        self._tasks: Final = tasks
        self._timeout: Final = timeout
        self._when: Final = when

    def __repr__(self) -> str:
        return f"wait for {self._when.value} of {len(self._tasks)}"

    def waits_for(self) -> Iterable[Task[Any]]:
        certain = self._timeout is None and (self._when is ALL_COMPLETED or len(self._tasks) == 1)
        return self._tasks if certain else ()

    def begin(self, task: Any) -> None:
        if self._satisfied() or self._timeout == 0:
            task.resume(self._sort())
            return
        if task in self._tasks:
            task.fail(RuntimeError(f"{task!r} waits for itself: that would never end"))
            return

        kernel = task.kernel

        def leave(_: object = None) -> bool:
            kernel.clear_deadline(expiry)
            for member in self._tasks:
                _unhear(member, hears)
            return True

        def ended(wait: TaskWait, _: object) -> None:
            if wait.open and self._satisfied():
                leave()
                wait.wake(Value(self._sort()))

        wait: TaskWait = task.block(self, leave)
        hears = MethodType(ended, wait)
        expiry = _WaitExpired(wait, self, leave)
        for member in self._tasks:
            if not member.done():
                check_home(member, task.kernel)
                _hear(member, hears)
        if self._timeout is not None:
            kernel.set_deadline(expiry, kernel.clock() + self._timeout)

    def _satisfied(self) -> bool:
        done = [member for member in self._tasks if member.done()]
        if len(done) == len(self._tasks):
            return True
        if self._when is FIRST_COMPLETED:
            return bool(done)
        return self._when is FIRST_EXCEPTION and any(isinstance(member._seen_from_outside(), Error) for member in done)

    def _sort(self) -> tuple[set[Task[Any]], set[Task[Any]]]:
        done = {member for member in self._tasks if member.done()}
        return done, set(self._tasks) - done


@final
class _WaitExpired:
    __slots__ = ("_leave", "_operation", "_wait", "alarm")

    def __init__(self, wait: TaskWait, operation: _Wait, leave: Callable[[], object]) -> None:
        self._wait = wait
        self._operation = operation
        self._leave = leave
        self.alarm: Any = 0

    def expire(self) -> None:
        if self._wait.open:
            self._leave()
            self._wait.wake(Value(self._operation._sort()))


def wait(
    tasks: Iterable[Task[T]], *, timeout: float | None = None, return_when: ReturnWhen | str = ALL_COMPLETED
) -> Operation[tuple[set[Task[T]], set[Task[T]]]]:
    """Look at tasks until `return_when` holds, or `timeout` seconds have passed; gives `(done, pending)`.

    Nothing is raised and nothing is cancelled, whatever becomes of the tasks or of the waiter.
    """
    members = tuple(dict.fromkeys(tasks))
    for member in members:
        if not isinstance(cast("object", member), Task):
            raise TypeError(f"wait takes tasks, not {member!r}: make one by dari.create_task")
    if not members:
        raise ValueError("wait needs at least one task")
    if timeout is not None:
        seconds("a timeout", timeout)
    return _Wait(members, timeout, ReturnWhen(return_when))


@final
class _Next(Operation[Any]):
    """Takes the next of `ended`, where tasks are put as they end."""

    __slots__ = ("_completed",)

    def __init__(self, completed: _Completed) -> None:
        self._completed: Final = completed

    def __repr__(self) -> str:
        return "next of as_completed"

    def begin(self, task: Any) -> None:
        ended = self._completed.ended
        if ended:
            outcome = ended.popleft()._seen_from_outside()
            if isinstance(outcome, Error):
                task.fail_with(outcome)
            else:
                task.resume(outcome.value)
            return

        def undo(wait: TaskWait) -> bool:
            self._completed.waits.remove(wait)
            return True

        self._completed.waits.append(task.block(self, undo))


@final
class _Completed:
    __slots__ = ("ended", "waits")

    def __init__(self) -> None:
        self.ended: deque[Task[Any]] = deque()
        self.waits: deque[TaskWait] = deque()

    def add(self, task: Task[Any]) -> None:
        if self.waits:
            self.waits.popleft().wake(task._seen_from_outside())
        else:
            self.ended.append(task)


def as_completed(things: Iterable[Any]) -> Iterator[Any]:
    """`for next_one in dari.as_completed(tasks): result = yield next_one`: results in the order in which they come.

    Each gives the result, or raises the error, of the next one that ends. Takes what `gather` takes, and starts it
    at once; what has not ended when nobody asks any more runs on.

    In a plain thread it takes the jobs of pools, and gives those, in the order in which they end: `job.result()`.
    """
    things = tuple(things)
    if world.kernel is None and world.ended_jobs is not None:
        jobs: Iterator[Any] | None = world.ended_jobs(things)
        if jobs is not None:
            return jobs
    task = current_member("as_completed")
    if task in things:
        raise RuntimeError(f"{task!r} waits for itself: that would never end")
    completed = _Completed()
    members = [_task_of(task.kernel, thing, completed.add) for thing in things]
    return iter([_Next(completed) for _ in members])
