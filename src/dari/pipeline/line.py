"""A line at work: the task that supervises its stages, those who take from it, and the task that it belongs to.

**Whose is it?** A line runs while somebody takes from it, so it belongs to the task that first does. That task is told
the error of a stage when it takes, its cancel is the line's, and it does not end before the line has. No scope can hold
this promise (the line outlives the block in which it was first taken from), and a listener at the task's end comes too
late to wait; so the owner's steps are wrapped for as long as it has lines (`Owner`). A coroutine that another loop
steps is nobody that we know: its line ends when it is used up, when a taker is cancelled, by `aclose`, or when nobody
holds the line any more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, final

from dari._kernel.contract import Operation
from dari._kernel.group import TaskGroup
from dari._kernel.operations import current_task
from dari._kernel.outcome import Error, Value
from dari._kernel.scope import cancelled_by
from dari.exceptions import Cancelled, QueueShutDown, TaskCancelledError
from dari.pipeline.stages import END
from dari.queues import Queue

if TYPE_CHECKING:
    from collections.abc import Callable

    from dari._kernel.contract import Steps
    from dari._kernel.outcome import Outcome
    from dari._kernel.task import Task, TaskWait
    from dari.pipeline.stages import Stage

__all__ = ["Close", "Line", "Next", "Owner", "Taker"]


@final
class Line:
    """A pipeline that has been started: its stages, and who must hear of their end."""

    def __init__(self, stages: list[Stage], buffer: int, task: Task[Any], name: str) -> None:
        self.buffer: Final = buffer
        self.name: Final = name
        self.out: Queue[Any] = Queue(buffer)
        self.owner: Owner | None = None
        self._stages: Final = stages
        self._group: Final = TaskGroup()
        self._untold: BaseException | None = None  # the error of a stage that no taker has seen yet
        self._left = False  # nobody will take any more
        self._hearing: list[Callable[[], object]] = []
        self.kernel: Final = task.kernel
        self.supervisor: Final[Task[None]] = task._context.run(
            self.kernel.create_task, self._supervise(), (), None, name, None, self._ended
        )

    # What `settle_debts` asks: the line is a debt of its owner, which does not end before it.
    _emptied: Callable[[], None] | None = None

    @property
    def _waiter(self) -> Task[Any] | None:
        return None if self.owner is None else self.owner.task

    @property
    def _children(self) -> tuple[Task[None], ...]:
        return () if self.supervisor.done() else (self.supervisor,)

    def _take_errors(self) -> list[BaseException]:
        return []

    def start_task(self, steps: Steps[None], name: str) -> None:
        self._group.create_task(self._guarded(steps), name=name)

    def _guarded(self, steps: Steps[None]) -> Steps[None]:
        """A stage that is cancelled alone would be missed by nobody, and its items with it."""
        try:
            yield from steps
        except Cancelled as error:
            if cancelled_by(self._group._scope) is None:
                raise TaskCancelledError(f"{current_task().name!r} of {self.name} was cancelled by itself") from error
            raise

    def _supervise(self) -> Steps[None]:
        failed: BaseExceptionGroup[BaseException] | None = None
        try:
            with self._group:
                inbox = self.out
                for number, stage in enumerate(self._stages, 1):
                    outbox = self.out if number == len(self._stages) else Queue[Any](self.buffer)
                    stage(self, inbox, outbox)
                    inbox = outbox
                yield self._group.join()
        except BaseExceptionGroup as error:
            failed = error
        if failed is not None:
            first, *others = failed.exceptions
            try:
                if not isinstance(first, Exception):  # KeyboardInterrupt: it has come out already, and shall not again
                    raise failed
                for other in others:
                    self.kernel.driver.report(f"while {self.name} closed, another stage of it failed", other)
                raise first
            finally:
                del failed, first, others  # this frame is in the traceback of the error that they hold

    def _ended(self, supervisor: Task[None]) -> None:
        self.out.shutdown()
        outcome = supervisor._outcome
        if isinstance(outcome, Error) and not supervisor.cancelled():
            self._untold = outcome.error
        hearing, self._hearing = self._hearing, []
        for hear in hearing:
            hear()
        if self._left:
            self._report()
        if self.owner is not None and self._untold is None:
            self.owner.let_go(self)
        if self._emptied is not None:
            self._emptied()

    def outcome(self) -> Outcome[None]:
        """How it ended. Whoever asks has been told."""
        self._untold = None
        if self.owner is not None:
            self.owner.let_go(self)
        return self.supervisor._ended()

    def when_ended(self, hear: Callable[[], object]) -> None:
        if self.supervisor.done():
            hear()
        else:
            self._hearing.append(hear)

    @property
    def over(self) -> bool:
        """Has it ended, and does nobody need to be told how?"""
        return self.supervisor.done() and self._untold is None

    def leave(self, why: str) -> None:
        """Nobody takes from it any more."""
        self._left = True
        if not self.supervisor.cancel(why):
            self._report()

    def _report(self) -> None:
        if self._untold is not None:
            error, self._untold = self._untold, None
            self.kernel.driver.report(f"{self.name} failed, and nobody takes from it any more", error)


@final
class Owner:
    """The steps of a task that has lines: at its end they end, and it waits for that."""

    __slots__ = ("_lines", "_steps", "task")

    def __init__(self, task: Task[Any]) -> None:
        self.task: Final = task
        self._steps: Final[Any] = task._steps
        self._lines: Final[dict[Line, None]] = {}

    @classmethod
    def of(cls, task: Task[Any]) -> Owner:
        if not isinstance(task._steps, Owner):
            task._steps = cls(task)
        return task._steps

    def own(self, line: Line) -> None:
        self._lines[line] = None
        line.owner = self

    def let_go(self, line: Line) -> None:
        self._lines.pop(line, None)
        if not self._lines and self.task._steps is self:
            self.task._steps = self._steps

    def __next__(self) -> Any:
        try:
            return next(self._steps)
        except BaseException:
            self._ended()
            raise

    def send(self, value: Any, /) -> Any:
        try:
            return self._steps.send(value)
        except BaseException:
            self._ended()
            raise

    def throw(self, error: BaseException, /) -> Any:
        try:
            return self._steps.throw(error)
        except BaseException:
            self._ended()
            raise
        finally:
            del error

    def close(self) -> None:
        self._steps.close()

    def _ended(self) -> None:
        for line in tuple(self._lines):
            line.leave("the task that took from it has ended")
            if not line.supervisor.done():
                self.task._owe(line)


@final
class Taker:
    """A task that takes from a line. To the line's last queue it looks like any task that waits for an item.

    When the queue is shut down it goes on waiting, for the real end of the line, which tells it how that ended.
    Cancelled, it cancels the line, and waits for the same.
    """

    __slots__ = ("_leave", "_line", "_over", "_task", "_wait", "_what")

    def __init__(self, what: object, line: Line, task: Task[Any], over: Outcome[Any]) -> None:
        self._what: Final = what
        self._line: Final = line
        self._task: Final = task
        self._over: Final = over
        self._leave: Callable[[Any], bool] | None = None
        self._wait: TaskWait | None = None

    def begin(self) -> None:
        try:
            self._line.out.get().begin(self)
        except QueueShutDown as error:
            self.fail(error)

    # ---- a task, as the queue sees it ----------------------------------------------------------------------------

    @property
    def priority(self) -> int:
        return self._task.priority

    def resume(self, item: Any) -> None:
        self._task.resume(item)

    def fail(self, _: BaseException) -> None:
        """The queue is shut down, and empty."""
        self._wait = self._task.block(self._what, self._cancel)
        self._line.when_ended(self._ended)

    def block(self, _: object, leave: Callable[[Any], bool]) -> Taker:
        self._leave = leave
        self._wait = self._task.block(self._what, self._cancel)
        return self

    # ---- its wait, as the queue sees it --------------------------------------------------------------------------

    def wake(self, outcome: Outcome[Any]) -> bool:
        wait = self._wait
        assert wait is not None
        self._leave = None
        if isinstance(outcome, Value):
            self._wait = None  # the wait holds us as its undo: a circle would keep the line from being dropped
            return wait.wake(outcome)
        self._line.when_ended(self._ended)
        return True

    def _cancel(self, _: object) -> bool:
        leave, self._leave = self._leave, None
        self._line.kernel.cancel_awaited(self._line.supervisor)
        if leave is not None:
            leave(self)
            self._line.when_ended(self._ended)
        return False

    def _ended(self) -> None:
        wait, outcome = self._wait, self._line.outcome()
        assert wait is not None
        self._wait = None
        if isinstance(outcome, Value):
            wait.wake_done() if wait.asked else wait.wake(self._over)
        elif self._line.supervisor.cancelled():
            wait.wake_cancelled(outcome.error)
        else:
            wait.wake(outcome)


@final
class Next(Operation[Any]):
    """Take from `line` inside of dari: an item, or `END`."""

    __slots__ = ("_line",)

    def __init__(self, line: Line) -> None:
        self._line: Final = line

    def __repr__(self) -> str:
        return f"get from {self._line.name}"

    def begin(self, task: Any) -> None:
        Taker(self, self._line, task, Value(END)).begin()


def _await_it(_wait: object) -> bool:
    """The undo of a wait for the end of a line that is closing: its end is awaited."""
    return False


@final
class Close(Operation[None]):
    """End `line`, and wait for its real end."""

    __slots__ = ("_line",)

    def __init__(self, line: Line) -> None:
        self._line: Final = line

    def __repr__(self) -> str:
        return f"close of {self._line.name}"

    def begin(self, task: Any) -> None:
        line = self._line
        line.supervisor.cancel("it was closed")
        wait: TaskWait = task.block(self, _await_it)

        def ended() -> None:
            untold = not line.over
            outcome = line.outcome()
            if untold and isinstance(outcome, Error):
                wait.wake(outcome)
            else:
                wait.wake_done()

        line.when_ended(ended)
