"""What `pool_chaos.py wakeups` lets five worlds wait for: jobs of one pool, in waves, each for its own result."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

import anyio
from rounds import peer

import dari

if TYPE_CHECKING:
    from collections.abc import Callable

    from dari.pool import Pool

__all__ = ["Waves", "worlds"]

SIZES = (2, 3, 5, 20, 200, 500)  # how many wait at once


def echo(ticket: tuple[int, int]) -> tuple[int, int]:
    return ticket


class Waves:
    """Those of one world; the next begins when all of the last were heard of, so no lost wake-up is made up for."""

    def __init__(self, pool: Pool, number: int, completions: int) -> None:
        self._pool = pool
        self._number = number
        self._left = completions
        self._dice = random.Random(number)
        self.got = 0
        self.wrongs: list[str] = []

    def next(self) -> list[tuple[int, int]]:
        size = min(self._left - self.got, self._dice.choice(SIZES))
        return [(self._number, turn) for turn in range(size)]

    def check(self, wave: list[tuple[int, int]], answers: list[tuple[int, int]]) -> None:
        if answers != wave:
            self.wrongs.append(f"waited for {wave}, got {answers}")
        self.got += len(wave)

    def call(self, ticket: tuple[int, int]) -> Any:
        return self._pool.run_sync(echo, ticket)

    def generator(self) -> dari.Steps[None]:
        while wave := self.next():
            self.check(wave, (yield [self.call(ticket) for ticket in wave]))

    async def coroutine(self) -> None:
        while wave := self.next():
            answers = [(-1, -1)] * len(wave)

            async def ask(place: int, ticket: tuple[int, int], answers: list[tuple[int, int]]) -> None:
                answers[place] = await self.call(ticket)

            async with anyio.create_task_group() as group:
                for place, ticket in enumerate(wave):
                    group.start_soon(ask, place, ticket, answers)
            self.check(wave, answers)


def worlds() -> dict[str, Callable[[Waves], object]]:
    """How each runs its waves to their end."""
    found: dict[str, Callable[[Waves], object]] = {
        "generator tasks": lambda waves: dari.run(waves.generator),
        "asyncio": lambda waves: anyio.run(waves.coroutine),
        "generator tasks in asyncio": lambda waves: asyncio.run(dari.arun(waves.generator)),
    }
    if peer("uvloop"):
        found["uvloop"] = lambda waves: anyio.run(waves.coroutine, backend_options={"use_uvloop": True})
    if peer("trio"):
        found["trio"] = lambda waves: anyio.run(waves.coroutine, backend="trio")
    return found
