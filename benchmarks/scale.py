"""What grows with the number of tasks, timeouts or priorities, and what must not.

    python benchmarks/scale.py [--rounds N] [--count N] [million] [timeouts] [ready] [priorities]

`million`     `count` (a million) tasks, each sleeping a random second: time to the end of the last; then resident
              memory of each while all of them sleep, for longer, since starting them takes seconds; asyncio beside,
              each in a process of its own; once
`timeouts`    `count` blocks `with dari.timeout(60)` around a sleep, in ten tasks: time, beside `asyncio.timeout`, and
              the greatest size that the heap of deadlines ever had; once
`ready`       cost of a step with 1 to 100 000 tasks that are always ready, beside a bare deque of generators, which
              shows what of it is the machine's caches; interleaved, medians of the rounds
`priorities`  cost of a step with 1 to 50 priorities in use; interleaved, medians of the rounds

No part named: all. In the last two no task begins or ends while the clock runs.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from collections import deque
from functools import partial

from rounds import in_its_own_process, medians, seconds_per_step, show, spinner, spinning, versions
from tasks import asyncio_memory, dari_memory

import dari

READY = (1, 10, 100, 1_000, 10_000, 100_000)
PRIORITIES = (1, 2, 5, 10, 25, 50)
SAMPLE = 0.2  # seconds; some laps of 100 000 tasks
TIMED = 10  # tasks with timeouts
PARTS = ("million", "timeouts", "ready", "priorities")


# ---- a million tasks -------------------------------------------------------------------------------------------------


def million_in_dari(count: int) -> float:
    def sleeper() -> dari.Steps[None]:
        yield dari.sleep(random.random())

    started = time.perf_counter()
    scheduler = dari.Scheduler()
    for _ in range(count):
        scheduler.create_task(sleeper)
    scheduler.run()
    return time.perf_counter() - started


def million_in_asyncio(count: int) -> float:
    async def sleeper() -> None:
        await asyncio.sleep(random.random())

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(count):
                group.create_task(sleeper())

    started = time.perf_counter()
    asyncio.run(main())
    return time.perf_counter() - started


def million(count: int) -> None:
    alone = in_its_own_process
    show(
        f"{count} tasks, each sleeping a random second: from the first creation to the last end",
        {"dari": alone(million_in_dari, count), "asyncio": alone(million_in_asyncio, count)},
        "s",
        1,
        speed_of=("asyncio",),
        goals=["it finishes"],
    )
    show(
        f"{count} sleeping tasks: resident memory of each",
        {"dari": alone(dari_memory, count), "asyncio": alone(asyncio_memory, count)},
        "B",
        1,
        cost_of=("asyncio",),
        goals=["dari at most 1229 B"],
    )


# ---- a million timeouts ----------------------------------------------------------------------------------------------


def timeouts_in_dari(count: int) -> tuple[float, int]:
    """Seconds, and the greatest number of entries in the heap of deadlines. It grows only when a timeout is entered."""
    greatest = 0

    def patient() -> dari.Steps[None]:
        nonlocal greatest
        for _ in range(count // TIMED):
            with dari.timeout(60):
                greatest = max(greatest, len(heap))
                yield dari.sleep(0)

    scheduler = dari.Scheduler()
    heap = scheduler._kernel.deadlines
    for _ in range(TIMED):
        scheduler.create_task(patient)
    started = time.perf_counter()
    scheduler.run()
    return time.perf_counter() - started, greatest


def timeouts_in_asyncio(count: int) -> float:
    async def patient() -> None:
        for _ in range(count // TIMED):
            async with asyncio.timeout(60):
                await asyncio.sleep(0)

    async def main() -> None:
        await asyncio.gather(*[asyncio.create_task(patient()) for _ in range(TIMED)])

    started = time.perf_counter()
    asyncio.run(main())
    return time.perf_counter() - started


def timeouts(count: int) -> None:
    ours, greatest = timeouts_in_dari(count)
    costs = {"dari": ours, "asyncio": timeouts_in_asyncio(count)}
    title = f"{count} timeouts around a sleep(0), in {TIMED} tasks"
    show(
        title,
        costs,
        "us",
        1e6 / count,
        speed_of=("asyncio",),
        goals=["dari's heap of deadlines stays under 100 entries"],
    )
    print(f"  greatest size of dari's heap: {greatest} entries, {greatest / TIMED:.1f} x the timeouts alive at a time")


# ---- the cost of a step ----------------------------------------------------------------------------------------------


def seconds_per_turn(generators: deque[dari.Steps[None]]) -> float:
    """What a step costs in a bare deque; the clock is read as seldom as dari does."""
    turns = 0
    started = time.perf_counter()
    while time.perf_counter() - started < SAMPLE:
        for _ in range(256):
            steps = generators.popleft()
            try:
                next(steps)
            except StopIteration:
                continue
            generators.append(steps)
        turns += 256
    return (time.perf_counter() - started) / turns


def ready(rounds: int) -> None:
    costs = medians(
        {("dari", size): partial(seconds_per_step, spinning(size), SAMPLE) for size in READY}
        | {("bare", size): partial(seconds_per_turn, deque(spinner() for _ in range(size))) for size in READY},
        rounds,
    )
    print("\na step, by how many tasks are ready\n  goal: dari within 1.4 x from 10 to 100 000")
    for size in READY:
        ours, bare = costs["dari", size], costs["bare", size]
        print(
            f"  {size:6} ready  dari {ours * 1e9:6.0f} ns  {ours / costs['dari', 100]:5.2f} x the cost with 100"
            f"   bare deque {bare * 1e9:6.0f} ns  {bare / costs['bare', 100]:5.2f} x the cost with 100"
            f"   dari {ours / bare:5.2f} x the cost of the deque"
        )
    many = [costs["dari", size] for size in READY if size >= 10]
    print(f"  dari from 10 on: the dearest is {max(many) / min(many):.2f} x the cost of the cheapest")


def priorities(rounds: int) -> None:
    for tasks in (100, 1_000):
        costs = medians(
            {f"{number} in use": partial(seconds_per_step, spinning(tasks, number), SAMPLE) for number in PRIORITIES},
            rounds,
        )
        title = f"a step, by how many priorities {tasks} ready tasks have"
        show(title, costs, "ns", 1e9, cost_of=("1 in use",), goals=["within 1.4 x the cost of one priority"])


def main() -> None:
    parser = argparse.ArgumentParser(description="What grows with the number of tasks, timeouts or priorities.")
    parser.add_argument("parts", nargs="*", metavar="part", help=f"{', '.join(PARTS)}; none: all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--count", type=int, default=1_000_000, help="of sleeping tasks, and of timeouts")
    arguments = parser.parse_args()
    for unknown in set(arguments.parts) - set(PARTS):
        parser.error(f"no part {unknown!r}; there are {', '.join(PARTS)}")
    print(versions(), f"{arguments.rounds} interleaved rounds, medians", sep="; ")
    parts = {
        "million": partial(million, arguments.count),
        "timeouts": partial(timeouts, arguments.count),
        "ready": partial(ready, arguments.rounds),
        "priorities": partial(priorities, arguments.rounds),
    }
    for part in arguments.parts or PARTS:
        parts[part]()


if __name__ == "__main__":
    main()
