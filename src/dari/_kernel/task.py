"""A task: a generator (or coroutine) that the kernel steps, and what there is to know about it.

**State is derived, never stored**: a task that has an outcome has ended; the kernel's `current` one is running; one
with a `_wait` waits; any other stands in exactly one lane. Two fields decide what happens next:

`_wait`     the one wait it is in. A `TaskWait` is made for each wait, and *is* its id: a wake through any other
            one than the task's present `_wait` is late, and is dropped. That one comparison kills double wakes, lost
            cancels and stale timers.
`_pending`  what it is resumed with: None (plain `next`), a `Value`, an `Error`, or a *mark*. While the task runs, the
            mark says what its next `yield` meets: `CANCEL` (a cancelled scope is around it) or `HELD` (it left a task
            group whose children still run). Entering and leaving scopes recomputes it, so the stepping loop
            needs no test of its own for cancellation.

Long: what users ask of a task, and what the kernel, operations and scopes ask of it, are two sides of the same fields.

Fields that few tasks use live in one `_Rare`, made on demand: there may be a million tasks.
"""

from __future__ import annotations

from contextvars import Context, copy_context
from enum import Enum
from itertools import count
from typing import TYPE_CHECKING, Any, Final, TypeVar, final
from weakref import ref

from dari._kernel.contract import UNCHANGED, Operation
from dari._kernel.joining import join
from dari._kernel.outcome import Error, Outcome, Steppable, Value
from dari._kernel.scope import CancelScope, cancelled_by
from dari._kernel.world import world
from dari.exceptions import Cancelled, TaskCancelledError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from dari._kernel.lanes import Lane
    from dari._kernel.sites import Site

__all__ = ["CANCEL", "HELD", "Mark", "Task", "TaskState", "TaskWait"]

T_co = TypeVar("T_co", covariant=True)

_ids = count(1)


class TaskState(Enum):
    READY = "ready"
    RUNNING = "running"
    WAITING = "waiting"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


@final
class Mark(Enum):
    """What a `yield` meets instead of being done.

    `FIRST`: the task has not been stepped yet. `GIVEN`: nor has it, and others may have its generator.
    """

    CANCEL = "cancel"
    HELD = "held"
    FIRST = "first"
    GIVEN = "given"


CANCEL: Final = Mark.CANCEL
HELD: Final = Mark.HELD
FIRST: Final = Mark.FIRST
GIVEN: Final = Mark.GIVEN


@final
class TaskWait:
    """One wait of one task, and its own id: see the head of this module."""

    __slots__ = ("_undo", "alarm", "asked", "task", "what")

    def __init__(self, task: Task[Any], what: object, undo: Callable[[Any], bool]) -> None:
        self.task = task
        self.what = what
        self.alarm: Any = 0
        self.asked = False  # it was cancelled, and its end is awaited
        self._undo = undo

    @property
    def open(self) -> bool:
        return self.task._wait is self

    @property
    def priority(self) -> int:
        return self.task.priority

    @property
    def _waiter(self) -> Task[Any]:
        return self.task

    def wake(self, outcome: Outcome[Any] | Mark | None = None) -> bool:
        """Let the task go on with `outcome` (None: the value None). False: too late, it was woken already."""
        task = self.task
        if task._wait is not self:
            return False
        task._wait = None
        if self.alarm:
            task.kernel.clear_deadline(self)
        task._pending = outcome
        task.kernel.ready(task)
        return True

    expire = wake  # its deadline has come: that is all

    def wake_cancelled(self, error: BaseException) -> bool:
        """What the task waited for was cancelled: by its own wish (then it is cancelled, too); else it gets `error`."""
        return self.wake(CANCEL if self.asked else Error(error))

    def ended(self, target: Task[Any]) -> None:
        """The one task that it is for has ended, and how that ended is what the waiter gets."""
        if target.cancelled():
            self.wake_cancelled(target._cancelled_error())
        else:
            self.wake(target._outcome)

    def wake_done(self) -> bool:
        """What the task waited for is over and has nothing to give. If it was cancelled meanwhile, that it gets."""
        return self.wake(CANCEL if self.asked else None)

    def cancel(self) -> None:
        """A scope around the task was cancelled."""
        if not self.asked:
            self.asked = True
            if self._undo(self):
                self.wake(CANCEL)


class _Rare:
    __slots__ = ("callbacks", "created_by", "debts", "held", "name", "patient", "root", "swallowed")

    def __init__(self) -> None:
        self.name: str | None = None
        self.root: CancelScope | None = None  # what `Task.cancel` cancels
        self.debts: list[Any] | None = None  # groups that were left with children running
        self.held: list[Any] | None = None  # what it has entered, and leaves when its code has ended: see `resources`
        self.callbacks: list[tuple[Callable[[Any], object], Context]] | None = None
        self.created_by: tuple[Site, ...] = ()  # in debug mode, innermost first
        self.patient = False  # it has waited for its next `Cancelled`
        self.swallowed = 0  # how often `Cancelled` was thrown in since no scope around it was cancelled


@final
class Task(Operation[T_co]):
    """A generator or coroutine at work. Made by `create_task`; `yield task` or `await task` waits for its result.

    Who waits, owns: cancelling the one that waits cancels the task too, and waits for its real end.
    `dari.shield(task)` only looks.
    """

    may_be_dropped = True

    __slots__ = (
        "__weakref__",
        "_base",
        "_context",
        "_lane",
        "_on_end",
        "_outcome",
        "_parent",
        "_pending",
        "_rare",
        "_scope",
        "_source",
        "_stepped",
        "_steps",
        "_wait",
        "created_at",
        "ended_at",
        "id",
        "kernel",
        "started_at",
    )

    def __init__(
        self,
        kernel: Any,
        source: Any,
        context: Context,
        lane: Lane[Any],
        base: CancelScope | None,
        now: float,
    ) -> None:
        self.id: Final = next(_ids)
        self.kernel = kernel
        self.created_at: Final = now
        self.started_at: float | None = None  # stays None if it is cancelled before its first step
        self.ended_at: float | None = None
        self._source = source  # what the user gave: it has the name, the code and the frame
        self._steps: Steppable | None = source
        self._stepped = 0
        self._context = context
        self._lane = lane
        self._base = self._scope = base
        self._parent: ref[Task[Any]] | None = None if kernel.current is None else ref(kernel.current)
        self._pending: Outcome[Any] | Mark | None = FIRST
        self._wait: TaskWait | None = None
        self._outcome: Outcome[T_co] | None = None
        self._on_end: list[Callable[[Task[Any]], object]] | None = None  # methods of who listens: see `waiting`
        self._rare: _Rare | None = None

    # ---- what there is to know -------------------------------------------------------------------------------

    def __repr__(self) -> str:
        on = ""
        if self._wait is not None:
            what = self._wait.what
            # Not the whole repr of a task: that one may wait for another, and the last one for this.
            on = f" on {what.label if isinstance(what, Task) else repr(what)}"
        return f"<Task {self.id} {self.name!r} {self.state.value}{on}>"

    @property
    def label(self) -> str:
        """Which task it is, in few words."""
        return f"task {self.id} {self.name!r}"

    @property
    def name(self) -> str:
        if self._rare is not None and self._rare.name is not None:
            return self._rare.name
        return getattr(self._source, "__qualname__", type(self._source).__name__)

    @property
    def parent(self) -> Task[Any] | None:
        """The task that created it; None if none did, or if that is gone (the link does not keep it alive)."""
        return None if self._parent is None else self._parent()

    @property
    def state(self) -> TaskState:
        if self._outcome is not None:
            if isinstance(self._outcome, Value):
                return TaskState.COMPLETED
            return TaskState.CANCELLED if isinstance(self._outcome.error, Cancelled) else TaskState.FAILED
        if self.kernel.current is self:
            return TaskState.RUNNING
        return TaskState.READY if self._wait is None else TaskState.WAITING

    @property
    def steps(self) -> int:
        """How often it was resumed, the present step included."""
        self.kernel.count_steps()
        return self._stepped

    @property
    def priority(self) -> int:
        """The lower runs first, as with `nice`. Can be set at any time; what it starts afterwards inherits it."""
        return self._lane.rank >> 1

    @priority.setter
    def priority(self, priority: int) -> None:
        if self._outcome is None:
            self.kernel.set_priority(self, priority)

    def done(self) -> bool:
        """Has it ended, in whatever way?"""
        return self._outcome is not None

    def cancelled(self) -> bool:
        """Has it ended by being cancelled?"""
        return isinstance(self._outcome, Error) and isinstance(self._outcome.error, Cancelled)

    def result(self) -> T_co:
        """What it returned. Raises its own error, or `TaskCancelledError`; never waits (RuntimeError while it runs)."""
        outcome = self._ended()
        try:
            return outcome.unwrap()
        finally:
            del self, outcome  # this frame is in the traceback of the error that they hold

    def exception(self) -> BaseException | None:
        """The error that it ended with, or None. Raises `TaskCancelledError` if it was cancelled; never waits."""
        outcome = self._ended()
        if self.cancelled():
            raise self._cancelled_error()
        return None if isinstance(outcome, Value) else outcome.error

    def _ended(self) -> Outcome[T_co]:
        if self._outcome is None:
            raise RuntimeError(f"{self!r} has not ended: wait for it by `yield task` or `await task`")
        self.kernel.observed(self)
        return self._seen_from_outside()

    def _seen_from_outside(self) -> Outcome[T_co]:
        """Being cancelled is one thing (`Cancelled`), waiting for what was cancelled another (`TaskCancelledError`)."""
        outcome = self._outcome
        assert outcome is not None
        return Error(self._cancelled_error()) if self.cancelled() else outcome

    def _cancelled_error(self) -> TaskCancelledError:
        assert isinstance(self._outcome, Error)
        assert isinstance(self._outcome.error, Cancelled)
        reason = self._outcome.error.reason
        return TaskCancelledError(f"task {self.name!r} was cancelled{'' if reason is None else f': {reason}'}")

    # ---- what may be done to it ------------------------------------------------------------------------------

    def cancel(self, reason: object = None) -> bool:
        """Make its next `yield`, and every one after it, raise `Cancelled`. Gives False if it has ended already.

        It may take its time to clean up: wait for it to know that it is gone. Call it on the scheduler's thread.
        """
        if self._outcome is not None:
            return False
        self._root_scope().cancel(reason)
        return True

    def add_done_callback(self, callback: Callable[[Task[Any]], object], *, context: Context | None = None) -> None:
        """Call `callback(task)` when it ends (at once, if it has), in `context` or a copy of the present one.

        What the callback raises is logged, no more. A failure that no callback looks at (by `exception` or `result`),
        and nobody waits for, is logged as any other.
        """
        if context is None:
            context = copy_context()
        if self._outcome is not None:
            self.kernel.call(context.run, callback, self)
            return
        rare = self._rarely()
        if rare.callbacks is None:
            rare.callbacks = []
        rare.callbacks.append((callback, context))

    def remove_done_callback(self, callback: Callable[[Task[Any]], object]) -> int:
        """Do not call `callback` when it ends. Gives how often it had been added."""
        rare = self._rare
        if rare is None or rare.callbacks is None:
            return 0
        before = len(rare.callbacks)
        rare.callbacks = [added for added in rare.callbacks if added[0] != callback]
        return before - len(rare.callbacks)

    # ---- waiting for it --------------------------------------------------------------------------------------

    def begin(self, task: Any) -> None:
        join(self, task, owns=True)

    def waits_for(self) -> tuple[Task[Any]]:
        return (self,)

    def _outside(self) -> Generator[Any, Any, T_co]:
        bridge: Generator[Any, Any, T_co] = self.kernel.driver.outside(self)
        return bridge

    # ---- the side that the kernel, operations and scopes see -------------------------------------------------

    def resume(self, value: Any = UNCHANGED) -> None:
        if value is not UNCHANGED:
            self._pending = Value(value)
        self.kernel.step_aside(self)

    def fail(self, error: BaseException) -> None:
        self.fail_with(Error(error))

    def fail_with(self, outcome: Error) -> None:
        self._pending = outcome
        self.kernel.step_aside(self)

    def block(self, what: object, undo: Callable[[Any], bool]) -> TaskWait:
        self._wait = wait = TaskWait(self, what, undo)
        return wait

    def _rarely(self) -> _Rare:
        if self._rare is None:
            self._rare = _Rare()
        return self._rare

    def _created_by(self) -> tuple[Site, ...]:
        return () if self._rare is None else self._rare.created_by

    def _root_scope(self) -> CancelScope:
        """The scope around everything the task does: put in below `_base` and above its other scopes, when needed."""
        rare = self._rarely()
        if rare.root is None:
            rare.root = root = CancelScope()
            outermost = self._scope
            if outermost is self._base:
                root._link(self, self._base)
                self._scope = root
            else:
                assert outermost is not None
                while outermost._parent is not self._base:
                    outermost = outermost._parent
                    assert outermost is not None
                if self._base is not None and self._base._children is not None:
                    self._base._children.pop(outermost, None)
                root._link(self, self._base)
                outermost._link(self, root)
        return rare.root

    def _mark(self) -> Mark | None:
        """What the next `yield` of the task meets."""
        if self._rare is not None and self._rare.debts:
            return HELD
        if self._scope is not None and cancelled_by(self._scope) is not None:
            return CANCEL
        return None

    def _remark(self) -> None:
        self._pending = self._mark()

    def _released(self) -> None:
        if self._rare is not None:
            scope = self._scope
            while scope is not None and (scope._closed or not scope.cancel_called):
                scope = scope._parent
            if scope is None:  # a shield does not count: under it the task rests, and will be cancelled again
                self._rare.swallowed = 0

    def _saw_cancelled(self) -> bool:
        """Was `Cancelled` thrown in, and some scope around it cancelled ever since?"""
        return self._rare is not None and self._rare.swallowed > 0

    def _runs(self) -> bool:
        return world.kernel is not None and world.kernel.current is self

    def _may_join(self, task: Task[Any]) -> bool:
        return task is self

    def _is_cancel(self, error: BaseException) -> bool:
        return isinstance(error, Cancelled)

    def _shielded(self, hides: bool) -> None:
        pass  # it is asked upwards, each time (`cancelled_by`)

    def _catches(self, scope: CancelScope, error: BaseException | None) -> bool:
        if not isinstance(error, Cancelled) or error._scope is not scope:
            return False
        outer = cancelled_by(scope._parent)
        if outer is not None:  # outer beats inner: it was cancelled while this one was on its way out
            error._scope, error.reason = outer, outer.reason
            return False
        return True

    def _interrupt(self) -> None:
        if self._outcome is not None or cancelled_by(self._scope) is None:
            return
        if self._wait is not None:
            self._wait.cancel()
        elif self._pending is None or self._pending is FIRST or self._pending is GIVEN:
            # Ready or running. A value or an error that it has won already goes first: the mark comes right after it.
            self._pending = CANCEL

    def _owe(self, group: Any) -> None:
        """The running task left `group` with children running: its next `yield`, or its end, waits for theirs."""
        rare = self._rarely()
        if rare.debts is None:
            rare.debts = []
        rare.debts.append(group)
        self._remark()
