"""The kernel beside its peers: creating tasks, timers, memory of a sleeping task.

Side by side in one process, interleaved, medians of the rounds; memory in processes of their own. Peers that are not
installed are left out. Run: python benchmarks/tasks.py [rounds]
"""

from __future__ import annotations

import asyncio
import gc
import importlib.metadata
import importlib.util
import platform
import random
import subprocess
import sys
import time
from statistics import median
from typing import TYPE_CHECKING

import dari

if TYPE_CHECKING:
    from collections.abc import Callable

TASKS = 30_000
DELAYS = [random.Random(7).random() for _ in range(3 * TASKS)]


def one_yield() -> dari.Steps[None]:
    yield


def three_sleeps(number: int) -> dari.Steps[None]:
    for delay in DELAYS[number : number + 3]:
        yield dari.sleep(delay / 100)


def dari_create() -> float:
    started = time.perf_counter()
    scheduler = dari.Scheduler()
    for _ in range(TASKS):
        scheduler.create_task(one_yield)
    scheduler.run()
    return time.perf_counter() - started


def dari_timers() -> float:
    started = time.perf_counter()
    scheduler = dari.Scheduler()
    for number in range(TASKS):
        scheduler.create_task(three_sleeps, number)
    scheduler.run()
    return time.perf_counter() - started


async def aone_yield() -> None:
    await asyncio.sleep(0)


async def athree_sleeps(number: int) -> None:
    for delay in DELAYS[number : number + 3]:
        await asyncio.sleep(delay / 100)


def asyncio_create(loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None) -> float:
    async def main() -> None:
        await asyncio.gather(*[asyncio.create_task(aone_yield()) for _ in range(TASKS)])

    started = time.perf_counter()
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main())
    return time.perf_counter() - started


def asyncio_timers(loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None) -> float:
    async def main() -> None:
        await asyncio.gather(*[asyncio.create_task(athree_sleeps(number)) for number in range(TASKS)])

    started = time.perf_counter()
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main())
    return time.perf_counter() - started


MEMORY = """
import asyncio, gc, sys
sys.path[:0] = {path!r}
import dari
from dari.scheduler import Scheduler

def rss():
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

def sleeps():
    yield dari.sleep(3600)

async def asleeps():
    await asyncio.sleep(3600)

async def main(count):
    before = rss()
    tasks = [asyncio.create_task(asleeps()) for _ in range(count)]
    await asyncio.sleep(0.01)
    print((rss() - before) / count)
    for task in tasks:
        task.cancel()

count = 100_000
if {which!r} == "dari":
    scheduler = Scheduler()
    before = rss()
    for _ in range(count):
        scheduler.create_task(sleeps)
    scheduler.run(timeout=0.01)
    print((rss() - before) / count)
    import os; sys.stdout.flush(); os._exit(0)
else:
    asyncio.run(main(count))
"""


def memory(which: str) -> float:
    """Bytes of resident memory per sleeping task."""
    code = MEMORY.format(which=which, path=sys.path)
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return float(result.stdout.split()[0])


def compare(title: str, candidates: dict[str, Callable[[], float]], rounds: int, unit: str, scale: float) -> None:
    values: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, measure in candidates.items():
            gc.collect()
            values[name].append(measure())
    print(f"\n{title}")
    medians = {name: median(measured) for name, measured in values.items()}
    for name, value in medians.items():
        print(f"  {name:10} {value * scale:10.2f} {unit}   {value / medians['dari']:5.2f} x dari")


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    versions = f"CPython {platform.python_version()}, dari {dari.__version__}"
    create: dict[str, Callable[[], float]] = {"asyncio": asyncio_create, "dari": dari_create}
    timers: dict[str, Callable[[], float]] = {"asyncio": asyncio_timers, "dari": dari_timers}
    if importlib.util.find_spec("uvloop"):
        import uvloop

        versions += f", uvloop {importlib.metadata.version('uvloop')}"
        create["uvloop"] = lambda: asyncio_create(uvloop.new_event_loop)
        timers["uvloop"] = lambda: asyncio_timers(uvloop.new_event_loop)
    print(f"{versions}; {rounds} interleaved rounds, medians")
    compare(f"create, one yield, end: {TASKS} tasks", create, rounds, "us a task", 1e6 / TASKS)
    compare(
        f"timers: {TASKS} tasks, 3 random sleeps of up to 10 ms each", timers, rounds, "us a sleep", 1e6 / TASKS / 3
    )
    compare(
        "memory of a sleeping task",
        {"asyncio": lambda: memory("asyncio"), "dari": lambda: memory("dari")},
        3,
        "bytes",
        1,
    )


if __name__ == "__main__":
    main()
