"""The pool's face: `Pool`, and the views of it that `options` gives. It checks arguments and blocks; `desk` decides.

A pool is a view of itself without options, so `pool.submit` and `pool.options(priority=1).submit` are one function. No
keyword of `submit` is reserved: every one is the function's own (CPython PR #29359 tried otherwise). What a job
inherits is taken where it is handed in: the context, copied (CPython gh-78195), and in it the priority of the chain.
"""

from __future__ import annotations

import os
from _thread import allocate_lock
from contextvars import copy_context
from functools import partial
from itertools import count
from operator import index
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, Final, Literal, ParamSpec, Self, TypeVar, final

from dari._kernel.numbers import finite, limit, seconds, whole
from dari._kernel.outcome import Error
from dari._kernel.scope import CancelScope
from dari._kernel.world import chain_priority, set_chain_priority, world
from dari.drivers.blocking import way_out
from dari.exceptions import QueueFull
from dari.pool.closing import Drained, refuse_to_wait, wait_until_idle, wait_until_left
from dari.pool.desk import Desk
from dari.pool.hooks import Hooks
from dari.pool.job import Job, Rare
from dari.pool.mapping import Mapped
from dari.pool.places import Place, Run
from dari.pool.plan import Plan
from dari.pool.process import register
from dari.pool.retry import Retry
from dari.pool.workers import Threads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from concurrent.futures import ThreadPoolExecutor
    from types import TracebackType

    from dari._kernel.contract import Operation
    from dari.pool.stats import PoolStats

__all__ = ["Pool", "View"]

P = ParamSpec("P")
T = TypeVar("T")

UNCHANGED: Final[Any] = object()
"""The default of those options for which None has a meaning."""

_ids = count(1)
_new = object.__new__


class View:
    """A pool, seen through some options. Made by `pool.options(...)`; as cheap as a tuple, so make them freely."""

    __slots__ = ("_desk", "_name", "_on_full", "_plain", "_plan", "_priority")

    def __init__(
        self, desk: Desk, on_full: str, priority: int | None, name: str | None, plan: Plan | None = None
    ) -> None:
        self._desk: Final = desk
        self._on_full: Final = on_full
        self._priority: Final = None if priority is None else index(priority)
        self._name: Final = name
        self._plan: Final = plan
        self._plain: Final = name is None and plan is None

    def options(
        self,
        *,
        priority: int | None = None,
        name: str | None = None,
        delay: float = UNCHANGED,
        queue_timeout: float | None = UNCHANGED,
        timeout: float | None = UNCHANGED,
        retry: Retry | None = UNCHANGED,
        key: str | None = UNCHANGED,
        abandon_on_cancel: bool = UNCHANGED,
    ) -> View:
        """The same pool, for jobs with these options; what is not given stays as it is here.

        `priority`  the lower runs first; without one, a job inherits that of the task or job that hands it in
        `name`      instead of the function's
        `delay`     seconds until it may start; meanwhile it is SCHEDULED, and has its place in the queue
        `queue_timeout`, `timeout`
                    seconds that it may be queued, and may run; then it is TIMED_OUT, who waits gets JobTimeout, and
                    what runs is asked to end and abandoned: its thread counts as a worker until then. None: no limit
        `retry`     a `Retry`, by which it is tried again when it fails; None: it is not
        `key`       one of the pool's `limits`: so many jobs of that key run at a time, others wait; None: no key
        `abandon_on_cancel`
                    who waits for the job and is cancelled does not wait for its end: what runs is abandoned
        """
        plan = self._plan or Plan()
        if delay is not UNCHANGED:
            plan = plan._replace(delay=finite("a delay", delay))
        if queue_timeout is not UNCHANGED:
            plan = plan._replace(queue_timeout=limit("a queue_timeout", queue_timeout))
        if timeout is not UNCHANGED:
            plan = plan._replace(timeout=limit("a timeout", timeout))
        if retry is not UNCHANGED:
            if retry is not None and not isinstance(retry, Retry):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise TypeError(f"retry is a dari.Retry, or None, not {retry!r}")
            plan = plan._replace(retry=retry)
        if key is not UNCHANGED:
            plan = plan._replace(limit=None if key is None else self._desk.limits.of(key))
        if abandon_on_cancel is not UNCHANGED:
            plan = plan._replace(abandon_on_cancel=bool(abandon_on_cancel))
        return View(
            self._desk,
            self._on_full,
            self._priority if priority is None else whole("a priority", priority),
            self._name if name is None else name,
            plan if plan != Plan() else None,
        )

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Job[T]:
        """Let a worker call `fn(*args, **kwargs)`; every keyword is `fn`'s.

        When the queue is full this waits for a place; or raises QueueFull: with `on_full="raise"`, and where a loop or
        a scheduler runs on this thread (`asubmit` waits there). Inside a job of the same pool there is always a place.
        """
        job = self._job(fn, args, kwargs)
        if not self._desk.offer(job):
            self._wait_for_place(job)
        return job

    def asubmit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Operation[Job[T]]:
        """`await` or `yield` it: waits until the queue has a place, and gives the job.

        Who waits is served by priority, then in order. Cancelled, the job was never submitted.
        """
        return Place(self._desk, self._job(fn, args, kwargs))

    def run_sync(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Operation[T]:
        """`await` or `yield` it: waits for a place and for the result.

        Cancelled, it cancels the job, and waits for its real end.
        """
        return Run(self._desk, self._job(fn, args, kwargs))

    def map(
        self, fn: Callable[..., T], *iterables: Iterable[Any], max_in_flight: int | None = None, ordered: bool = True
    ) -> Mapped[T]:
        """`fn` over the items of `iterables`, as `map` does it: for `for`, `async for`, or as a Pipeline's source.

        Begins at once. At most `max_in_flight` (None: two for each worker) are begun and not taken yet; with
        `ordered=False` they come as they end. The first error ends it; closed or dropped early, it cancels what has
        not begun.
        """
        return Mapped(self, fn, iterables, max_in_flight, ordered)

    def as_executor(self) -> ThreadPoolExecutor:
        """The same pool as an executor of `concurrent.futures`; `loop.set_default_executor` takes it.

        Its jobs have this view's options. Shutting it down, it takes no more jobs, and the pool goes on.
        """
        from dari.pool.executor import Face  # loads concurrent.futures

        return Face(self)

    def _job(self, fn: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Job[T]:
        # No `__init__`: a call of Python code costs a tenth of what the whole submit does (benchmarks/pool.py).
        job: Job[T] = _new(Job)  # pyright: ignore[reportUnknownVariableType] - Job[T] would make an alias each time
        context = copy_context()
        priority = self._priority
        if priority is None:
            priority = chain_priority.get()
        else:
            context.run(set_chain_priority, priority)  # what the job starts, inherits it
        job.id = next(_ids)
        job._keeper = desk = self._desk
        job._tally = desk.tallies.get(priority) or desk.tally(priority)
        job._fn = partial(fn, **kwargs) if kwargs else fn
        job._args = args
        job._context = context
        job._state = job._waiters = None
        job._rare = None if self._plain else Rare(self._name, self._plan)
        return job

    def _wait_for_place(self, job: Job[Any]) -> None:
        desk = self._desk
        full = f"the queue of pool {desk.name!r} holds {desk.max_queue} jobs"
        if self._on_full == "raise":
            raise QueueFull(f"{full}, and on_full='raise'")
        way = way_out(task="use `yield pool.asubmit(...)`", loop="use `await pool.asubmit(...)`")
        if way is not None:
            raise QueueFull(f"{full}; to wait for a place here {way}")
        place = Place(desk, job)
        lock = allocate_lock()
        lock.acquire()
        place.call = lock.release
        place.enter()
        try:
            lock.acquire()
        except BaseException:  # Ctrl-C
            place.request_end()
            place.give_back()
            raise
        if isinstance(place.answer, Error):
            place.answer.unwrap()


@final
class Pool(View):
    """Runs blocking calls on threads, by priority, FIFO inside; waited for from everywhere.

    `max_workers`       threads at most; min(32, processors + 4) when None
    `min_workers`       so many do not leave when they are idle
    `idle_timeout`      seconds after which an idle thread leaves; None: never
    `max_queue`         jobs that may wait to run; None: no bound
    `on_full`           what `submit` does then: "wait" for a place, or "raise" QueueFull
    `starvation_limit`  jobs of other priorities that may overtake the first of one; None: strict priorities
    `exit_timeout`      seconds that leaving by an error, and the exit of the process, wait for what runs
    `limits`            jobs that run at a time per key: `Pool(limits={"db": 2})`, `pool.options(key="db").submit(...)`
    `on_start`, `on_retry`, `on_end`
                        called with each job: before each attempt, on its thread and in its context; when one failed
                        and another follows (then with the error, and the seconds until it); when the job has ended, in
                        whatever way, on the thread that ended it. What they raise is logged
    `thread_name_prefix`, `initializer`, `initargs`
                        as in concurrent.futures; an initializer that fails breaks the pool

    `with Pool()` and `async with Pool()` wait at their end for all jobs; left by an error, they cancel what is
    queued, ask what runs to stop, and wait at most `exit_timeout`.
    """

    __slots__ = ("__weakref__", "_crew")

    def __init__(
        self,
        max_workers: int | None = None,
        *,
        min_workers: int = 0,
        idle_timeout: float | None = 10.0,
        max_queue: int | None = 1000,
        on_full: Literal["wait", "raise"] = "wait",
        starvation_limit: int | None = 64,
        limits: Mapping[str, int] | None = None,
        on_start: Callable[[Job[Any]], object] | None = None,
        on_retry: Callable[[Job[Any], BaseException, float], object] | None = None,
        on_end: Callable[[Job[Any]], object] | None = None,
        thread_name_prefix: str = "dari",
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        exit_timeout: float = 5.0,
    ) -> None:
        if max_workers is None:
            max_workers = min(32, (os.cpu_count() or 1) + 4)
        max_workers = whole("max_workers", max_workers, 1, ", or None")
        if whole("min_workers", min_workers, 0) > max_workers:
            raise ValueError(f"min_workers must be between 0 and max_workers ({max_workers}), not {min_workers}")
        if max_queue is not None:
            max_queue = whole("max_queue", max_queue, 1, ", or None for no bound")
        if on_full not in ("wait", "raise"):
            raise ValueError(f"on_full must be 'wait' or 'raise', not {on_full!r}")
        if idle_timeout is not None:
            seconds("idle_timeout", idle_timeout)
        seconds("exit_timeout", exit_timeout)
        hooks = Hooks(on_start, on_retry, on_end)
        for name, call in (("initializer", initializer), *hooks._asdict().items()):
            if call is not None and not callable(call):
                raise TypeError(f"{name} must be callable, not {call!r}")
        places = {key: whole(f"the limit of {key!r}", number, 1) for key, number in (limits or {}).items()}
        desk = Desk(
            thread_name_prefix,
            max_queue,
            starvation_limit,
            exit_timeout,
            places,
            None if hooks == Hooks(None, None, None) else hooks,
        )
        super().__init__(desk, on_full, None, None)
        self._crew = desk.crew = Threads(desk, max_workers, min_workers, idle_timeout, initializer, initargs)
        register(self._crew)

    def __repr__(self) -> str:
        workers, idle = self._crew.count()
        state = "open" if self._desk.open else "closed"
        return f"<Pool {self._desk.name!r} {state}, {workers} workers, {idle} idle, {self._desk.unfinished} jobs>"

    def __del__(self) -> None:
        crew: Threads | None = getattr(self, "_crew", None)  # None: __init__ refused its arguments
        if crew is not None:
            crew.min_workers = 0  # its jobs end, its threads leave

    def resize(self, max_workers: int) -> None:
        """Have so many threads at most from now on. Those that are too many leave after their job; nothing waits."""
        max_workers = whole("max_workers", max_workers, 1)
        if max_workers < self._crew.min_workers:
            least = self._crew.min_workers
            raise ValueError(f"max_workers must be at least min_workers ({least}), not {max_workers}")
        self._desk.resize(max_workers)

    def stats(self) -> PoolStats:
        """What the pool did and does; `print(pool.stats())` shows a table."""
        return self._desk.stats()

    def join(self, timeout: float | None = None) -> bool:
        """Wait until nothing is scheduled, queued or running: True. False: `timeout` seconds went by first."""
        if self._desk.unfinished and (timeout is None or timeout > 0):
            refuse_to_wait(self._desk, "join()")
        return wait_until_idle(self._desk, timeout)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False, timeout: float | None = None) -> bool:
        """Take no more jobs; what is queued runs, or is cancelled with `cancel_futures`.

        `wait`: until all have ended and the threads have left, at most `timeout` seconds; for threads that were
        abandoned at most `exit_timeout`. Gives whether that is so.
        Jobs that run may hand in others meanwhile, for they may need them to end; not with `cancel_futures`.
        """
        desk = self._desk
        desk.close(cancel=cancel_futures, at_once=wait)
        if not wait or (timeout is not None and timeout <= 0):
            return not desk.unfinished
        if desk.unfinished:
            refuse_to_wait(desk, "shutdown()")
        elif way_out(task="", loop="") is not None:
            with desk.lock:
                return not desk.abandoned()  # idle threads leave at once, by themselves
        deadline = None if timeout is None else monotonic() + timeout
        left = timeout
        while True:
            with desk.lock:
                threads = self._crew.threads()
            if not wait_until_idle(desk, left):
                return False
            while (self._crew.starting() or desk.clock.starting()) and (deadline is None or monotonic() < deadline):
                sleep(0.0005)  # another thread is about to start a worker, in vain: it can be joined soon
            with desk.lock:
                threads += self._crew.threads()
                if desk.clock.thread is not None:
                    threads.append(desk.clock.thread)
                abandoned = desk.abandoned()
            if abandoned:
                latest = monotonic() + desk.exit_timeout
                deadline = latest if deadline is None else min(deadline, latest)
            left = None if deadline is None else max(0.0, deadline - monotonic())
            if not wait_until_left(threads, left):
                return False
            if not desk.unfinished and not len(self._crew):  # else callbacks, or abandoned threads, have handed in more
                return True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            try:
                self.shutdown()
                return
            except KeyboardInterrupt:
                self._give_up()
                raise
        self._give_up()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        desk = self._desk
        desk.close(cancel=error is not None, ask=error is not None, at_once=False)
        if not desk.unfinished:
            return
        if error is None:
            await Drained(desk, None, desk.exit_timeout)
        elif world.kernel is None:
            await Drained(desk, desk.exit_timeout, desk.exit_timeout)
        else:
            # In a cancelled scope every wait is cancelled at once; this one is bounded, and must not be.
            with CancelScope(shield=True):
                await Drained(desk, desk.exit_timeout, desk.exit_timeout)

    def _give_up(self) -> None:
        desk = self._desk
        desk.close(cancel=True, ask=True, at_once=False)
        if way_out(task="", loop="") is None:
            wait_until_idle(desk, desk.exit_timeout)
