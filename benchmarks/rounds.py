"""What the benchmarks share: turns and medians, peers that may be missing, a process of one's own.

Two figures can be compared only if both were taken in the same minute: a machine's speed drifts by more than the
differences looked for. So candidates are measured in turns, one sample each a round, and the medians are compared.
Nothing but measuring and printing lives here; what is measured stands in the programs.
"""

from __future__ import annotations

import gc
import importlib.metadata
import platform
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from importlib.util import find_spec
from multiprocessing import get_context
from statistics import median
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import psutil

import dari

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Mapping

K = TypeVar("K", bound="Hashable")
P = ParamSpec("P")
T = TypeVar("T")


def rounds_asked(default: int) -> int:
    """The number of rounds that the command line asks for."""
    return int(sys.argv[1]) if len(sys.argv) > 1 else default


def peer(name: str) -> Any:
    """A peer's module, or None where it is not installed.

    Any, and imported by name: two of the peers have no types, and no checker should ask for any of them to be there.
    """
    return import_module(name) if find_spec(name) else None


def versions(*peers: str) -> str:
    """Who is compared, as a line to print first. asyncio is CPython's."""
    found = [f"{name} {importlib.metadata.version(name)}" for name in peers if find_spec(name)]
    missing = [name for name in peers if not find_spec(name)]
    return ", ".join(
        [f"CPython {platform.python_version()} {platform.machine()}", f"dari {dari.__version__}", *found]
    ) + (f"; not installed: {', '.join(missing)}" if missing else "")


def interleaved(candidates: Mapping[K, Callable[[], float]], rounds: int) -> dict[K, list[float]]:
    """One sample of each candidate per round."""
    samples: dict[K, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, measure in candidates.items():
            gc.collect()
            samples[name].append(measure())
    return samples


def medians(candidates: Mapping[K, Callable[[], float]], rounds: int) -> dict[K, float]:
    return {name: median(values) for name, values in interleaved(candidates, rounds).items()}


def show(
    title: str,
    costs: Mapping[str, float],
    unit: str,
    scale: float,
    *,
    speed_of: Iterable[str] = (),
    cost_of: Iterable[str] = (),
    goals: Iterable[str],
) -> None:
    """Print every cost, how many times as fast as `speed_of` that is, and how many times the cost of `cost_of`."""
    width = max(map(len, costs))
    print(f"\n{title}", *(f"goal: {goal}" for goal in goals), sep="\n  ")
    for name, cost in costs.items():
        ratios = [f"{costs[other] / cost:7.2f} x as fast as {other}" for other in speed_of if other in costs]
        ratios += [f"{cost / costs[other]:7.2f} x the cost of {other}" for other in cost_of if other in costs]
        print(f"  {name:{width}} {cost * scale:10,.2f} {unit}", *ratios, sep="  ")


def spinner() -> dari.Steps[None]:
    """A task that steps aside for ever."""
    while True:
        yield


def spinning(tasks: int, priorities: int = 1) -> dari.Scheduler:
    """A scheduler with so many tasks that spin for ever, all of them past their first step."""
    scheduler = dari.Scheduler()
    for number in range(tasks):
        scheduler.create_task(spinner, priority=number % priorities)
    while not all(task.steps for task in scheduler.tasks):
        scheduler.run(timeout=0.01)
    return scheduler


def seconds_per_step(scheduler: dari.Scheduler, duration: float) -> float:
    """What a step costs, of tasks that neither begin nor end meanwhile."""
    before = scheduler.stats().switches
    started = time.perf_counter()
    scheduler.run(timeout=duration)
    elapsed = time.perf_counter() - started
    return elapsed / (scheduler.stats().switches - before)


def resident_bytes() -> int:
    gc.collect()
    resident: int = psutil.Process().memory_info().rss
    return resident


def in_its_own_process(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function of a module in a new interpreter: its memory is nobody else's, before or after."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
        return executor.submit(function, *args, **kwargs).result()
