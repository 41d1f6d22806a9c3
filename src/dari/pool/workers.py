"""The threads that run jobs: they start when there is work and nobody idle, and leave when they were idle for long.

**Daemon threads.** The interpreter joins all others at exit, so one stuck job would keep the process for ever (CPython
gh-80961). `process` bounds the exit instead.

**Parked one by one.** Each idle worker waits on a lock of its own (its `gate`), and whoever hands a job in opens one
gate: the last that parked, so that the others get old and leave. On a shared condition every wake costs a queue of
waiters and a second acquire (facts/pool.md c: 230 k jobs/s against 68 k). The lists are right before anyone is told:
a worker stands in `_idle` before the waiters of its last job hear that it ended, so a submit that follows finds it.

**No wake is lost.** Looking for a job and parking happen in one section; so a job is either seen by the worker, or
handed in after it parked, and then its gate is opened. A worker whose time ran out looks again under the lock whether
it still stands in `_idle`: if not, somebody just opened its gate (trio #6). One opened for nothing only makes it look.
"""

from __future__ import annotations

from _thread import allocate_lock
from functools import partial
from itertools import count
from threading import TIMEOUT_MAX, Thread, current_thread
from typing import TYPE_CHECKING, Any, Final, final

from dari._kernel.outcome import Error
from dari.exceptions import WorkerLost
from dari.pool.calls import make, open_gate, spawn
from dari.pool.desk import Desk
from dari.pool.job import COMPLETED, FAILED, Job, JobState, Seat, here, run
from dari.pool.sections import take_turn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Threads", "Worker"]


@final
class Threads:
    """The engine of threads; a `Crew` for its desk, whose lock guards it."""

    def __init__(
        self,
        desk: Desk,
        max_workers: int,
        min_workers: int,
        idle_timeout: float | None,
        initializer: Callable[..., object] | None,
        initargs: tuple[Any, ...],
    ) -> None:
        self.desk = desk
        self.max_workers = max_workers
        self.shrinking = False  # there may be more
        self._extra = 0  # workers over `max_workers`: those that are `only_nested`
        self.min_workers = min_workers
        self.patience = -1 if idle_timeout is None else min(idle_timeout, TIMEOUT_MAX)
        self._initializer = initializer
        self._initargs = initargs
        self._names = count()
        self._seats: dict[Worker, None] = {}  # in the order of their start
        self._idle: list[Worker] = []
        self._leaving: list[Thread] = []

    def __len__(self) -> int:
        return len(self._seats)

    # ---- what a `Crew` does, with the desk's lock held ------------------------------------------------------------

    def call(self) -> None:
        if self._idle:
            open_gate(self._idle[-1].gate)  # first: if a signal breaks in now, it only stands open
            self._idle.pop()
        elif len(self._seats) < self.max_workers + self._extra:
            self._hire()

    def compensate(self, most: int) -> bool:
        if self._idle or self._extra >= most:
            return False
        self._extra += 1
        self._hire(only_nested=True)
        return True

    def run_on_a_new_stack(self, job: Job[Any], seat: Seat) -> JobState:
        box: list[Any] = [job]
        del job  # as in `Job._wait`
        thread = _NamedThread(seat, partial(self._run_boxed, box, seat))
        try:
            thread.start()
        except RuntimeError:  # none can be had: as long as this stack lasts
            return run(box.pop())
        thread.join()
        state: JobState = box.pop()
        return state

    def _run_boxed(self, box: list[Any], seat: Seat) -> None:
        here.seat = seat
        job = box.pop()
        try:
            self.prepare()
        except BaseException as error:  # noqa: BLE001 - it belongs to whoever waits for the job
            job._result = Error(error)
            job._args = job._context = None
            box.append(FAILED)
        else:
            box.append(run(job))
        del job  # as in `Job._wait`

    def _hire(self, only_nested: bool = False) -> None:
        worker = Worker(self, f"{self.desk.name}-{next(self._names)}", only_nested)
        worker.start()
        self._seats[worker] = None

    def dismiss(self) -> None:
        for worker in self._idle:
            open_gate(worker.gate)
        self._idle.clear()

    def at_work(self) -> Iterator[Seat]:
        yield from self._seats

    def count(self) -> tuple[int, int]:
        return len(self._seats), len(self._idle)

    def resize(self, max_workers: int) -> None:
        """With the lock held: more come if there is work for them; too many leave as soon as they look for a job."""
        self.max_workers = max_workers
        self.shrinking = True
        for _ in range(min(len(self._idle), len(self._seats) - max_workers)):
            open_gate(self._idle.pop(0).gate)
        queued = sum(tally.queued for tally in list(self.desk.tallies.values()))
        for _ in range(min(queued, len(self._idle) + max_workers)):
            self.call()

    def threads(self) -> list[Thread]:
        """Also those that have left, and have not ended yet."""
        return [worker.thread for worker in self._seats if worker.thread is not None] + self._leaving

    def starting(self) -> bool:
        """Is there a worker whose thread is not there yet?"""
        with self.desk.lock:
            return any(worker.thread is None for worker in self._seats)

    def has(self, worker: Worker) -> bool:
        """Is it one of us? Not, if a signal broke in while it was hired."""
        with self.desk.lock:
            return worker in self._seats

    def forked(self) -> None:
        """In the child of a fork there are no workers."""
        self._seats = {}
        self._extra = 0
        self._idle = []
        self._leaving = []

    # ---- what its workers do -------------------------------------------------------------------------------------

    def prepare(self) -> None:
        if self._initializer is not None:
            self._initializer(*self._initargs)

    def park(self, worker: Worker) -> bool:
        """With the lock held: nothing to do for it. False: it leaves."""
        if worker not in self._seats:
            return False
        closed = not self.desk.open and not self.desk.scheduled
        if closed or worker.only_nested or len(self._seats) > self.max_workers + self._extra:
            self._leave(worker)
            return False
        self._idle.append(worker)
        return True

    def too_many(self) -> bool:
        """With the lock held, after a resize: shall the worker that looks for a job leave? Asked anew by each.

        (A count of those that shall leave would be wrong as soon as one left because it was old.)
        """
        self.shrinking = self.desk.cancelling or len(self._seats) > self.max_workers + self._extra
        return self.shrinking

    def unpark(self, worker: Worker) -> None:
        """With the lock held: it looks for a job. (It stands here no more, but if its gate was opened for nothing.)"""
        if worker in self._idle:
            self._idle.remove(worker)

    def grow_old(self, worker: Worker) -> bool:
        """With the lock held: it was idle for its whole patience. True: it leaves."""
        if worker not in self._idle or len(self._seats) <= self.min_workers:
            return False
        self._idle.remove(worker)
        self._leave(worker)
        return True

    def _remove(self, worker: Worker) -> None:
        del self._seats[worker]
        self._extra -= worker.only_nested

    def _leave(self, worker: Worker) -> None:
        self._remove(worker)
        if worker.thread is not None:
            self._leaving = [*(thread for thread in self._leaving if thread.is_alive()), worker.thread]

    def lost(self, worker: Worker, error: BaseException) -> None:
        """It could not start, or its thread was ended from outside: whoever else there is takes over."""
        self.desk.perform(self._lost, worker, error)

    def _lost(self, worker: Worker, error: BaseException) -> None:
        if worker not in self._seats:
            return  # it left as one leaves
        self._remove(worker)
        self.unpark(worker)
        for job in worker.stack():
            lost = WorkerLost(f"{job!r} was lost with its worker {worker.name}: {error!r}")
            lost.__cause__ = error
            job._result = Error(lost)
            self.desk.end(job, FAILED)
        if not self._seats:
            self.desk.fail_queue(error)

    def broken(self, worker: Worker, error: BaseException) -> None:
        """The initializer failed: no worker can ever be right."""
        self.desk.perform(self._broken, worker, error)

    def _broken(self, worker: Worker, error: BaseException) -> None:
        desk = self.desk
        desk.open = False
        desk.failure = desk.failure or error
        if worker in self._seats:
            self._remove(worker)
        desk.fail_queue(error)
        self.dismiss()


@final
class Worker(Seat):
    """One thread."""

    __slots__ = ("crew", "gate", "only_nested", "take", "thread")

    def __init__(self, crew: Threads, name: str, only_nested: bool) -> None:
        super().__init__(crew.desk, name)
        self.crew = crew
        self.only_nested = only_nested  # it came for those jobs that others may be waiting for, and leaves then
        self.take = crew.desk.take_nested if only_nested else crew.desk.take
        self.gate = allocate_lock()
        self.gate.acquire()
        self.thread: Thread | None = None

    def start(self) -> None:
        spawn(partial(_NamedThread, self, self._live), partial(self.crew.lost, self))

    def _live(self) -> None:
        here.seat = self
        self.thread = current_thread()
        crew = self.crew
        try:
            if not crew.has(self):
                return
            crew.prepare()
        except BaseException as error:  # noqa: BLE001 - whatever it is, the pool is not as it should be
            crew.broken(self, error)
            return
        try:
            while self._serve():
                pass
        except BaseException as error:
            crew.lost(self, error)
            raise

    def _serve(self) -> bool:
        """Run jobs until there are none, then wait for the gate. False: the worker has left."""
        crew, desk = self.crew, self.crew.desk
        lock = desk.lock
        done: Job[Any] | None = None
        state: JobState = FAILED
        while True:
            stays = may_take = True
            if not lock.acquire(False):
                take_turn(lock)
            try:  # one section: end the last, take the next
                desk.inside = True
                if desk.in_doubt:
                    desk.put_right()
                if done is None:
                    crew.unpark(self)
                else:
                    may_take = desk.end(done, state)
                    if state is COMPLETED:
                        self.completed += 1
                    else:
                        self.count(state)
                leaves = crew.shrinking and crew.too_many()
                self.job = job = self.take() if may_take and not leaves else None
                if desk.looks_again:
                    desk.looks_again = may_take = False
                if job is None and may_take:
                    stays = crew.park(self)
                if desk.later or desk.calls or desk.in_doubt:
                    calls = desk.leave()
                else:
                    calls, desk.inside = None, False
            finally:
                lock.release()
            if calls:
                make(calls)
            if job is not None:
                done = None
                state = run(job)
                done = job
            elif may_take:
                break
            else:
                done = None
        done = None  # an idle worker keeps nothing alive
        if not stays:
            return False
        if self.gate.acquire(True, crew.patience):
            return True
        take_turn(lock)
        try:
            desk.inside = True
            leaves = crew.grow_old(self)
            calls = desk.leave()
        finally:
            lock.release()
        if calls:
            make(calls)
        return not leaves


@final
class _NamedThread(Thread):
    """Named for its worker and the job that it runs now, for logs and debuggers. Costs nothing until somebody asks."""

    def __init__(self, worker: Seat, live: Callable[[], None]) -> None:
        self._worker: Final = worker
        self._given: str | None = None
        super().__init__(target=live, name=worker.name, daemon=True)

    @property
    def name(self) -> str:
        if self._given is not None:
            return self._given
        job = self._worker.job
        return self._worker.name if job is None else f"{self._worker.name}: {job.name}"

    @name.setter
    def name(self, name: str) -> None:  # pyright: ignore[reportIncompatibleVariableOverride] - a property there, too
        self._given = name
