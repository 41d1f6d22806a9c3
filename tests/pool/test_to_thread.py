"""`dari.to_thread`: blocking calls on the process's own pool, from every world."""

from __future__ import annotations

import asyncio
import contextvars
import threading

import pytest
import trio

import dari
from dari.pool import current_job

user = contextvars.ContextVar("user", default="nobody")


def who(*, greeting):
    return greeting, user.get(), current_job().priority, threading.current_thread().name.split("-")[0]


def in_a_generator():
    def main():
        user.set("me")
        with dari.priority(3):
            return (yield dari.to_thread(who, greeting="hello"))

    return dari.run(main)


async def coroutine():
    user.set("me")
    with dari.priority(3):
        return await dari.to_thread(who, greeting="hello")


WORLDS = {
    "generator": in_a_generator,
    "coroutine": lambda: dari.run(coroutine),
    "asyncio": lambda: asyncio.run(coroutine()),
    "trio": lambda: trio.run(coroutine),
}


@pytest.mark.parametrize("world", WORLDS)
def test_it_calls_on_a_thread_with_the_callers_context(world):
    """Keywords, context variables and the priority of the chain come along."""
    assert WORLDS[world]() == ("hello", "me", 3, "to_thread")


def test_an_error_is_raised_where_it_is_waited_for():
    """As of any job."""

    def main():
        with pytest.raises(ZeroDivisionError):
            yield dari.to_thread(divmod, 1, 0)
        return "on"

    assert dari.run(main) == "on"


def test_a_timeout_asks_the_call_to_end_and_waits_for_it():
    """Who waits, owns."""
    ended, begun = [], threading.Event()

    def work():
        begun.set()
        while not current_job().cancel_requested:
            pass
        ended.append(True)

    async def expire(timeout):
        while not begun.is_set():
            await asyncio.sleep(0)
        timeout.reschedule(asyncio.get_running_loop().time())

    async def main():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(None) as timeout:
                expiring = asyncio.create_task(expire(timeout))
                await dari.to_thread(work)
        await expiring

    asyncio.run(main())

    assert ended == [True]


def test_first_calls_of_many_threads_share_one_pool():
    """Whoever is first makes it."""
    from dari.pool.default import _pools

    _pools.clear()
    together = threading.Barrier(8)
    names = []

    def main():
        together.wait(10)
        names.append((yield dari.to_thread(lambda: current_job()._keeper)))

    threads = [threading.Thread(target=dari.run, args=(main,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)

    assert (len(names), len(set(names))) == (8, 1)
