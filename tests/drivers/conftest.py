"""The drivers under test. Each fixture value runs a task to its end on one of them, and gives its result."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import anyio
import pytest
import trio
import uvloop

import dari
from dari import testing

Run = Callable[..., Any]


def standalone(main: Callable[..., Any], *args: Any) -> Any:
    return dari.run(main, *args)


def guest_of(loop_factory: Callable[[], asyncio.AbstractEventLoop]) -> Run:
    def guest(main: Callable[..., Any], *args: Any) -> Any:
        async def host() -> Any:
            return await dari.arun(main, *args)

        with asyncio.Runner(loop_factory=loop_factory) as runner:
            return runner.run(host())

    return guest


def guest_of_trio(main: Callable[..., Any], *args: Any) -> Any:
    async def host() -> Any:
        return await dari.arun(main, *args)

    return trio.run(host)


def guest_under_anyio(backend: str) -> Run:
    def guest(main: Callable[..., Any], *args: Any) -> Any:
        async def host() -> Any:
            with anyio.CancelScope():
                return await dari.arun(main, *args)

        return anyio.run(host, backend=backend)

    return guest


def virtual_time(main: Callable[..., Any], *args: Any) -> Any:
    return testing.run(main, *args)


LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
    "hosted": dari.EventLoop,
}
DRIVERS: dict[str, Run] = {
    "standalone": standalone,
    "virtual": virtual_time,
    **{name: guest_of(make) for name, make in LOOPS.items()},
    "trio": guest_of_trio,
    "anyio-asyncio": guest_under_anyio("asyncio"),
    "anyio-trio": guest_under_anyio("trio"),
}


@pytest.fixture(params=DRIVERS, ids=str)
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a task on one of the drivers."""
    return DRIVERS[request.param]


@pytest.fixture(params=[name for name in DRIVERS if name != "virtual"], ids=str)
def run_really(request: pytest.FixtureRequest) -> Run:
    """The same for what needs the real time: virtual time stands still while something outside may come."""
    return DRIVERS[request.param]


@pytest.fixture(params=LOOPS, ids=str)
def loop_factory(request: pytest.FixtureRequest) -> Callable[[], asyncio.AbstractEventLoop]:
    """Makes a loop that dari can be a guest of."""
    return LOOPS[request.param]


@pytest.fixture(params=[*LOOPS, "trio"], ids=str)
def host(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Runs an async function in each loop that dari can be a guest of; it has anyio for what the loops have apart."""
    if request.param == "trio":
        return trio.run

    def run(main: Callable[..., Any], *args: Any) -> Any:
        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            return runner.run(main(*args))

    return run


@pytest.fixture(params=["in order", "reversed"])
def order(request, monkeypatch):
    """trio shuffles: a pass takes its tasks in order or the other way round. Here each time the same way."""
    number = 0.9 if request.param == "in order" else 0.1
    monkeypatch.setattr(trio._core._run._r, "random", lambda: number)
