"""`async def` tasks are tasks of the host: asyncio's libraries work in them, and end when they are cancelled."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import anyio
import anyio.to_thread
import httpx
import pytest
import uvloop
from aiohttp import web

import dari

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
    "hosted": dari.EventLoop,
}
PATIENCE = 20  # seconds, for an event that must come

Block = Callable[[], Awaitable[object]]  # to be called where the task is to be cancelled: it says so, and never ends


@pytest.fixture(params=LOOPS, ids=str)
def run(request: pytest.FixtureRequest) -> Callable[[Coroutine[Any, Any, Any]], Any]:
    """Runs a coroutine on a loop, for a bounded time."""

    def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            return runner.run(asyncio.wait_for(coroutine, PATIENCE))

    return run


async def result_of(main: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """What it gives as a task of a scheduler, and as what a generator task waits for: the same."""

    def generator() -> dari.Steps[Any]:
        return (yield from dari.host(main()))

    async with dari.Scheduler() as scheduler:
        task, waits = scheduler.create_task(main), scheduler.create_task(generator)
        assert await task == await waits
        return await task


async def cancelled(main: Callable[[Block], Coroutine[Any, Any, Any]]) -> list[str]:
    """What is logged when the task of `main` is cancelled while it is in `block`; nothing of it is left then.

    Once as a task of its own, once under a generator that is cancelled: the same.
    """
    logs = []

    def generator(block: Block) -> dari.Steps[Any]:
        return (yield from dari.host(main(block)))

    async with dari.Scheduler() as scheduler:
        for function in (main, generator):
            inside = asyncio.Event()
            log: list[str] = []

            async def block(inside: asyncio.Event = inside, log: list[str] = log) -> None:
                inside.set()
                try:
                    await asyncio.Event().wait()
                finally:
                    log.append("cleaned up")

            before = asyncio.all_tasks()
            task: dari.Task[Any] = scheduler.create_task(function, block)
            await inside.wait()
            task.cancel("not needed")
            with pytest.raises(dari.TaskCancelledError, match="not needed"):
                await task
            assert task.cancelled()
            assert {left for left in asyncio.all_tasks() - before if not left.done()} == set()
            logs.append(log)
    assert logs[0] == logs[1]
    return logs[0]


def both(run: Callable[..., Any], main: Callable[..., Any]) -> tuple[Any, list[str]]:
    """The result of `main` where `block` ends at once, and what is logged where it does not, and is cancelled."""

    async def at_once() -> None:
        await asyncio.sleep(0)

    return run(result_of(lambda: main(at_once))), run(cancelled(main))


# ---- asyncio's own


def test_asyncio_timeout(run: Callable[..., Any]) -> None:
    """A time that runs out is a TimeoutError in the coroutine; a cancel from outside is none."""

    async def main(block: Block) -> list[Any]:
        seen = []
        try:
            async with asyncio.timeout(0.001):
                await asyncio.Event().wait()
        except TimeoutError:
            seen.append("too late")
        async with asyncio.timeout(PATIENCE) as scope:
            await block()
        return [*seen, scope.expired()]

    assert both(run, main) == (["too late", False], ["cleaned up"])


def test_asyncio_task_group(run: Callable[..., Any]) -> None:
    """Its children run beside each other; the cancel of the task reaches them all."""

    async def main(block: Block) -> list[int]:
        met = asyncio.Barrier(3)

        async def child(number: int) -> int:
            await met.wait()
            await block()
            return number

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(child(number)) for number in range(3)]
        return [task.result() for task in tasks]

    result, log = both(run, main)

    assert (result, log) == ([0, 1, 2], ["cleaned up"] * len(log))
    assert log


def test_asyncio_task_group_with_a_child_that_fails(run: Callable[..., Any]) -> None:
    """The group cancels the coroutine's own wait and takes that cancel back: its task ends with the group's error."""

    async def fail() -> None:
        raise LookupError("a child")

    async def main() -> list[Any]:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(fail())
                await asyncio.Event().wait()
        except* LookupError as failed:
            messages = [str(error) for error in failed.exceptions]
        current = asyncio.current_task()
        assert current is not None
        return [messages, current.cancelling()]

    assert run(result_of(main)) == [["a child"], 0]


# ---- anyio's


def test_anyio_move_on_after(run: Callable[..., Any]) -> None:
    """The scope catches its own time, and not the cancel of the task."""

    async def main(block: Block) -> list[bool]:
        with anyio.move_on_after(0.001) as late:
            await anyio.sleep_forever()
        with anyio.move_on_after(PATIENCE) as early:
            await block()
        return [late.cancelled_caught, early.cancelled_caught]

    assert both(run, main) == ([True, False], ["cleaned up"])


def test_anyio_fail_after(run: Callable[..., Any]) -> None:
    """The scope turns its own time into TimeoutError, and not the cancel of the task."""

    async def main(block: Block) -> str:
        try:
            with anyio.fail_after(0.001):
                await anyio.sleep_forever()
        except TimeoutError:
            with anyio.fail_after(PATIENCE):
                await block()
                return "too late"
        return "in time"

    assert both(run, main) == ("too late", ["cleaned up"])


def test_anyio_shield(run: Callable[..., Any]) -> None:
    """What is shielded from an anyio scope around it runs to its end."""

    async def main(block: Block) -> list[Any]:
        seen = []
        with anyio.CancelScope() as outer:
            outer.cancel()
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.001)
                seen.append("shielded")
            await anyio.sleep(0)
            seen.append("never")
        with anyio.CancelScope(shield=True):
            await block()
        return [*seen, outer.cancelled_caught]

    assert both(run, main) == (["shielded", True], ["cleaned up"])


def test_anyio_shielded_cleanup(run: Callable[..., Any]) -> None:
    """A shielded cleanup of a cancelled task may wait, and is waited for."""
    log = []

    async def main(block: Block) -> None:
        try:
            await block()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.001)
                log.append("waited")

    assert run(cancelled(main)) == ["cleaned up"]
    assert log == ["waited"] * 2


def test_anyio_task_group(run: Callable[..., Any]) -> None:
    """Its children run beside each other and speak by its streams; the cancel of the task reaches them all."""

    async def main(block: Block) -> list[int]:
        send, receive = anyio.create_memory_object_stream[int]()
        got = []

        async def child(number: int) -> None:
            await send.send(number)
            await block()

        async with send, receive, anyio.create_task_group() as group:
            for number in range(3):
                group.start_soon(child, number)
            for _ in range(3):
                got.append(await receive.receive())
        return sorted(got)

    result, log = both(run, main)

    assert (result, log) == ([0, 1, 2], ["cleaned up"] * len(log))
    assert log


def test_anyio_task_group_cancelled_from_within(run: Callable[..., Any]) -> None:
    """The group's own cancel stays its own: the task goes on behind it."""

    async def main() -> str:
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep_forever)
            group.cancel_scope.cancel()
        await anyio.sleep(0.001)
        return "went on"

    assert run(result_of(main)) == "went on"


def test_anyio_to_thread(run: Callable[..., Any]) -> None:
    """The call runs on a thread of anyio's; cancelled, it is left to itself there, as in any task of asyncio."""

    async def main() -> bool:
        return await anyio.to_thread.run_sync(threading.get_ident) != threading.get_ident()

    async def ends(create_task: Callable[..., Awaitable[None]]) -> list[str]:
        begun, go_on, ended = threading.Event(), threading.Event(), threading.Event()
        log = []

        def blocks() -> None:
            begun.set()
            go_on.wait(PATIENCE)
            log.append("call ended")
            ended.set()

        async def calls() -> None:
            try:
                await anyio.to_thread.run_sync(blocks)
            finally:
                log.append("coroutine ended")

        task: Any = create_task(calls())
        assert await asyncio.to_thread(begun.wait, PATIENCE)
        task.cancel()
        with pytest.raises((dari.TaskCancelledError, asyncio.CancelledError)):
            await task
        go_on.set()
        assert await asyncio.to_thread(ended.wait, PATIENCE)
        return log

    async def compare() -> tuple[list[str], list[str]]:
        async with dari.Scheduler() as scheduler:
            return await ends(scheduler.create_task), await ends(asyncio.create_task)

    assert run(result_of(main)) is True
    assert run(compare()) == (["coroutine ended", "call ended"],) * 2


def test_anyio_knows_where_it_is(run: Callable[..., Any]) -> None:
    """Its events, its current task and its cancellation state are there as in any task of asyncio."""

    async def main() -> tuple[bool, bool]:
        event = anyio.Event()
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep, 0)
            event.set()
            await event.wait()
        await anyio.lowlevel.checkpoint()
        return anyio.get_current_task().id != 0, anyio.current_effective_deadline() == float("inf")

    assert run(result_of(main)) == (True, True)


# ---- aiohttp and httpx, client and server, on real sockets


@asynccontextmanager
async def aiohttp_server(block: Block) -> AsyncIterator[str]:
    """A site with a page that is there and one that never comes."""

    async def page(request: web.Request) -> web.Response:
        return web.Response(text=f"page {request.match_info['name']}")

    async def slow(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        await answer.write(b"begun")
        await block()
        return answer

    app = web.Application()
    app.add_routes([web.get("/slow", slow), web.get("/{name}", page)])
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.01)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield "http://{}:{}".format(*runner.addresses[0][:2])
    finally:
        await runner.cleanup()


def test_aiohttp(run: Callable[..., Any]) -> None:
    """Client and server; cancelled in the middle of an answer, the client hangs up, and the server's handler ends."""

    async def main(block: Block) -> list[str]:
        async with aiohttp_server(block) as url, aiohttp.ClientSession() as session:

            async def text(name: str) -> str:
                async with session.get(f"{url}/{name}") as answer:
                    return await answer.text()

            return [*await asyncio.gather(*(text(name) for name in "abc")), await text("slow")]

    assert both(run, main) == (["page a", "page b", "page c", "begun"], ["cleaned up"])


def test_httpx(run: Callable[..., Any]) -> None:
    """Its client; cancelled in the middle of an answer, it hangs up, and the server's handler ends."""

    async def main(block: Block) -> list[str]:
        async with aiohttp_server(block) as url, httpx.AsyncClient(base_url=url, timeout=PATIENCE) as client:
            answers = await asyncio.gather(*(client.get(name) for name in "abc"))
            async with client.stream("GET", "slow") as answer:
                return [*(each.text for each in answers), (await answer.aread()).decode()]

    assert both(run, main) == (["page a", "page b", "page c", "begun"], ["cleaned up"])


def test_a_server_of_generator_tasks(run: Callable[..., Any]) -> None:
    """A handler of aiohttp awaits generator tasks; cancelling the task that is the server ends it and them."""
    log = []

    def answer(name: str, reached: asyncio.Event) -> dari.Steps[str]:
        try:
            yield from dari.sleep(0.001)
            if name == "never":
                reached.set()
                yield from dari.Event().wait()
        finally:
            log.append(f"{name} ended")
        return f"generated {name}"

    async def serve(url: asyncio.Future[str], reached: asyncio.Event) -> None:
        async def handler(request: web.Request) -> web.Response:
            return web.Response(text=await dari.arun(answer, request.match_info["name"], reached))

        app = web.Application()
        app.add_routes([web.get("/{name}", handler)])
        runner = web.AppRunner(app, shutdown_timeout=0.01)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            url.set_result("http://{}:{}".format(*runner.addresses[0][:2]))
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()
            log.append("server ended")

    async def main() -> str:
        reached = asyncio.Event()
        async with dari.Scheduler() as scheduler:
            url: asyncio.Future[str] = asyncio.get_running_loop().create_future()
            server = scheduler.create_task(serve, url, reached)
            async with httpx.AsyncClient(base_url=await url, timeout=PATIENCE) as client:
                text = (await client.get("one")).text
                waits = asyncio.create_task(client.get("never"))
                await reached.wait()
                server.cancel()
                with pytest.raises(dari.TaskCancelledError):
                    await server
                with pytest.raises(httpx.RemoteProtocolError):
                    await waits
            return text

    assert run(main()) == "generated one"
    assert log == ["one ended", "never ended", "server ended"]
