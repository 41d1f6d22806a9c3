"""`dari.anext` and `dari.enter`: async iterators and async context managers in generator tasks, on every host."""

from __future__ import annotations

import asyncio
import contextlib

import anyio
import pytest
import trio

import dari


class Resource:
    """An async context manager that notes what happens to it, and takes a moment to enter and to leave."""

    def __init__(self, log, name="resource", *, wait=anyio.sleep, entering=None, leaving=None, suppresses=False):
        self.log, self.name, self.wait = log, name, wait
        self.entering, self.leaving, self.suppresses = entering, leaving, suppresses

    async def __aenter__(self):
        self.log.append(f"{self.name} enters")
        await self.wait(0.001)
        if self.entering is not None:
            raise self.entering
        return self.name

    async def __aexit__(self, kind, error, traceback):
        with anyio.CancelScope(shield=True):
            await self.wait(0.001)
        self.log.append((f"{self.name} leaves", None if kind is None else kind.__name__))
        if self.leaving is not None:
            raise self.leaving
        return self.suppresses


def run_in(host, plan, *args):
    """Runs `plan` as a task of a host, and gives the handle after its end, without raising."""

    async def main():
        async with dari.Scheduler() as scheduler:
            task = scheduler.create_task(plan, *args)
            with contextlib.suppress(Exception):
                await task
        return task

    return host(main)


def test_the_manager_is_left_when_the_code_has_ended(host):
    """What it gives is the value of the yield; the task has ended when the manager has been left."""
    log = []

    def plan():
        name = yield dari.enter(Resource(log))
        same = yield from dari.enter(Resource(log, "other"))
        yield dari.sleep(0.001)
        log.append("works")
        return name, same

    task = run_in(host, plan)

    assert task.result() == ("resource", "other")
    assert log == [
        "resource enters",
        "other enters",
        "works",
        ("other leaves", None),
        ("resource leaves", None),
    ]


def test_an_error_leaves_it_by_that_error(host):
    """So a transaction is rolled back; who waits for the task gets its own error."""
    log = []

    def plan():
        yield dari.enter(Resource(log))
        raise KeyError("mine")

    task = run_in(host, plan)

    assert repr(task.exception()) == "KeyError('mine')"
    assert log[1:] == [("resource leaves", "KeyError")]


def test_what_it_suppresses_is_still_the_task_s_error(host):
    """There is no code left that could go on."""
    log = []

    def plan():
        yield dari.enter(Resource(log, suppresses=True))
        raise KeyError("mine")

    assert repr(run_in(host, plan).exception()) == "KeyError('mine')"


@pytest.mark.parametrize("own", [None, KeyError("mine")], ids=["return", "raise"])
def test_an_error_of_the_exit_becomes_the_task_s(host, own):
    """A commit that fails is not silent; the task's own error is its context."""
    log = []

    def plan():
        yield dari.enter(Resource(log, leaving=OSError("commit")))
        if own is not None:
            raise own

    error = run_in(host, plan).exception()

    assert (repr(error), error.__context__) == ("OSError('commit')", own)


def test_an_error_of_entering_comes_at_the_yield(host):
    """And nothing is left."""
    log = []

    def plan():
        with pytest.raises(OSError, match="refused"):
            yield dari.enter(Resource(log, entering=OSError("refused")))
        return "went on"

    assert run_in(host, plan).result() == "went on"
    assert log == ["resource enters"]


def test_a_cancel_leaves_it_by_the_host_s_cancel(host):
    """After the task's own cleanup, which may still use it."""
    log, entered = [], dari.Event()

    def plan():
        yield dari.enter(Resource(log))
        try:
            entered.set()
            yield dari.sleep(60)
        finally:
            with dari.CancelScope(shield=True):
                yield dari.sleep(0.003)
            log.append("cleaned up")

    async def main():
        async with dari.Scheduler() as scheduler:
            task = scheduler.create_task(plan)
            await entered.wait()
            scheduler.cancel()
        return task.cancelled()

    assert host(main) is True
    assert log[1:] == ["cleaned up", ("resource leaves", "Cancelled" if host is trio.run else "CancelledError")]


def test_a_cancel_while_entering_cancels_that(host):
    """The wait ends when the entering has."""
    log = []
    scope = dari.move_on_after(60)

    async def long(_):
        scope.cancel()
        try:
            await anyio.sleep(60)
        finally:
            log.append("entering ended")

    def plan():
        with scope:
            yield dari.enter(Resource(log, wait=long))
        return scope.cancelled_caught

    assert run_in(host, plan).result() is True
    assert log == ["resource enters", "entering ended"]


def test_a_manager_that_lets_itself_be_entered_in_spite_of_a_cancel_is_left(host):
    """The task is cancelled, and nothing stays open."""
    log = []

    scope = dari.move_on_after(60)

    async def stubborn(delay):
        scope.cancel()
        with anyio.CancelScope(shield=True):
            while not scope.cancel_called:
                with contextlib.suppress(asyncio.CancelledError):
                    await anyio.sleep(delay)
            with contextlib.suppress(asyncio.CancelledError):
                await anyio.sleep(delay)  # and what has been cancelled hears of it

    def plan():
        with scope:
            yield dari.enter(Resource(log, wait=stubborn))
        return scope.cancelled_caught

    assert run_in(host, plan).result() is True
    assert log == ["resource enters", ("resource leaves", None)]


def test_a_manager_that_ends_before_ends_the_task(host):
    """A timeout, a task group whose child fails: the task is cancelled, and that error becomes its own."""
    log = []

    @contextlib.asynccontextmanager
    async def limited():
        with anyio.fail_after(0.003):
            yield "limited"

    def plan():
        yield dari.enter(limited())
        try:
            yield dari.sleep(60)
        finally:
            log.append("cleaned up")

    task = run_in(host, plan)

    assert (type(task.exception()), log) == (TimeoutError, ["cleaned up"])


def test_a_task_group_of_the_host_is_entered_and_left_in_one_task(host):
    """anyio's groups and scopes insist on that; the exit waits for what was started in it."""
    log = []

    async def child():
        await anyio.sleep(0.002)
        log.append("child")

    @contextlib.asynccontextmanager
    async def with_child():
        async with anyio.create_task_group() as group:
            group.start_soon(child)
            yield

    def plan():
        yield dari.enter(with_child())
        log.append("code ends")

    assert run_in(host, plan).exception() is None
    assert log == ["code ends", "child"]


def test_a_second_cancel_cuts_the_exit_short(host):
    """Who cancels a task that is leaving cancels the leaving."""
    log, leaving = [], dari.Event()

    @contextlib.asynccontextmanager
    async def slow():
        yield "slow"
        leaving.set()
        try:
            await anyio.sleep(60)
        finally:
            log.append("leaving ended")

    def plan():
        yield dari.enter(slow())

    async def main():
        async with dari.Scheduler() as scheduler:
            task = scheduler.create_task(plan)
            await leaving.wait()
            assert not task.done()
            task.cancel()
        return task.done()

    assert host(main) is True
    assert log == ["leaving ended"]


def test_a_hundred_are_left_in_order(host):
    """The last one first."""
    log = []

    @contextlib.asynccontextmanager
    async def numbered(number):
        yield number
        log.append(number)

    def plan():
        for number in range(100):
            yield dari.enter(numbered(number))

    run_in(host, plan)

    assert log == [*range(99, -1, -1)]


def test_standing_alone_it_takes_what_awaits_dari_only():
    """There the kernel itself steps the manager."""
    log = []

    class Own(Resource):
        async def __aexit__(self, kind, error, traceback):
            await self.wait(0.001)
            self.log.append(("leaves", None if kind is None else kind.__name__))

    def plan(error):
        yield dari.enter(Own(log, wait=dari.sleep))
        log.append("works")
        if error is not None:
            raise error

    dari.run(plan, None)
    with pytest.raises(KeyError):
        dari.run(plan, KeyError())

    assert log == ["resource enters", "works", ("leaves", None), "resource enters", "works", ("leaves", "KeyError")]


def test_what_is_refused():
    """A plain context manager, a coroutine function that was not called; and in a coroutine there is `async with`."""
    with pytest.raises(TypeError, match="use `with`"):
        dari.enter(contextlib.suppress(KeyError))
    with pytest.raises(TypeError, match="it has no __aenter__"):
        dari.enter(Resource)

    async def main():
        with pytest.raises(RuntimeError, match="async with"):
            await dari.enter(Resource([]))

    asyncio.run(main())


# ---- anext -----------------------------------------------------------------------------------------------------------


async def countdown(log=None):
    try:
        for number in (3, 2, 1):
            await anyio.sleep(0.001)
            yield number
    finally:
        if log is not None:
            log.append("closed")


def test_anext_takes_item_by_item(host):
    """`StopAsyncIteration` comes at the `yield`."""

    def plan():
        rows, got = countdown(), []
        while True:
            try:
                got.append((yield from dari.anext(rows)))
            except StopAsyncIteration:
                return got

    assert run_in(host, plan).result() == [3, 2, 1]


def test_a_generator_that_is_entered_is_closed(host):
    """`contextlib.aclosing` makes a resource of it."""
    log = []

    def plan():
        rows = yield from dari.enter(contextlib.aclosing(countdown(log)))
        return (yield dari.anext(rows))

    assert run_in(host, plan).result() == 3
    assert log == ["closed"]


def test_cancelling_anext_cancels_the_iterator_s_step(host):
    """As with everything that is waited for."""
    log = []

    scope = dari.move_on_after(60)

    async def endless():
        scope.cancel()
        try:
            await anyio.sleep(60)
            yield
        finally:
            log.append("ended")

    def plan():
        with scope:
            yield dari.anext(endless())
        return scope.cancelled_caught

    assert run_in(host, plan).result() is True
    assert log == ["ended"]


def test_anext_says_what_it_takes():
    """An iterable is not an iterator yet."""

    class Rows:
        def __aiter__(self):
            return countdown()

    with pytest.raises(TypeError, match=r"did you mean dari\.anext\(aiter"):
        dari.anext(Rows())
    with pytest.raises(TypeError, match="it has no __anext__"):
        dari.anext([1])


def test_an_item_that_is_never_asked_for_costs_nothing():
    """`dari.anext(rows)` asks when it is yielded."""
    rows = countdown()
    dari.anext(rows)

    assert rows.ag_running is False
