"""A soak: random programs on both sides of the seam, cancelled at random, for minutes; does anything stay behind?

    python benchmarks/soak.py [seconds=300] [asyncio|uvloop|trio] [seed]

In one running loop, wave after wave: generator tasks, coroutines of the host and threads that wait for each other
(`soak_programs.py`), on schedulers that come and go and on the implicit one, cancelled from every side. When a wave has
ended there must be left: no task of dari's or the host's, no timer of dari's in the loop, no descriptor watched, no
object of the wave alive, no item lost or doubled, no lock held, no cleanup missing, no report that was not provoked.
At the end, of the whole run: no more objects and no more memory than in its beginning; and nothing in the loop.

Ends with 1, the seed, and what was left. The seed chooses the programs; threads and clocks still play their part, so
that the same seed finds the same kind of thing, seldom at the same wave.
"""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import os
import random
import sys
import time
from collections import Counter, deque
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NoReturn

import psutil
from rounds import peer, versions
from soak_programs import hosts, visit
from soak_wave import Wave
from soak_worlds import REPORTS, Asyncio, Trio, listen

import dari

if TYPE_CHECKING:
    from collections.abc import Sequence
    from weakref import ref

    Figures = tuple[int, int, int]  # objects, blocks of memory, bytes

HANGING = 20.0  # seconds that a wave may take to end, when everything that it waits for has come
SETTLING = 1.0  # seconds until the loop has forgotten what has ended; waits of the programs are far shorter, or longer
LINE_EVERY = 10.0  # seconds
WINDOW = 15  # waves that are compared, of the beginning and the end of the run
NOISE = {"objects": 300, "blocks of memory": 3000, "bytes": 8_000_000}  # how much more is no growth yet


# ---- waves -----------------------------------------------------------------------------------------------------------


async def ride(wave: Wave) -> None:
    """Let the programs of a wave run, cancel at random, and wait until all of them have ended."""
    world, dice = wave.world, wave.dice
    for _ in range(dice.randint(1, 4)):
        wave.start(hosts(wave, 0))
    for _ in range(dice.randint(1, 4)):
        wave.start(visit(wave, 0))
    for _ in range(dice.randint(1, 10)):
        await world.sleep(dice.random() * 0.008)
        wave.cut()
    wave.finish()
    end = time.monotonic() + HANGING
    while wave.busy():
        await world.sleep(0.001)
        if time.monotonic() > end:
            hanging(wave)


def hanging(wave: Wave) -> NoReturn:
    """Say who still waits, and leave: nothing that hangs could be ended in order."""
    print(f"HANGING: {wave.running} coroutines of the wave, {wave.living} programs, pool {wave.pool.stats()}")
    for task in {*wave.tasks, *dari.all_tasks()}:
        if not task.done():
            print(task)
    print(*wave.wrongs, *REPORTS, sep="\n", flush=True)
    os._exit(1)


async def settled(world: Asyncio | Trio, usual: dict[str, float]) -> list[str]:
    """What the loop holds beyond what it `usual`ly does, when it has had time to forget."""
    end = time.monotonic() + SETTLING
    while True:
        await dari.arun(nothing)  # what the implicit scheduler has to do is done
        now = world.census()
        if now == usual or time.monotonic() > end:
            return [
                f"{what} in the loop: {count}, usually {usual[what]}"
                for what, count in now.items()
                if count != usual[what]
            ]
        await world.sleep(0.001)


def nothing() -> dari.Steps[None]:
    yield


def alive(refs: Sequence[tuple[str, ref[Any]]]) -> Counter[str]:
    gc.collect()
    return Counter(what for what, thing in refs if thing() is not None)


def kept(refs: Sequence[tuple[str, ref[Any]]]) -> list[str]:
    """What is alive of a wave that is over, and who keeps it."""
    gc.unfreeze()  # so that what was there from the beginning is seen among the keepers
    left = alive(refs)
    chains = {chain(thing) for what, thing in refs if thing() is not None and (what != "wave" or len(left) == 1)}
    return [f"still alive: {dict(left)}", *sorted(chains)[:6]]


def chain(thing: ref[Any]) -> str:
    """Who keeps it, and who keeps that, up to what nothing of the collector's keeps: what runs, or C."""
    links: list[Any] = [thing()]
    while len(links) < 12:
        seen = {id(links), id(sys._getframe()), *map(id, links)}
        found = [keeper for keeper in gc.get_referrers(links[-1]) if id(keeper) not in seen]
        if not found:
            break
        links.append(found[0])
        del found
    return "\n    < ".join(f"  {type(each).__qualname__}: {each!r:.150}" for each in links)


# ---- the run ---------------------------------------------------------------------------------------------------------


class Soak:
    """One run: its waves, its figures, and its measure of growth."""

    def __init__(self, world: Asyncio | Trio, seconds: float, seed: str) -> None:
        self.world, self.seconds, self.seed = world, seconds, seed
        self.counts: Counter[str] = Counter()
        self.wrongs: list[str] = []
        self._started = self._told = time.monotonic()
        self._early: list[Figures] = []
        self._late: deque[Figures] = deque(maxlen=WINDOW)

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self._started

    def __str__(self) -> str:
        figures = ", ".join(f"{count:,} {what}" for what, count in self.counts.items())
        objects, blocks, resident = self._late[-1] if self._late else (0, 0, 0)
        return f"{self.elapsed:4.0f} s: {figures}; {objects:,} objects, {blocks:,} blocks, {resident / 1e6:.1f} MB"

    async def main(self) -> None:
        with dari.Pool(max_workers=3, max_queue=None) as pool, ThreadPoolExecutor(2) as executor:
            await dari.arun(nothing)  # the implicit scheduler is there
            await self.world.sleep(0.05)
            usual = self.world.census()
            gc.collect()
            gc.freeze()  # modules: nobody's garbage, and each collection would look at them
            while not self.wrongs and (self.elapsed < self.seconds or len(self._late) < WINDOW):
                faulthandler.dump_traceback_later(3 * HANGING, exit=True)  # the loop itself hangs
                await self.wave(pool, executor, usual)
                self.measure()
                if time.monotonic() - self._told > LINE_EVERY:
                    self._told = time.monotonic()
                    print(self, flush=True)
        self.compare()
        if self.wrongs:
            faulthandler.dump_traceback_later(HANGING / 4, exit=True)  # what is left may keep the loop from ending

    async def wave(self, pool: dari.Pool, executor: Executor, usual: dict[str, float]) -> None:
        self.counts["waves"] += 1
        wave: Wave | None = Wave(self.world, pool, executor, f"{self.seed}/{self.counts['waves']}")
        assert wave is not None
        await ride(wave)
        wrongs = await settled(self.world, usual)
        wrongs += wave.audit()
        self.counts += wave.counts
        refs, wave = wave.refs, None
        self.world.tidy()
        await self.world.sleep(0.0)
        end = time.monotonic() + SETTLING
        while (left := alive(refs)) and time.monotonic() < end:  # a worker of a pool puts down what it has done
            await self.world.sleep(0.002)
        self.complain(f"after wave {self.counts['waves']}", [*wrongs, *(kept(refs) if left else ())])

    def complain(self, when: str, wrongs: list[str]) -> None:
        wrongs += REPORTS
        REPORTS.clear()
        if wrongs:
            print(f"{when}:", *wrongs, sep="\n", flush=True)
            self.wrongs += wrongs

    def measure(self) -> None:
        figures = len(gc.get_objects()), sys.getallocatedblocks(), psutil.Process().memory_info().rss
        if self.elapsed > self.seconds / 10 and len(self._early) < WINDOW:
            self._early.append(figures)
        self._late.append(figures)

    def compare(self) -> None:
        """Growth: the least of the end is above the most of the beginning."""
        for number, (what, noise) in enumerate(NOISE.items()):
            early = max((figures[number] for figures in self._early), default=0)
            late = min((figures[number] for figures in self._late), default=0)
            print(f"{what}: at most {early:,} in the beginning, at least {late:,} in the end")
            if late > early + noise and not self.wrongs:
                self.complain("after the last wave", [f"{what} grow"])


def main() -> int:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 300.0
    name = sys.argv[2] if len(sys.argv) > 2 else "asyncio"
    seed = sys.argv[3] if len(sys.argv) > 3 else str(random.randrange(10**6))
    print(f"{versions('uvloop', 'trio')}; on {name} for {seconds:.0f} s, seed {seed}", flush=True)
    listen()
    world = Trio() if name == "trio" else Asyncio(asyncio.SelectorEventLoop if name == "asyncio" else peer(name).Loop)
    soak = Soak(world, seconds, seed)
    world.run(soak.main)
    gc.collect()
    soak.complain("after the end of the loop", [f"{count} {what}" for what, count in world.census().items() if count])
    print(soak)
    print(f"LEFT BEHIND on {name}, seed {seed}" if soak.wrongs else f"nothing was left behind on {name}, seed {seed}")
    return 1 if soak.wrongs else 0


if __name__ == "__main__":
    sys.exit(main())
