"""The kernel: one class that steps tasks. It never waits; `advance` is the door, `Need` is the answer.

A driver calls `advance(ready, posted, max_steps)` and does what the answer says. Between two advances the same thread
may create, wake and cancel tasks; the second, small door, `Driver.notify`, then asks for another advance.

**A step** resumes one task by what its `_pending` slot holds, up to its next `yield`. A bare `yield` puts it behind its
peers, and that is all the loop in `_step` does by itself; everything else goes through `_yielded`. An error in what
was yielded is thrown into the task *at that very yield*, so a bad task harms nobody else.

Long: the door, the stepping loop and what a step can lead to read and write one state; parts of it in other files would
have to be read together all the same.
"""

from __future__ import annotations

from contextvars import copy_context
from types import GeneratorType
from typing import TYPE_CHECKING, Any

from dari._kernel.bursts import Bursts
from dari._kernel.contract import FINISHED, MORE, Direction, Driver, Idle, Need
from dari._kernel.deadlines import Deadlines
from dari._kernel.group import grouped, settle_debts
from dari._kernel.leftovers import checked
from dari._kernel.numbers import whole
from dari._kernel.outcome import Error, Outcome, Value, strip_frames
from dari._kernel.penance import PATIENCE, Penance
from dari._kernel.scope import cancelled_by
from dari._kernel.sites import callers, shown
from dari._kernel.sources import check_fresh, check_kind, drop
from dari._kernel.stats import SchedulerStats
from dari._kernel.task import CANCEL, FIRST, GIVEN, HELD, Mark, Task, TaskWait
from dari._kernel.world import chain_priority, set_chain_priority, world
from dari._kernel.yielded import NOTHING, Beginnings
from dari.exceptions import Cancelled, SchedulerFull

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from contextvars import Context

    from dari._kernel.contract import Tracer
    from dari._kernel.deadlines import Alarm
    from dari._kernel.lanes import Lane
    from dari._kernel.outcome import Steppable
    from dari._kernel.scope import CancelScope

__all__ = ["Kernel"]

_KEPT_FAILURES = 64  # DESIGN §3: "the first 64, and a count"


class Kernel:
    __slots__ = (
        "_advancing",
        "_beginnings",
        "_calls",
        "_escaping",
        "_lanes",
        "_looked_at",
        "_moving",
        "cancelled",
        "clock",
        "completed",
        "created",
        "current",
        "deadlines",
        "driver",
        "escape_is_heard",
        "failed",
        "keeps_failures",
        "lifetimes",
        "max_tasks",
        "outside",
        "sites",
        "switches",
        "tasks",
        "tracer",
        "unobserved",
        "unobserved_count",
        "watching",
    )

    def __init__(
        self,
        driver: Driver,
        *,
        starvation_limit: int | None = 64,
        max_tasks: int | None = None,
        seed: int | None = None,
    ) -> None:
        self.driver = driver
        self.clock = driver.clock
        self.max_tasks = max_tasks
        self.tasks: dict[Task[Any], None] = {}  # held strongly until they end; in order of creation
        self.current: Task[Any] | None = None
        self.deadlines = Deadlines()
        self.watching: dict[tuple[int, Direction], TaskWait] = {}
        self.tracer: Tracer | None = None  # set by `tracing.install`
        self.sites = False  # remember where tasks are created: debug mode
        self.outside = 0  # waits that only another thread can end: jobs, futures
        self.created = self.completed = self.failed = self.cancelled = self.switches = 0
        self.lifetimes = 0.0  # seconds, summed over the tasks that have ended
        self.unobserved: dict[Task[Any], None] = {}
        self.unobserved_count = 0
        self.keeps_failures = _KEPT_FAILURES  # none where nobody will raise them
        self._lanes: Bursts[Task[Any]] = Bursts(starvation_limit, seed, self.step_aside, _count_steps)
        self._moving: list[tuple[Task[Any], Lane[Task[Any]]]] = []
        self._looked_at = 0  # the id of the task whose end was looked at last
        self._advancing = False
        self._calls: list[Callable[[], object]] = []
        self._escaping: BaseException | None = None
        self.escape_is_heard = False  # somebody waits for the task whose KeyboardInterrupt or SystemExit came out last
        self._beginnings = Beginnings()

    def attach(self, driver: Driver) -> None:
        """From now on `driver` drives. Both must tell the same time."""
        self.driver = driver
        self.clock = driver.clock

    # ---- the door ---------------------------------------------------------------------------------------------

    def advance(
        self,
        ready: Iterable[tuple[int, Direction]] = (),
        posted: Iterable[Callable[[], object]] = (),
        max_steps: int = 256,
    ) -> Need:
        """Take in what happened, run at most `max_steps` steps, and say what is needed next.

        `ready`: descriptors that became ready. `posted`: what other threads asked to be called here.
        KeyboardInterrupt and SystemExit of a task come out, after the task has ended with them.
        """
        if world.kernel is not None:
            raise RuntimeError(
                "a dari scheduler runs on this thread already: inside it, use `yield from` or create_task"
            )
        world.kernel = self
        self._advancing = True
        try:
            for call in posted:
                self.call(call)
            for key in ready:
                wait = self.watching.pop(key, None)
                if wait is not None:
                    wait.wake()
            if self.deadlines._heap:  # not `len`: such calls in Python are a third of what an idle advance costs
                self.deadlines.expire(self.clock())
            if max_steps > 0:
                self._step(max_steps)
        finally:
            self._advancing = False
            world.kernel = None
        if self._escaping is not None:
            escaping, self._escaping = self._escaping, None
            raise escaping
        if self._lanes._order:
            return MORE
        if not self.tasks:
            return FINISHED
        return Idle(self.deadlines.next() if self.deadlines._heap else None, self.watching)

    def most_urgent(self) -> int | None:
        """The first priority that has a ready task; None: no task is ready."""
        return self._lanes.most_urgent()

    def step_only(self, priority: int) -> None:
        """From the next advance on no task of a lower priority is chosen (unless it is due: see `lanes`)."""
        self._lanes.last_rank = 2 * priority + 1

    def _step(self, left: int) -> None:
        lanes = self._lanes
        while left > 0 and (put_aside := lanes.take(left)) is not None:
            try:
                for task in lanes.burst:
                    self.current = task
                    try:
                        # `next` without a kept bound method is fastest and smallest (benchmarks/switch.py).
                        if task._pending is None:
                            yielded = task._context.run(next, task._steps)  # type: ignore[arg-type] # None only after its end
                        else:
                            yielded = self._resume(task, task._pending)
                    except StopIteration as stop:
                        outcome = _NONE if stop.value is None else Value(stop.value)
                        if task._rare is None:
                            self._finish(task, outcome)
                        else:
                            self._ended(task, outcome)
                    except BaseException as error:  # noqa: BLE001 - it is the task's; who waits gets it
                        self._ended(task, Error(error.with_traceback(strip_frames(error.__traceback__))))
                    else:
                        if yielded is None:
                            put_aside(task)
                        else:
                            self._yielded(task, yielded)
            finally:
                self.current = None
                taken = lanes.finish()
                self.switches += taken
                if self._moving:
                    self._move()
            left -= taken
            if self._escaping is not None:
                break
        lanes.release()
        task = yielded = put_aside = None  # type: ignore[assignment] # see the end of `_resume`

    def count_steps(self) -> None:
        """Bring `Task.steps` up to date."""
        self._lanes.tell()

    def _resume(self, task: Task[Any], pending: Outcome[Any] | Mark) -> Any:
        """Resume a task that is not resumed by a plain `next`."""
        if pending is FIRST or pending is GIVEN:
            if pending is GIVEN:
                check_fresh(task._source)
            task.started_at = self.clock()
            task._pending = None  # no scope around it is cancelled, or it would be CANCEL
            steps: Steppable = task._source
            if type(steps) is not GeneratorType and not hasattr(steps, "__next__"):  # a coroutine
                steps = task._steps = self.driver.steps_of(steps)
            try:
                return task._context.run(next, steps)
            finally:
                del task, steps  # as below
        elif pending is CANCEL:
            rare = task._rarely()
            if rare.swallowed >= PATIENCE and not rare.patient:
                return Penance(rare.swallowed - PATIENCE)
            rare.patient = False
            rare.swallowed += 1
            scope = cancelled_by(task._scope)
            pending = _NONE if scope is None else Error(Cancelled(scope.reason, scope))
        elif pending is HELD:
            self._hold(task, None)
            return NOTHING
        task._pending = task._mark()
        try:
            return task._context.run(pending.into, task._steps)  # type: ignore[arg-type] # None only after its end
        finally:
            del task, pending  # since 3.12 an error that passes through keeps this frame (`f_back`)

    def _yielded(self, task: Task[Any], yielded: Any) -> None:
        pending = task._pending
        if pending is None or yielded is NOTHING or type(yielded) is Penance:
            self._beginnings.begin(task, yielded)
        elif pending is HELD:
            self._hold(task, yielded)
        else:
            self.step_aside(task)  # a cancelled scope is around it: its next step raises
            drop(yielded)

    def _hold(self, task: Task[Any], yielded: Any) -> None:
        """Let the task wait for the children it left behind; then do what it yielded, or raise what they raised."""

        def go_on(errors: list[BaseException]) -> None:
            task._pending = Error(grouped(errors)) if errors else task._mark()
            if task._pending is not None or yielded is None:
                drop(yielded)
                self.ready(task)
            else:
                self._beginnings.begin(task, yielded)

        settle_debts(task, go_on)

    def _ended(self, task: Task[Any], outcome: Outcome[Any]) -> None:
        """The task's code has ended. The task ends when the children that it left behind have."""
        if task._rare is None or not task._rare.debts:
            self._leave(task, outcome)
            return

        def end(errors: list[BaseException]) -> None:
            if not errors:
                self._leave(task, outcome)
            elif isinstance(outcome, Error) and isinstance(outcome.error, (KeyboardInterrupt, SystemExit)):
                self.driver.report(f"children of {task!r} failed", grouped(errors))
                self._leave(task, outcome)
            else:
                own = [outcome.error] if isinstance(outcome, Error) and not isinstance(outcome.error, Cancelled) else []
                self._leave(task, Error(grouped([*own, *errors])))

        settle_debts(task, end)

    def _leave(self, task: Task[Any], outcome: Outcome[Any]) -> None:
        """Its code has ended, and so have its children: leave what it has entered, the last one first."""
        held = None if task._rare is None else task._rare.held
        if held:

            def left(outcome: Outcome[Any]) -> None:
                self.in_turn(lambda: self._leave(task, outcome))

            held.pop().release(outcome, left)
        else:
            self._finish(task, outcome)

    # ---- birth and end of tasks --------------------------------------------------------------------------------

    def create_task(
        self,
        main: Any,
        args: tuple[Any, ...] = (),
        priority: int | None = None,
        name: str | None = None,
        base: CancelScope | None = None,
        on_end: Callable[[Task[Any]], object] | None = None,
    ) -> Task[Any]:
        """A new task, ready to take its first step. `base`: the group's scope that it lives in."""
        if self.max_tasks is not None and len(self.tasks) >= self.max_tasks:
            raise SchedulerFull(
                f"the scheduler holds {len(self.tasks)} tasks, which is its max_tasks: wait for some to end"
            )
        source = main(*args) if callable(main) else main
        if type(source) is not GeneratorType:
            check_kind(main, source)
        if source is main:
            check_fresh(source)
        if args and source is main:
            raise TypeError(f"{main!r} has begun already, so it takes no arguments: {args!r}")
        context = copy_context()
        if priority is None:
            priority = chain_priority.get()
        elif (priority := whole("a priority", priority)) != chain_priority.get():
            context.run(set_chain_priority, priority)
        lane = self._lanes.lane(priority)
        task: Task[Any] = Task(self, source, context, lane, base, self.clock())
        if name is not None:
            task._rarely().name = name
        if self.sites:
            task._rarely().created_by = callers()
        if on_end is not None:
            task._on_end = [on_end]
        if source is main:
            task._pending = GIVEN
        self.tasks[task] = None
        self.created += 1
        if base is not None:
            assert base._members is not None
            base._members[task] = None
            task._interrupt()
        lane.items.append(task)  # not by `ready`: a tracer is told that it was created, not that it was woken
        if not lane._listed:
            self._lanes._list(lane)
        if not self._advancing:
            self.driver.notify()
        return task

    def _finish(self, task: Task[Any], outcome: Outcome[Any]) -> None:
        if task._scope is not None or isinstance(outcome, Error):
            outcome = checked(task, outcome)
        task._outcome = outcome
        task._steps = None
        task._pending = None
        task.ended_at = now = self.clock()
        self.lifetimes += now - task.created_at
        del self.tasks[task]
        if task._base is not None and task._base._members is not None:
            task._base._members.pop(task, None)
        rare = task._rare
        if rare is not None and rare.root is not None:
            rare.root._unlink()
        listeners, task._on_end = task._on_end, None
        callbacks = None if rare is None else rare.callbacks
        if isinstance(outcome, Value):
            self.completed += 1
        elif callbacks is None:
            self._failed(task, outcome.error, bool(listeners))
        if listeners is not None:
            for listener in listeners:
                listener(task)
        if callbacks is not None:
            self._call_back(task, callbacks, bool(listeners))

    def _call_back(self, task: Task[Any], callbacks: list[tuple[Callable[..., object], Context]], heard: bool) -> None:
        """Call those who asked to be told of its end. A failure that none of them looks at is nobody's yet."""
        self._looked_at = 0
        task._rarely().callbacks = None
        for callback, context in callbacks:
            self.call(context.run, callback, task)
        if isinstance(task._outcome, Error):
            self._failed(task, task._outcome.error, heard or self._looked_at == task.id)

    def _failed(self, task: Task[Any], error: BaseException, observed: bool) -> None:
        """Count how a task ended that did not end well; tell of it, if nobody else will."""
        if isinstance(error, Cancelled):
            self.cancelled += 1
            return
        self.failed += 1
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            self._escaping = error
            self.escape_is_heard = observed
            self._lanes.cut()
        elif not observed:
            self.unobserved_count += 1
            if len(self.unobserved) < self.keeps_failures:
                self.unobserved[task] = None
            created = "".join(f"\n    created at {shown(site)}" for site in task._created_by())
            self.driver.report(f"{task!r} failed, and nobody waits for it{created}", error)

    # ---- what operations, scopes and the outside may ask --------------------------------------------------------

    def ready(self, task: Task[Any]) -> None:
        """The task can go on: put it into its lane, behind those that were woken before it."""
        lane = task._lane
        lane.items.append(task)
        if not lane._listed:
            self._lanes._list(lane)
        if not self._advancing:
            self.driver.notify()

    def step_aside(self, task: Task[Any]) -> None:
        """The task can go on, but did not have to wait: put it behind everyone who is ready at its priority."""
        lane = task._lane.aside
        assert lane is not None
        lane.items.append(task)
        if not lane._listed:
            self._lanes._list(lane)
        if not self._advancing:
            self.driver.notify()

    def set_priority(self, task: Task[Any], priority: int) -> None:
        """From now on, also if it is ready; it then stands behind those who are ready there."""
        priority = whole("a priority", priority)
        if task is self.current:
            set_chain_priority(priority)
        else:
            task._context.run(set_chain_priority, priority)
        old, task._lane = task._lane, self._lanes.lane(priority)
        if task._wait is None:
            self._moving.append((task, old))
            if self._advancing:
                self._lanes.cut()  # moved when the present step is over
            else:
                self._move()

    def _move(self) -> None:
        for task, old in self._moving:
            if task._lane is not old:
                self._lanes.move(task, old, task._lane)
        self._moving.clear()

    def set_deadline(self, alarm: Alarm, when: float) -> None:
        self.deadlines.set(alarm, when)
        if not self._advancing:
            self.driver.notify()

    def clear_deadline(self, alarm: Alarm) -> None:
        self.deadlines.clear(alarm)

    def observed(self, task: Task[Any]) -> None:
        """Somebody has seen how the task ended."""
        self._looked_at = task.id
        if self.unobserved and task in self.unobserved:
            del self.unobserved[task]
            self.unobserved_count -= 1

    def call(self, function: Callable[..., object], *args: Any) -> None:
        """Call what an outsider gave; an error in it harms nobody here."""
        try:
            function(*args)
        except Exception as error:  # noqa: BLE001 - reported, and the kernel goes on
            self.driver.report(f"{function!r}, called by the scheduler, failed", error)

    def cancel_awaited(self, task: Task[Any]) -> None:
        """Cancel a task whose waiter was cancelled. (It may wait for a third one.)"""
        self.in_turn(lambda: task.cancel("the task that waited for it was cancelled"))

    def in_turn(self, call: Callable[[], object]) -> None:
        """Call it now; but if it is such a call that asks for this one, after that: long chains must not recurse."""
        self._calls.append(call)
        if len(self._calls) == 1:
            try:
                for asked in self._calls:  # grows meanwhile
                    asked()
            finally:
                self._calls.clear()

    def cancel(self, reason: object = None) -> None:
        """Cancel every task."""
        for task in tuple(self.tasks):
            task.cancel(reason)

    def stats(self, uptime: float) -> SchedulerStats:
        priorities: dict[int, int] = {}
        waiting = 0
        for task in self.tasks:
            priorities[task.priority] = priorities.get(task.priority, 0) + 1
            waiting += task._wait is not None
        ended = self.completed + self.failed + self.cancelled
        return SchedulerStats(
            created=self.created,
            completed=self.completed,
            failed=self.failed,
            cancelled=self.cancelled,
            switches=self.switches + self._lanes.taken(),
            ready=len(self.tasks) - waiting,
            waiting=waiting,
            uptime=uptime,
            mean_time=self.lifetimes / ended if ended else 0.0,
            priorities=priorities,
        )


_NONE: Value[None] = Value(None)


def _count_steps(tasks: list[Task[Any]], period: int) -> None:
    """Count steps from the record of who had a turn: cheaper than counting each on the way.

    (15 ns a step of 105: benchmarks/switch.py.)
    """
    if 0 < 2 * period < len(tasks) and tasks[period:] == tasks[:-period]:  # the same ones, round and round
        rounds, more = divmod(len(tasks), period)
        for task in tasks[:period]:
            task._stepped += rounds
        tasks = tasks[:more]
    for task in tasks:
        task._stepped += 1
