"""What can be awaited where: every pair is tried, and docs/reference/what-can-i-await-where.md shows what came out.

A cell of the page is measured, never written by hand: `python tests/test_await_where.py --write` writes them anew. An
error has its way out in `WAYS_OUT`, found by its message; one that is not found there fails.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import logging
import re
import socket
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import anyio
import pytest
import trio
import uvloop

import dari

PAGE = Path(__file__).parent.parent / "docs/reference/what-can-i-await-where.md"
TABLE = re.compile(r"(<!-- measured: (\w+), [^>]*-->\n)(.*?)(<!-- end -->)", re.DOTALL)

LONG = 5  # seconds, after which a wait counts as one that never ends


# ---- what is waited for ----------------------------------------------------------------------------------------------


def work(value="done"):
    """A task of ours."""
    yield dari.sleep(0.001)
    return value


async def fetch(sleep=asyncio.sleep):
    """A coroutine; of whom, its sleep says."""
    await sleep(0.001)
    return "done"


class Awaitable:
    """An object that can be awaited, and is neither a coroutine nor a future."""

    def __await__(self):
        return fetch(anyio.sleep).__await__()


class Items:
    """An async iterator."""

    def __aiter__(self):
        return self

    async def __anext__(self):
        await anyio.sleep(0.001)
        return "done"


class Manager:
    """A context manager of whichever host there is."""

    async def __aenter__(self):
        await anyio.sleep(0.001)
        return "done"

    async def __aexit__(self, *_):
        await anyio.sleep(0.001)


class OurManager:
    """One that awaits operations of dari only."""

    async def __aenter__(self):
        await dari.sleep(0.001)
        return "done"

    async def __aexit__(self, *_):
        await dari.sleep(0.001)


class Here:
    """Where a thing is waited for, and what its maker needs there. Closed when the wait is over."""

    def __init__(self, other: dari.Scheduler | None) -> None:
        self.stack = contextlib.ExitStack()
        self.other = other  # another scheduler in the same loop

    def pool(self) -> dari.Pool:
        return self.stack.enter_context(dari.Pool(max_workers=1))

    def coroutine(self, sleep: Any) -> Any:
        made = fetch(sleep)
        self.stack.callback(made.close)
        return made

    def later(self, call: Any, *args: Any) -> None:
        """Call it when the wait has begun."""

        def calls():
            yield dari.sleep(0.001)
            call(*args)

        dari.create_task(calls)

    def future(self) -> concurrent.futures.Future[str]:
        future: concurrent.futures.Future[str] = concurrent.futures.Future()
        timer = threading.Timer(0.002, future.set_result, ["done"])
        timer.start()
        self.stack.callback(timer.join)
        return future

    def far(self) -> Far:
        return self.stack.enter_context(Far())

    def loop_that_rests(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.new_event_loop()
        self.stack.callback(loop.close)
        return loop


class Far:
    """A loop of asyncio in another thread, and a scheduler in it."""

    def __enter__(self) -> Self:
        self.begun, self.over = threading.Event(), dari.Event()
        self.thread = threading.Thread(target=asyncio.run, args=[self.main()])
        self.thread.start()
        self.begun.wait()
        return self

    async def main(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[str] = self.loop.create_future()
        async with dari.Scheduler() as self.scheduler:
            self.task = self.scheduler.create_task(self.rest)
            self.begun.set()

    def rest(self):
        yield self.over.wait()

    def __exit__(self, *_: object) -> None:
        self.scheduler.call_soon_threadsafe(self.over.set)
        self.thread.join()


def of_a_queue(here):
    queue = dari.Queue()
    here.later(queue.put_nowait, "done")
    return queue.get()


def of_an_event(here):
    event = dari.Event()
    here.later(event.set)
    return event.wait()


def of_a_semaphore(here):
    semaphore = dari.Semaphore(0)
    here.later(semaphore.release)
    return semaphore.acquire()


def of_a_barrier(here):
    barrier = dari.Barrier(2)

    def comes():
        yield barrier.wait()

    dari.create_task(comes)
    return barrier.wait()


def of_a_descriptor(here):
    ours, theirs = socket.socketpair()
    here.stack.callback(ours.close)
    here.stack.callback(theirs.close)
    here.later(theirs.send, b"x")
    return dari.wait_readable(ours)


def of_asyncio_create_task(here):
    made = here.coroutine(asyncio.sleep)
    return asyncio.create_task(made)


def of_asyncio_gather(here):
    return asyncio.gather(here.coroutine(asyncio.sleep))


def of_an_asyncio_future(here):
    try:
        future = asyncio.get_running_loop().create_future()
        future.get_loop().call_later(0.001, future.set_result, "done")
    except RuntimeError:
        future = here.loop_that_rests().create_future()
    return future


def of_another_scheduler(here):
    return here.other.create_task(work)


def of_a_scheduler_by_itself(here):
    scheduler = dari.Scheduler()
    here.stack.callback(scheduler.create_task(work).cancel)
    return scheduler.tasks[0]


# ---- how it is waited for --------------------------------------------------------------------------------------------


def yields(thing):
    return (yield thing)


def yields_from(thing):
    return (yield from thing)


async def awaits(thing):
    return await thing


def joins(_):
    with dari.TaskGroup() as group:
        task = group.create_task(work)
        yield group.join()
    return task.result()


async def joined(_):
    async with dari.TaskGroup() as group:
        task = group.create_task(work)
    return task.result()


def times_out(_):
    with dari.move_on_after(0.001):
        yield dari.sleep(60)
    return "done"


async def timed_out(_):
    with dari.move_on_after(0.001):
        await dari.sleep(60)
    return "done"


async def loops(pipeline):
    return [item async for item in pipeline]


async def enters(manager):
    async with manager as value:
        return value


def first_completed(things):
    (first,) = dari.as_completed(things)
    return (yield first)


async def first_completed_awaited(things):
    (first,) = dari.as_completed(things)
    return await first


@dataclass
class Row:
    """A line of the table: what it is, how it is spelled in both kinds of task, and what it gives."""

    what: str
    in_generators: str
    in_coroutines: str
    make: Any
    gives: Any = "done"
    generator: Any = yields
    coroutine: Any = awaits
    but: tuple[str, ...] = ()  # where there is no such thing


def task(here):
    return dari.create_task(work)


ROWS = [
    Row(
        "nothing: let others run",
        "`yield`",
        "`await dari.checkpoint()`",
        lambda _: None,
        None,
        coroutine=lambda _: awaits(dari.checkpoint()),
    ),
    Row("a moment", "`yield dari.sleep(1)`", "`await dari.sleep(1)`", lambda _: dari.sleep(0.001), None),
    Row("a queue", "`yield queue.get()`", "`await queue.get()`", of_a_queue),
    Row("an event", "`yield event.wait()`", "`await event.wait()`", of_an_event, None),
    Row("a lock, a semaphore", "`yield lock.acquire()`", "`await lock.acquire()`", of_a_semaphore, ...),
    Row("a barrier", "`yield barrier.wait()`", "`await barrier.wait()`", of_a_barrier, ...),
    Row("a descriptor", "`yield dari.wait_readable(sock)`", "`await dari.wait_readable(sock)`", of_a_descriptor, None),
    Row("a tuple", '`yield ("sleep", 1)`', '`await ("sleep", 1)`', lambda _: ("sleep", 0.001), None),
    Row(
        "a timeout's block",
        "`with dari.timeout(1): yield …`",
        "`with dari.timeout(1): await …`",
        lambda _: None,
        generator=times_out,
        coroutine=timed_out,
    ),
    Row("a task", "`yield task`", "`await task`", task),
    Row(
        "a task, without owning it",
        "`yield dari.shield(task)`",
        "`await dari.shield(task)`",
        lambda here: dari.shield(task(here)),
    ),
    Row(
        "a list",
        "`yield [task, job]`",
        "`await [task, job]`",
        lambda here: [task(here), here.pool().submit(str, "done")],
        ["done", "done"],
    ),
    Row(
        "all of several",
        "`yield dari.gather(task, job)`",
        "`await dari.gather(task, job)`",
        lambda here: dari.gather(task(here), here.pool().submit(str, "done")),
        ["done", "done"],
    ),
    Row(
        "some of several tasks",
        "`yield dari.wait(tasks)`",
        "`await dari.wait(tasks)`",
        lambda here: dari.wait([task(here)]),
        ...,
    ),
    Row(
        "the next that ends",
        "`yield first`, of `dari.as_completed`",
        "`await first`, of `dari.as_completed`",
        lambda here: [task(here)],
        generator=first_completed,
        coroutine=first_completed_awaited,
    ),
    Row(
        "the children of a group",
        "`yield group.join()`",
        "`async with dari.TaskGroup()`",
        lambda _: None,
        generator=joins,
        coroutine=joined,
    ),
    Row(
        "a generator, in this task", "`yield from work()`", "–", lambda _: work(), generator=yields_from, coroutine=None
    ),
    Row("a generator, as a task of its own", "`yield dari.create_task(work)`", "`await dari.create_task(work)`", task),
    Row("the same, wherever a host is", "–", "`await dari.arun(work)`", lambda _: dari.arun(work), generator=None),
    Row("a generator as it is", "`yield work()`", "`await work()`", lambda _: work()),
    Row("a function that was not called", "`yield work`", "`await work`", lambda _: work),
    Row("what cannot be waited for", "`yield 42`", "`await 42`", lambda _: 42),
    Row(
        "an item of a pipeline",
        "`yield line.get()`",
        "`await line.get()`",
        lambda _: dari.Pipeline(["done"]).map(str).get(),
    ),
    Row(
        "a pipeline",
        "`yield line.collect()`",
        "`async for item in line`",
        lambda _: dari.Pipeline(["done"]).map(str),
        ...,
        generator=lambda line: yields(line.collect()),
        coroutine=loops,
    ),
    Row("a pool's `Job`", "`yield job`", "`await job`", lambda here: here.pool().submit(str, "done")),
    Row(
        "a job, without owning it",
        "`yield dari.shield(job)`",
        "`await dari.shield(job)`",
        lambda here: dari.shield(here.pool().submit(str, "done")),
    ),
    Row(
        "a call on a pool",
        "`yield pool.run_sync(fn)`",
        "`await pool.run_sync(fn)`",
        lambda here: here.pool().run_sync(str, "done"),
    ),
    Row("a `concurrent.futures.Future`", "`yield future`", "`await future`", Here.future),
    Row(
        "the same, typed",
        "`yield from dari.host(future)`",
        "`await dari.host(future)`",
        lambda here: dari.host(here.future()),
        generator=yields_from,
    ),
    Row(
        "the same, everywhere",
        "`yield dari.gather(future)`",
        "`await dari.gather(future)`",
        lambda here: dari.gather(here.future()),
        ["done"],
    ),
    Row(
        "the same, by asyncio",
        "–",
        "`await asyncio.wrap_future(future)`",
        lambda here: asyncio.wrap_future(here.future()),
        generator=None,
    ),
    Row(
        "a coroutine that awaits dari's operations only",
        "`yield ours()`",
        "`await ours()`",
        lambda here: here.coroutine(dari.sleep),
    ),
    Row(
        "the same, as a task of its own",
        "`yield dari.create_task(ours)`",
        "`await dari.create_task(ours)`",
        lambda _: dari.create_task(fetch, dari.sleep),
    ),
    Row("a coroutine of asyncio", "`yield fetch()`", "`await fetch()`", lambda here: here.coroutine(asyncio.sleep)),
    Row(
        "the same, typed",
        "`yield from dari.host(fetch())`",
        "`await dari.host(fetch())`",
        lambda here: dari.host(here.coroutine(asyncio.sleep)),
        generator=yields_from,
    ),
    Row("a coroutine of trio", "`yield fetch()`", "`await fetch()`", lambda here: here.coroutine(trio.sleep)),
    Row("a coroutine of anyio", "`yield fetch()`", "`await fetch()`", lambda here: here.coroutine(anyio.sleep)),
    Row("an object with `__await__`", "`yield thing`", "`await thing`", lambda _: Awaitable()),
    Row(
        "an item of an async iterator",
        "`yield dari.anext(rows)`",
        "`await anext(rows)`",
        lambda _: Items(),
        generator=lambda it: yields(dari.anext(it)),
        coroutine=lambda it: awaits(anext(it)),
    ),
    Row("the same, by dari", "–", "`await dari.anext(rows)`", lambda _: dari.anext(Items()), generator=None),
    Row(
        "an async context manager",
        "`yield dari.enter(manager)`",
        "`async with manager`",
        lambda _: Manager(),
        generator=lambda manager: yields(dari.enter(manager)),
        coroutine=enters,
    ),
    Row(
        "one that awaits dari's operations only",
        "`yield dari.enter(manager)`",
        "`async with manager`",
        lambda _: OurManager(),
        generator=lambda manager: yields(dari.enter(manager)),
        coroutine=enters,
    ),
    Row("the same, by dari", "–", "`await dari.enter(manager)`", lambda _: dari.enter(OurManager()), generator=None),
    Row(
        "an `asyncio.Task`",
        "`yield asyncio.create_task(fetch())`",
        "`await asyncio.create_task(fetch())`",
        of_asyncio_create_task,
    ),
    Row("an `asyncio.Future`", "`yield future`", "`await future`", of_an_asyncio_future),
    Row(
        "`asyncio.gather`",
        "`yield asyncio.gather(fetch())`",
        "`await asyncio.gather(fetch())`",
        of_asyncio_gather,
        ["done"],
    ),
    Row("an asyncio future of another loop", "`yield future`", "`await future`", lambda here: here.far().future),
    Row(
        "a task of another scheduler in this loop", "`yield task`", "`await task`", of_another_scheduler, but=("alone",)
    ),
    Row(
        "a task of a scheduler that nobody runs",
        "`yield task`",
        "`await task`",
        of_a_scheduler_by_itself,
        but=("alone",),
    ),
    Row("a task of another loop", "`yield task`", "`await task`", lambda here: here.far().task),
    Row(
        "one that is started from here",
        "`yield far.create_task_threadsafe(work)`",
        "`await far.create_task_threadsafe(work)`",
        lambda here: here.far().scheduler.create_task_threadsafe(work),
    ),
]


# ---- where it is waited for ------------------------------------------------------------------------------------------


def in_generator(row, here):
    with here.stack:
        return (yield from row.generator(row.make(here)))


async def in_coroutine(row, here):
    with here.stack:
        return await row.coroutine(row.make(here))


def alone(main, row):
    asyncio.set_event_loop(None)  # else asyncio of 3.11 makes one for whoever asks on the main thread
    return dari.run(main, row, Here(None))


def hosted(run, *, as_a_task):
    """In a host that `run` runs: as a task of a scheduler, or as a coroutine of the host in its block."""

    def runs(main, row):
        async def host():
            with anyio.fail_after(LONG):
                async with dari.Scheduler() as other, dari.Scheduler() as scheduler:
                    made = main(row, Here(other))
                    return await (scheduler.create_task(made) if as_a_task else made)

        return run(host)

    return runs


def in_asyncio(loop_factory):
    def run(host):
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            return runner.run(host())

    return run


HOSTS = {
    "asyncio": in_asyncio(asyncio.new_event_loop),
    "uvloop": in_asyncio(uvloop.new_event_loop),
    "trio": trio.run,
    "anyio on asyncio": anyio.run,
}
SAME = {"uvloop": "asyncio", "anyio on asyncio": "asyncio"}  # no column of their own: they give what asyncio gives

GENERATORS = {"alone": alone} | {name: hosted(run, as_a_task=True) for name, run in HOSTS.items()}
GIVEN = {"alone": alone} | {name: hosted(run, as_a_task=True) for name, run in HOSTS.items()}
COROUTINES = {"alone": alone} | {name: hosted(run, as_a_task=False) for name, run in HOSTS.items()}


# ---- what came out ---------------------------------------------------------------------------------------------------

# The way out of an error, by what it says. None: there is none.
WAYS_OUT = {
    r"did you mean `yield from`": "`yield from work()`, or `dari.create_task`",
    r"arun inside a task|generator('? object)? can't be (used in 'await'|awaited)": "`await dari.create_task(work)`",
    r"function('? object)? can't be (used in 'await'|awaited)|yielded <function": "call it",
    r"int('? object)? can't be (used in 'await'|awaited)|yielded 42": None,
    r"tuple('? object)? can't be (used in 'await'|awaited)": "`await dari.sleep(1)`",
    r"list('? object)? can't be (used in 'await'|awaited)|'Future' object has no attribute '__await__'"
    r"|Future('? object)? can't be (used in 'await'|awaited)": "`await dari.gather(…)`",
    r"as_completed was used outside": "`dari.wait`, or `asyncio.as_completed`",
    r"is for generator tasks: in a coroutine, `async with`": "`async with manager`",
    r"if it awaits dari's operations only": "needs a host; or `dari.create_task`, if it is dari's only",
    r"cannot be waited for here: it needs a running|yielded <\S*Awaitable|Not currently running on any": "needs a host",
    r"no (running|current) event loop|unrecognized yield message": "only in asyncio",
    r"<Future pending.*(a task yields|asyncio's)": "only in asyncio",
    r"must be called from async context": "only in trio",
    r"belongs to another event loop|attached to a different loop": "start it by `asyncio.run_coroutine_threadsafe`",
    r"Far.rest.*belongs to a scheduler in another event loop": "start it by `create_task_threadsafe`",
    r"belongs to a scheduler (that runs by itself|in another event loop)": "enter that scheduler, or run it",
    r"it would block the whole scheduler": "`yield` it",
    r"it would block the running event loop: use `await job`": "`await job`",
    r"it would block the running event loop: await asyncio": "`await dari.gather(future)`",
    r"has not ended: wait for it by": "wait for it first",
    r"inside a running (asyncio|trio) program": "`await dari.arun(main)`",
    r"run\(\) inside a task that dari steps": "`dari.create_task`",
    r"a coroutine was expected": "`dari.arun(work)` is a coroutine",
    r"A coroutine object is required": "`scheduler.create_task_threadsafe(work)`",
    r"object has no attribute '(remove_done_callback|add_done_callback|done)'": "`asyncio.ensure_future(x)`",
}


def kind_of(error):
    """The name of its class; of one that is a library's own, that of the standard's class behind it."""
    return next(kind.__name__ for kind in type(error).__mro__ if kind.__module__ in {"builtins", "dari.exceptions"})


def told(error):
    """An error as it stands in the table."""
    for says, way in WAYS_OUT.items():
        if re.search(says, str(error)):
            return f"`{kind_of(error)}`" + (f": {way}" if way else "")
    raise AssertionError(f"no way out is known of {error!r}") from error


def outcome(run, main, row):
    """A cell: `works`, or what the error is and how to do it instead."""
    try:
        value = run(main, row)
    except Exception as error:  # noqa: BLE001 - whatever comes is what is measured
        return told(error)
    assert row.gives is ... or value == row.gives
    return "works"


def cells(where, main, row):
    """What comes out in each place; where asyncio is, it is the same on every loop and under anyio."""
    outcomes = {name: outcome(run, main, row) for name, run in where.items() if name not in row.but}
    for name, same in SAME.items():
        assert outcomes[name] == outcomes[same], (name, row)
    return [outcomes.get(name, "–") for name in ("alone", "asyncio", "trio")]


def generators():
    """The rows for generator tasks."""
    yield "waits for", "spelled", "by itself (`dari.run`)", "guest in asyncio", "guest in trio"
    for row in ROWS:
        if row.generator is not None:
            yield row.what, row.in_generators, *cells(GENERATORS, in_generator, row)


def coroutines():
    """The rows for coroutines; one that is given to dari as a task gives the same as one of the host's own."""
    yield "waits for", "spelled", "`async def` task, by itself", "coroutine in asyncio", "coroutine in trio"
    for row in ROWS:
        if row.coroutine is not None:
            found = cells(COROUTINES, in_coroutine, row)
            assert cells(GIVEN, in_coroutine, row) == found, row
            yield row.what, row.in_coroutines, *found


# ---- what blocks a thread --------------------------------------------------------------------------------------------


def a_slow_job(here):
    def slow():
        time.sleep(0.01)
        return "done"

    return here.pool().submit(slow)


def a_task_that_runs(here):
    """On a plain thread: one that another thread runs."""
    try:
        return dari.create_task(work)
    except RuntimeError:
        return here.far().task


BLOCKING = [
    Row(
        "a task of a scheduler elsewhere",
        "`scheduler.create_task_threadsafe(work).result()`",
        "",
        lambda here: here.far().scheduler.create_task_threadsafe(work),
    ),
    Row(
        "a coroutine of a loop elsewhere",
        "`asyncio.run_coroutine_threadsafe(fetch(), loop).result()`",
        "",
        lambda here: asyncio.run_coroutine_threadsafe(fetch(), here.far().loop),
    ),
    Row("a pool's `Job`", "`job.result()`", "", a_slow_job),
    Row("a `concurrent.futures.Future`", "`future.result()`", "", Here.future),
    Row("a task's handle, while it runs", "`task.result()`", "", a_task_that_runs),
    Row("a whole program", "`dari.run(work)`", "", lambda _: work, generator=dari.run),
]


def blocks(row, here):
    with here.stack:
        thing = row.make(here)
        return row.generator(thing) if row.generator is not yields else thing.result()


def blocks_in_generator(row, here):
    yield
    return blocks(row, here)


async def blocks_in_coroutine(row, here):
    return blocks(row, here)


def in_thread(main, row):
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        return executor.submit(main, row, Here(None)).result()


def threads():
    """The rows for plain threads, and what the same calls do where a scheduler or a loop runs."""
    yield "waits for", "spelled", "plain thread", "generator task", "coroutine in asyncio", "coroutine in trio"
    for row in BLOCKING:
        in_tasks = set(cells(GENERATORS, blocks_in_generator, row))
        assert len(in_tasks) == 1, row
        in_loops = [*in_tasks, *cells(COROUTINES, blocks_in_coroutine, row)[1:]]
        # Whatever returns within one step has kept all others waiting.
        in_loops = ["**blocks everybody**" if cell == "works" else cell for cell in in_loops]
        yield row.what, row.in_generators, outcome(in_thread, blocks, row), *in_loops


# ---- asyncio's functions ---------------------------------------------------------------------------------------------


async def turns(number=20):
    for _ in range(number):
        await asyncio.sleep(0)


async def under_timeout(thing):
    async with asyncio.timeout(LONG):
        return await thing


async def gathered(thing):
    (value,) = await asyncio.gather(thing)
    return value


async def waited(thing):
    done, _ = await asyncio.wait({thing}, timeout=LONG)
    return done.pop().result()


async def completed(thing):
    (first,) = asyncio.as_completed([thing])
    return await first


async def in_group(make, thing):
    try:
        async with asyncio.TaskGroup() as group:
            member = group.create_task(make(thing))
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return member.result()


async def run_coroutine_threadsafe(thing):
    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(thing, asyncio.get_running_loop()))


FUNCTIONS = {
    "`await x`": awaits,
    "`async with asyncio.timeout(1): await x`": under_timeout,
    "`await asyncio.wait_for(x, 1)`": lambda x: asyncio.wait_for(x, LONG),
    "`await asyncio.gather(x)`": gathered,
    "`await asyncio.shield(x)`": asyncio.shield,
    "`await asyncio.wait({x})`": waited,
    "`await asyncio.wait({asyncio.ensure_future(x)})`": lambda x: waited(asyncio.ensure_future(x)),
    "`asyncio.as_completed([x])`": completed,
    "`await asyncio.ensure_future(x)`": asyncio.ensure_future,
    "`await asyncio.create_task(x)`": asyncio.create_task,
    "`group.create_task(x)`, an `asyncio.TaskGroup`": functools.partial(in_group, lambda x: x),
    "the same with a coroutine that awaits `x`": functools.partial(in_group, awaits),
    "`asyncio.run_coroutine_threadsafe(x, loop)`": run_coroutine_threadsafe,
}
THINGS = {
    "a `Task`": lambda _: dari.create_task(work),
    "a `Job`": a_slow_job,
    "an operation": of_a_queue,
}


async def whose_end(function, delay):
    """What becomes of a task when who waits for it by `function` is cancelled, so many turns after it began."""
    event = dari.Event()

    def waits():
        yield event.wait()

    async def uses():
        await function(task)

    async with dari.Scheduler() as scheduler:
        task = scheduler.create_task(waits)
        waiter = asyncio.create_task(uses())
        await turns(delay)
        waiter.cancel()
        await asyncio.wait([waiter])
        await turns()
        event.set()
    return "is cancelled, too" if task.cancelled() else "runs on"


def functions():
    """The rows for what asyncio has that takes an awaitable."""
    yield "asyncio's", *THINGS, "when that wait is cancelled, the task", "… in the turn in which it began"
    for spelled, function in FUNCTIONS.items():
        rows = [Row("", "", "", make, coroutine=function, but=("alone", "trio")) for make in THINGS.values()]
        works = [cells(COROUTINES, in_coroutine, row)[1] for row in rows]
        ends = [asyncio.run(whose_end(function, delay)) for delay in (20, 1)] if works[0] == "works" else ["–", "–"]
        yield spelled, *works, *ends


# ---- the page --------------------------------------------------------------------------------------------------------

TABLES = {table.__name__: table for table in (generators, coroutines, functions, threads)}


def written(table):
    """As Markdown."""
    heads, *lines = [list(line) for line in table()]
    return "".join(f"| {' | '.join(line)} |\n" for line in [heads, ["---"] * len(heads), *lines])


@pytest.mark.parametrize("name", TABLES)
def test_the_page_shows_what_comes_out(name):
    """If it does not: `python tests/test_await_where.py --write`, and look at what has changed."""
    shown = {found[2]: found[3] for found in TABLE.finditer(PAGE.read_text())}

    assert shown[name].strip() == written(TABLES[name]).strip()


def test_the_page_has_each_table_once():
    """And no other."""
    assert [found[2] for found in TABLE.finditer(PAGE.read_text())] == [*TABLES]


def write():
    """The page, with tables that were measured now."""
    logging.disable()
    text = TABLE.sub(lambda found: f"{found[1]}\n{written(TABLES[found[2]])}\n{found[4]}", PAGE.read_text())
    PAGE.write_text(text)


# ---- what the page says in words -------------------------------------------------------------------------------------


def waits(log):
    """Until it is cancelled, or a moment has passed."""
    yield dari.sleep(0.01)
    log.append("ran on")


@pytest.mark.parametrize(
    ("how", "log"),
    [
        pytest.param(lambda task: asyncio.wait_for(task, 0), ["ran on"], id="wait_for"),
        pytest.param(lambda task: asyncio.wait_for(asyncio.gather(task), 0), ["ran on"], id="gather"),
        pytest.param(lambda task: timed(asyncio.timeout(0), task), [], id="asyncio.timeout"),
        pytest.param(lambda task: timed(dari.timeout(0), task), [], id="dari.timeout"),
    ],
)
def test_a_wrapper_of_asyncio_that_is_cancelled_before_its_first_step(how, log):
    """It never reaches the task, which runs on; a block around a plain `await` does."""
    ran = []

    async def main():
        async with dari.Scheduler() as scheduler:
            with pytest.raises(TimeoutError):
                await how(scheduler.create_task(waits, ran))

    asyncio.run(main())

    assert ran == log


async def timed(block, task):
    async with block:
        await task


def test_arun_is_a_coroutine_for_groups_of_asyncio():
    """Cancelled before its first step it has started nothing."""
    log = []

    async def main():
        async with asyncio.TaskGroup() as group:
            done = group.create_task(dari.arun(work))
            group.create_task(dari.arun(waits, log)).cancel()
        return done.result()

    assert asyncio.run(main()) == "done"
    assert log == []


def opens_a_scope():
    with anyio.move_on_after(0.001) as scope:
        yield dari.sleep(0.005)
    return scope.cancelled_caught


async def has_a_scope():
    with anyio.move_on_after(0.001) as scope:
        await dari.sleep(60)
    return scope.cancelled_caught


def yields_one_that_has_a_scope():
    return (yield has_a_scope())


def opens_one_of_ours():
    with dari.move_on_after(0.001) as scope:
        yield dari.sleep(60)
    return scope.cancelled_caught


@pytest.mark.parametrize(
    ("plan", "in_asyncio", "in_trio"),
    [
        pytest.param(opens_a_scope, "RuntimeError", False, id="in a generator"),
        pytest.param(yields_one_that_has_a_scope, True, True, id="in a coroutine"),
        pytest.param(opens_one_of_ours, True, True, id="dari's own"),
    ],
)
def test_scopes_of_anyio(plan, in_asyncio, in_trio):
    """They belong to a task of the host: a generator has none. In trio one that it opens has no effect."""

    async def main():
        try:
            return await dari.arun(plan)
        except RuntimeError as error:
            return kind_of(error)

    assert (asyncio.run(main()), trio.run(main)) == (in_asyncio, in_trio)


def test_a_generator_has_no_task_of_asyncio():
    """A coroutine that it yields has one."""

    async def coroutine():
        return asyncio.current_task()

    def plan():
        return asyncio.current_task(), type((yield coroutine()))

    async def main():
        return await dari.arun(plan)

    assert asyncio.run(main()) == (None, asyncio.Task)


if __name__ == "__main__":
    assert sys.argv[1:] == ["--write"], "usage: python tests/test_await_where.py --write"
    write()
