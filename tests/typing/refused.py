"""What the checkers must refuse: every line that ends in `# error`, and no other. Read by tests/test_exports.py."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

import dari
from dari import testing


def work(number: int) -> dari.Steps[str]:
    yield dari.sleep(1)
    return str(number)


dari.Nope  # error
dari.run(work, "text")  # error
number: int = dari.run(work, 1)  # error
dari.run(work)  # error
dari.sleep("soon")  # error
testing.run(work, 1, loop="gevent")  # error
testing.run(work, 1, seeds=100)  # error
testing.VirtualEventLoop(clock="real")  # error
dari.to_thread(work, "text")  # error
dari.all_tasks(work)  # error
dari.Retry(wait=1)  # error
dari.Retry(wait=lambda state: "soon")  # error
dari.Retry(stop=lambda: True)  # error
dari.enter(suppress(KeyError))  # error
dari.anext([1, 2])  # error


@asynccontextmanager
async def connection() -> AsyncGenerator[str]:
    yield "connection"


async def rows() -> AsyncGenerator[int]:
    yield 1


def resources() -> dari.Steps[int]:
    dari.enter(connection)  # error
    held: int = yield from dari.enter(connection())  # error
    item: str = yield from dari.anext(rows())  # error
    dari.host(work(1))  # error
    hosted: int = yield from dari.host(connection().__aenter__())  # error
    return held + len(item) + hosted


def may_go_on_without_a_value() -> dari.Steps[str]:  # error
    with dari.move_on_after(1):
        return (yield from dari.create_task(work, 1))


async def groups() -> None:
    async with dari.TaskGroup() as group:
        group.create_task(work, "text")  # error
        task = group.create_task(work, 1)
        await task
        number: int = task.result()  # error
        task.remove_done_callback(number)  # error


def pools(pool: dari.Pool) -> None:
    dari.Pool(limits={"db": "2"})  # error
    dari.Pool(on_retry=lambda job: None)  # error
    pool.options(key=1)  # error
    pool.resize("3")  # error


def services(ctx: dari.Context) -> None:
    ctx.on_stop(lambda late: None)  # error
    ctx.set_status(7)  # error
    ctx.pool.submit(len, 3)  # error


def loops() -> None:
    dari.EventLoop(64)  # error
    dari.EventLoop(seed="1")  # error
    dari.priority("high")  # error
