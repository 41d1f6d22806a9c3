"""Pipelines, stepped by hand: order, bounds, ends. Nothing here waits."""

from __future__ import annotations

import gc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dari
from dari import Pipeline


def result_of(hand, main, *args):
    """What `main` returns, in virtual time; nothing is left running, and nothing was reported."""
    task = hand.create(main, *args)
    hand.run()

    assert (hand.kernel.tasks, hand.reports) == ({}, [])
    return task.result()


def collected(hand, line):
    def main():
        return (yield line.collect())

    return result_of(hand, main)


class Source:
    """An endless data generator that knows how far it was read, and whether it was closed."""

    def __init__(self):
        self.read = 0
        self.closed = False

    def __call__(self):
        try:
            while True:
                self.read += 1
                yield self.read
        finally:
            self.closed = True


@pytest.fixture
def source():
    return Source()


# ---- what comes out --------------------------------------------------------------------------------------------


def test_stages_do_what_they_say(hand):
    """map, filter, flat_map and batch, in a row."""
    line = Pipeline(range(6)).map(lambda x: x * 10).filter(lambda x: x != 20).flat_map(lambda x: [x, x + 1]).batch(4)

    assert collected(hand, line) == [[0, 1, 10, 11], [30, 31, 40, 41], [50, 51]]


@pytest.mark.parametrize("kind", ["plain", "generator", "coroutine"])
def test_a_function_may_wait(hand, kind):
    """A generator or coroutine function given to map, filter or for_each is a task."""

    def generator(x):
        yield dari.sleep(1)
        return x % 3

    async def coroutine(x):
        await dari.sleep(1)
        return x % 3

    fn = {"plain": lambda x: x % 3, "generator": generator, "coroutine": coroutine}[kind]
    seen = []

    def seeing(x):
        seen.append(x)
        yield dari.sleep(1)

    def main():
        mapped = yield Pipeline(range(6)).map(fn).collect()
        filtered = yield Pipeline(range(6)).filter(fn).collect()
        nothing = yield Pipeline(range(3)).for_each(seeing)
        return mapped, filtered, nothing

    assert result_of(hand, main) == ([0, 1, 2, 0, 1, 2], [1, 2, 4, 5], None)
    assert seen == [0, 1, 2]


def test_flat_map_takes_data(hand):
    """A generator made by flat_map is data; a coroutine function may wait for its iterable."""

    def twice(x):
        yield x
        yield x

    async def none_or_one(x):
        await dari.sleep(1)
        return range(x % 2)

    def main():
        return (yield Pipeline("ab").flat_map(twice).collect()), (
            yield Pipeline([1, 2]).flat_map(none_or_one).collect()
        )

    assert result_of(hand, main) == (["a", "a", "b", "b"], [0])


@pytest.mark.parametrize("moment", [1.5, 4.5])
def test_an_async_generator_is_stepped_here(hand, moment):
    """Without a host, an async iterable may wait for dari's operations; it is closed with the line.

    At 1.5 it waits by itself, at 4.5 it has given an item for which there is no place.
    """
    events = []

    async def numbers():
        try:
            for number in range(100):
                await dari.sleep(1)
                yield number
        finally:
            with dari.CancelScope(shield=True):
                await dari.sleep(1)
            events.append("closed")

    def main():
        line = Pipeline(numbers(), buffer=1).flat_map(lambda x: numbers() if x == 50 else [x])
        assert (yield line.get()) == 0
        yield dari.sleep_until(moment)
        yield line.aclose()
        return hand.now

    assert result_of(hand, main) == moment + 1
    assert events == ["closed"]


def test_a_queue_is_a_source_until_it_is_shut_down(hand):
    """What is in the queue at its shutdown still comes."""
    queue = dari.Queue()

    def producer():
        for number in range(3):
            yield queue.put(number)
            yield dari.sleep(1)
        queue.put_nowait(3)
        queue.shutdown()

    hand.create(producer)

    assert collected(hand, Pipeline(queue)) == [0, 1, 2, 3]


def test_a_line_is_a_source(hand):
    """A Pipeline is an async iterable like others."""
    assert collected(hand, Pipeline(Pipeline(range(20)).map(str), buffer=2).batch(15)) == [
        [str(x) for x in range(15)],
        [str(x) for x in range(15, 20)],
    ]


def test_nothing_in_nothing_out(hand):
    """An empty source ends every way of taking at once."""

    async def looping():
        return [item async for item in Pipeline([]).map(str)]

    def main():
        collected = yield Pipeline([]).map(str, concurrency=3).batch(2, timeout=1).collect()
        none = yield Pipeline([]).get(default=None)
        with pytest.raises(dari.QueueShutDown, match="nothing is left"):
            yield Pipeline([]).get()
        return collected, none, (yield from looping().__await__())

    assert result_of(hand, main) == ([], None, [])


def test_get_then_async_for_then_collect(hand):
    """One line, taken from in several ways by one task."""

    async def main():
        line = Pipeline(range(6))
        first = await line.get()
        async for second in line:  # noqa: B007 - looked at below
            break
        rest = await line.collect()
        return first, second, rest, await line.get(default="end"), await line.get(default="end")

    assert result_of(hand, main) == (0, 1, [2, 3, 4, 5], "end", "end")


@settings(deadline=None)
@given(
    items=st.lists(st.integers(0, 9), max_size=30),
    stages=st.lists(
        st.tuples(st.sampled_from(["map", "slow", "coroutine", "filter", "flat_map", "batch"]), st.integers(1, 4)),
        max_size=5,
    ),
    buffer=st.integers(1, 4),
    seed=st.none() | st.integers(0, 99),
)
def test_any_chain_gives_what_plain_python_gives(by_hand, items, stages, buffer, seed):
    """Whatever the stages, buffers, concurrency and seed: the same items in the same order."""

    def slow(x):
        yield dari.sleep(hash(str(x)) % 5)
        return [x]

    async def coroutine(x):
        await dari.sleep(hash(str(x)) % 3)
        return (x,)

    hand = by_hand(seed=seed)
    line, expected = Pipeline(items, buffer), list(items)
    for kind, n in stages:
        if kind == "map":
            line, expected = line.map(repr, concurrency=n), [repr(x) for x in expected]
        elif kind == "slow":
            line, expected = line.map(slow, concurrency=n), [[x] for x in expected]
        elif kind == "coroutine":
            line, expected = line.map(coroutine, concurrency=n), [(x,) for x in expected]
        elif kind == "filter":
            keep = lambda x, n=n: len(str(x)) % (n + 1) > 0
            line, expected = line.filter(keep), [x for x in expected if keep(x)]
        elif kind == "flat_map":
            many = lambda x, n=n: iter([x] * (n - 1))
            line, expected = line.flat_map(many), [y for x in expected for y in many(x)]
        else:
            line, expected = line.batch(n), [expected[at : at + n] for at in range(0, len(expected), n)]

    assert collected(hand, line) == expected


# ---- bounds ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("buffer", [1, 8])
def test_a_slow_taker_holds_back_the_source(hand, source, buffer):
    """Between neighbours are `buffer` items, in the hands of each stage one: no more is read."""

    def main():
        line = Pipeline(source(), buffer).map(lambda x: x).filter(bool)
        yield line.get()
        yield dari.sleep(10)
        return source.read - 1

    assert result_of(hand, main) == 3 * buffer + 3
    assert source.closed


@pytest.mark.parametrize("ordered", [True, False])
def test_concurrency_is_a_bound(hand, ordered):
    """That many at a time, no more and no fewer."""
    running = most = 0

    def work(x):
        nonlocal running, most
        running += 1
        most = max(most, running)
        yield dari.sleep(1)
        running -= 1

    collected(hand, Pipeline(range(20), buffer=1).map(work, concurrency=5, ordered=ordered))

    assert (most, hand.now) == (5, 4)


def test_one_slow_item_stops_the_others_at_the_bound(hand):
    """Ordered, concurrency + buffer items are on their way at most; until then the others go on."""
    done = []

    def work(x):
        yield dari.sleep(100 if x == 0 else 1)
        done.append(x)
        return x

    line = Pipeline(range(100), buffer=4).map(work, concurrency=3)
    hand.create(lambda: line.collect().__iter__())
    hand.settle()
    while hand.now < 99:
        hand.at(hand.now + 1)

    assert done == [1, 2, 3, 4, 5]  # of 7 on their way one is slow, and one has no slot yet


def test_unordered_a_slow_item_stops_nobody(hand):
    """What is done first, comes first."""

    def work(x):
        yield dari.sleep(100 if x == 0 else 1)
        return x

    assert collected(hand, Pipeline(range(50)).map(work, concurrency=2, ordered=False)) == [*range(1, 50), 0]


@pytest.mark.parametrize("ordered", [True, False])
def test_a_stage_behind_concurrent_workers_hears_of_the_end(hand, ordered):
    """The last of the workers hands the end of the stream on."""

    def work(item):
        yield dari.sleep(5 - item)
        return item

    line = Pipeline(range(5)).map(work, concurrency=3, ordered=ordered).batch(10).map(sorted)

    assert collected(hand, line) == [[0, 1, 2, 3, 4]]


# ---- batches ---------------------------------------------------------------------------------------------------


def test_a_batch_goes_when_it_is_full_or_old(hand):
    """The timeout counts from the first item of a batch."""

    def at(x):
        yield dari.sleep(x)
        return hand.now

    gaps = [1, 1, 1, 5, 1, 5, 1]  # 1 2 3 8 9 14 15

    def main():
        line, batches = Pipeline(gaps).map(at).batch(3, timeout=4), []
        while (batch := (yield line.get(default=None))) is not None:
            batches.append((hand.now, batch))
        return batches

    assert result_of(hand, main) == [(3, [1, 2, 3]), (12, [8, 9]), (15, [14, 15])]


@pytest.mark.parametrize("lead", [0, 0.5, 1])
def test_no_item_is_lost_when_the_timeout_comes_with_it(hand, lead):
    """Item and timeout at the same moment, in either order."""
    queue = dari.Queue()

    def producer():
        yield dari.sleep(lead)
        for number in range(40):
            queue.put_nowait(number)
            yield dari.sleep(1)
        queue.shutdown()

    hand.create(producer)
    line = Pipeline(queue, buffer=1).batch(3, timeout=1)
    batches = collected(hand, line)

    assert [x for batch in batches for x in batch] == list(range(40))


# ---- errors ----------------------------------------------------------------------------------------------------


def fail(x):
    if x == 3:
        raise LookupError(f"no {x}")
    return [x]


def fail_later(x):
    yield dari.sleep(1)
    return fail(x)


def fail_in_data(x):
    yield x
    fail(x)


STAGES = {
    "map": lambda line: line.map(fail),
    "task": lambda line: line.map(fail_later),
    "ordered": lambda line: line.map(fail_later, concurrency=2),
    "unordered": lambda line: line.map(fail_later, concurrency=2, ordered=False),
    "filter": lambda line: line.filter(fail_later),
    "flat_map": lambda line: line.flat_map(fail),
    "data": lambda line: line.flat_map(fail_in_data),
    "last": lambda line: line.map(str).map(int).batch(1).map(lambda x: fail(x[0])),
}


@pytest.mark.parametrize("take", ["collect", "get", "for_each"])
@pytest.mark.parametrize("stage", STAGES)
def test_an_error_of_a_stage_closes_the_line(hand, source, stage, take):
    """The taker gets the stage's own error; the source is closed, and nothing runs any more."""

    def main():
        line = STAGES[stage](Pipeline(source(), buffer=2)).map(lambda x: x)
        with pytest.raises(LookupError, match="no 3"):
            if take == "collect":
                yield line.collect()
            elif take == "for_each":
                yield line.for_each(print)
            else:
                while True:
                    yield line.get()
        alone = len(hand.kernel.tasks) == 1
        with pytest.raises(LookupError, match="no 3"):  # a line that failed is never taken for one that ended
            yield line.get(default=None)
        return alone and source.closed

    assert result_of(hand, main)


def test_an_error_of_the_source(hand):
    """What was made before it has come out."""

    def failing():
        yield 1
        yield 2
        raise OSError("gone")

    def main():
        line, items = Pipeline(failing()), []
        with pytest.raises(OSError, match="gone"):
            while True:
                items.append((yield line.get()))
        return items

    assert result_of(hand, main) == [1, 2]


def test_an_error_of_for_each(hand, source):
    """The function of for_each fails: the line is closed before the error is raised."""

    def main():
        with pytest.raises(LookupError):
            yield Pipeline(source()).map(str).for_each(lambda x: fail(int(x)))
        return source.closed, len(hand.kernel.tasks)

    assert result_of(hand, main) == (True, 1)


def test_a_second_error_is_reported(hand):
    """A stage that fails while the line closes: the first error is raised, the second is told."""

    def first(x):
        if x == 1:
            raise LookupError
        return x

    def second(x):
        try:
            yield dari.sleep(10)
        finally:
            raise OSError

    def main():
        with pytest.raises(LookupError):
            yield Pipeline([0, 1]).map(first).map(second).collect()

    hand.create(main)
    hand.run()

    assert [type(error) for _, error in hand.reports] == [OSError]


def test_an_error_that_nobody_takes_is_reported(hand):
    """The owner stopped taking before the stage failed."""

    def main():
        line = Pipeline(range(10)).map(fail)
        yield line.get()
        yield dari.sleep(1)
        return line

    hand.create(main)
    hand.run()

    assert [(type(error), "nobody takes" in what) for what, error in hand.reports] == [(LookupError, True)]


def test_a_stage_cancelled_alone_is_an_error(hand):
    """A function that cancels its own task would stop its stage, and the line would hang."""

    def suicide(x):
        dari.current_task().cancel()
        yield dari.sleep(1)

    def main():
        with pytest.raises(dari.TaskCancelledError, match="by itself"):
            yield Pipeline([1]).map(suicide).collect()

    result_of(hand, main)


@pytest.mark.parametrize("scope", [dari.CancelScope, lambda: dari.timeout(1), dari.TaskGroup])
@pytest.mark.parametrize("place", ["source", "flat_map", "async"])
def test_a_scope_in_a_data_generator_is_an_error(hand, scope, place):
    """PEP 789: a scope open at the `yield` of data would cancel the consumer. It says so, and the line closes."""

    def data(x=0):
        with scope():
            yield 1

    async def async_data():
        with scope():
            yield 1

    line = (
        Pipeline([1]).flat_map(data) if place == "flat_map" else Pipeline(data() if place == "source" else async_data())
    )

    def main():
        with pytest.raises(RuntimeError, match=r"data.* left .* open when it gave an item"):
            yield line.collect()
        yield dari.sleep(5)

    result_of(hand, main)


# ---- ends ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("take", ["collect", "get", "for_each", "iterate"])
def test_a_cancelled_taker_waits_for_the_real_end(hand, log, source, take):
    """The stages clean up for 3 seconds; only then is the taker cancelled."""

    async def iterate(line):
        async for _ in line:
            pass

    def main():
        line = Pipeline(source()).map(lambda x: log.sleeper(cleanup=3), concurrency=2)
        try:
            with dari.timeout(5):
                if take == "iterate":
                    yield from iterate(line).__await__()
                yield line.for_each(print) if take == "for_each" else getattr(line, take)()
        except TimeoutError:
            log.note("taker")
        with pytest.raises(dari.TaskCancelledError):  # a closed line is never taken for one that ended
            yield line.get(default=None)

    result_of(hand, main)

    assert list(log) == [("child ended", 8), ("child ended", 8), ("taker", 8)]
    assert source.closed


@pytest.mark.parametrize("how", ["return", "raise", "cancel"])
def test_the_end_of_the_owner_is_the_end_of_the_line(hand, log, source, how):
    """An early stop: the task ends when its line really has, and keeps its own outcome."""
    held = []

    def owner():
        line = (
            Pipeline(source()).map(str).flat_map(lambda x: [x]).map(lambda x: log.sleeper(cleanup=2) if x == "2" else x)
        )
        held.append(line)
        assert (yield line.get()) == "1"
        yield dari.sleep(1)
        if how == "raise":
            raise KeyError
        if how == "cancel":
            dari.current_task().cancel()
            yield
        return "mine"

    task = hand.create(owner)
    task.add_done_callback(lambda task: log.note("owner") or (how == "raise" and task.exception()))
    hand.run()

    assert list(log) == [("child ended", 3), ("owner", 3)]
    assert (source.closed, hand.kernel.tasks, hand.reports) == (True, {}, [])
    if how == "return":
        assert task.result() == "mine"
    else:
        with pytest.raises(KeyError if how == "raise" else dari.TaskCancelledError):
            task.result()


def test_the_failure_of_an_owner_stays_unobserved(hand):
    """That a line hears of its owner's end does not hide the owner's failure."""
    held = []

    def owner():
        held.append(Pipeline(iter(int, 1)))
        yield held[0].get()
        raise KeyError

    hand.create(owner)
    hand.run()

    assert [type(error) for _, error in hand.reports] == [KeyError]


def test_a_line_that_nobody_holds_ends(hand, source):
    """Dropped half-way, the line is closed, while its owner goes on."""

    def main():
        yield Pipeline(source()).map(str).get()
        gc.collect()
        yield dari.sleep(0)
        yield dari.sleep(1)
        return source.closed

    assert result_of(hand, main)


def test_aclose_ends_it_and_waits(hand, log, source):
    """`aclosing` works; what was not started is closed too, and can not be taken from."""

    def main():
        line = Pipeline(source()).map(lambda x: log.sleeper(cleanup=2) if x > 1 else x)
        yield line.get()
        yield dari.sleep(1)
        yield line.aclose()
        yield line.aclose()
        fresh = Pipeline(range(3))
        yield fresh.aclose()
        with pytest.raises(RuntimeError, match="was closed"):
            yield fresh.get()
        return hand.now, source.closed

    assert result_of(hand, main) == (3, True)


def test_many_lines_of_one_task_leave_no_trace(hand):
    """Owning is undone when the line ends: the owner's steps are its own again."""

    def main():
        own = dari.current_task()._steps
        for _ in range(3):
            yield Pipeline([1]).collect()
        a, b = Pipeline([1]), Pipeline([2])
        taken = (yield a.get()), (yield b.get()), (yield b.get(default=0)), (yield a.get(default=0))
        yield
        return taken, dari.current_task()._steps is own

    assert result_of(hand, main) == ((1, 2, 0, 0), True)


# ---- mistakes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "error", "says"),
    [
        (lambda: Pipeline(5), TypeError, "not 5"),
        (lambda: Pipeline(fail), TypeError, "meant to be called"),
        (lambda: Pipeline([], buffer=0), ValueError, "buffer"),
        (lambda: Pipeline([], buffer=1.5), TypeError, "buffer is an int, 1 or more, not 1.5"),
        (lambda: Pipeline(dari.Queue(), pool=object()), TypeError, "pool="),
        (lambda: Pipeline([]).map(fail, concurrency=0), ValueError, "concurrency"),
        (lambda: Pipeline([]).map(3), TypeError, "map takes a function"),
        (lambda: Pipeline([]).map(fail_later, pool=object()), TypeError, "needs no pool"),
        (lambda: Pipeline([]).batch(0), ValueError, "size"),
        (lambda: Pipeline([]).batch(1, timeout=0), ValueError, "above 0"),
        (lambda: Pipeline([]).batch(1, timeout=float("nan")), ValueError, "above 0"),
    ],
)
def test_wrong_arguments(wrong, error, says):
    """They are refused where they are given."""
    with pytest.raises(error, match=says):
        wrong()


def test_misuse_is_told(hand):
    """A line that was extended, one that runs already, and one that belongs to another task."""

    def other(line):
        with pytest.raises(RuntimeError, match=r"belongs to task \d+ '.*main'"):
            yield line.get()

    def main():
        short = Pipeline(range(9))
        line = short.map(str)
        with pytest.raises(RuntimeError, match="was extended by map"):
            yield short.collect()
        with pytest.raises(RuntimeError, match="was extended by map"):
            short.batch(2)
        yield line.get()
        with pytest.raises(RuntimeError, match="has been started"):
            line.batch(2)
        yield hand.create(other, line)
        with pytest.raises(TypeError, match="use map"):
            yield Pipeline([1]).flat_map(lambda x: x).collect()
        return repr(line), (yield line.collect())

    assert result_of(hand, main) == ("<Pipeline of range | map(str)>", [str(x) for x in range(1, 9)])
