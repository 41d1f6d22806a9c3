"""dari as a guest: how late a heartbeat of the host is, what the seam between the worlds costs, what a guest loses.

Side by side in one process, interleaved, medians of the rounds; uvloop is left out where it is not installed. The cost
of a switch as a guest beside the host's own is in `switch.py`.

    python benchmarks/guest.py [rounds]

`heartbeat`  a coroutine of the host sleeps 5 ms again and again beside 10 000 spinning tasks: how much later than asked
             it wakes up, 99th percentile. Beside: the same with tasks of the host that spin by `sleep(0)`
`start`      a coroutine starts a task that ends at once, and awaits it, again and again: by `create_task`, by `arun`.
             Beside: the same with a task of the host. And the other way round: a generator task yields a coroutine that
             ends at once, again and again, as it is and by `dari.host`
`switch`     steps of 100 spinning tasks, as a guest of a loop that has nothing else to do and standalone
"""

from __future__ import annotations

import asyncio
import time
from functools import partial
from statistics import quantiles
from typing import TYPE_CHECKING, Any

from rounds import medians, peer, rounds_asked, seconds_per_step, show, spinner, spinning, versions

import dari

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

SPINNING = 10_000
PERIOD = 0.005  # seconds, of the heartbeat
LISTENING = 1.5  # seconds: some 200 beats
SLICE = 0.002  # seconds: the default of `Scheduler(max_slice=...)`
AWAITS = 20_000
SWITCHING = 100
SWITCHED = 0.3  # seconds

uvloop = peer("uvloop")


async def lateness() -> float:
    """99th percentile of how late a sleeping coroutine wakes up, in seconds."""
    late: list[float] = []
    end = time.perf_counter() + LISTENING
    while (started := time.perf_counter()) < end:
        await asyncio.sleep(PERIOD)
        late.append(time.perf_counter() - started - PERIOD)
    return quantiles(late, n=100, method="inclusive")[98]


async def beside_dari() -> float:
    async with dari.Scheduler() as scheduler:
        for _ in range(SPINNING):
            scheduler.create_task(spinner)
        p99 = await lateness()
        scheduler.cancel()
    return p99


async def beside_coroutines() -> float:
    async def spin() -> None:
        while True:
            await asyncio.sleep(0)

    tasks = [asyncio.create_task(spin()) for _ in range(SPINNING)]
    p99 = await lateness()
    for task in tasks:
        task.cancel()
    return p99


def ends() -> dari.Steps[None]:
    yield from ()


async def ends_too() -> None:
    pass


async def await_dari() -> float:
    async with dari.Scheduler() as scheduler:
        started = time.perf_counter()
        for _ in range(AWAITS):
            await scheduler.create_task(ends)
        return time.perf_counter() - started


async def await_arun() -> float:
    started = time.perf_counter()
    for _ in range(AWAITS):
        await dari.arun(ends)
    return time.perf_counter() - started


async def await_coroutine() -> float:
    started = time.perf_counter()
    for _ in range(AWAITS):
        await asyncio.create_task(ends_too())
    return time.perf_counter() - started


async def yield_coroutine() -> float:
    def plan() -> dari.Steps[float]:
        started = time.perf_counter()
        for _ in range(AWAITS):
            yield ends_too()
        return time.perf_counter() - started

    return await dari.arun(plan)


async def yield_from_host() -> float:
    def plan() -> dari.Steps[float]:
        started = time.perf_counter()
        for _ in range(AWAITS):
            yield from dari.host(ends_too())
        return time.perf_counter() - started

    return await dari.arun(plan)


async def switch_as_guest() -> float:
    """Seconds per step."""
    async with dari.Scheduler() as scheduler:
        for _ in range(SWITCHING):
            scheduler.create_task(spinner)
        await asyncio.sleep(0.01)
        before = scheduler.stats().switches
        started = time.perf_counter()
        await asyncio.sleep(SWITCHED)
        cost = (time.perf_counter() - started) / (scheduler.stats().switches - before)
        scheduler.cancel()
    return cost


def switch_standalone() -> float:
    return seconds_per_step(spinning(SWITCHING), SWITCHED)


def on_asyncio(main: Callable[[], Coroutine[Any, Any, float]]) -> float:
    return asyncio.run(main())


def on_uvloop(main: Callable[[], Coroutine[Any, Any, float]]) -> float:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main())


def main() -> None:
    rounds = rounds_asked(5)
    print(versions("uvloop"), f"{rounds} interleaved rounds, medians", sep="; ")
    hosts = {"asyncio": on_asyncio} | ({"uvloop": on_uvloop} if uvloop else {})
    for host, run in hosts.items():
        beats = medians({"dari": partial(run, beside_dari), host: partial(run, beside_coroutines)}, rounds)
        show(
            f"heartbeat of {host} beside {SPINNING} spinning tasks: how late, p99",
            beats | {"one slice": SLICE},
            "ms",
            1e3,
            cost_of=(host, "one slice"),
            goals=["dari at most one slice"],
        )
        starts = {
            "await create_task(generator)": await_dari,
            "await arun(generator)": await_arun,
            "yield coroutine": yield_coroutine,
            "yield from host(coroutine)": yield_from_host,
            host: await_coroutine,
        }
        show(
            f"start something of the other world and wait for it, in {host}",
            medians({name: partial(run, measure) for name, measure in starts.items()}, rounds),
            "us",
            1e6 / AWAITS,
            cost_of=(host,),
            goals=[f"create_task at most 1.25 x the cost of {host}, arun 2 x, a coroutine 1.5 x"],
        )
        show(
            f"task switch, {SWITCHING} tasks, {host} has nothing else to do",
            medians({"standalone": switch_standalone, f"guest of {host}": partial(run, switch_as_guest)}, rounds),
            "ns",
            1e9,
            speed_of=("standalone",),
            goals=["the guest at least 0.95 x as fast as standalone"],
        )


if __name__ == "__main__":
    main()
