"""`dari.testing` for programs of generator tasks: virtual time, `wait_all_blocked`, `explore`, on every loop."""

from __future__ import annotations

import threading
import time

import pytest

import dari
from dari import testing

on_every_loop = pytest.mark.parametrize("loop", ["standalone", "asyncio", "trio"])


@on_every_loop
def test_hours_take_no_time(loop):
    """Sleeping, timeouts and periodic work in virtual time."""

    def main():
        with pytest.raises(TimeoutError), dari.timeout(3600):
            yield dari.sleep(86400)
        with dari.TaskGroup() as group:
            tasks = [group.create_task(sleeper, delay) for delay in (7200, 3600)]
            yield group.join()
        return [task.result() for task in tasks]

    def sleeper(delay):
        yield dari.sleep(delay)
        return delay

    started = time.monotonic()
    result = testing.run(main, loop=loop)

    assert result == [7200, 3600]
    assert time.monotonic() - started < 3600


@on_every_loop
def test_the_clock_begins_at_zero_and_counts_what_was_slept(loop):
    """`sleep_until` and `current_effective_deadline` speak of the virtual clock."""

    def main():
        yield dari.sleep_until(5)
        with dari.timeout(2):
            return dari.current_effective_deadline()

    assert testing.run(main, loop=loop) == 7.0


@on_every_loop
def test_time_does_not_jump_while_a_job_runs(loop):
    """A job of a pool is waited for in real time; the timeout around it does not strike meanwhile."""
    release = threading.Event()

    def main(pool):
        job = pool.submit(release.wait)
        dari.create_task(releases)
        with dari.timeout(1):
            return (yield job)

    def releases():
        yield testing.wait_all_blocked()
        release.set()

    with dari.Pool(1) as pool:
        assert testing.run(main, pool, loop=loop) is True


@on_every_loop
def test_a_deadlock_is_told(loop):
    """Nothing ready, no deadline, nothing outside: an error that lists who waits."""

    def main():
        yield dari.Event().wait()

    with pytest.raises(dari.DeadlockError, match=r"main' waiting on wait of <Event"):
        testing.run(main, loop=loop)


@on_every_loop
def test_timeout_is_virtual(loop):
    """A day is over at once."""

    def main():
        while True:
            yield dari.sleep(3600)

    with pytest.raises(TimeoutError):
        testing.run(main, timeout=86400, loop=loop)


@on_every_loop
@pytest.mark.parametrize("clock", ["virtual", "real"])
def test_wait_all_blocked(clock, loop):
    """It goes on when everybody else waits, before any time has passed."""

    def main():
        queue = dari.Queue()
        consumers = [dari.create_task(consume, queue) for _ in range(3)]
        yield testing.wait_all_blocked()
        states = [task.state for task in consumers]
        for item in range(3):
            queue.put_nowait(item)
        yield consumers
        return states

    def consume(queue):
        yield
        yield dari.checkpoint()
        yield queue.get()

    assert testing.run(main, clock=clock, loop=loop) == [dari.TaskState.WAITING] * 3


def test_wait_all_blocked_elsewhere_says_where_it_works():
    """It needs the driver of the tests."""

    def main():
        with pytest.raises(RuntimeError, match=r"testing\.run"):
            yield testing.wait_all_blocked()

    dari.run(main)


def race():
    """Lost update: reads, lets others run, writes."""
    total = 0

    def add():
        nonlocal total
        seen = total
        yield
        total = seen + 1

    def main():
        yield [add(), add_later()]
        assert total == 2, "an update was lost"

    def add_later():
        yield
        yield
        yield from add()

    return main()


@on_every_loop
def test_explore_finds_a_schedule_that_fails_and_names_its_seed(loop):
    """FIFO hides the race; some schedule shows it, and its seed shows it again."""
    testing.run(race, loop=loop)

    with pytest.raises(AssertionError, match="lost") as caught:
        testing.explore(race, seeds=range(200), loop=loop)
    seed = int(caught.value.__notes__[0].partition("seed=")[2].rstrip(")").partition(",")[0])

    with pytest.raises(AssertionError, match="lost"):
        testing.run(race, seed=seed, loop=loop)


@on_every_loop
def test_the_same_seed_takes_the_same_steps(loop):
    """A seeded run is repeatable."""

    def trace(seed):
        order = []

        def work(name):
            for step in range(3):
                order.append((name, step))
                yield

        def main():
            yield [work(name) for name in "abcd"]

        testing.run(main, seed=seed, loop=loop)
        return order

    assert trace(5) == trace(5)
    assert len({str(trace(seed)) for seed in range(10)}) > 5
