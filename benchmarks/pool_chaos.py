"""Chaos: threads, two asyncio loops and a trio run use one pool at once, and do to it whatever they can.

    python benchmarks/pool_chaos.py [jobs=100000] [seed]
    python benchmarks/pool_chaos.py wakeups [completions=1000000]

Random priorities, delays, retries, timeouts, cancels, keys with limits, waiters that give up and such that abandon,
jobs that wait for jobs, and a pool that is resized all the while. Each job has a cell in which its runs are counted
where they happen. In the end every job must be in one terminal state that fits its cell: none lost, none run twice,
never more of a key at a time than it has places; the pool's own counts and its hooks must say the same, and no thread
may be left.
`wakeups`: generator tasks by themselves and in asyncio, coroutines of asyncio, uvloop and trio wait for jobs of one
pool at once, each for its own result, and none for ever (`pool_waves.py`).

Prints a summary, and ends with 1 at any violation. The seed chooses the deeds; threads and clocks play their part.
"""

from __future__ import annotations

import asyncio
import faulthandler
import os
import random
import sys
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, NoReturn

import anyio
from pool_waves import Waves, worlds
from rounds import peer, versions

from dari.exceptions import Cancelled, JobCancelled, JobTimeout
from dari.pool import Job, JobState, Pool, Retry, current_job

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from dari.pool.pool import View

    Within = Callable[[float, Awaitable[Any]], Awaitable[Any]]

HANDERS = 3  # threads that hand in
VISITORS = 24  # coroutines in each loop
WINDOW = 64  # jobs that a thread has handed in and not asked for
MOST_WORKERS = 8
HANGING = 30.0  # seconds without any progress
SHORT = (0.0002, 0.001, 0.005)
HURRIED = 1e-6  # seconds until another thread has its turn; the interpreter's 0.005 hide races for years
LIMITS = {"narrow": 1, "wide": 3}


class ChaosError(Exception):
    """What a job raises as it was told to."""


@dataclass(frozen=True, slots=True)
class Deed:
    """What a job is to do."""

    index: int
    priority: int
    fails: int
    tries: int
    delay: float
    queue_timeout: float | None
    timeout: float | None
    nap: float
    listens: bool
    nests: bool
    key: str | None
    leaves: bool  # whoever waits for it and gives up abandons it


class Chaos:
    def __init__(self, jobs: int, seed: str) -> None:
        self.size, self.seed = jobs, seed
        self.pool = Pool(
            4,
            max_queue=300,
            idle_timeout=0.01,
            exit_timeout=HANGING,
            thread_name_prefix="chaos",
            limits=LIMITS,
            on_start=partial(self.count, "start"),
            on_retry=partial(self.count, "retry"),
            on_end=partial(self.count, "end"),
        )
        self.wrongs: list[str] = []
        self.most_threads = 0
        self.given_up = Counter[str]()
        self._numbers = count()
        self._lock = threading.Lock()
        self._inside: dict[int, list[str | None]] = {}  # threads in jobs, and their keys
        self.told = Counter[tuple[str, int]]()  # calls of the hooks, by the ids of jobs
        # The cells. Each is written by one thread at a time: by the run of a job, or by who handed it in.
        self.deeds: list[Deed | None] = [None] * jobs
        self.jobs: list[Job[Any] | None] = [None] * jobs
        self.runs = [0] * jobs
        self.running = bytearray(jobs)
        self.cut = bytearray(jobs)  # it ended by `check_cancelled`
        self.asked = bytearray(jobs)
        self.late = bytearray(jobs)  # who waited for it got JobTimeout
        self.heard = [0] * jobs  # done callbacks
        self.hears = bytearray(jobs)
        self.alone: list[int] = []  # handed in from a loop, and waited for by nobody

    def wrong(self, what: str, index: int) -> None:
        self.wrongs.append(f"{what}: job {index}, {self.runs[index]} runs, {self.jobs[index]}, {self.deeds[index]}")

    def count(self, what: str, job: Job[Any], *_: object) -> None:
        with self._lock:
            self.told[what, job.id] += 1

    def enter(self, deed: Deed) -> list[str | None]:
        """Gives the keys of what runs on this thread. Who waits for one of the own key lends it the own place."""
        with self._lock:
            keys = self._inside.setdefault(threading.get_ident(), [])
            keys.append(deed.key)
            self.most_threads = max(self.most_threads, len(self._inside))
            holders = sum(deed.key in others for others in self._inside.values())
        if deed.key is not None and holders > LIMITS[deed.key]:
            self.wrong(f"{holders} of a key at once", deed.index)
        return keys

    def leave(self, keys: list[str | None]) -> None:
        with self._lock:
            keys.pop()
            if not keys:
                del self._inside[threading.get_ident()]

    # ---- jobs ------------------------------------------------------------------------------------------------------

    def draw(self, dice: random.Random) -> Deed | None:
        """What to do next; None when there were enough."""
        index = next(self._numbers)
        if index >= self.size:
            return None
        hasty = dice.random() < 0.05
        deed = self.deeds[index] = Deed(
            index=index,
            priority=dice.randint(-2, 2),
            fails=dice.choice((0, 0, 0, 0, 1, 2, 3)),
            tries=dice.choice((1, 3)),
            delay=dice.choice((0.0,) * 8 + SHORT),
            queue_timeout=dice.choice(SHORT) if dice.random() < 0.05 else None,
            timeout=dice.choice(SHORT) if hasty else None,
            nap=dice.choice(SHORT) if hasty or dice.random() < 0.02 else 0.0,
            listens=dice.random() < 0.3,
            nests=dice.random() < 0.1,
            key=dice.choice((None, None, None, None, *LIMITS)),
            leaves=dice.random() < 0.5,
        )
        return deed

    def view(self, deed: Deed) -> View:
        retry = Retry(deed.tries - 1, ChaosError, wait_initial=0.0, wait_jitter=0.002) if deed.tries > 1 else None
        return self.pool.options(
            priority=deed.priority,
            delay=deed.delay,
            queue_timeout=deed.queue_timeout,
            timeout=deed.timeout,
            retry=retry,
            key=deed.key,
            abandon_on_cancel=deed.leaves,
        )

    def work(self, deed: Deed) -> int:
        index = deed.index
        if self.running[index]:
            self.wrong("runs twice at once", index)
        self.running[index] = 1
        self.runs[index] += 1
        job = self.jobs[index] = current_job()
        keys = self.enter(deed)
        try:
            if deed.nap:
                time.sleep(deed.nap)
            if deed.nests:
                self.nest(random.Random(f"{self.seed}/nest/{index}/{self.runs[index]}"), deed.key)
            if deed.listens:
                job.check_cancelled()
            if self.runs[index] <= deed.fails:
                raise ChaosError(index)
        except Cancelled:
            self.cut[index] = 1
            raise
        finally:
            self.leave(keys)
            self.running[index] = 0
        return index

    def nest(self, dice: random.Random, key: str | None) -> None:
        deed = self.draw(dice)
        if deed is not None:
            if key is not None:  # keys that wait for each other are a deadlock, as locks are
                deed = self.deeds[deed.index] = replace(deed, key=key)
            self.collect(deed, self.hand_in(deed), None)

    def hand_in(self, deed: Deed) -> Job[int]:
        """From a thread, which waits for a place."""
        job = self.view(deed).submit(self.work, deed)
        self.keep(deed, job)
        return job

    def keep(self, deed: Deed, job: Job[int]) -> None:
        self.jobs[deed.index] = job
        self.hears[deed.index] = 1
        job.add_done_callback(partial(self.hear, deed.index))

    def hear(self, index: int, job: Job[Any]) -> None:
        self.heard[index] += 1
        if not job.done():
            self.wrong("heard of before its end", index)

    def cancel(self, deed: Deed, job: Job[int]) -> None:
        self.asked[deed.index] = 1
        job.cancel()

    def collect(self, deed: Deed, job: Job[int], timeout: float | None) -> None:
        try:
            self.compare(deed, job.result(timeout))
        except (ChaosError, JobCancelled, JobTimeout, TimeoutError) as error:
            self.compare_error(deed, error)

    def compare(self, deed: Deed, answer: Any) -> None:
        if answer != deed.index:
            self.wrong(f"gave {answer!r}", deed.index)

    def compare_error(self, deed: Deed, error: Exception) -> None:
        self.given_up[type(error).__name__] += 1
        if isinstance(error, ChaosError) and error.args != (deed.index,):
            self.wrong(f"raised {error!r}", deed.index)
        self.late[deed.index] = isinstance(error, JobTimeout)

    # ---- who uses the pool -----------------------------------------------------------------------------------------

    def hander(self, number: int) -> None:
        """A thread."""
        dice = random.Random(f"{self.seed}/hander/{number}")
        window: deque[tuple[Deed, Job[int]]] = deque()
        while (deed := self.draw(dice)) is not None:
            window.append((deed, self.hand_in(deed)))
            if dice.random() < 0.1:
                self.cancel(*dice.choice(window))
            if len(window) > WINDOW:
                self.collect(*window.popleft(), dice.choice((None, None, 0.0, 0.0005)))
        for deed, job in window:
            self.collect(deed, job, None)

    async def visitor(self, within: Within, name: str) -> None:
        """A coroutine, of asyncio or trio."""
        dice = random.Random(f"{self.seed}/{name}")
        while (deed := self.draw(dice)) is not None:
            try:
                await self.visit(deed, within, dice)
            except (ChaosError, JobCancelled, JobTimeout, TimeoutError) as error:
                self.compare_error(deed, error)

    async def visit(self, deed: Deed, within: Within, dice: random.Random) -> None:
        view, way = self.view(deed), dice.randrange(8)
        if way < 3:
            self.compare(deed, await view.run_sync(self.work, deed))
            return
        if way == 3:
            self.asked[deed.index] = 1
            self.compare(deed, await within(dice.choice(SHORT), view.run_sync(self.work, deed)))
            return
        if way == 4:
            self.asked[deed.index] = 1
            job = await within(dice.choice(SHORT), view.asubmit(self.work, deed))
        else:
            job = await view.asubmit(self.work, deed)
        self.keep(deed, job)
        if way == 5:
            self.cancel(deed, job)
        elif way == 6:
            self.asked[deed.index] = 1
            self.compare(deed, await within(dice.choice(SHORT), job))
            return
        elif way == 7:
            self.alone.append(deed.index)  # nobody waits for it
            return
        self.compare(deed, await job)

    async def visitors(self, within: Within, name: str) -> None:
        async with anyio.create_task_group() as group:
            for number in range(VISITORS):
                group.start_soon(self.visitor, within, f"{name}/{number}")
        while not all(self.heard[index] for index in self.alone):  # a loop that is over hears of nothing
            await anyio.sleep(0.001)

    def resizer(self, end: threading.Event) -> None:
        dice = random.Random(f"{self.seed}/resizer")
        while not end.wait(0.002):
            self.pool.resize(dice.randint(1, MOST_WORKERS))

    def guarded(self, call: Callable[[], object]) -> None:
        """What a user of the pool meets that it must not is a violation."""
        try:
            call()
        except BaseException as error:
            self.wrongs.append(f"a user of the pool ended by {error!r}")
            raise

    def run(self) -> None:
        end = threading.Event()
        users: list[Callable[[], object]] = [partial(self.hander, number) for number in range(HANDERS)]
        users.append(lambda: asyncio.run(self.visitors(within_wait_for, "asyncio")))
        users.append(lambda: anyio.run(self.visitors, within_scope, "anyio", backend="asyncio"))
        if peer("trio"):
            users.append(lambda: anyio.run(self.visitors, within_scope, "trio", backend="trio"))
        threads = [threading.Thread(target=self.guarded, args=(user,), daemon=True) for user in users]
        resizer = threading.Thread(target=self.resizer, args=(end,), daemon=True)
        for thread in (*threads, resizer):
            thread.start()
        watch(threads, lambda: sum(self.runs), self.pool)
        end.set()
        resizer.join()
        if not self.pool.shutdown(timeout=HANGING):
            self.wrongs.append(f"shutdown() did not come to an end: {self.pool.stats()}")
        self.wrongs += threads_left("chaos")

    # ---- what must hold in the end ---------------------------------------------------------------------------------

    def audit(self) -> Counter[str]:
        states = Counter[str]()
        for index, job in enumerate(self.jobs):
            if job is None and self.late[index]:
                states["timed out"] += 1
                continue
            if job is None:  # who waited for a place gave up
                states["never seen"] += 1
                if not self.asked[index]:
                    self.wrong("lost", index)
                continue
            states[job.state.value] += 1
            states["retried"] += job.attempt - 1
            self.audit_job(index, job)
        stats = self.pool.stats()
        # Whether one that was never seen was let in, and then cancelled or timed out, only the pool knows.
        more = {"cancelled": stats.cancelled - states["cancelled"], "timed out": stats.timed_out - states["timed out"]}
        exact = [states[what] == getattr(stats, what) for what in ("completed", "failed", "retried")]
        if not all(exact) or min(more.values()) < 0 or sum(more.values()) > states["never seen"]:
            self.wrongs.append(f"{states} were seen, the pool counts otherwise: {stats}")
        if stats.scheduled or stats.queued or stats.running or stats.workers or stats.abandoned:
            self.wrongs.append(f"the pool is not at rest: {stats}")
        if self.most_threads > MOST_WORKERS:
            self.wrongs.append(f"{self.most_threads} threads at once, of {MOST_WORKERS}")
        return states

    def audit_job(self, index: int, job: Job[Any]) -> None:
        deed, runs, attempt = self.deeds[index], self.runs[index], job.attempt
        assert deed is not None
        if job.state is JobState.COMPLETED:
            fits = runs == attempt == deed.fails + 1
        elif job.state is JobState.FAILED:
            fits = runs == attempt <= deed.fails and (runs == deed.tries or bool(self.asked[index]))
        elif job.state is JobState.CANCELLED:
            fits = bool(self.asked[index]) and (
                runs == attempt - (not self.cut[index]) or (deed.leaves and runs == attempt)
            )
        elif job.state is JobState.TIMED_OUT:
            fits = runs == (attempt if job.started_at is not None else 0)
        else:
            fits = False
        told = [self.told[what, job.id] for what in ("start", "retry", "end")]
        if told != [runs, attempt - 1, 1]:
            self.wrong(f"the hooks were told {told}", index)
        if not fits or not job.done() or self.heard[index] != self.hears[index]:
            self.wrong(f"does not fit (asked {self.asked[index]}, heard {self.heard[index]})", index)


async def within_wait_for(seconds: float, what: Awaitable[Any]) -> Any:
    return await asyncio.wait_for(what, seconds)


async def within_scope(seconds: float, what: Awaitable[Any]) -> Any:
    with anyio.fail_after(seconds):
        return await what


def watch(threads: list[threading.Thread], progress: Callable[[], int], pool: Pool) -> None:
    """Wait for the threads to end; leave with 1 if nothing moves any more."""
    seen, when = -1, time.monotonic()
    while any(thread.is_alive() for thread in threads):
        for thread in threads:
            thread.join(0.1)
        now = progress()
        if now != seen:
            seen, when = now, time.monotonic()
        elif time.monotonic() > when + HANGING:
            hanging(pool)


def hanging(pool: Pool) -> NoReturn:
    print(f"HANGING: {pool!r}, {pool.stats()}", flush=True)
    faulthandler.dump_traceback(all_threads=True)
    os._exit(1)


def threads_left(prefix: str) -> list[str]:
    end = time.monotonic() + 1.0  # a thread that leaves may be on its last line
    while left := [thread for thread in threading.enumerate() if thread.name.startswith(prefix)]:
        if time.monotonic() > end:
            return [f"threads are left: {left}"]
        time.sleep(0.001)
    return []


# ---- wakeups ---------------------------------------------------------------------------------------------------------


def wakeups(completions: int) -> list[str]:
    """Tasks and coroutines of several worlds at once wait for jobs of one pool; none may wait for ever."""
    pool, ways = Pool(4, thread_name_prefix="wakeups"), worlds()
    each = completions // len(ways)
    waves = {name: Waves(pool, number, each) for number, name in enumerate(ways)}
    threads = [threading.Thread(target=ways[name], args=(waves[name],), name=name, daemon=True) for name in ways]

    def got() -> int:
        return sum(world.got for world in waves.values())

    started = time.perf_counter()
    for thread in threads:
        thread.start()
    watch(threads, got, pool)
    elapsed = time.perf_counter() - started
    wrongs = [wrong for world in waves.values() for wrong in world.wrongs]
    if not pool.shutdown(timeout=HANGING):
        wrongs.append("shutdown() did not come to an end")
    completed = pool.stats().completed
    if not got() == completed == each * len(ways):
        wrongs.append(f"{got()} completions were heard of, {completed} were there")
    print(
        f"{got():,} completions over {', '.join(ways)} in {elapsed:.1f} s: {got() / elapsed:,.0f}/s;"
        f" threads take turns every {sys.getswitchinterval():g} s"
    )
    return [*wrongs, *threads_left("wakeups")]


def chaos(jobs: int, seed: str) -> list[str]:
    run = Chaos(jobs, seed)
    started = time.perf_counter()
    run.run()
    elapsed = time.perf_counter() - started
    states = run.audit()
    print(
        f"{jobs:,} jobs, {sum(run.runs):,} runs in {elapsed:.1f} s ({jobs / elapsed:,.0f} jobs/s),"
        f" at most {run.most_threads} threads at once; "
        + ", ".join(f"{number:,} {what}" for what, number in states.most_common())
        + "; waiters got "
        + ", ".join(f"{number:,} {what}" for what, number in run.given_up.most_common())
    )
    return run.wrongs


def main() -> int:
    asked = sys.argv[1:]
    if asked[:1] == ["wakeups"]:
        print(versions())
        half = (int(asked[1]) if len(asked) > 1 else 1_000_000) // 2
        wrongs = wakeups(half)
        sys.setswitchinterval(HURRIED)
        wrongs += wakeups(half)
    else:
        seed = asked[1] if len(asked) > 1 else str(random.randrange(10**6))
        print(f"{versions('trio')}; seed {seed}", flush=True)
        sys.setswitchinterval(HURRIED)
        wrongs = chaos(int(asked[0]) if asked else 100_000, seed)
    for wrong in wrongs[:20]:
        print(wrong)
    print(f"{len(wrongs)} VIOLATIONS" if wrongs else "nothing lost, nothing twice, nothing left")
    return 1 if wrongs else 0


if __name__ == "__main__":
    sys.exit(main())
