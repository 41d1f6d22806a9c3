"""What users see of the types. Checked by mypy and pyright in strict mode; never run."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator
from concurrent.futures import Future
from contextlib import aclosing, asynccontextmanager
from typing import Any, assert_type

import dari
from dari import testing


def child(number: int) -> dari.Steps[str]:
    yield dari.sleep(0.5)
    yield
    return str(number)


async def coroutine(text: str) -> bytes:
    await dari.sleep(0.5)
    return text.encode()


def main(queue: dari.Queue[int]) -> dari.Steps[float]:
    yield from dari.sleep(0.5)
    item = yield from queue.get()
    assert_type(item, int)
    task = dari.create_task(child, 1)
    assert_type(task, dari.Task[str])
    text = yield from task
    assert_type(text, str)
    data = yield from dari.host(coroutine("x"))
    assert_type(data, bytes)
    looked = yield from dari.shield(dari.create_task(coroutine, "x"))
    seen = yield from dari.shield(dari.Pool().submit(len, "x"))
    assert_type(looked, bytes)
    assert_type(seen, int)
    with dari.TaskGroup() as group:
        assert_type(group.create_task(child(2)), dari.Task[str])
        yield group.join()
    with dari.timeout(1), dari.move_on_after(2) as scope:
        yield ("sleep", 0.1)
    assert_type(scope.cancelled_caught, bool)
    return 1.0


def standalone() -> None:
    assert_type(dari.run(child, 1), str)
    assert_type(dari.run(coroutine("x"), timeout=5), bytes)
    assert_type(testing.run(coroutine, "x", loop="trio", seed=1), bytes)
    testing.explore(lambda: coroutine("x"), seeds=range(10), loop="asyncio")
    assert_type(testing.VirtualEventLoop(seed=1).time(), float)
    scheduler = dari.Scheduler()
    assert_type(scheduler.create_task(main, dari.Queue[int]()), dari.Task[float])
    assert_type(scheduler.run(), bool)
    assert_type(scheduler.stats().switches, int)


def hosted() -> None:
    loop = dari.EventLoop(starvation_limit=None, seed=1, tracer=dari.TaskTimes())
    assert_type(loop.dump(), str)
    assert_type(loop.tracer, dari.Tracer | None)
    with asyncio.Runner(loop_factory=dari.EventLoop) as runner, dari.priority(1):
        assert_type(runner.run(coroutine("x")), bytes)


@asynccontextmanager
async def connection() -> AsyncGenerator[str]:
    yield "connection"


async def rows() -> AsyncGenerator[int]:
    yield 1


def resources() -> dari.Steps[None]:
    held = yield from dari.enter(connection())
    assert_type(held, str)
    numbers = yield from dari.enter(aclosing(rows()))
    assert_type(numbers, AsyncGenerator[int])
    assert_type((yield from dari.anext(numbers)), int)
    assert_type((yield from dari.host(numbers.__anext__())), int)
    yield dari.enter(connection())
    yield dari.anext(rows())


def bound_in_a_block() -> dari.Steps[str]:
    with dari.timeout(1):
        first = yield from dari.create_task(child, 1)
    with dari.fail_after(1), dari.timeout_at(2):
        second = yield from dari.host(coroutine("x"))
    return first + second.decode()  # both are bound: these blocks never swallow an error


def never_returns_early() -> dari.Steps[str]:
    with dari.timeout(1):
        return (yield from dari.create_task(child, 1))


def handles() -> dari.Steps[int]:
    yield
    assert_type(dari.all_tasks(), set[dari.Task[Any]])
    task = dari.create_task(child, 1)

    def ended(task: dari.Task[str]) -> None:
        assert_type(task.exception(), BaseException | None)

    task.add_done_callback(ended)
    return task.remove_done_callback(ended)


async def scopes_in_coroutines() -> str:
    async with dari.TaskGroup() as group:
        assert_type(group, dari.TaskGroup)
        first = group.create_task(child, 1)
        second = group.create_task(coroutine, "x")
        assert_type(first, dari.Task[str])
        assert_type(second, dari.Task[bytes])
    with dari.timeout(1):
        bound = await dari.create_task(child, 1)
    async with dari.move_on_after(1) as scope, dari.CancelScope(shield=True):
        await dari.sleep(1)
    assert_type(scope.cancelled_caught, bool)
    assert_type(await dari.anext(rows()), int)
    return bound


async def guest() -> None:
    assert_type(await dari.arun(child, 1), str)
    async with dari.Scheduler() as scheduler:
        assert_type(await scheduler.create_task(coroutine("x"), priority=dari.Priority.HIGH), bytes)


def pipelines(pool: dari.Pool, queue: dari.Queue[int]) -> dari.Steps[None]:
    line = dari.Pipeline(range(3)).map(child).map(coroutine).map(len, pool=pool)
    assert_type(line, dari.Pipeline[int])
    batches = yield from line.filter(bool).batch(2, timeout=1).collect()
    assert_type(batches, list[list[int]])
    letters = dari.Pipeline(queue).flat_map(str)
    assert_type(letters, dari.Pipeline[str])
    maybe = yield from letters.get(default=None)
    assert_type(maybe, str | None)
    yield from letters.for_each(coroutine)


async def threads() -> None:
    assert_type(await dari.to_thread(int, "ff", base=16), int)


async def looping() -> None:
    async for batch in dari.Pipeline("abc").batch(2):
        assert_type(batch, list[str])


class WaitLikeTenacity:
    """Its strategies name its own class of state."""

    def __call__(self, retry_state: WaitLikeTenacity) -> float:
        return 1


def retries(pool: dari.Pool, policy: dari.Retry) -> dari.Steps[None]:
    view = pool.options(delay=1, queue_timeout=2, timeout=None, retry=dari.Retry(2, on=(OSError, ValueError)))
    assert_type(view.submit(len, "x"), dari.Job[int])
    text = yield from policy.run(child, 1)
    assert_type(text, str)
    data = yield from dari.Retry(on=lambda error: "busy" in str(error)).run(coroutine, "x")
    assert_type(data, bytes)
    waits = dari.Retry(wait=WaitLikeTenacity(), stop=lambda state: state.attempt_number > 3)
    assert_type(waits.wait_after(1, OSError(), 0.0), float | None)
    dari.Retry(wait=None, stop=None)


def pools(pool: dari.Pool) -> None:
    assert_type(pool.as_executor().submit(len, "text"), Future[int])
    assert_type(pool.options(priority=1).as_executor().submit(str, 1).result(), str)
    for size in pool.map(len, ["text"], max_in_flight=3):
        assert_type(size, int)
    assert_type(dari.Pipeline(pool.map(str, [1])), dari.Pipeline[str])


def lives_of_jobs(job: dari.Job[int]) -> None:
    pool = dari.Pool(
        limits={"db": 2}, on_start=print, on_retry=lambda job, error, wait: None, on_end=lambda job: job.name
    )
    assert_type(pool.options(key="db", abandon_on_cancel=True).submit(len, "x"), dari.Job[int])
    job.report(0.5)
    assert_type(job.progress, object)
    assert_type(job.remove_done_callback(print), int)
    assert_type(pool.stats().by_worker["dari-0"].completed, int)
    pool.resize(3)


def mapping(pool: dari.Pool) -> dari.Steps[None]:
    maybe = yield from pool.map(len, ["text"]).get(default=None)
    assert_type(maybe, int | None)


async def service(ctx: dari.Context) -> None:
    assert_type(ctx.pool, dari.Pool)
    assert_type(ctx.scheduler, dari.Scheduler)
    assert_type(ctx.scheduler.create_task(child, 1), dari.Task[str])
    assert_type(await ctx.pool.run_sync(len, "four"), int)

    @ctx.on_stop
    async def close() -> None:
        ctx.set_status("closing")

    @ctx.on_stop
    def flush() -> dari.Steps[None]:
        yield dari.sleep(0.1)

    ctx.on_stop(print)
    for listening in ctx.sockets["web"]:
        assert_type(listening, socket.socket)
    assert_type(ctx.report(), dict[str, Any])
    ctx.ready()
    await ctx.stopping.wait()


daemon = dari.Daemon(service, backend="trio", stop_grace=10, user="indexer", group="indexer")
