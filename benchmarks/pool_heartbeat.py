"""Does a pool hold the thread of a loop up? How late a heartbeat is while jobs are handed in and end, beside others.

    python benchmarks/pool_heartbeat.py [rounds]

A coroutine sleeps for 5 ms again and again: how much later than asked it wakes up. Meanwhile
`crowd`    64 coroutines wait for one no-op after the other
`flood`    a thousand jobs are handed in at once, and all end together, again and again
`naps`     64 coroutines wait for jobs that sleep for 1 ms: their threads do not want the interpreter's lock
by the pool, and by `run_in_executor` with a `ThreadPoolExecutor`; `alone` is the loop with nothing else to do.

`calls`: how long the pool's own calls take on the loop's thread while 64 others wait for jobs, with nothing queued and
with a hundred thousand jobs. A part of the wall clock's figures is other threads that have the interpreter's lock (5 ms
each turn); the thread's own time has no such part, and no call should need a millisecond of it. What the machine itself
adds now and then (a virtual one may be halted), the row of a call that does nothing shows.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from statistics import median, quantiles
from typing import TYPE_CHECKING

from rounds import interleaved, rounds_asked, versions

from dari.pool import Pool

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    Run = Callable[[Callable[[], None]], Awaitable[None]]  # waits for one call on a thread
    Load = Callable[[Run], Awaitable[None]]  # for ever

PERIOD = 0.005  # seconds, of the heartbeat
LISTENING = 1.0  # seconds: some 200 beats
WAITERS = 64
FLOOD = 1000
CALLS = 2000
A_MILLISECOND = 1e-3


def no_op() -> None:
    pass


def nap() -> None:
    time.sleep(0.001)


async def again(call: Callable[[], None], run: Run) -> None:
    while True:
        await run(call)


async def crowd(run: Run) -> None:
    await asyncio.gather(*[again(no_op, run) for _ in range(WAITERS)])


async def naps(run: Run) -> None:
    await asyncio.gather(*[again(nap, run) for _ in range(WAITERS)])


async def flood(run: Run) -> None:
    async def one() -> None:
        await run(no_op)

    while True:
        await asyncio.gather(*[one() for _ in range(FLOOD)])


async def alone(run: Run) -> None:
    await asyncio.Event().wait()


@asynccontextmanager
async def ours() -> AsyncGenerator[Run, None]:
    async with Pool() as pool:

        async def run(call: Callable[[], None]) -> None:
            await pool.run_sync(call)

        yield run


@asynccontextmanager
async def theirs() -> AsyncGenerator[Run, None]:
    with ThreadPoolExecutor() as executor:
        loop = asyncio.get_running_loop()

        async def run(call: Callable[[], None]) -> None:
            await loop.run_in_executor(executor, call)

        yield run


async def stopped(task: asyncio.Future[None]) -> None:
    task.cancel()
    await asyncio.wait([task])


async def lateness(load: Load, make: Callable[[], AbstractAsyncContextManager[Run]]) -> float:
    """99th percentile of how late a sleeping coroutine wakes up, in seconds."""
    late: list[float] = []
    async with make() as run:
        task = asyncio.ensure_future(load(run))
        await asyncio.sleep(0.1)
        end = time.perf_counter() + LISTENING
        while (started := time.perf_counter()) < end:
            await asyncio.sleep(PERIOD)
            late.append(time.perf_counter() - started - PERIOD)
        await stopped(task)
    return quantiles(late, n=100, method="inclusive")[98]


async def calls(queued: int) -> None:
    """Time the pool's own calls, one by one, between turns of a loop that waits for jobs."""
    gate, busy, pool = threading.Event(), Pool(), Pool(4, max_queue=None)
    for _ in range(4):
        pool.submit(gate.wait)
    jobs = deque(pool.submit(no_op) for _ in range(queued))

    async def run(call: Callable[[], None]) -> None:
        await busy.run_sync(call)

    later = pool.options(delay=1000.0)
    delayed = deque(later.submit(no_op) for _ in range(queued))

    def cancels() -> None:
        (jobs.pop() if jobs else pool.submit(no_op)).cancel()

    def cancels_delayed() -> None:
        (delayed.popleft() if delayed else later.submit(no_op)).cancel()

    task = asyncio.ensure_future(crowd(run))
    await timed("nothing at all", no_op, max(CALLS, queued))
    await timed("submit", lambda: pool.submit(no_op))
    await timed("submit with a delay, cancel", lambda: later.submit(no_op).cancel())
    await timed("cancel", cancels, max(CALLS, queued))
    await timed("cancel one that is delayed", cancels_delayed, max(CALLS, queued))
    jobs.extend(pool.submit(no_op) for _ in range(queued))
    await timed("stats", pool.stats)
    await timed("resize", lambda: pool.resize(4), 200)
    await timed("shutdown(wait=False)", lambda: pool.shutdown(wait=False), 1)
    await timed("the same with cancel_futures", lambda: pool.shutdown(wait=False, cancel_futures=True), 1)
    await stopped(task)
    gate.set()
    async with busy, pool:
        pass


async def timed(name: str, call: Callable[[], object], times: int = CALLS) -> None:
    walls: list[float] = []
    cpus: list[float] = []
    for _ in range(times):
        await asyncio.sleep(0)
        cpu, wall = time.thread_time(), time.perf_counter()
        call()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.thread_time() - cpu)
    over = sum(each > A_MILLISECOND for each in cpus)
    p99 = quantiles(walls, n=100)[98] if times > 1 else walls[0]
    print(
        f"  {name:28} own time: median {median(cpus) * 1e6:9.1f} µs, at most {max(cpus) * 1e3:7.3f} ms,"
        f" {over} of {times} over 1 ms; wall: p99 {p99 * 1e3:7.3f} ms",
        flush=True,
    )


def main() -> None:
    rounds = rounds_asked(5)
    print(f"{versions()}; {rounds} interleaved rounds, medians; p99 of how late a heartbeat of {PERIOD * 1e3:g} ms is")
    makers = {"dari": ours, "stdlib": theirs}
    late = interleaved(
        {
            (load, who): partial(asyncio_run, load, make)
            for load in (alone, crowd, flood, naps)
            for who, make in makers.items()
        },
        rounds,
    )
    for load in (alone, crowd, flood, naps):
        mine, other = (late[load, who] for who in makers)
        print(
            f"  {load.__name__:8} dari {median(mine) * 1e3:7.2f} ms ({min(mine) * 1e3:.2f} to {max(mine) * 1e3:.2f})"
            f"   stdlib {median(other) * 1e3:7.2f} ms ({min(other) * 1e3:.2f} to {max(other) * 1e3:.2f})"
        )
    for queued in (0, 100_000):
        print(f"calls on the loop's thread, {queued} jobs queued:")
        asyncio.run(calls(queued))


def asyncio_run(load: Load, make: Callable[[], AbstractAsyncContextManager[Run]]) -> float:
    return asyncio.run(lateness(load, make))


if __name__ == "__main__":
    main()
