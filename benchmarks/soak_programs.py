"""The random programs of `soak.py`: generator tasks, coroutines of the host and threads, in and out of each other.

Each does a few things out of a table, most of them waits, many of them inside a scope or a timeout that may be too
short; anything may be cancelled by anybody at any time, and raise `Provoked`.

Every wait can end: sleeps are short, the wave's event is set and its queue shut down at its end, whoever holds a lock
only sleeps, and tasks wait for those only that they have made. So a wave that does not end was left hanging.
"""

from __future__ import annotations

import socket
import threading
import time
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any

from soak_wave import DEEPEST, Payload, Provoked, expected

import dari

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine

    from soak_wave import Wave

    Steps = dari.Steps[Any]
    Visit = Coroutine[Any, Any, object]

# ---- generator tasks -------------------------------------------------------------------------------------------------


def work(wave: Wave, depth: int) -> Steps:
    """A generator task: a few things out of `STEPS`, and a cleanup that takes its time."""
    with wave.life():
        try:
            for _ in range(wave.dice.randint(1, 4)):
                step = wave.dice.choice(STEPS if wave.may_start(depth) else SIMPLE_STEPS)
                try:
                    roll = wave.dice.random()
                    if roll < 0.4:
                        with dari.move_on_after(wave.patience()):
                            yield from step(wave, depth + 1)
                    elif roll < 0.8:
                        with dari.timeout(wave.patience()):
                            yield from step(wave, depth + 1)
                    else:
                        yield from step(wave, depth + 1)
                except Exception as error:
                    if wave.met(error):
                        raise
            if wave.chance(0.1):
                raise Provoked
        finally:
            wave.cleaning += 1
            try:
                with dari.CancelScope(shield=True):
                    yield dari.sleep(wave.blink())
            finally:  # a group that was left comes to its parent's next `yield`, and this may be it
                wave.cleaning -= 1
    return wave.payload()


def sleeps(wave: Wave, depth: int) -> Steps:
    yield dari.sleep(wave.blink())


def spins(wave: Wave, depth: int) -> Steps:
    for _ in range(wave.dice.randint(1, 30)):
        yield


def waits(wave: Wave, depth: int) -> Steps:
    yield wave.over.wait()


def puts(wave: Wave, depth: int) -> Steps:
    payload = wave.payload()
    yield wave.queue.put(payload)
    wave.put.add(payload.number)


def gets(wave: Wave, depth: int) -> Steps:
    payload = yield from wave.queue.get()
    wave.got.append(payload.number)


def locks(wave: Wave, depth: int) -> Steps:
    with (yield wave.lock.acquire()):
        enters(wave)
        try:
            yield dari.sleep(wave.blink())
        finally:
            wave.inside -= 1


def enters(wave: Wave) -> None:
    wave.inside += 1
    if wave.inside != 1:
        wave.wrong(f"{wave.inside} are inside of the lock")


def permitted(wave: Wave, depth: int) -> Steps:
    with (yield wave.permits.acquire()):
        yield dari.sleep(wave.blink())


def waits_for_jobs(wave: Wave, depth: int) -> Steps:
    if wave.chance(0.5):
        return (yield wave.pool.submit(job, wave.payload(), wave.blink()))
    return (yield from wave.pool.run_sync(job, wave.payload(), wave.blink()))


def waits_for_futures(wave: Wave, depth: int) -> Steps:
    return (yield wave.world.future(wave))


def waits_for_coroutines(wave: Wave, depth: int) -> Steps:
    if wave.chance(0.5):
        return (yield wave.watch("coroutine", visit(wave, depth)))
    return (yield from dari.host(wave.watch("coroutine", visit(wave, depth))))


def waits_for_tasks(wave: Wave, depth: int) -> Steps:
    task = wave.task(dari.create_task(wave.dice.choice((work, visit)), wave, depth))
    if wave.chance(0.3):
        yield dari.shield(task)
    yield task


def waits_for_many(wave: Wave, depth: int) -> Steps:
    tasks = [wave.task(dari.create_task(work, wave, depth)) for _ in range(2)]
    if wave.chance(0.5):
        return (yield [*tasks, wave.world.future(wave), dari.sleep(wave.blink())])
    done, _ = yield from dari.wait(tasks, return_when=dari.FIRST_COMPLETED, timeout=wave.patience())
    return done


def groups(wave: Wave, depth: int) -> Steps:
    with dari.TaskGroup() as group:
        for _ in range(wave.dice.randint(1, 3)):
            wave.task(group.create_task(wave.dice.choice((work, visit)), wave, depth))
        yield dari.sleep(wave.blink())
        if wave.chance(0.2):
            raise Provoked  # and leave them behind
        if wave.chance(0.1):
            group.cancel()
        yield group.join()


def sockets(wave: Wave, depth: int) -> Steps:
    left, right = socket.socketpair()
    with left, right:
        if wave.chance(0.7):
            wave.task(dari.create_task(sends, right, wave.blink()))
            with dari.move_on_after(0.03):  # whoever sends may be cut before it has
                yield dari.wait_readable(left)
                left.recv(1)
        else:
            yield dari.wait_writable(left)


def sends(right: socket.socket, delay: float) -> Steps:
    yield dari.sleep(delay)
    if right.fileno() >= 0:
        right.send(b".")


def iterates(wave: Wave, depth: int) -> Steps:
    rows = wave.watch("generator", numbers(wave))
    yield dari.enter(aclosing(rows))
    for _ in range(wave.dice.randint(1, 3)):
        yield dari.anext(rows)


def holds(wave: Wave, depth: int) -> Steps:
    yield dari.enter(resource(wave))
    yield dari.sleep(wave.blink())


def cuts(wave: Wave, depth: int) -> Steps:
    yield
    wave.cut()
    yield


def forgets(wave: Wave, depth: int) -> Steps:
    wave.task(dari.create_task(work, wave, depth))
    yield


# ---- coroutines of the host ------------------------------------------------------------------------------------------


async def visit(wave: Wave, depth: int) -> object:
    """A coroutine of the host: a few things out of `VISITS`."""
    with wave.life(), wave.world.cuttable() as cut:
        wave.cuts[cut] = cut
        try:
            for _ in range(wave.dice.randint(1, 3)):
                something = wave.dice.choice(VISITS if wave.may_start(depth) else SIMPLE_VISITS)
                try:
                    await scoped(wave, depth, something)
                except Exception as error:
                    if wave.met(error):
                        raise
            if wave.chance(0.1):
                raise Provoked
        finally:
            del wave.cuts[cut]
    return wave.payload()


async def scoped(wave: Wave, depth: int, something: Callable[[Wave, int], Visit]) -> None:
    roll = wave.dice.random()
    if roll < 0.2:
        with dari.move_on_after(wave.patience()):
            await something(wave, depth + 1)
    elif roll < 0.4:
        async with dari.timeout(wave.patience()):
            await something(wave, depth + 1)
    elif roll < 0.8:
        await wave.world.bounded(wave, lambda: something(wave, depth + 1))
    else:
        await something(wave, depth + 1)


async def rests(wave: Wave, depth: int) -> None:
    await wave.world.sleep(wave.blink())


async def operates(wave: Wave, depth: int) -> object:
    """An operation of dari, awaited as it is."""
    if wave.chance(0.3):
        payload = wave.payload()
        await wave.queue.put(payload)
        wave.put.add(payload.number)
    elif wave.chance(0.4):
        try:
            wave.got.append((await wave.queue.get()).number)
        except wave.world.cancelled:
            wave.given_up += 1
            raise
    elif wave.chance(0.2):
        await wave.over.wait()
    elif wave.chance(0.4):
        await dari.gather(dari.sleep(wave.blink()), dari.sleep(wave.blink()))
    elif wave.chance(0.5):
        async with wave.permits:
            await wave.world.sleep(wave.blink())
    else:
        async with wave.lock:
            enters(wave)
            try:
                await wave.world.sleep(wave.blink())
            finally:
                wave.inside -= 1
    return None


async def asks(wave: Wave, depth: int) -> object:
    """A job."""
    if wave.chance(0.5):
        return await wave.pool.submit(job, wave.payload(), wave.blink())
    return await wave.pool.run_sync(job, wave.payload(), wave.blink())


async def runs(wave: Wave, depth: int) -> object:
    return await dari.arun(wave.dice.choice((work, visit)), wave, depth)


async def awaits(wave: Wave, depth: int) -> object:
    task = wave.task(dari.create_task(work, wave, depth))
    if wave.chance(0.2):
        await dari.shield(task)
    return await task


async def gathers(wave: Wave, depth: int) -> None:
    async with dari.TaskGroup() as group:
        for _ in range(wave.dice.randint(1, 3)):
            wave.task(group.create_task(wave.dice.choice((work, visit)), wave, depth))
        await wave.world.sleep(wave.blink())
        if wave.chance(0.2):
            raise Provoked


async def hosts(wave: Wave, depth: int) -> None:
    """A scheduler of its own, with tasks, coroutines and a thread; it may end in any way."""
    seed = wave.dice.choice((None, wave.dice.randrange(1000)))
    async with dari.Scheduler(seed=seed, max_slice=wave.dice.choice((0.002, 0.0002))) as scheduler:
        wave.schedulers.add(wave.watch("scheduler", scheduler))
        wave.counts["schedulers"] += 1
        for _ in range(wave.dice.randint(1, 5)):
            wave.task(scheduler.create_task(wave.dice.choice((work, work, forgets, visit)), wave, depth))
        if wave.chance(0.5):
            thread = threading.Thread(target=from_a_thread, args=(wave, scheduler))
            wave.threads.append(thread)
            thread.start()
        if wave.chance(0.5):
            await visit(wave, depth)
        if wave.chance(0.2):
            raise Provoked
        if wave.chance(0.2):
            wave.counts["cancels"] += 1
            wave.dice.choice((scheduler.cancel, scheduler.stop))()


async def numbers(wave: Wave) -> AsyncGenerator[int, None]:
    wave.opened += 1
    try:
        for number in range(3):
            await wave.world.sleep(wave.blink())
            yield number
    finally:
        wave.opened -= 1


@asynccontextmanager
async def resource(wave: Wave) -> AsyncGenerator[Payload, None]:
    await wave.world.sleep(wave.blink())
    wave.opened += 1
    try:
        yield wave.payload()
        await wave.world.sleep(wave.blink())
    finally:
        wave.opened -= 1
        if wave.chance(0.1):
            raise Provoked


# ---- threads ---------------------------------------------------------------------------------------------------------


def job(payload: Payload, seconds: float) -> Payload:
    """What the pool and the executor do."""
    time.sleep(seconds)
    if payload.number % 7 == 0:
        raise Provoked
    return payload


def from_a_thread(wave: Wave, scheduler: dari.Scheduler) -> None:
    """Starts tasks and cancels, as another thread may; the scheduler may end meanwhile."""
    for _ in range(wave.dice.randint(1, 4)):
        try:
            future = scheduler.create_task_threadsafe(wave.dice.choice((work, visit)), wave, DEEPEST - 1)
            wave.futures.append(future)
            wave.counts["from threads"] += 1
            time.sleep(wave.blink())
            roll = wave.dice.random()
            if roll < 0.3:
                future.cancel()
            elif roll < 0.6:
                scheduler.call_soon_threadsafe(wave.cut)
            else:
                future.result(wave.patience() / 1000)
        except Exception as error:  # noqa: BLE001 - looked at here
            if not expected(error):
                wave.wrong(f"a thread met {error!r}")


SIMPLE_STEPS = (sleeps, spins, waits, puts, gets, locks, permitted, waits_for_jobs, waits_for_futures, cuts)
STEPS = (
    *SIMPLE_STEPS,
    waits_for_coroutines,
    waits_for_coroutines,
    waits_for_tasks,
    waits_for_many,
    groups,
    groups,
    sockets,
    sockets,
    iterates,
    holds,
)
SIMPLE_VISITS = (rests, operates, operates, asks)
VISITS = (*SIMPLE_VISITS, runs, awaits, gathers, hosts)
