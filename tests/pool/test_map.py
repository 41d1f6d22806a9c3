"""`pool.map`: from every world, bounded, in order or as it comes."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import warnings

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import dari
from dari.exceptions import BlockingCallError, JobCancelled, PoolClosed, QueueShutDown
from dari.pool import current_job


def double(n):
    return 2 * n


async def taken(mapped):
    return [result async for result in mapped]


async def the_next(mapped):
    return await mapped.get(default="end")


def by_get(mapped):
    results = []
    while (result := (yield mapped.get(default=None))) is not None:
        results.append(result)
    return results


WORLDS = {
    "thread": list,
    "asyncio": lambda mapped: asyncio.run(taken(mapped)),
    "trio": lambda mapped: trio.run(taken, mapped),
    "generator": lambda mapped: dari.run(by_get, mapped),
    "coroutine": lambda mapped: dari.run(taken, mapped),
    "pipeline": lambda mapped: asyncio.run(collected(mapped)),
    "standalone pipeline": lambda mapped: dari.run(lambda: (yield dari.Pipeline(mapped).collect())),
}


async def collected(mapped):
    return await dari.Pipeline(mapped).collect()


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("ordered", [True, False])
def test_it_gives_all_results_in_every_world(make_pool, world, ordered):
    """In order, or as they come; more items than in flight, more in flight than the queue has places."""
    pool = make_pool(3, max_queue=2)

    results = WORLDS[world](pool.map(double, range(1, 200), ordered=ordered, max_in_flight=10))

    assert (results if ordered else sorted(results)) == list(range(2, 400, 2))


def test_several_iterables_are_zipped(one):
    """As by the builtin; the shortest ends it."""
    assert list(one.map(pow, [2, 3, 4], (5, 6))) == [32, 729]
    assert list(one.map(double, [])) == []


def test_no_more_are_in_flight_than_asked_for(make_pool):
    """Begun and not taken yet; also when the taker stops, and when the first is slow."""
    pool = make_pool(2)
    drawn = []

    def items():
        for n in range(20):
            drawn.append(n)
            yield n

    mapped = pool.map(double, items(), max_in_flight=3)
    assert (pool.join(10), drawn) == (True, [0, 1, 2])
    assert next(mapped) == 0
    assert drawn == [0, 1, 2]
    assert next(mapped) == 2
    assert drawn == [0, 1, 2, 3]
    assert list(mapped) == list(range(4, 40, 2))


def test_unordered_results_come_as_they_end(make_pool, gate):
    """A slow first item holds nobody up."""
    pool = make_pool(2)

    def work(n):
        return n or gate.wait()

    mapped = pool.map(work, range(4), ordered=False)
    assert [next(mapped) for _ in range(3)] == [1, 2, 3]
    gate.open()
    assert list(mapped) == ["through"]


def test_an_error_comes_where_the_item_would_have_come_and_ends_it(one):
    """Those before it come; those after it that have not begun are cancelled."""
    ran = []

    def work(n):
        ran.append(n)
        return 6 // n

    mapped = one.map(work, [3, 2, 0], max_in_flight=3)
    assert (next(mapped), next(mapped)) == (2, 3)
    with pytest.raises(ZeroDivisionError):
        next(mapped)
    assert list(mapped) == []


def test_an_error_of_the_iterable_comes_after_the_results_before_it(one):
    """It is not raised by the call, nor before what is in flight."""

    def items():
        yield 1
        raise OSError("unreadable")

    mapped = one.map(double, items())
    assert next(mapped) == 2
    with pytest.raises(OSError, match="unreadable"):
        next(mapped)
    assert list(mapped) == []


def test_a_pool_that_closes_ends_it_with_pool_closed(one):
    """After the results that were in flight."""
    mapped = one.map(double, range(3), max_in_flight=1)
    one.shutdown()

    assert next(mapped) == 0
    with pytest.raises(PoolClosed):
        next(mapped)


@pytest.mark.parametrize("leave", [lambda mapped: mapped.close(), lambda mapped: None], ids=["closed", "dropped"])
def test_left_early_it_cancels_what_has_not_begun(one, gate, leave):
    """`break` is enough."""
    ran = []

    def work(n):
        ran.append(n)
        return gate.wait() if n else n

    for _ in (mapped := one.map(work, range(9), max_in_flight=5)):
        break
    assert gate._entered.acquire(timeout=10)
    leave(mapped)
    del mapped
    gate.open()
    assert one.join(10)

    assert (ran, one.stats().completed, one.stats().cancelled) == ([0, 1], 2, 3)


def test_aclose_waits_for_the_real_end_of_what_runs(one):
    """And asks it to end."""
    ended = []
    begun = threading.Event()

    def work(n):
        if n:
            begun.set()
            while not current_job().cancel_requested:
                pass
            ended.append(n)
        return n

    async def main():
        async with contextlib.aclosing(one.map(work, range(9))) as mapped:
            async for _ in mapped:
                while not begun.is_set():
                    await asyncio.sleep(0.001)
                break
        return list(ended)

    assert asyncio.run(main()) == [1]


@pytest.mark.parametrize("library", [asyncio, trio], ids=["asyncio", "trio"])
def test_a_cancelled_taker_closes_it_and_waits(one, library):
    """Who waits, owns."""
    ended, begun = [], threading.Event()

    def work(n):
        begun.set()
        while not current_job().cancel_requested:
            pass
        ended.append(n)

    maps = []

    async def take():
        maps.append(one.map(work, range(9)))
        async for _ in maps[0]:
            pass

    async def in_asyncio():
        taker = asyncio.create_task(take())
        while not begun.is_set():
            await asyncio.sleep(0)
        taker.cancel()
        with pytest.raises(asyncio.CancelledError):
            await taker

    async def in_trio():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(take)
            while not begun.is_set():
                await trio.sleep(0)
            nursery.cancel_scope.cancel()

    library.run(in_asyncio() if library is asyncio else in_trio)
    assert (ended, one.stats().queued, one.stats().running) == ([0], 0, 0)
    assert asyncio.run(the_next(maps[0])) == "end"  # closed, and nobody's


def test_a_task_that_is_cancelled_closes_it_and_waits(one):
    """In a generator as elsewhere; what comes after the scope goes on."""
    ended, begun = [], threading.Event()

    def work(n):
        begun.set()
        while not current_job().cancel_requested:
            pass
        ended.append(n)

    def cancel(scope):
        while not begun.is_set():
            yield
        scope.cancel()

    def main():
        mapped = one.map(work, range(9))
        with dari.CancelScope() as scope:
            dari.create_task(cancel, scope)
            yield mapped.get()
        return scope.cancelled_caught, list(ended), (yield mapped.get(default="over"))

    assert dari.run(main) == (True, [0], "over")


def test_a_job_that_maps_on_its_own_pool_does_not_deadlock(one):
    """It runs what nobody has begun with, in order or not."""

    def tree(depth, ordered):
        if not depth:
            return 1
        return sum(one.map(tree, [depth - 1] * 3, [ordered] * 3, ordered=ordered))

    assert [one.submit(tree, 4, ordered).result(timeout=20) for ordered in (True, False)] == [81, 81]


def test_it_does_not_block_a_loop(one, gate):
    """`for` in a coroutine is refused where it would wait, and names the way."""
    gate.hold(one)
    mapped = one.map(double, [1])

    async def main():
        with pytest.raises(BlockingCallError, match="await"):
            next(mapped)
        gate.open()
        return await mapped.get()

    assert asyncio.run(main()) == 2


def test_it_has_one_taker_at_a_time(one, gate):
    """The second is told."""
    gate.hold(one)
    mapped = one.map(double, [1])

    async def main():
        first = asyncio.ensure_future(taken(mapped))
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="one taker"):
            await mapped.get()
        gate.open()
        return await first

    assert asyncio.run(main()) == [2]


def test_a_second_taker_in_trio_is_told_and_nothing_else(one, gate):
    """Told before anything is awaited: no coroutine of dari's is left that nobody awaited."""
    gate.hold(one)
    mapped = one.map(double, [1])

    async def main():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(taken, mapped)
            await wait_all_tasks_blocked()
            with pytest.raises(RuntimeError, match="one taker"):
                await mapped.get()
            gate.open()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trio.run(main)
        gc.collect()


def test_get_without_a_default_says_when_nothing_is_left(one):
    """As a Pipeline's."""

    def main():
        with pytest.raises(QueueShutDown):
            yield one.map(double, []).get()

    dari.run(main)


def test_its_jobs_have_the_options_of_the_view(one):
    """And the name of the function, without them."""
    names = lambda _: (current_job().name, current_job().priority)

    assert list(one.options(name="mine", priority=2).map(names, [0])) == [("mine", 2)]
    assert list(one.map(current_name, [0])) == ["current_name"]


def current_name(_):
    return current_job().name


def test_a_function_that_lets_cancelled_out_gives_job_cancelled(one):
    """As of any job."""

    def work(_):
        raise dari.Cancelled("enough")

    with pytest.raises(JobCancelled):
        list(one.map(work, [1]))


@pytest.mark.parametrize(
    ("arguments", "options", "error"),
    [
        ((3, [1]), {}, "takes a function"),
        ((double,), {}, "at least one iterable"),
        ((double, [1]), {"max_in_flight": 0}, "1 or more or None"),
        ((double, [1]), {"max_in_flight": 1.5}, "max_in_flight is an int"),
    ],
)
def test_what_makes_no_sense_is_refused_at_the_call(one, arguments, options, error):
    """By name."""
    with pytest.raises((TypeError, ValueError), match=error):
        one.map(*arguments, **options)


def test_state_of_all_jobs_is_settled_when_a_result_comes(make_pool):
    """The pool's counts include it."""
    pool = make_pool(1)
    mapped = pool.map(double, range(3), max_in_flight=1)

    assert [(n, pool.stats().completed) for n in mapped] == [(0, 1), (2, 2), (4, 3)]
