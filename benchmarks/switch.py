"""Task switch: 100 tasks that only step aside, in dari, its peers, and a bare deque of generators.

Side by side in one process, interleaved, medians of the rounds; peers that are not installed are left out.

    python benchmarks/switch.py [rounds]

A run has 100 000 switches, so that the first and the last step of a task, which are dearer, do not show. With five
priorities the tasks spin for ever, for a fixed time: if they ended, the most urgent would do so first, and most of the
run would see fewer priorities.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from rounds import medians, peer, rounds_asked, seconds_per_step, show, spinning, versions

import dari

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

TASKS = 100
STEPS = 1000

uvloop, trio, curio, gevent, simpy = map(peer, ("uvloop", "trio", "curio", "gevent", "simpy"))


def spin() -> dari.Steps[None]:
    for _ in range(STEPS):
        yield


def in_dari() -> float:
    scheduler = dari.Scheduler()
    for _ in range(TASKS):
        scheduler.create_task(spin)
    started = time.perf_counter()
    scheduler.run()
    return time.perf_counter() - started


def in_dari_with_priorities(priorities: int) -> float:
    return seconds_per_step(spinning(TASKS, priorities), 0.05) * TASKS * STEPS


async def as_guest() -> float:
    async with dari.Scheduler() as scheduler:
        for _ in range(TASKS):
            scheduler.create_task(spin)
        started = time.perf_counter()
    return time.perf_counter() - started


async def in_asyncio() -> float:
    async def spin() -> None:
        for _ in range(STEPS):
            await asyncio.sleep(0)

    tasks = [asyncio.create_task(spin()) for _ in range(TASKS)]
    started = time.perf_counter()
    await asyncio.gather(*tasks)
    return time.perf_counter() - started


async def in_trio() -> float:
    async def spin() -> None:
        for _ in range(STEPS):
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        for _ in range(TASKS):
            nursery.start_soon(spin)
        started = time.perf_counter()
    return time.perf_counter() - started


async def in_curio() -> float:
    async def spin() -> None:
        for _ in range(STEPS):
            await curio.sleep(0)

    tasks = [await curio.spawn(spin) for _ in range(TASKS)]
    started = time.perf_counter()
    for task in tasks:
        await task.join()
    return time.perf_counter() - started


def in_gevent() -> float:
    def spin() -> None:
        for _ in range(STEPS):
            gevent.sleep(0)

    greenlets = [gevent.spawn(spin) for _ in range(TASKS)]
    started = time.perf_counter()
    gevent.joinall(greenlets)
    return time.perf_counter() - started


def in_simpy() -> float:
    def spin(env: Any) -> Any:
        for _ in range(STEPS):
            yield env.timeout(0)

    env = simpy.Environment()
    for _ in range(TASKS):
        env.process(spin(env))
    started = time.perf_counter()
    env.run()
    return time.perf_counter() - started


def in_deque() -> float:
    ready = deque(spin() for _ in range(TASKS))
    started = time.perf_counter()
    while ready:
        steps = ready.popleft()
        try:
            next(steps)
        except StopIteration:
            continue
        ready.append(steps)
    return time.perf_counter() - started


def on_uvloop(main: Callable[[], Coroutine[Any, Any, float]]) -> float:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main())


def main() -> None:
    rounds = rounds_asked(7)
    candidates: dict[str, Callable[[], float]] = {
        "dari": in_dari,
        "dari, 5 priorities": lambda: in_dari_with_priorities(5),
        "dari, guest of asyncio": lambda: asyncio.run(as_guest()),
    }
    if uvloop:
        candidates["dari, guest of uvloop"] = lambda: on_uvloop(as_guest)
    candidates["the bare deque"] = in_deque
    candidates["asyncio"] = lambda: asyncio.run(in_asyncio())
    if uvloop:
        candidates["uvloop"] = lambda: on_uvloop(in_asyncio)
    if trio:
        candidates["trio"] = lambda: trio.run(in_trio)
    if curio:
        candidates["curio"] = lambda: curio.run(in_curio)
    if gevent:
        candidates["gevent"] = in_gevent
    if simpy:
        candidates["simpy"] = in_simpy
    print(versions("uvloop", "trio", "curio", "gevent", "simpy"), f"{rounds} interleaved rounds, medians", sep="; ")
    show(
        f"task switch, {TASKS} tasks",
        medians(candidates, rounds),
        "ns",
        1e9 / TASKS / STEPS,
        speed_of=("asyncio", "uvloop"),
        cost_of=("the bare deque",),
        goals=(
            "dari at least 10 x asyncio, 5 x uvloop; at most 2.0 x the cost of the bare deque",
            "with 5 priorities at least 8 x asyncio",
            "as a guest of asyncio at least 9 x asyncio, of uvloop 4.5 x uvloop",
        ),
    )


if __name__ == "__main__":
    main()
