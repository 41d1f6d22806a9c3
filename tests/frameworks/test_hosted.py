"""Programs of asyncio run on `dari.EventLoop` as they are: by every way to a loop, with others' clients and servers."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import unittest
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
import redis.asyncio

import dari

PATIENCE = 20  # seconds, for an event that must come


async def kind_of_loop() -> type[asyncio.AbstractEventLoop]:
    return type(asyncio.get_running_loop())


def test_asyncio_takes_it() -> None:
    """`asyncio.Runner(loop_factory=)`, and from 3.12 on `asyncio.run(loop_factory=)`."""
    with asyncio.Runner(loop_factory=dari.EventLoop) as runner:
        assert runner.run(kind_of_loop()) is dari.EventLoop
    if sys.version_info >= (3, 12):
        assert asyncio.run(kind_of_loop(), loop_factory=dari.EventLoop) is dari.EventLoop


def test_anyio_takes_it() -> None:
    """By its option of the same name; task groups, cancel scopes and threads of anyio work."""

    async def main() -> tuple[type[asyncio.AbstractEventLoop], int]:
        with anyio.move_on_after(PATIENCE), dari.priority(-1):
            async with anyio.create_task_group() as group:
                group.start_soon(anyio.sleep_forever)
                thread = await anyio.to_thread.run_sync(os.getpid)
                group.cancel_scope.cancel()
        return await kind_of_loop(), thread

    assert anyio.run(main, backend_options={"loop_factory": dari.EventLoop}) == (dari.EventLoop, os.getpid())


@pytest.mark.skipif(sys.version_info < (3, 13), reason="unittest takes a loop factory since 3.13")
def test_unittest_takes_it() -> None:
    """`IsolatedAsyncioTestCase.loop_factory`."""

    class Case(unittest.IsolatedAsyncioTestCase):
        loop_factory = dari.EventLoop

        async def test(self) -> None:
            self.assertIs(await kind_of_loop(), dari.EventLoop)

    outcome = unittest.TestResult()
    Case("test").run(outcome)

    assert (outcome.testsRun, outcome.errors, outcome.failures) == (1, [], [])


# ---- a database ----------------------------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The URL of a redis server of our own."""
    program = shutil.which("redis-server", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if program is None:
        assert os.geteuid() != 0, "as root .ci/run installs redis-server: a skip would hide what this is for"
        pytest.skip("redis-server is not installed")
    socket = Path("/tmp") / f"dari-redis-{os.getpid()}"  # a path of pytest's is too long for a socket
    command = [program, "--port", "0", "--unixsocket", str(socket), "--save", "", "--dir", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if "to accept connections" in line:
                    break
            yield f"unix://{socket}"
        finally:
            process.terminate()


def test_a_database_client(server: str) -> None:
    """redis-py against a real server: a hundred tasks at once, a pipeline, a subscription, a wait that is cancelled."""

    async def main() -> tuple[object, ...]:
        async with redis.asyncio.from_url(server, decode_responses=True) as client:
            with dari.priority(1):
                await asyncio.gather(*(client.set(f"key {number}", number) for number in range(100)))
            values = await client.mget([f"key {number}" for number in range(100)])
            async with client.pipeline(transaction=True) as pipeline:
                counted = await pipeline.incr("counter").incr("counter").execute()
            async with client.pubsub() as channel:
                await channel.subscribe("news")
                await channel.get_message(timeout=PATIENCE)  # of the subscription itself
                await client.publish("news", "hello")
                news = await channel.get_message(timeout=PATIENCE)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.blpop(["nothing"]), 0.05)

            def generator() -> dari.Steps[object]:
                return (yield from dari.host(client.get("counter")))

            return values, counted, news and news["data"], await dari.arun(generator, priority=-1)

    with asyncio.Runner(loop_factory=dari.EventLoop) as runner:
        outcome = runner.run(asyncio.wait_for(main(), PATIENCE))

    assert outcome == ([str(number) for number in range(100)], [1, 2], "hello", "2")
