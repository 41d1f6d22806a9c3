"""Task switch: 100 tasks that only step aside, against asyncio's `sleep(0)`, uvloop's, and a bare deque of generators.

Side by side in one process, interleaved, medians of the rounds. Run: python benchmarks/switch.py [rounds]
"""

from __future__ import annotations

import asyncio
import gc
import importlib.metadata
import importlib.util
import platform
import sys
import time
from collections import deque
from statistics import median
from typing import TYPE_CHECKING

import dari

if TYPE_CHECKING:
    from collections.abc import Callable

TASKS = 100
STEPS = 1000


def spin(steps: int) -> dari.Steps[None]:
    for _ in range(steps):
        yield


async def aspin(steps: int) -> None:
    for _ in range(steps):
        await asyncio.sleep(0)


def in_dari(priorities: int = 1) -> float:
    scheduler = dari.Scheduler()
    for number in range(TASKS):
        scheduler.create_task(spin, STEPS, priority=number % priorities)
    started = time.perf_counter()
    scheduler.run()
    return time.perf_counter() - started


async def agather() -> float:
    tasks = [asyncio.create_task(aspin(STEPS)) for _ in range(TASKS)]
    started = time.perf_counter()
    await asyncio.gather(*tasks)
    return time.perf_counter() - started


def in_asyncio() -> float:
    return asyncio.run(agather())


def in_uvloop() -> float:
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(agather())


async def aguest() -> float:
    async with dari.Scheduler() as scheduler:
        for _ in range(TASKS):
            scheduler.create_task(spin, STEPS)
        started = time.perf_counter()
    return time.perf_counter() - started


def in_guest() -> float:
    return asyncio.run(aguest())


def in_guest_of_uvloop() -> float:
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(aguest())


def in_deque() -> float:
    ready = deque(spin(STEPS) for _ in range(TASKS))
    started = time.perf_counter()
    while ready:
        steps = ready.popleft()
        try:
            next(steps)
        except StopIteration:
            continue
        ready.append(steps)
    return time.perf_counter() - started


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    candidates: dict[str, Callable[[], float]] = {
        "asyncio sleep(0)": in_asyncio,
        "bare deque of generators": in_deque,
        "dari": in_dari,
        "dari, 5 priorities": lambda: in_dari(5),
        "dari, guest of asyncio": in_guest,
    }
    peers = ""
    if importlib.util.find_spec("uvloop"):
        peers = f", uvloop {importlib.metadata.version('uvloop')}"
        candidates["uvloop sleep(0)"] = in_uvloop
        candidates["dari, guest of uvloop"] = in_guest_of_uvloop
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, measure in candidates.items():
            gc.collect()
            times[name].append(measure())
    print(f"CPython {platform.python_version()}{peers}, dari {dari.__version__}; {rounds} interleaved rounds, medians")
    medians = {name: median(values) for name, values in times.items()}
    for name, value in medians.items():
        print(
            f"{name:26} {value / TASKS / STEPS * 1e9:8.0f} ns a switch"
            f"   {medians['asyncio sleep(0)'] / value:6.2f} x asyncio"
            f"   {value / medians['bare deque of generators']:6.2f} x the bare deque's cost"
            + (f"   {medians['uvloop sleep(0)'] / value:6.2f} x uvloop" if peers else "")
        )


if __name__ == "__main__":
    main()
