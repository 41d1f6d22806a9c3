"""The pool beside `concurrent.futures.ThreadPoolExecutor`, in one run, interleaved; medians of the rounds.

    python benchmarks/pool.py [rounds]

`burst`      20 000 no-op jobs handed in, then all results
`ping-pong`  one job handed in, its result, the next: 5 000 times
`executor`   the burst, by `pool.as_executor()`
`asyncio`    64 coroutines, each waiting for one no-op after the other: 10 000 in all; `run_in_executor` beside
`to_thread`  the same with `asyncio.to_thread`, the pool being the loop's default executor; CPython's default beside
`memory`     bytes per queued job, by tracemalloc; in a fresh round, not timed

Both with their default arguments, but for the bound: 20 000 jobs do not fit into a queue of 1000, and the executor's
queue has none.
"""

from __future__ import annotations

import asyncio
import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from statistics import median
from typing import TYPE_CHECKING

from rounds import interleaved, rounds_asked, versions

from dari.pool import Pool

if TYPE_CHECKING:
    from collections.abc import Callable

BURST = 20_000
PING_PONG = 5_000
WAITERS = 64
AWAITS = 10_000


def no_op() -> None:
    pass


def burst_pool() -> int:
    with Pool(max_queue=None) as pool:
        for job in [pool.submit(no_op) for _ in range(BURST)]:
            job.result()
    return BURST


def burst_executor() -> int:
    with ThreadPoolExecutor() as executor:
        for future in [executor.submit(no_op) for _ in range(BURST)]:
            future.result()
    return BURST


def burst_face() -> int:
    with Pool(max_queue=None) as pool, pool.as_executor() as executor:
        for future in [executor.submit(no_op) for _ in range(BURST)]:
            future.result()
    return BURST


def ping_pong_pool() -> int:
    with Pool() as pool:
        for _ in range(PING_PONG):
            pool.submit(no_op).result()
    return PING_PONG


def ping_pong_executor() -> int:
    with ThreadPoolExecutor() as executor:
        for _ in range(PING_PONG):
            executor.submit(no_op).result()
    return PING_PONG


def asyncio_pool() -> int:
    async def waiter(pool: Pool) -> None:
        for _ in range(AWAITS // WAITERS):
            await pool.run_sync(no_op)

    async def main() -> None:
        async with Pool() as pool:
            await asyncio.gather(*[waiter(pool) for _ in range(WAITERS)])

    asyncio.run(main())
    return AWAITS


def asyncio_executor() -> int:
    async def waiter(executor: ThreadPoolExecutor) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(AWAITS // WAITERS):
            await loop.run_in_executor(executor, no_op)

    async def main() -> None:
        with ThreadPoolExecutor() as executor:
            await asyncio.gather(*[waiter(executor) for _ in range(WAITERS)])

    asyncio.run(main())
    return AWAITS


def to_thread(face: bool) -> int:
    async def waiter() -> None:
        for _ in range(AWAITS // WAITERS):
            await asyncio.to_thread(no_op)

    async def main() -> None:
        async with Pool() as pool:
            if face:
                asyncio.get_running_loop().set_default_executor(pool.as_executor())
            await asyncio.gather(*[waiter() for _ in range(WAITERS)])

    asyncio.run(main())
    return AWAITS


def bytes_per_job(submit: Callable[[Callable[[], object]], object], jobs: int = 10_000) -> float:
    """The gate holds every worker, so all the jobs stay queued."""
    gate = threading.Event()
    for _ in range(64):
        submit(gate.wait)
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for _ in range(jobs):
        submit(no_op)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    gate.set()
    return (after - before) / jobs


def per_second(run: Callable[[], int]) -> float:
    started = time.perf_counter()
    return run() / (time.perf_counter() - started)


def main() -> None:
    rounds = rounds_asked(7)
    print(versions(), "concurrent.futures and asyncio are CPython's", f"{rounds} interleaved rounds, medians", sep="; ")
    pairs: dict[str, tuple[Callable[[], int], Callable[[], int]]] = {
        "burst": (burst_pool, burst_executor),
        "ping-pong": (ping_pong_pool, ping_pong_executor),
        "executor": (burst_face, burst_executor),
        "asyncio": (asyncio_pool, asyncio_executor),
        "to_thread": (partial(to_thread, True), partial(to_thread, False)),
    }
    rates = interleaved(
        {(name, run): partial(per_second, run) for name, runs in pairs.items() for run in runs},
        rounds,
    )
    for name, (our_run, their_run) in pairs.items():
        ours, theirs = rates[name, our_run], rates[name, their_run]
        print(
            f"{name:10} dari {median(ours):9,.0f}/s ({min(ours):,.0f} to {max(ours):,.0f})"
            f"   stdlib {median(theirs):9,.0f}/s   ratio {median(ours) / median(theirs):.2f}"
        )
    with Pool(max_queue=None) as pool:
        ours_bytes = bytes_per_job(pool.submit)
    with ThreadPoolExecutor() as executor:
        their_bytes = bytes_per_job(executor.submit)
    print(
        f"memory     dari {ours_bytes:9,.0f} B    stdlib {their_bytes:9,.0f} B    ratio {ours_bytes / their_bytes:.2f}"
    )


if __name__ == "__main__":
    main()
