"""`dari.EventLoop`: asyncio on the kernel's lanes."""

from __future__ import annotations

import asyncio
import threading
from collections import deque

import pytest

import dari
from dari._kernel.world import uses
from dari.drivers.asyncio_host import Ready


@pytest.fixture
def nobody_uses_priorities(monkeypatch):
    """As in a process in which none was ever set."""
    monkeypatch.setattr(uses, "priorities", False)


def run(main, **options):
    with asyncio.Runner(loop_factory=lambda: dari.EventLoop(**options)) as runner:
        return runner.run(main())


def spin(name, log, times=3):
    async def steps():
        for _ in range(times):
            log.append(name)
            await asyncio.sleep(0)

    return steps()


def test_what_is_more_urgent_goes_first():
    """Tasks of three priorities, started in the wrong order: all steps of the most urgent, then of the next."""
    log = []

    async def main():
        with dari.priority(-5):
            await asyncio.sleep(0)  # main's own priority is not the block's
        tasks = []
        for name, priority in (("low", 1), ("normal", 0), ("urgent", -2)):
            with dari.priority(priority):
                tasks.append(asyncio.create_task(spin(name, log)))
        await asyncio.gather(*tasks)

    run(main)

    assert log == ["urgent"] * 3 + ["normal"] * 3 + ["low"] * 3


def test_equal_priorities_are_first_in_first_out():
    """As on the stdlib's loop, with a priority in use, too."""
    log = []

    async def main():
        with dari.priority(7):
            await asyncio.gather(*(spin(name, log) for name in "abc"))

    run(main)

    assert "".join(log) == "abcabcabc"


def test_what_a_task_starts_inherits_its_priority():
    """Tasks, callbacks and timers, at any depth."""
    log = []

    async def grandchild():
        log.append("grandchild")

    async def child():
        loop = asyncio.get_running_loop()
        loop.call_soon(log.append, "callback")
        loop.call_later(0, log.append, "timer")
        await asyncio.create_task(grandchild())

    async def main():
        with dari.priority(1):
            low = asyncio.create_task(spin("low", log, 1))
        with dari.priority(-1):
            urgent = asyncio.create_task(child())
        await asyncio.wait([low, urgent])

    run(main)

    assert log.index("low") > max(log.index("callback"), log.index("grandchild"))


def test_a_priority_swaps_the_queue_of_loops_that_run(nobody_uses_priorities):
    """Until then a loop has the stdlib's deque; what stood in it keeps its order, also on loops of other threads."""
    log = []
    ready = threading.Event()
    other_has_lanes = threading.Event()

    async def elsewhere():
        ready.set()
        while type(asyncio.get_running_loop()._ready) is deque:
            await asyncio.sleep(0)
        other_has_lanes.set()

    async def main():
        before = type(asyncio.get_running_loop()._ready)
        thread = threading.Thread(target=run, args=(elsewhere,))
        thread.start()
        await asyncio.to_thread(ready.wait)
        tasks = [asyncio.create_task(spin(name, log, 1)) for name in "abc"]
        with dari.priority(-1):
            tasks.append(asyncio.create_task(spin("urgent", log, 1)))
        await asyncio.gather(*tasks)
        await asyncio.to_thread(other_has_lanes.wait)
        await asyncio.to_thread(thread.join)
        return before, type(asyncio.get_running_loop()._ready)

    assert run(main) == (deque, Ready)
    assert log == ["urgent", "a", "b", "c"]


@pytest.mark.parametrize("limit", [1, 5, 64])
def test_nobody_is_passed_over_for_ever(limit):
    """Beside an urgent task that never waits, each step of a low one comes after `starvation_limit` callbacks + 1."""
    log = []

    async def main():
        with dari.priority(1):
            low = asyncio.create_task(spin("low", log, 4))
        with dari.priority(-1):
            urgent = asyncio.create_task(spin("urgent", log, 1000))
        await low
        urgent.cancel()

    run(main, starvation_limit=limit)
    turns = [place for place, name in enumerate(log) if name == "low"]

    assert all(later - earlier <= limit + 2 for earlier, later in zip([-1, *turns], turns, strict=False))


def test_strict_priorities():
    """`starvation_limit=None`: as long as the urgent one spins, the low one does not run."""
    log = []

    async def main():
        with dari.priority(1):
            low = asyncio.create_task(spin("low", log, 1))
        with dari.priority(-1):
            urgent = asyncio.create_task(spin("urgent", log, 1000))
        await asyncio.wait([low, urgent])

    run(main, starvation_limit=None)

    assert log == ["urgent"] * 1000 + ["low"]


def schedule(seed):
    log = []

    async def main():
        await asyncio.gather(*(spin(name, log) for name in "abcd"))

    run(main, seed=seed)
    return "".join(log)


def test_a_seed_shuffles_the_steps_of_different_tasks():
    """The same seed, the same order; most seeds give orders of their own."""
    assert schedule(3) == schedule(3)
    assert len({schedule(seed) for seed in range(10)}) > 5


def test_a_seed_leaves_what_one_task_puts_into_the_loop_in_order():
    """Callbacks of one chain come first in, first out."""

    async def main():
        log = []
        for number in range(20):
            asyncio.get_running_loop().call_soon(log.append, number)
        while len(log) < 20:
            await asyncio.sleep(0)
        return log

    assert all(run(main, seed=seed) == list(range(20)) for seed in range(10))


# ---- generator tasks on the same lanes -------------------------------------------------------------------------------


def stepper(name, log, times=3):
    for _ in range(times):
        log.append(name)
        yield


def test_tasks_of_both_kinds_are_ordered_by_one_rule():
    """Whoever is more urgent goes first, generator or coroutine, and whichever was started first."""
    log = []

    async def main():
        waiting = []
        for priority in (2, -1, 1, 0, -2):
            with dari.priority(priority):
                waiting.append(asyncio.create_task(spin(f"coroutine {priority}", log)))
            waiting.append(dari.create_task(stepper, f"generator {priority + 0.5}", log, priority=priority))
        await asyncio.gather(*waiting)

    run(main)
    in_order = [float(name.split()[1]) // 1 for name in log]

    assert in_order == sorted(in_order)
    assert len(log) == 30


def test_an_urgent_generator_task_goes_before_a_slice_that_stands_in_a_low_lane():
    """It became ready while the slice was waiting for its turn behind spinning coroutines."""
    log = []

    async def main():
        event = dari.Event()

        def urgent():
            yield event.wait()
            log.append("urgent")

        first = dari.create_task(urgent, priority=-2)
        low = dari.create_task(stepper, "low", log, priority=1)
        await asyncio.sleep(0)
        event.set()
        spinning = asyncio.create_task(spin("normal", log))
        await asyncio.gather(first, low, spinning)

    run(main)

    assert log == ["urgent", "normal", "normal", "normal", "low", "low", "low"]


def test_an_urgent_deadline_is_seen_while_a_low_slice_waits():
    """What wakes a generator task by time or from another thread waits for no slice of a low task."""
    log = []

    async def main():
        def sleeper():
            yield dari.sleep(0.01)
            log.append("slept")
            spinning.cancel()

        def low():
            while True:
                yield

        with dari.priority(0):
            spinning = asyncio.create_task(spin("normal", [], 10**9))
        starving = dari.create_task(low, priority=1)
        await dari.create_task(sleeper, priority=-1)
        starving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await spinning

    run(main, starvation_limit=None)

    assert log == ["slept"]


def test_a_coroutine_in_a_generator_task_has_its_priority():
    """It runs as a task of asyncio's, in a copy of the context of the task."""
    log = []

    async def main():
        def low():
            yield from dari.host(spin("coroutine of a low task", log))

        task = dari.create_task(low, priority=1)
        await asyncio.sleep(0)
        await asyncio.gather(task, spin("normal", log))

    run(main)

    assert log == ["normal"] * 3 + ["coroutine of a low task"] * 3
