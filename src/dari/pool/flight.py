"""Several jobs that one taker takes as they end, in order or as it comes; what `map` and `as_completed` stand on.

A job tells the flight when it has ended (on the thread that ends it, outside of the pool's lock), and the flight rings
the one bell that a waiting taker left, if that taker has something to take now. The flight has a lock of its own: its
jobs may be of several pools. Nothing is called in its sections.
"""

from __future__ import annotations

from _thread import allocate_lock
from collections import OrderedDict, deque
from functools import partial
from typing import TYPE_CHECKING, Any, Final, final

from dari.drivers.blocking import refuse_to_block
from dari.drivers.hosts import running_loop
from dari.pool.calls import open_gate
from dari.pool.job import Job, here

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from dari.pool.job import Keeper

__all__ = ["Flight", "ended_jobs"]


@final
class Flight:
    __slots__ = ("_bell", "_closing", "_ended", "_jobs", "_lock", "_ordered", "_unended")

    def __init__(self, ordered: bool) -> None:
        self._lock: Final = allocate_lock()
        self._ordered: Final = ordered
        self._jobs: Final[OrderedDict[Job[Any], None]] = OrderedDict()  # not taken yet
        self._ended: Final[deque[Job[Any]]] = deque()  # of these, in the order of their ends; for who wants that
        self._unended = 0
        self._closing = False
        self._bell: Callable[[], object] | None = None

    def __len__(self) -> int:
        return len(self._jobs)

    def add(self, job: Job[Any]) -> None:
        with self._lock:
            self._jobs[job] = None
            self._unended += 1
        job.call_when_ended(partial(self._hear, job))

    def take(self) -> Job[Any]:
        """One that has ended. Only asked when there is one: `ready`, and not empty."""
        with self._lock:
            if self._ordered:
                return self._jobs.popitem(last=False)[0]
            job = self._ended.popleft()
            del self._jobs[job]
            return job

    def ready(self) -> bool:
        """Is there one to take, or none left? When it closes: have all ended?"""
        with self._lock:
            return self._ready()

    def when_ready(self, bell: Callable[[], object]) -> None:
        """Call `bell()` once it is ready, on whatever thread. It must not block."""
        with self._lock:
            ready = self._ready()
            if not ready:
                self._bell = bell
        if ready:
            bell()

    def wait(self, what: str) -> None:
        """Block this thread until it is ready. A job of the same pool runs meanwhile what nobody has begun with."""
        if self.ready():
            return
        refuse_to_block(
            f"{what} would have to wait", task="wait for the jobs by `yield`", loop="wait for the jobs by `await`"
        )
        seat = here.seat
        lock = allocate_lock()
        lock.acquire()
        wake = partial(open_gate, lock)
        while not self.ready():
            helping = () if seat is None else self._help(seat.keeper, wake)
            self.when_ready(wake)
            try:
                lock.acquire()
            finally:
                self._bell = None
                for job in helping:
                    job._keeper.forget_when_queued(job, wake)

    def cancel(self) -> None:
        """Cancel what has not begun, ask the rest to end. What has not been taken is taken no more."""
        with self._lock:
            self._closing = True
            jobs = list(self._jobs)
        for job in jobs:
            job.cancel()
        with self._lock:
            self._jobs.clear()
            self._ended.clear()
            bell = self._answered()
        if bell is not None:
            bell()

    def _hear(self, job: Job[Any]) -> None:
        with self._lock:
            self._unended -= 1
            if not self._ordered and not self._closing:
                self._ended.append(job)
            bell = self._answered()
        if bell is not None:
            bell()

    def _answered(self) -> Callable[[], object] | None:
        if self._bell is None or not self._ready():
            return None
        bell, self._bell = self._bell, None
        return bell

    def _ready(self) -> bool:
        if self._closing:
            return not self._unended
        if not self._jobs:
            return True
        return next(iter(self._jobs)).done() if self._ordered else bool(self._ended)

    def _help(self, keeper: Keeper, wake: Callable[[], object]) -> Sequence[Job[Any]]:
        """Run what is queued, until there is one to take. Else gives those of which `wake` is told when they are."""
        with self._lock:
            jobs = deque(self._jobs)
        later: list[Job[Any]] = []
        while jobs and not self.ready():
            job = jobs.popleft()
            if job._keeper is keeper and keeper.help(job):
                if keeper.call_when_queued(job, wake):
                    later.append(job)
                else:
                    wake()  # it has just been queued, or has ended: look again
            del job  # as in `Job._wait`
        return later


def ended_jobs(things: tuple[Any, ...]) -> Iterator[Job[Any]] | None:
    """What `dari.as_completed` gives in a plain thread: jobs, as they end. None where a loop runs, or for other things.

    It blocks between them, and looks only: who leaves early cancels nothing.
    """
    if running_loop() is not None or not all(isinstance(thing, Job) for thing in things):
        return None
    flight = Flight(ordered=False)
    for job in dict.fromkeys(things):
        flight.add(job)
    return _taken(flight)


def _taken(flight: Flight) -> Iterator[Job[Any]]:
    while flight:
        flight.wait("the next of as_completed")
        yield flight.take()
