"""dari as a guest: how late a heartbeat of the host is, and what awaiting a task costs.

Side by side in one process, interleaved, medians of the rounds; uvloop is left out where it is not installed. The cost
of a switch as a guest is in `switch.py`.

    python benchmarks/guest.py [rounds]

`heartbeat`  a coroutine of the host sleeps 5 ms again and again beside 10 000 spinning tasks: how much later than asked
             it wakes up, 99th percentile. Beside: the same with tasks of the host that spin by `sleep(0)`
`await`      a coroutine starts a task that ends at once, and awaits it, again and again
"""

from __future__ import annotations

import asyncio
import time
from functools import partial
from statistics import quantiles
from typing import TYPE_CHECKING, Any

from rounds import medians, peer, rounds_asked, show, spinner, versions

import dari

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

SPINNING = 10_000
PERIOD = 0.005  # seconds, of the heartbeat
LISTENING = 1.5  # seconds: some 200 beats
SLICE = 0.002  # seconds: the default of `Scheduler(max_slice=...)`
AWAITS = 20_000

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


async def await_dari() -> float:
    def at_once() -> dari.Steps[None]:
        yield from ()

    async with dari.Scheduler() as scheduler:
        started = time.perf_counter()
        for _ in range(AWAITS):
            await scheduler.create_task(at_once)
        return time.perf_counter() - started


async def await_coroutine() -> float:
    async def at_once() -> None:
        pass

    started = time.perf_counter()
    for _ in range(AWAITS):
        await asyncio.create_task(at_once())
    return time.perf_counter() - started


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
        show(
            f"start a task and await it, in {host}",
            medians({"dari": partial(run, await_dari), host: partial(run, await_coroutine)}, rounds),
            "us",
            1e6 / AWAITS,
            cost_of=(host,),
            goals=[f"dari at most 1.25 x the cost of {host}"],
        )


if __name__ == "__main__":
    main()
