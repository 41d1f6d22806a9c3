"""Many tasks: creating them, their timers, and the memory of one that sleeps, in dari and its peers.

Side by side in one process, interleaved, medians of the rounds; memory, which hardly varies, in a new process for each
of three samples. Peers that are not installed are left out.

    python benchmarks/tasks.py [rounds]

SimPy's time is virtual, so it has no timers to compare. curio asserts at each wake-up that the task is not in its ready
queue, so each costs as much as the queue is long: it gets fewer tasks, or it would take minutes, and the line says so.
"""

from __future__ import annotations

import asyncio
import random
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from rounds import in_its_own_process, medians, peer, resident_bytes, rounds_asked, show, versions

import dari

if TYPE_CHECKING:
    from collections.abc import Callable

TASKS = 30_000
SLEEPERS = 50_000
FEWER = 3_000  # tasks, for curio
LONG = 3600.0
DELAYS = [random.Random(7).random() / 100 for _ in range(TASKS + 2)]  # seconds; a task takes three of them

uvloop, trio, curio, gevent, simpy = map(peer, ("uvloop", "trio", "curio", "gevent", "simpy"))

asleep = 0  # sleepers that have begun to sleep: worlds differ in when they begin


def doze_off() -> None:
    global asleep  # noqa: PLW0603 - a count for the whole process, which was made for this one measurement
    asleep += 1


# ---- dari ------------------------------------------------------------------------------------------------------------


def dari_yield(_: int) -> dari.Steps[None]:
    yield


def dari_sleeps(number: int) -> dari.Steps[None]:
    for delay in DELAYS[number : number + 3]:
        yield dari.sleep(delay)


def in_dari(task: Callable[[int], dari.Steps[None]]) -> float:
    started = time.perf_counter()
    scheduler = dari.Scheduler()
    for number in range(TASKS):
        scheduler.create_task(task, number)
    scheduler.run()
    return time.perf_counter() - started


def dari_memory(count: int) -> float:
    """Resident bytes per task when so many of them sleep, as in the functions of this name below."""

    def sleeper() -> dari.Steps[None]:
        doze_off()
        yield dari.sleep(LONG)

    scheduler = dari.Scheduler()
    before = resident_bytes()
    for _ in range(count):
        scheduler.create_task(sleeper)
    while asleep < count:
        scheduler.run(timeout=0.01)
    return (resident_bytes() - before) / count


# ---- asyncio and uvloop ----------------------------------------------------------------------------------------------


async def asyncio_yield(_: int) -> None:
    await asyncio.sleep(0)


async def asyncio_sleeps(number: int) -> None:
    for delay in DELAYS[number : number + 3]:
        await asyncio.sleep(delay)


def in_asyncio(
    task: Callable[[int], Any], loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None
) -> float:
    async def main() -> None:
        await asyncio.gather(*[asyncio.create_task(task(number)) for number in range(TASKS)])

    started = time.perf_counter()
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main())
    return time.perf_counter() - started


def asyncio_memory(count: int, *, on_uvloop: bool = False) -> float:
    async def sleeper() -> None:
        doze_off()
        await asyncio.sleep(LONG)

    async def main() -> float:
        before = resident_bytes()
        tasks = [asyncio.create_task(sleeper()) for _ in range(count)]
        while asleep < count:
            await asyncio.sleep(0.01)
        used = resident_bytes() - before
        for task in tasks:
            task.cancel()
        return used / count

    with asyncio.Runner(loop_factory=uvloop.new_event_loop if on_uvloop else None) as runner:
        return runner.run(main())


# ---- trio ------------------------------------------------------------------------------------------------------------


async def trio_yield(_: int) -> None:
    await trio.lowlevel.checkpoint()


async def trio_sleeps(number: int) -> None:
    for delay in DELAYS[number : number + 3]:
        await trio.sleep(delay)


def in_trio(task: Callable[[int], Any]) -> float:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for number in range(TASKS):
                nursery.start_soon(task, number)

    started = time.perf_counter()
    trio.run(main)
    return time.perf_counter() - started


def trio_memory(count: int) -> float:
    async def sleeper() -> None:
        doze_off()
        await trio.sleep(LONG)

    async def main() -> float:
        before = resident_bytes()
        async with trio.open_nursery() as nursery:
            for _ in range(count):
                nursery.start_soon(sleeper)
            while asleep < count:
                await trio.sleep(0.01)
            used = resident_bytes() - before
            nursery.cancel_scope.cancel()
        return used / count

    used: float = trio.run(main)
    return used


# ---- curio -----------------------------------------------------------------------------------------------------------


async def curio_yield(_: int) -> None:
    await curio.sleep(0)


async def curio_sleeps(number: int) -> None:
    for delay in DELAYS[number : number + 3]:
        await curio.sleep(delay)


def in_curio(task: Callable[[int], Any]) -> float:
    async def main() -> None:
        for spawned in [await curio.spawn(task, number) for number in range(FEWER)]:
            await spawned.join()

    started = time.perf_counter()
    curio.run(main)
    return (time.perf_counter() - started) / FEWER * TASKS


def curio_memory(count: int) -> float:
    async def sleeper() -> None:
        doze_off()
        await curio.sleep(LONG)

    async def main() -> float:
        before = resident_bytes()
        tasks = [await curio.spawn(sleeper) for _ in range(count)]
        while asleep < count:
            await curio.sleep(0.01)
        used = resident_bytes() - before
        for task in tasks:
            await task.cancel()
        return used / count

    used: float = curio.run(main)
    return used


# ---- gevent ----------------------------------------------------------------------------------------------------------


def gevent_yield(_: int) -> None:
    gevent.sleep(0)


def gevent_sleeps(number: int) -> None:
    for delay in DELAYS[number : number + 3]:
        gevent.sleep(delay)


def in_gevent(task: Callable[[int], None]) -> float:
    started = time.perf_counter()
    gevent.joinall([gevent.spawn(task, number) for number in range(TASKS)])
    return time.perf_counter() - started


def gevent_memory(count: int) -> float:
    def sleeper() -> None:
        doze_off()
        gevent.sleep(LONG)

    gevent.sleep(0)  # the hub is made now
    before = resident_bytes()
    greenlets = [gevent.spawn(sleeper) for _ in range(count)]
    while asleep < count:
        gevent.sleep(0.01)
    used = resident_bytes() - before
    gevent.killall(greenlets)
    return used / count


# ---- SimPy -----------------------------------------------------------------------------------------------------------


def in_simpy() -> float:
    def task() -> Any:
        yield env.timeout(0)

    started = time.perf_counter()
    env = simpy.Environment()
    for _ in range(TASKS):
        env.process(task())
    env.run()
    return time.perf_counter() - started


def simpy_memory(count: int) -> float:
    def sleeper() -> Any:
        yield env.timeout(LONG)

    env = simpy.Environment()
    before = resident_bytes()
    for _ in range(count):
        env.process(sleeper())
    env.run(until=1)
    return (resident_bytes() - before) / count


def main() -> None:
    rounds = rounds_asked(5)
    create: dict[str, Callable[[], float]] = {
        "dari": partial(in_dari, dari_yield),
        "asyncio": partial(in_asyncio, asyncio_yield),
    }
    timers: dict[str, Callable[[], float]] = {
        "dari": partial(in_dari, dari_sleeps),
        "asyncio": partial(in_asyncio, asyncio_sleeps),
    }
    memory: dict[str, Callable[[], float]] = {
        "dari": partial(dari_memory, SLEEPERS),
        "asyncio": partial(asyncio_memory, SLEEPERS),
    }
    if uvloop:
        create["uvloop"] = partial(in_asyncio, asyncio_yield, uvloop.new_event_loop)
        timers["uvloop"] = partial(in_asyncio, asyncio_sleeps, uvloop.new_event_loop)
        memory["uvloop"] = partial(asyncio_memory, SLEEPERS, on_uvloop=True)
    if trio:
        create["trio"] = partial(in_trio, trio_yield)
        timers["trio"] = partial(in_trio, trio_sleeps)
        memory["trio"] = partial(trio_memory, SLEEPERS)
    if curio:
        create[f"curio, {FEWER} tasks"] = partial(in_curio, curio_yield)
        timers[f"curio, {FEWER} tasks"] = partial(in_curio, curio_sleeps)
        memory[f"curio, {FEWER} tasks"] = partial(curio_memory, FEWER)
    if gevent:
        create["gevent"] = partial(in_gevent, gevent_yield)
        timers["gevent"] = partial(in_gevent, gevent_sleeps)
        memory["gevent"] = partial(gevent_memory, SLEEPERS)
    if simpy:
        create["simpy"] = in_simpy
        memory["simpy"] = partial(simpy_memory, SLEEPERS)
    alone: dict[str, Callable[[], float]] = {
        name: partial(in_its_own_process, measure) for name, measure in memory.items()
    }
    print(versions("uvloop", "trio", "curio", "gevent", "simpy"), f"{rounds} interleaved rounds, medians", sep="; ")
    show(
        f"create, one yield, end: {TASKS} tasks",
        medians(create, rounds),
        "us a task",
        1e6 / TASKS,
        speed_of=("asyncio", "uvloop"),
        goals=["dari at least 4 x asyncio"],
    )
    show(
        f"timers: {TASKS} tasks, 3 random sleeps of up to 10 ms each",
        medians(timers, rounds),
        "us a sleep",
        1e6 / TASKS / 3,
        speed_of=("asyncio", "uvloop"),
        goals=["dari at least 4 x asyncio"],
    )
    show(
        f"memory of a sleeping task, {SLEEPERS} of them",
        medians(alone, min(rounds, 3)),
        "B",
        1,
        cost_of=("asyncio",),
        goals=["dari at most 0.5 x the cost of asyncio"],
    )


if __name__ == "__main__":
    main()
