"""Chains of waits over the seam, under results, errors, timeouts and cancels at any turn: nothing is lost, all ends.

A chain is a list of levels, each a generator (a task of ours) or a coroutine (a task of asyncio); each waits for the
one below it, the last one for a source: a future of asyncio, an item, a lock, a place in a queue. What happens to it is
a list of actions, each some turns of the loop after the one before. Then the source gives, so that the chain can end,
and what must hold however it went is looked at.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
import uvloop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import dari

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}

LONG = 3600  # seconds; no timeout runs out by itself
PATIENCE = 500  # turns of the loop after which a chain is said to hang


async def turns(number):
    for _ in range(number):
        await asyncio.sleep(0)


# ---- sources ---------------------------------------------------------------------------------------------------------


class AFuture:
    """A future of asyncio."""

    def __init__(self):
        self.future = asyncio.get_running_loop().create_future()

    async def prepare(self):
        pass

    def wait(self):
        return self.future

    def won(self):
        pass

    def give(self):
        if not self.future.done():
            self.future.set_result("value")

    def fail(self):
        if not self.future.done():
            self.future.set_exception(KeyError("source"))
            self.future.exception()  # asyncio need not warn if nobody came to wait

    def drop(self):
        self.future.cancel()

    def conserved(self):
        return True


class AnItem:
    """An item of a queue of ours: three are given, and each was got or is in."""

    def __init__(self):
        self.queue = dari.Queue()
        self.given = self.got = 0

    async def prepare(self):
        pass

    def wait(self):
        return self.queue.get()

    def won(self):
        self.got += 1

    def give(self):
        if self.given < 3:
            try:
                self.queue.put_nowait("item")
            except dari.QueueShutDown:
                return
            self.given += 1

    def fail(self):
        self.queue.shutdown()

    def drop(self):
        pass

    def conserved(self):
        return self.got + self.queue.qsize() == self.given


class APlace:
    """A place in a full queue: what was put is in if, and only if, its putter was told so."""

    def __init__(self):
        self.queue = dari.Queue(1)
        self.queue.put_nowait("first")
        self.given = None
        self.told = 0

    async def prepare(self):
        pass

    def wait(self):
        return self.queue.put("second")

    def won(self):
        self.told += 1

    def give(self):
        if self.given is None:
            self.given = self.queue.get_nowait()

    fail = drop = lambda self: None

    def conserved(self):
        return self.told == self.queue.qsize()


class ALock:
    """A lock that somebody else holds, until it gives; who got it gives it back."""

    def __init__(self):
        self.lock = dari.Lock()
        self.held = True

    async def prepare(self):
        await self.lock.acquire()

    def wait(self):
        return self.lock.acquire()

    def won(self):
        self.lock.release()

    def give(self):
        if self.held:
            self.held = False
            self.lock.release()

    fail = drop = lambda self: None

    def conserved(self):
        return not self.lock.locked()


RIVALED = (AnItem, ALock)  # what a second one may wait for, behind the chain, who gets what that does not keep


def rival(source):
    try:
        yield source.wait()
        source.won()
    except dari.QueueShutDown:
        pass


async def rival_coroutine(source):
    try:
        await source.wait()
        source.won()
    except dari.QueueShutDown:
        pass


SOURCES = {"future": AFuture, "item": AnItem, "place": APlace, "lock": ALock}


# ---- levels ----------------------------------------------------------------------------------------------------------

NOTHING = "nothing"


@dataclass
class Level:
    """What it is made of, and what became of it."""

    kind: str
    slow: int  # steps of its cleanup
    stubborn: bool  # it returns a value when it is cancelled
    task: Any = None
    timeout: Any = None
    count: int = 0  # of cancels asked for by the host, those that were taken back not counted
    cancelled: bool = False  # any was asked for
    began: int = 0
    cleaned: int = 0
    ended: int = 0
    received: Any = NOTHING
    outcome: Any = NOTHING

    def begin(self, task):
        self.began += 1
        self.task = task

    def end(self, ends):
        self.ended += 1
        self.timeout = None
        ends.append(self)


class Chain:
    def __init__(self, scheduler, levels, source):
        self.scheduler = scheduler
        self.levels = levels
        self.source = source
        self.ends = []
        self.left_count = None  # the top's, if it is asyncio's

    def start(self):
        top = self.levels[0]
        if top.kind == "generator":
            top.task = self.scheduler.create_task(self.generator, 0)
            self.scheduler.create_task(watch, top.task)
        else:
            top.task = asyncio.create_task(self.host())
        return top.task

    def below(self, number):
        if number + 1 == len(self.levels):
            return self.source.wait()
        if self.levels[number + 1].kind == "generator":
            return self.scheduler.create_task(self.generator, number + 1)
        if self.levels[number].kind == "generator":
            return self.coroutine(number + 1)
        return self.scheduler.create_task(self.coroutine, number + 1)

    def won(self, number):
        if number + 1 == len(self.levels):
            self.source.won()

    def generator(self, number):
        level = self.levels[number]
        level.begin(dari.current_task())
        try:
            with dari.fail_after(LONG) as level.timeout:
                try:
                    level.received = yield self.below(number)
                    self.won(number)
                finally:
                    level.cleaned += 1
                    with dari.CancelScope(shield=True):
                        for _ in range(level.slow):
                            yield
            level.outcome = level.received
        except dari.Cancelled:
            if not level.stubborn:
                raise
            level.outcome = "stubborn"
        finally:
            level.end(self.ends)
        return level.outcome

    async def coroutine(self, number):
        level = self.levels[number]
        level.begin(asyncio.current_task())
        try:
            async with asyncio.timeout(LONG) as level.timeout:
                try:
                    level.received = await self.below(number)
                    self.won(number)
                finally:
                    level.cleaned += 1
                    await turns(level.slow)
            level.outcome = level.received
        except asyncio.CancelledError:
            if not level.stubborn:
                raise
            level.outcome = "stubborn"
        finally:
            level.end(self.ends)
        return level.outcome

    async def host(self):
        try:
            return await self.coroutine(0)
        finally:
            self.left_count = asyncio.current_task().cancelling()
            await turns(2)  # a cancel that is still to come comes here

    # ---- what happens to it ----------------------------------------------------------------------------------------

    def act(self, action, number):
        level = self.levels[number % len(self.levels)]
        if action in ("give", "fail", "drop"):
            getattr(self.source, action)()
        elif action == "timeout":
            self.run_out(level)
        elif level.task is not None and not level.ended:
            if action == "cancel":
                level.cancelled = True
                level.count += level.task.cancel()
            elif level.kind == "coroutine" and level.count:
                level.count -= 1
                level.task.uncancel()

    def run_out(self, level):
        if level.timeout is None:
            return
        if level.kind == "generator":
            level.timeout.deadline = 0
        elif not level.timeout.expired():
            level.timeout.reschedule(0)


def watch(task):
    """Sees how it ends, so that its failure is not reported."""
    yield dari.wait([task])
    if not task.cancelled():
        task.exception()


# ---- what must hold --------------------------------------------------------------------------------------------------


class Records(logging.Handler):
    def __init__(self):
        super().__init__()
        self.seen = []

    def emit(self, record):
        self.seen.append(record.getMessage())


async def happens(levels, source_kind, rivals, actions):
    """Let it happen; gives the chain when it has ended."""
    told, records = [], Records()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: told.append(context))
    logging.getLogger("dari").addHandler(records)
    try:
        source = SOURCES[source_kind]()
        await source.prepare()
        async with dari.Scheduler() as scheduler:
            chain = Chain(scheduler, levels, source)
            top = chain.start()
            await turns(3)
            others = []
            if isinstance(source, RIVALED):
                if rivals > 0:
                    others.append(scheduler.create_task(rival, source))
                if rivals > 1:
                    others.append(asyncio.create_task(rival_coroutine(source)))
            for later, action, number in actions:
                await turns(later)
                chain.act(action, number)
            await turns(4)
            for _ in range(PATIENCE):
                source.give()
                if all(task.done() for task in (top, *others)) and not scheduler.tasks:
                    break
                await asyncio.sleep(0)
            assert all(task.done() for task in (top, *others)) and not scheduler.tasks, f"it hangs:\n{scheduler.dump()}"
            error = None if top.cancelled() else top.exception()
        await turns(2)
        left = await dari.arun(others_here)
    finally:
        logging.getLogger("dari").removeHandler(records)
        loop.set_exception_handler(None)
    assert (told, records.seen) == ([], [])
    assert left == [], "on the implicit scheduler"
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert not isinstance(error, RuntimeError)
    return chain


def others_here():
    yield
    here = dari.current_task()
    return [task for task in here.kernel.tasks if task is not here]


def holds(chain):
    """The invariants."""
    levels, top = chain.levels, chain.levels[0]
    begun = [level for level in levels if level.began]

    assert [(level.began, level.cleaned, level.ended) for level in begun] == [(1, 1, 1)] * len(begun)
    assert begun == levels[: len(begun)]
    assert chain.ends == begun[::-1], "who waits ends after the end of what it waits for"
    assert chain.source.conserved(), "what was won is delivered, or given back"
    for upper, lower in pairwise(levels):
        if upper.kind == "generator" and lower.outcome is not NOTHING:
            assert upper.received == lower.outcome, "a result that was won is delivered"

    if top.kind == "coroutine":
        assert chain.left_count in (None, top.count), "the count of cancels is what was asked for"
        if not top.cancelled and len(levels) > 1:
            assert not top.task.cancelled(), "a stray cancel"
        if top.count and not top.stubborn:
            assert top.task.cancelled() or top.task.exception(), "a cancel was lost"
    elif not top.cancelled:
        assert not top.task.cancelled()


# ---- programs --------------------------------------------------------------------------------------------------------

LEVELS = st.lists(
    st.builds(Level, st.sampled_from(["generator", "coroutine"]), st.integers(0, 2), st.booleans()),
    min_size=1,
    max_size=4,
)
ACTIONS = st.lists(
    st.tuples(
        st.integers(0, 5),
        st.sampled_from(["give", "fail", "drop", "timeout", "cancel", "uncancel"]),
        st.integers(0, 3),
    ),
    max_size=6,
)


@pytest.fixture(scope="module", params=[*LOOPS, "eager"])
def runner(request):
    """One loop for all examples: to make one takes longer than an example."""
    if request.param == "eager" and sys.version_info < (3, 12):
        pytest.skip("eager tasks came with 3.12")
    with asyncio.Runner(loop_factory=LOOPS.get(request.param)) as runner:
        if request.param == "eager":
            runner.get_loop().set_task_factory(asyncio.eager_task_factory)
        yield runner


def program(examples, same_each_time):
    def decorate(test):
        return settings(
            max_examples=examples,
            derandomize=same_each_time,
            deadline=None,
            database=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        )(given(LEVELS, st.sampled_from(sorted(SOURCES)), st.integers(0, 2), ACTIONS)(test))

    return decorate


@program(250, same_each_time=True)
def test_whatever_happens_to_a_chain(runner, levels, source, rivals, actions):
    """It ends once, cleaned up from below; nothing is lost, doubled, left behind or reported."""
    holds(runner.run(happens(levels, source, rivals, actions)))


@pytest.mark.slow
@program(5000, same_each_time=False)
def test_whatever_happens_to_many_chains(runner, levels, source, rivals, actions):
    """The same, in five thousand examples on each loop."""
    holds(runner.run(happens(levels, source, rivals, actions)))
