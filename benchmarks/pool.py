"""The pool beside `concurrent.futures` and other pools of threads, in one run, interleaved; medians of the rounds.

    python benchmarks/pool.py [rounds]

`burst`       20 000 no-op jobs handed in, then all results
`ping-pong`   one job handed in, its result, the next: 5 000 times
`executor`    the burst, by `pool.as_executor()`
`asyncio`     64 coroutines, each waiting for one no-op after the other: 10 000 in all; `run_in_executor` beside
`to_thread`   the same with `asyncio.to_thread`, the pool being the loop's default executor; CPython's default beside
`sequential`  one coroutine, one no-op after the other: 3 000; `asyncio.to_thread` beside
`trio`, `trio seq`
              `asyncio` and `sequential` under trio; `trio.to_thread.run_sync` beside
`memory`      bytes per queued job, by tracemalloc; in a fresh round, not timed

All with their default arguments, but for the bound: 20 000 jobs do not fit into a queue of 1000, and the others' queues
have none. Only the work is timed, not the making of a pool, nor its end (pebble polls there). `cpu` is the ratio of the
processor time of all threads, ends included: what is left of a ratio on a machine that does other things, too.
"""

from __future__ import annotations

import asyncio
import threading
import time
import tracemalloc
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, contextmanager
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
from rounds import interleaved, peer, rounds_asked, versions

from dari.pool import Pool

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Generator

    Call = Callable[[], Awaitable[object]]  # waits for one no-op
    Measure = Callable[[Call], Awaitable[float]]
    Candidates = dict[str, Callable[[], float]]  # the first is dari, the second is whom it is measured by

BURST = 20_000
PING_PONG = 5_000
WAITERS = 64
AWAITS = 10_000
SEQUENTIAL = 3_000

aiomisc, pebble, trio = peer("aiomisc"), peer("pebble"), peer("trio")


def no_op() -> None:
    pass


# ---- threads that wait -----------------------------------------------------------------------------------------------


def burst(pool: Any) -> float:
    started = time.perf_counter()
    for job in [pool.submit(no_op) for _ in range(BURST)]:
        job.result()
    return BURST / (time.perf_counter() - started)


def ping_pong(pool: Any) -> float:
    started = time.perf_counter()
    for _ in range(PING_PONG):
        pool.submit(no_op).result()
    return PING_PONG / (time.perf_counter() - started)


@contextmanager
def our_executor() -> Generator[ThreadPoolExecutor, None, None]:
    with Pool(max_queue=None) as pool, pool.as_executor() as executor:
        yield executor


def in_threads(measure: Callable[[Any], float], make: Callable[[], AbstractContextManager[Any]]) -> float:
    with make() as pool:
        return measure(pool)


# ---- coroutines that wait --------------------------------------------------------------------------------------------


async def crowd(call: Call) -> float:
    async def waiter() -> None:
        for _ in range(AWAITS // WAITERS):
            await call()

    started = time.perf_counter()
    async with anyio.create_task_group() as group:
        for _ in range(WAITERS):
            group.start_soon(waiter)
    return AWAITS // WAITERS * WAITERS / (time.perf_counter() - started)


async def one_by_one(call: Call) -> float:
    started = time.perf_counter()
    for _ in range(SEQUENTIAL):
        await call()
    return SEQUENTIAL / (time.perf_counter() - started)


@asynccontextmanager
async def our_run_sync() -> AsyncGenerator[Call, None]:
    async with Pool() as pool:
        yield partial(pool.run_sync, no_op)


@asynccontextmanager
async def our_default() -> AsyncGenerator[Call, None]:
    async with Pool() as pool:
        asyncio.get_running_loop().set_default_executor(pool.as_executor())
        yield partial(asyncio.to_thread, no_op)


@asynccontextmanager
async def their_default() -> AsyncGenerator[Call, None]:
    yield partial(asyncio.to_thread, no_op)


@asynccontextmanager
async def their_executor() -> AsyncGenerator[Call, None]:
    with ThreadPoolExecutor() as executor:
        yield partial(asyncio.get_running_loop().run_in_executor, executor, no_op)


@asynccontextmanager
async def of_aiomisc() -> AsyncGenerator[Call, None]:
    executor = aiomisc.ThreadPoolExecutor()
    yield partial(asyncio.get_running_loop().run_in_executor, executor, no_op)
    executor.shutdown()


@asynccontextmanager
async def of_anyio() -> AsyncGenerator[Call, None]:
    yield partial(anyio.to_thread.run_sync, no_op)


@asynccontextmanager
async def of_trio() -> AsyncGenerator[Call, None]:
    yield partial(trio.to_thread.run_sync, no_op)


def in_loop(measure: Measure, make: Callable[[], AbstractAsyncContextManager[Call]], backend: str = "asyncio") -> float:
    async def main() -> float:
        async with make() as call:
            return await measure(call)

    return anyio.run(main, backend=backend)


# ---- the table -------------------------------------------------------------------------------------------------------


def threads(measure: Callable[[Any], float]) -> Candidates:
    makers: dict[str, Callable[[], Any]] = {"dari": partial(Pool, max_queue=None), "stdlib": ThreadPoolExecutor}
    if pebble:
        makers["pebble"] = pebble.ThreadPool
    return {who: partial(in_threads, measure, make) for who, make in makers.items()}


def asyncio_coroutines(measure: Measure, stdlib: Callable[[], AbstractAsyncContextManager[Call]]) -> Candidates:
    makers = {"dari": our_run_sync, "stdlib": stdlib, "anyio": of_anyio}
    if aiomisc:
        makers["aiomisc"] = of_aiomisc
    return {who: partial(in_loop, measure, make) for who, make in makers.items()}


def trio_coroutines(measure: Measure) -> Candidates:
    makers = {"dari": our_run_sync, "trio": of_trio, "anyio": of_anyio}
    return {who: partial(in_loop, measure, make, "trio") for who, make in makers.items()}


def table() -> dict[str, Candidates]:
    rows: dict[str, Candidates] = {
        "burst": threads(burst),
        "ping-pong": threads(ping_pong),
        "executor": {
            "dari": partial(in_threads, burst, our_executor),
            "stdlib": partial(in_threads, burst, ThreadPoolExecutor),
        },
        "asyncio": asyncio_coroutines(crowd, their_executor),
        "to_thread": {"dari": partial(in_loop, crowd, our_default), "stdlib": partial(in_loop, crowd, their_default)},
        "sequential": asyncio_coroutines(one_by_one, their_default),
    }
    if trio:
        rows |= {"trio": trio_coroutines(crowd), "trio seq": trio_coroutines(one_by_one)}
    return rows


def show(row: str, samples: dict[str, list[float]], costs: dict[str, list[float]]) -> None:
    ours, base, *others = samples
    rates = {who: median(rates) for who, rates in samples.items()}
    spread = f"({min(samples[ours]):,.0f} to {max(samples[ours]):,.0f})"
    print(
        f"{row:10}  dari {rates[ours]:9,.0f}/s {spread:22}  {base:6} {rates[base]:8,.0f}/s"
        f"  ratio {rates[ours] / rates[base]:5.2f}  cpu {median(costs[base]) / median(costs[ours]):5.2f}",
        *[f"{who} {rates[who]:,.0f}/s" for who in others],
        sep="   ",
    )


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


def memory() -> str:
    with Pool(max_queue=None) as pool:
        ours = bytes_per_job(pool.submit)
    with ThreadPoolExecutor() as executor:
        theirs = bytes_per_job(executor.submit)
    told = f"{'memory':10}  dari {ours:9,.0f} B  {'':22}  stdlib {theirs:8,.0f} B    ratio {ours / theirs:5.2f}"
    if pebble:
        with pebble.ThreadPool() as pool:
            told += f"   pebble {bytes_per_job(pool.submit):,.0f} B"
    return told


def main() -> None:
    rounds = rounds_asked(7)
    peers = versions("aiomisc", "anyio", "pebble", "trio")
    print(peers, "concurrent.futures and asyncio are CPython's", f"{rounds} interleaved rounds, medians", sep="; ")
    rows = table()
    costs: dict[tuple[str, str], list[float]] = defaultdict(list)

    def timed(row: str, who: str) -> float:
        before = time.process_time()
        rate = rows[row][who]()
        costs[row, who].append(time.process_time() - before)
        return rate

    rates = interleaved({(row, who): partial(timed, row, who) for row, runs in rows.items() for who in runs}, rounds)
    for row, runs in rows.items():
        show(row, {who: rates[row, who] for who in runs}, {who: costs[row, who] for who in runs})
    print(memory())


if __name__ == "__main__":
    main()
