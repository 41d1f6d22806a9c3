"""`dari.EventLoop` beside the stdlib's loop: task switch, streams, timers; and generator tasks on it beside asyncio's.

The same program on both, in turns; processor time of the loop's thread, in which what else the machine does shows less.
"Without a priority" is a process in which none was ever set, so that comes first.

    python benchmarks/host.py [rounds]
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from rounds import medians, rounds_asked, show, versions

import dari

TASKS = 100
STEPS = 500
MESSAGES = 3000
TIMERS = 30_000


async def switch(priorities: int) -> float:
    """Tasks that only step aside."""

    async def spin() -> None:
        for _ in range(STEPS):
            await asyncio.sleep(0)

    tasks: list[asyncio.Task[None]] = []
    for number in range(TASKS):
        if priorities:
            with dari.priority(1 + number % priorities):
                tasks.append(asyncio.create_task(spin()))
        else:
            tasks.append(asyncio.create_task(spin()))
    return await taken(asyncio.gather(*tasks))


async def echo(priorities: int) -> float:
    """Clients that each wait for the answer before they ask again."""

    ended: list[asyncio.StreamWriter] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(line)
        writer.close()
        ended.append(writer)

    async def ask(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(MESSAGES // 10):
            writer.write(b"a line of some length\n")
            await reader.readline()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    clients: list[asyncio.Task[None]] = []
    for number in range(10):
        if priorities:
            with dari.priority(1 + number % priorities):
                clients.append(asyncio.create_task(ask(port)))
        else:
            clients.append(asyncio.create_task(ask(port)))
    seconds = await taken(asyncio.gather(*clients))
    while len(ended) < len(clients):
        await asyncio.sleep(0.001)
    server.close()
    return seconds


async def timers(priorities: int) -> float:
    """Tasks that sleep for random times, at most a fifth of a second."""

    async def sleeper(delay: float) -> None:
        await asyncio.sleep(delay)

    draw = random.Random(1)

    async def all_of_them() -> None:
        tasks: list[asyncio.Task[None]] = []
        for number in range(TIMERS):
            delay = draw.random() / 5
            if priorities:
                with dari.priority(1 + number % priorities):
                    tasks.append(asyncio.create_task(sleeper(delay)))
            else:
                tasks.append(asyncio.create_task(sleeper(delay)))
        await asyncio.gather(*tasks)

    return await taken(all_of_them())


async def generators(priorities: int) -> float:
    """Generator tasks that only step aside, in the loop."""

    def spin() -> dari.Steps[None]:
        for _ in range(STEPS):
            yield

    tasks = [
        dari.create_task(spin, priority=1 + number % priorities if priorities else None) for number in range(TASKS)
    ]

    async def all_of_them() -> None:
        for task in tasks:
            await task

    return await taken(all_of_them())


async def taken(awaitable: Any) -> float:
    started = time.thread_time()
    await awaitable
    return time.thread_time() - started


Program = Callable[[int], Coroutine[Any, Any, float]]


def on(loop: Callable[[], asyncio.AbstractEventLoop], program: Program, priorities: int) -> float:
    with asyncio.Runner(loop_factory=loop) as runner:
        return runner.run(program(priorities))


STDLIB = "asyncio's loop"
ROWS: tuple[tuple[str, Program, Program, int, tuple[float, float]], ...] = (
    ("switch", switch, switch, TASKS * STEPS, (1.0, 0.85)),
    ("echo over streams", echo, echo, MESSAGES, (1.0, 0.85)),
    (f"{TIMERS} timers", timers, timers, TIMERS, (1.0, 1.0)),
    ("generator tasks beside asyncio's", switch, generators, TASKS * STEPS, (7.0, 7.0)),
)


def main() -> None:
    rounds = rounds_asked(7)
    print(versions())
    for priorities, used in ((0, "without a priority"), (1, "with one priority"), (5, "with five priorities")):
        for title, theirs, ours, number, goals in ROWS:
            costs = medians(
                {
                    STDLIB: partial(on, asyncio.SelectorEventLoop, theirs, priorities),
                    "dari.EventLoop": partial(on, dari.EventLoop, ours, priorities),
                },
                rounds,
            )
            each = {name: cost / number for name, cost in costs.items()}
            goal = f"{goals[bool(priorities)]} x"
            show(f"{title}, {used} in use", each, "us", 1e6, speed_of=[STDLIB], goals=[goal])


if __name__ == "__main__":
    main()
