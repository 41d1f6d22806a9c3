"""`dari.testing` for programs of trio: virtual time, what holds it, seeds, standstills."""

from __future__ import annotations

import threading
import time

import anyio.to_thread
import pytest
import trio

import dari
from dari import testing


def test_hours_take_no_time():
    """trio's sleeps and timeouts, and dari's, by one clock that begins at 0."""

    async def main():
        await trio.sleep(3600)
        await dari.sleep(3600)
        with trio.move_on_after(3600):
            await trio.sleep_forever()
        return trio.current_time()

    assert testing.run(main, loop="trio") == pytest.approx(3 * 3600)


async def in_a_thread(gate):
    await trio.to_thread.run_sync(gate.wait)


async def in_a_thread_of_anyio(gate):
    await anyio.to_thread.run_sync(gate.wait)


async def as_a_job(gate):
    async with dari.Pool(1) as pool:
        await pool.submit(gate.wait)


async def as_a_job_of_a_generator(gate):
    def waits(pool):
        yield pool.submit(gate.wait)

    async with dari.Pool(1) as pool:
        await dari.arun(waits, pool)


@pytest.mark.parametrize("outside", [in_a_thread, in_a_thread_of_anyio, as_a_job, as_a_job_of_a_generator])
def test_time_does_not_jump_while_something_outside_is_pending(outside):
    """Everybody waits, and a timer is near: it does not fire before the outside has answered."""

    async def main():
        gate = threading.Event()
        threading.Timer(0.1, gate.set).start()  # when everybody has been waiting for a while
        with trio.fail_after(0.001):
            await outside(gate)
        return trio.current_time()

    assert testing.run(main, loop="trio") == 0.0


def test_a_standstill_is_told():
    """No deadline, nothing outside: an error that shows where trio's tasks and dari's stand."""

    def waits(event):
        yield event.wait()

    async def main():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(dari.arun, waits, dari.Event())
            await trio.sleep_forever()

    with pytest.raises(dari.DeadlockError) as caught:
        testing.run(main, loop="trio")

    assert "test_trio.py" in str(caught.value)
    assert "'test_a_standstill_is_told.<locals>.waits' waiting on wait of <Event" in str(caught.value)


def test_a_timeout_is_virtual():
    """It is the builtin TimeoutError, as everywhere in dari."""
    with pytest.raises(TimeoutError, match=r"main did not end within 86400 seconds"):
        testing.run(trio.sleep_forever, loop="trio", timeout=86400)


def test_errors_come_out_as_they_are():
    """Not in a group: main is not in a nursery of its own."""

    async def main():
        raise LookupError("its own")

    with pytest.raises(LookupError, match="its own"):
        testing.run(main, loop="trio")


def order_of_five(seed):
    """The order in which five tasks of trio take three steps each."""
    order = []

    async def work(name):
        for _ in range(3):
            order.append(name)
            await trio.lowlevel.checkpoint()

    async def main():
        async with trio.open_nursery() as nursery:
            for name in "abcde":
                nursery.start_soon(work, name)

    testing.run(main, loop="trio", seed=seed)
    return "".join(order)


def test_seeds_shuffle_trios_tasks(monkeypatch):
    """The same seed, the same order; others, others. Fails where trio has changed the names that `_seeded` touches."""
    monkeypatch.setattr("trio._core._run._ALLOW_DETERMINISTIC_SCHEDULING", False)  # Hypothesis has set it

    orders = [order_of_five(seed) for seed in range(10)]

    assert orders == [order_of_five(seed) for seed in range(10)]
    assert len(set(orders)) > 5
    assert len({order[:5] for order in orders}) > 2  # a whole batch is shuffled, not only turned round


def test_a_busy_machine_takes_the_same_steps():
    """Slices of a guest are counted in steps where the order must not depend on their time."""

    def trace(pause):
        order = []

        async def work(name):
            for step in range(20):
                order.append((name, step))
                await trio.lowlevel.checkpoint()

        def steps(name):
            for step in range(20):
                order.append((name, step))
                time.sleep(pause)  # a step that takes so long
                yield

        async def main():
            async with trio.open_nursery() as nursery:
                for name in "ab":
                    nursery.start_soon(work, name)
                    nursery.start_soon(dari.arun, steps, name.upper())

        testing.run(main, loop="trio", seed=1)
        return order

    assert trace(pause=0.001) == trace(pause=0)


def test_trios_chance_is_as_it_was_after_a_seeded_run():
    """Its generator goes on where it stood, and its orders are free again."""
    from trio._core import _run

    before = _run._r.getstate(), _run._ALLOW_DETERMINISTIC_SCHEDULING

    order_of_five(seed=1)

    assert (_run._r.getstate(), _run._ALLOW_DETERMINISTIC_SCHEDULING) == before


def test_explore_takes_trio_programs():
    """Some schedule loses an update; the seed that is named loses it again."""

    async def race():
        total = 0

        async def add(turns):
            nonlocal total
            for _ in range(turns):
                await trio.lowlevel.checkpoint()
            seen = total
            await trio.lowlevel.checkpoint()
            total = seen + 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(add, 0)
            nursery.start_soon(add, 1)
        assert total == 2, "an update was lost"

    with pytest.raises(AssertionError, match="lost") as caught:
        testing.explore(race, seeds=range(1000), loop="trio")
    seed = int(caught.value.__notes__[0].partition("seed=")[2].partition(",")[0])

    with pytest.raises(AssertionError, match="lost"):
        testing.run(race, loop="trio", seed=seed)


def test_in_a_running_program_it_says_so():
    """A loop inside a loop is refused."""

    async def main():
        with pytest.raises(RuntimeError, match=r"inside a running trio program"):
            testing.run(trio.sleep(1), loop="trio")

    trio.run(main)
