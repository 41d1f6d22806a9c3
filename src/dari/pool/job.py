"""A job: a blocking call that somebody else makes, and what there is to know about it.

**Small and quick to make.** There may be a hundred thousand of them. A `concurrent.futures.Future` costs 2.4 µs and
1.8 kB, most of it for a Condition that few ever wait on (facts/pool.md c). A job has no lock of its own (the pool's
guards it), no Event: a thread that waits brings a bare lock along and leaves its `release` to be called. Fields that
are rarely used live in one `Rare`, made on demand; the times of what has not happened yet are simply not set.

**Who waits stands in one field.** `_waiters` is None (nobody), one call, a list of calls, or `ENDED`, which therefore
doubles as the mark that everything else is settled: it is written last, so whoever sees it without the lock may read
the rest. Waiters are called after the pool's lock is released, and must not block. Callbacks of users may do
anything, so they stand apart: a worker makes them before it takes another job, which could be the one they wait for.

Long: a job, its waiters, and how it is run by whoever claims it touch the same few fields, under the same lock.

**Where am I?** Which job runs here is a slot of the thread (`here`), not a contextvar: those travel to other threads.
"""

from __future__ import annotations

from _thread import _local, allocate_lock
from contextvars import Context
from enum import Enum
from functools import partial
from threading import TIMEOUT_MAX
from time import monotonic
from types import BuiltinMethodType
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar, final

from dari._kernel.outcome import Error, Value
from dari.drivers.blocking import refuse_to_block
from dari.drivers.wakeup import Remote
from dari.exceptions import Cancelled, JobCancelled, JobTimeout
from dari.pool.calls import open_gate
from dari.pool.hooks import Callback, call_hook
from dari.pool.retry import Attempts

if TYPE_CHECKING:
    from _thread import LockType
    from collections.abc import Callable

    from dari._kernel.outcome import Outcome
    from dari.pool.clock import Alarm
    from dari.pool.hooks import Hooks
    from dari.pool.plan import Plan
    from dari.pool.stats import Tally

__all__ = [
    "ENDED",
    "Job",
    "JobState",
    "Listener",
    "Seat",
    "Waiters",
    "current_job",
    "here",
    "name_of",
    "run",
]

T_co = TypeVar("T_co", covariant=True)

ENDED: Final[tuple[()]] = ()


class JobState(Enum):
    """SCHEDULED → QUEUED → RUNNING → COMPLETED, FAILED, CANCELLED or TIMED_OUT; the last two may come without a run."""

    SCHEDULED = "scheduled"
    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed out"


SCHEDULED: Final = JobState.SCHEDULED
QUEUED: Final = JobState.QUEUED
RUNNING: Final = JobState.RUNNING
COMPLETED: Final = JobState.COMPLETED
FAILED: Final = JobState.FAILED
CANCELLED: Final = JobState.CANCELLED
TIMED_OUT: Final = JobState.TIMED_OUT


class Keeper(Protocol):
    """The pool, as its jobs see it."""

    lock: LockType

    hooks: Hooks | None

    def cancel(self, job: Job[Any], /, *, abandon: bool = False) -> bool:
        """End it if nobody has begun with it; else leave a request, or abandon it. Is it cancelled now?"""
        ...

    def help(self, job: Job[Any], /) -> bool:
        """In one of the pool's workers: run it here and now, if that can be. Is there any use in asking again?"""
        ...

    def call_when_queued(self, job: Job[Any], call: Callable[[], object], /) -> bool:
        """Make `call()` when it could be run later. False: it could now, or has ended."""
        ...

    def forget_when_queued(self, job: Job[Any], call: Callable[[], object], /) -> None: ...


class Rare:
    """What few jobs have."""

    __slots__ = (
        "alarm",
        "aside",
        "attempts",
        "callbacks",
        "cancel_requested",
        "helpers",
        "holds",
        "limit",
        "name",
        "nested",
        "plan",
        "progress",
        "submitted_at",
    )

    def __init__(self, name: str | None = None, plan: Plan | None = None) -> None:
        self.name = name
        self.plan: Final = plan
        self.attempts: Final = None if plan is None or plan.retry is None else Attempts(plan.retry)
        self.limit: Final = None if plan is None else plan.limit
        self.holds = False  # a place of its key
        self.aside = False  # it waits for one
        self.nested = False  # handed in by a worker of its own pool
        self.progress: object = None
        self.submitted_at: float | None = None  # None: when it was queued
        self.alarm: Alarm | None = None  # the only time that its state waits for
        self.helpers: list[Callable[[], object]] = []  # workers that would run it if it were queued
        self.cancel_requested = False
        self.callbacks: list[Callback] = []


class Waiters(list["Callable[[], object]"]):
    """More than one call. (A class of its own, so that it is told from a list that can be called.)"""

    __slots__ = ()


class Listener:
    """A waiter that may call callbacks of users."""

    loud = False
    """Does it? Then it is called as they are: before the worker takes another job. Written under the pool's lock."""

    def __call__(self) -> None:
        """The job has ended."""


class Seat:
    """Where jobs run, one at a time: a worker of some pool."""

    __slots__ = ("below", "completed", "failed", "job", "keeper", "name")

    def __init__(self, keeper: Keeper, name: str) -> None:
        self.keeper: Final = keeper
        self.name: Final = name
        self.job: Job[Any] | None = None
        self.below: list[Job[Any]] = []  # those that wait here, each for the one above
        self.completed = 0  # functions that returned
        self.failed = 0  # functions that raised

    def count(self, state: JobState) -> None:
        """A function has returned, or raised: `state` is what `run` gave."""
        if state is COMPLETED:
            self.completed += 1
        elif state is not CANCELLED:
            self.failed += 1

    def stack(self) -> list[Job[Any]]:
        """The jobs that run here, innermost first."""
        return [] if self.job is None else [self.job, *reversed(self.below)]


class Here(_local):
    """The seat of the thread, None where it is no worker."""

    seat: Seat | None = None


here = Here()


@final
class Job(Remote[T_co]):
    """A call that the pool makes. `job.result()`, `await job` or `yield job` waits for what it returns.

    Who waits, owns: cancelling the task that awaits a job cancels the job, and waits for its real end.
    `result(timeout)` of a thread only looks. Times are seconds of `time.monotonic()`, None until then.
    """

    # No __weakref__: then no code of users runs where the last reference goes, which may be under the pool's lock.
    __slots__ = (
        "_args",
        "_context",
        "_ended_at",
        "_fn",
        "_keeper",
        "_queued_at",
        "_rare",
        "_result",
        "_started_at",
        "_state",
        "_tally",
        "_waiters",
        "id",
    )

    id: int
    _keeper: Keeper
    _tally: Tally
    _fn: Callable[..., Any] | str  # in the end only its name
    _args: tuple[Any, ...] | None
    _context: Context | None
    _state: JobState | None  # None: not let in yet
    _waiters: Callable[[], object] | Waiters | tuple[()] | None
    _rare: Rare | None
    # Unset until they happen:
    _result: Any  # COMPLETED: what it returned; FAILED: an `Error`
    _queued_at: float
    _started_at: float
    _ended_at: float

    def __init__(self) -> None:
        raise TypeError("a Job is made by pool.submit(fn, ...)")

    def __repr__(self) -> str:
        return f"<Job {self.id} {self.name!r} {self.state.value}>"

    @property
    def name(self) -> str:
        """Given by `options(name=...)`, or the name of the function."""
        if self._rare is not None and self._rare.name is not None:
            return self._rare.name
        return self._fn if isinstance(self._fn, str) else name_of(self._fn)

    @property
    def priority(self) -> int:
        """The lower runs first."""
        return self._tally.priority

    @property
    def state(self) -> JobState:
        return self._state or SCHEDULED

    @property
    def attempt(self) -> int:
        """Which run of the job this is, or is to be, from 1."""
        return 1 if self._rare is None or self._rare.attempts is None else self._rare.attempts.number

    @property
    def submitted_at(self) -> float | None:
        if self._rare is not None and self._rare.submitted_at is not None:
            return self._rare.submitted_at
        return getattr(self, "_queued_at", None)

    @property
    def started_at(self) -> float | None:
        return getattr(self, "_started_at", None)

    @property
    def ended_at(self) -> float | None:
        return getattr(self, "_ended_at", None)

    def done(self) -> bool:
        """Has it ended, in whatever way?"""
        return self._waiters is ENDED

    def running(self) -> bool:
        return self._state is RUNNING

    def cancelled(self) -> bool:
        """Has it ended by being cancelled?"""
        return self._state is CANCELLED

    def result(self, timeout: float | None = None) -> T_co:
        """What it returned; or raises what it raised, `JobCancelled` or `JobTimeout`.

        TimeoutError after `timeout` seconds, which only says that it takes longer.
        In a worker of the same pool a job that is still queued is run here and now, so waiting cannot deadlock. Where
        an event loop or a scheduler runs, nothing waits: BlockingCallError, which names the spelling that does.
        """
        if self._waiters is not ENDED:
            self._wait("result", timeout)
        if self._state is COMPLETED:
            result: T_co = self._result
            return result
        try:
            return self._settled().unwrap()
        finally:
            del self  # the frame is in the error's traceback: without this, error → frame → job → error is a cycle

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """What it raised, or None; `JobCancelled` is raised. Waits as `result` does."""
        if self._waiters is not ENDED:
            self._wait("exception", timeout)
        outcome = self._settled()
        if isinstance(outcome, Value):
            return None
        if self._state is CANCELLED:
            outcome.unwrap()
        return outcome.error

    def cancel(self) -> bool:
        """End it. True: it is cancelled, and what it held is free. False: it has ended otherwise, or it runs.

        A job that runs gets a request, which it may look at (`check_cancelled`) or ignore.
        """
        return self._keeper.cancel(self)

    @property
    def cancel_requested(self) -> bool:
        """Was it asked to end while it ran, by `cancel()` or by its timeout?"""
        return self._rare is not None and self._rare.cancel_requested

    def check_cancelled(self) -> None:
        """Raise `Cancelled` if somebody asked the job to end: let it out, and whoever waits gets `JobCancelled`."""
        if self.cancel_requested:
            raise Cancelled(f"{self!r} was asked to end")

    @property
    def progress(self) -> object:
        """What the job told last by `report`; None before."""
        return None if self._rare is None else self._rare.progress

    def report(self, progress: object) -> None:
        """Let `job.progress` be this, for whoever looks: a share, a count, a text. `current_job().report(0.5)`."""
        self._rarely().progress = progress

    def add_done_callback(self, callback: Callable[[Job[Any]], object]) -> None:
        """Call `callback(job)` when it has ended, or now if it has: in the loop or scheduler that runs here, if any.

        Else on the thread that ends it. What the callback raises is logged, no more.
        """
        made = Callback(callback)
        with self._keeper.lock:
            ended = self._waiters is ENDED
            if not ended:
                self._rarely().callbacks.append(made)
        if ended:
            made(self)

    def remove_done_callback(self, callback: Callable[[Job[Any]], object]) -> int:
        """Do not call it. Gives how often it had been added."""
        with self._keeper.lock:
            callbacks = [] if self._rare is None else self._rare.callbacks
            stay = [each for each in callbacks if each.callback != callback]
            removed = len(callbacks) - len(stay)
            callbacks[:] = stay
        return removed

    # ---- what `Remote` asks for: waiting from asyncio and from generator tasks ----------------------------------

    def call_when_ended(self, call: Callable[[], object]) -> None:
        with self._keeper.lock:
            waiters = self._waiters
            if waiters is None:
                self._waiters = call
            elif isinstance(waiters, Waiters):
                waiters.append(call)
            elif not isinstance(waiters, tuple):
                self._waiters = Waiters((waiters, call))
        if waiters is ENDED:
            call()

    def forget(self, call: Callable[[], object]) -> None:
        """Who polls by `result(timeout)`, or looks again and again, must not leave a call behind each time."""
        with self._keeper.lock:
            if isinstance(self._waiters, Waiters):
                if call in self._waiters:
                    self._waiters.remove(call)
            elif self._waiters == call:
                self._waiters = None

    def request_end(self) -> object:
        plan = None if self._rare is None else self._rare.plan
        return self._keeper.cancel(self, abandon=plan is not None and plan.abandon_on_cancel)

    def ended(self) -> bool:
        return self._waiters is ENDED

    def outcome(self) -> Outcome[T_co] | None:
        if self._state is COMPLETED:
            return Value(self._result)
        if self._state is CANCELLED:
            return None
        if self._state is TIMED_OUT:  # `_result` belongs to the thread that still runs it
            return Error(self._timeout_error())
        error: Error = self._result
        return error

    def unwrap(self) -> T_co:
        if self._state is COMPLETED:
            result: T_co = self._result
            return result
        return super().unwrap()

    def cancelled_error(self) -> JobCancelled:
        return JobCancelled(f"job {self.id} {self.name!r} was cancelled")

    # ---- inside -------------------------------------------------------------------------------------------------

    def _settled(self) -> Outcome[T_co]:
        outcome = self.outcome()
        return Error(self.cancelled_error()) if outcome is None else outcome

    def _timeout_error(self) -> JobTimeout:
        rare = self._rare
        assert rare is not None
        assert rare.plan is not None
        if self.started_at is None:
            why = f"was not started within its queue_timeout of {rare.plan.queue_timeout} seconds"
        else:
            why = f"took longer than its timeout of {rare.plan.timeout} seconds"
        error = JobTimeout(f"job {self.id} {self.name!r} {why}")
        if rare.attempts is not None:
            rare.attempts.tell_earlier(error)
        return error

    def _wait(self, call: str, timeout: float | None) -> None:
        if timeout is None or timeout > 0:
            refuse_to_block(f"{call}() of {self!r} would have to wait", task="use `yield job`", loop="use `await job`")
            if here.seat is not None and here.seat.keeper is self._keeper:
                self._wait_and_help(None if timeout is None else monotonic() + timeout)
            else:
                self._wait_for_end(allocate_lock(), -1 if timeout is None else min(timeout, TIMEOUT_MAX))
        late = None if self._waiters is ENDED else TimeoutError(f"{self!r} did not end within {timeout} seconds")
        del self  # this frame is behind those of an error of a job that ran here: no cycle with that job
        if late is not None:
            raise late

    def _wait_for_end(self, lock: LockType, timeout: float) -> None:
        lock.acquire()
        self.call_when_ended(lock.release)
        try:
            lock.acquire(True, timeout)
        finally:
            if self._waiters is not ENDED:
                self.forget(lock.release)

    def _wait_and_help(self, deadline: float | None) -> None:
        """A worker waits for a job of its own pool, which is queued, or will be: there may be nobody else to run it."""
        keeper = self._keeper
        try:
            asks_again = keeper.help(self)
            while self._waiters is not ENDED:
                left = -1 if deadline is None else min(deadline - monotonic(), TIMEOUT_MAX)
                if deadline is not None and left <= 0:
                    return
                lock = allocate_lock()
                if not asks_again:
                    self._wait_for_end(lock, left)
                    continue
                lock.acquire()
                wake = partial(open_gate, lock)
                if keeper.call_when_queued(self, wake):
                    self.call_when_ended(wake)
                    try:
                        lock.acquire(True, left)
                    finally:
                        keeper.forget_when_queued(self, wake)
                        self.forget(wake)
                asks_again = keeper.help(self)
        finally:
            del self  # as in `_wait`

    def _rarely(self) -> Rare:
        if self._rare is None:
            self._rare = Rare()
        return self._rare


def current_job() -> Job[Any]:
    """The job that this thread runs now. RuntimeError outside of one."""
    seat = here.seat
    if seat is None or seat.job is None:
        raise RuntimeError("current_job() was called outside of a job: it is for functions that a pool runs")
    return seat.job


def run(job: Job[Any]) -> JobState:
    """Make the job's call, here and now; gives the state that it is to end in. The payload is free afterwards.

    SCHEDULED: it failed, and its policy wants another attempt; the payload stays for that.

    Whatever the call raises fails this job and nothing else: SystemExit and KeyboardInterrupt too.
    """
    fn: Any = job._fn
    args, context = job._args, job._context
    assert args is not None
    assert context is not None
    attempts = None if job._rare is None else job._rare.attempts
    if attempts is not None:
        context = context.copy()  # what one attempt sets is not seen by the next
    hooks = job._keeper.hooks
    if hooks is not None and hooks.on_start is not None:
        context.run(call_hook, "on_start", hooks.on_start, job)  # what it sets there, the function sees
    try:
        job._result = context.run(fn, *args)
        state = COMPLETED
    except Cancelled:
        state = CANCELLED
    except StopIteration as stop:
        # Thrown into a generator or a coroutine, StopIteration means "return" (CPython gh-112182: the waiter hangs).
        error = RuntimeError(f"{job!r} raised StopIteration")
        error.__cause__ = stop.with_traceback(_without_this_frame(stop))
        job._result = Error(error)
        state = FAILED
    except BaseException as error:  # noqa: BLE001 - it belongs to whoever waits for the job
        job._result = Error(error.with_traceback(_without_this_frame(error)))
        state = FAILED
    if state is FAILED and attempts is not None and attempts.failed(job._result.error, monotonic(), fn, args):
        state = SCHEDULED
    else:
        name = getattr(fn, "__qualname__", None)
        job._fn = name if type(name) is str else name_of(fn)
        job._args = job._context = None
    del job, fn, args, context  # the frames in an error's traceback keep this one, by `f_back`: no cycle with the job
    return state


def _without_this_frame(error: BaseException) -> Any:
    """Users see their own frames only, and `run`'s locals are not kept alive by the error."""
    traceback = error.__traceback__
    return None if traceback is None else traceback.tb_next


def name_of(fn: Callable[..., Any]) -> str:
    try:
        name: object = fn.__qualname__
    except AttributeError:
        if not isinstance(fn, partial):
            return type(fn).__name__
        inner = fn.func
        if isinstance(inner, BuiltinMethodType) and isinstance(inner.__self__, Context) and fn.args:
            inner = fn.args[0]  # `asyncio.to_thread(fn)` hands in `partial(context.run, fn)`
        return name_of(inner)
    except Exception:  # noqa: BLE001 - a `__getattr__` of somebody's
        return type(fn).__name__
    return str(name)
