"""`dari.EventLoop`: asyncio on the kernel's lanes."""

from __future__ import annotations

import asyncio
import itertools
import socket
import subprocess
import sys
import threading
import time
from collections import deque

import pytest

import dari
from dari._kernel.world import uses
from dari.drivers.asyncio_ready import Ready


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


def test_a_coroutine_in_a_block_has_its_priority():
    """There a priority is looked up in the context: so the block lowers the very task that it stands in."""
    log = []

    async def polite():
        with dari.priority(1):
            await spin("polite", log)
        await spin("equal", log)

    async def main():
        await asyncio.gather(polite(), spin("normal", log, 6))

    run(main)

    assert log == ["polite", *["normal"] * 6, *["polite"] * 2, *["equal"] * 3]


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


# ---- batches, threads, interrupts -----------------------------------------------------------------------------------


@pytest.fixture
def lanes(monkeypatch):
    """Loops have lanes from the beginning, as where a priority was used before."""
    monkeypatch.setattr(uses, "priorities", True)


def test_what_is_urgent_waits_for_no_batch(lanes):
    """It was started by a callback in the midst of a thousand: it is the next one."""
    log = []

    async def main():
        loop = asyncio.get_running_loop()

        def starts():
            log.append("starts")
            with dari.priority(-1):
                loop.call_soon(log.append, "urgent")

        for number in range(1000):
            loop.call_soon(starts if number == 500 else log.append, *() if number == 500 else (number,))
        while len(log) < 1001:
            await asyncio.sleep(0)

    run(main)

    assert log == [*range(500), "starts", "urgent", *range(501, 1000)]


def test_sockets_and_timers_wait_for_no_long_batch(lanes):
    """Beside callbacks that are ready without end the loop looks at its timers after a few."""
    clock_reads = []

    class Loop(dari.EventLoop):
        def time(self):
            clock_reads.append(len(log))
            return super().time()

    log = []

    async def main():
        loop = asyncio.get_running_loop()
        for number in range(10_000):
            loop.call_soon(log.append, number)
        while len(log) < 10_000:
            await asyncio.sleep(0)

    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(main())

    assert log == list(range(10_000))
    assert max(later - earlier for earlier, later in zip([0, *clock_reads], clock_reads, strict=False)) <= 128


def test_a_slow_batch_is_ended_by_time(lanes):
    """Callbacks that each take longer than a batch may: the loop looks around after each."""
    log = []

    class Loop(dari.EventLoop):
        def time(self):
            log.append("looks")
            return super().time()

    async def main():
        loop = asyncio.get_running_loop()

        def slow():
            log.append("slow")
            end = time.perf_counter() + 0.001
            while time.perf_counter() < end:
                pass

        for _ in range(5):
            loop.call_soon(slow)
        while log.count("slow") < 5:
            await asyncio.sleep(0)

    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(main())

    assert all(pair != ("slow", "slow") for pair in itertools.pairwise(log))


def test_a_descriptor_is_told_of_once_until_it_is_heard(lanes):
    """However often the loop looks at its sockets while the reader of one stands behind what is more urgent."""
    heard = []

    async def main():
        loop = asyncio.get_running_loop()
        here, there = socket.socketpair()
        with here, there:
            with dari.priority(1):
                loop.add_reader(here, lambda: heard.append(len(heard) or here.recv(9)))
            there.send(b"once")
            await spin("", [], 1000)
            with dari.priority(2):
                while not heard:
                    await asyncio.sleep(0)
                await asyncio.sleep(0)
            there.send(b"again")
            with dari.priority(2):
                while len(heard) < 2:
                    await asyncio.sleep(0)
            loop.remove_reader(here)

    run(main, starvation_limit=None)

    assert heard == [b"once", 1]


def test_after_stop_the_batch_is_run_whole(lanes):
    """As asyncio documents it: what was ready beside the one that calls `stop()` still runs, and nothing more."""
    log = []
    loop = dari.EventLoop()

    def stops():
        loop.stop()
        loop.call_soon(log.append, "later")
        end = time.perf_counter() + 0.001  # longer than a batch may take
        while time.perf_counter() < end:
            pass

    loop.call_soon(stops)
    for number in range(5):
        loop.call_soon(log.append, number)
    loop.run_forever()

    assert log == list(range(5))
    loop.run_until_complete(asyncio.sleep(0))
    assert log == [*range(5), "later"]
    loop.close()


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_in_the_midst_of_a_batch_loses_nothing(lanes, interrupt):
    """What was ready with it runs when the loop is run again, in order, by priority."""
    log = []
    loop = dari.EventLoop()

    def interrupts():
        raise interrupt

    for priority in (1, 0, -1):
        with dari.priority(priority):
            for number in range(3):
                loop.call_soon(log.append, (priority, number))
            if not priority:
                loop.call_soon(interrupts)
                loop.call_soon(log.append, (priority, 3))
    with pytest.raises(interrupt):
        loop.run_forever()
    before = list(log)
    with dari.priority(2):
        loop.call_soon(loop.stop)
    loop.run_forever()
    loop.close()

    assert before == [(-1, 0), (-1, 1), (-1, 2), (0, 0), (0, 1), (0, 2)]
    assert log == [*before, (0, 3), (1, 0), (1, 1), (1, 2)]


def test_other_threads_wake_the_loop_and_lose_nothing(lanes):
    """What four threads post arrives, each one's in order, while callbacks of all priorities go through the lanes."""
    each = 2000
    arrived = {name: [] for name in "abcd"}

    async def main():
        loop = asyncio.get_running_loop()
        done = loop.create_future()

        def arrive(name, number):
            arrived[name].append(number)
            if sum(map(len, arrived.values())) == each * len(arrived):
                done.set_result(None)

        def post(name):
            for number in range(each):
                loop.call_soon_threadsafe(arrive, name, number)

        with dari.priority(1):
            spinning = asyncio.create_task(spin("", [], 10**9))
        threads = [threading.Thread(target=post, args=(name,)) for name in arrived]
        for thread in threads:
            thread.start()
        await done
        for thread in threads:
            thread.join()
        spinning.cancel()

    run(main)

    assert arrived == {name: list(range(each)) for name in arrived}


def test_a_thread_may_append_to_the_queue_itself(lanes):
    """As asyncio does since 3.14: nothing is lost, the lanes are touched by the loop's thread only."""
    each = 20_000
    loop = dari.EventLoop()
    arrived = {name: [] for name in "ab"}

    def post(name):
        for number in range(each):
            loop._ready.append(asyncio.Handle(arrived[name].append, (number,), loop))

    threads = [threading.Thread(target=post, args=(name,)) for name in arrived]
    for thread in threads:
        thread.start()

    async def until_all_have_arrived():
        while sum(map(len, arrived.values())) < each * len(arrived):
            await asyncio.sleep(0)

    loop.run_until_complete(until_all_have_arrived())
    for thread in threads:
        thread.join()
    loop.close()

    assert arrived == {name: list(range(each)) for name in arrived}


def test_slow_callbacks_are_logged_in_debug_mode(lanes, caplog):
    """As asyncio does: by name, with the time that it took; those passed over at the end of a batch are none."""

    async def main():
        loop = asyncio.get_running_loop()
        loop.slow_callback_duration = 0.02
        loop.call_soon(time.sleep, 0.03)
        for _ in range(3):
            loop.call_soon(bool)
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    with asyncio.Runner(loop_factory=dari.EventLoop, debug=True) as runner:
        runner.run(main())

    slow = [record.getMessage() for record in caplog.records if "sleep" in record.getMessage()]
    assert len(slow) == 1
    assert slow[0].startswith("Executing <Handle")


# ---- looking on ------------------------------------------------------------------------------------------------------


def test_dump_shows_tasks_of_both_kinds():
    """asyncio's and generator tasks, each with the line where it waits."""

    async def waits_for_ever():
        await asyncio.Event().wait()

    def sleeps():
        yield dari.sleep(1000)

    async def main():
        loop = asyncio.get_running_loop()
        tasks = (
            asyncio.create_task(waits_for_ever(), name="the coroutine"),
            dari.create_task(sleeps, name="the generator"),
        )
        await asyncio.sleep(0)
        async with dari.Scheduler() as scheduler:
            await dari.arun(stepper, "", [], 1)
            dumps = loop.dump(), scheduler.dump()
        for task in tasks:
            task.cancel()
        return dumps

    whole, of_a_guest = run(main)

    assert "the coroutine" in whole
    assert "the generator" in whole
    assert whole.count("in waits_for_ever") == whole.count("in sleeps") == 1
    assert "in waits_for_ever" in of_a_guest


STANDSTILLS = """
import asyncio, logging, threading
import dari

class Rescue(logging.Handler):
    def emit(self, record):
        print("told", record.getMessage().count("in waits"))
        loop.call_soon_threadsafe(event.set)

logging.getLogger("dari").addHandler(Rescue())

async def waits():
    await event.wait()

def also_waits():
    yield dari.Event().wait()

async def stands_still():
    global loop, event
    loop, event = asyncio.get_running_loop(), asyncio.Event()
    generator = dari.create_task(also_waits)
    await asyncio.create_task(waits())
    print("rescued")
    event.clear()
    await asyncio.to_thread(bool)  # its thread lives on: it might come
    again = asyncio.create_task(waits())
    generator.cancel()
    threading.Timer(0.1, loop.call_soon_threadsafe, [event.set]).start()
    await again

with asyncio.Runner(loop_factory=dari.EventLoop) as runner:
    runner.run(stands_still())
print("end")
"""


def test_a_standstill_is_told_once():
    """Nothing is left that could wake a task: one warning, with a dump; none where another thread lives."""
    said = subprocess.run([sys.executable, "-c", STANDSTILLS], capture_output=True, text=True, timeout=60, check=True)

    assert said.stdout.split("\n") == ["told 1", "rescued", "end", ""]


def test_a_tracer_is_told_of_tasks_of_both_kinds():
    """One TaskTimes for the whole program: steps, priorities, and what they wait for."""
    told = []

    class Teller(dari.Tracer):
        def task_created(self, task):
            told.append((task.name, "created"))

        def task_woken(self, task):
            told.append((task.name, "woken"))

        def step_started(self, task):
            told.append((task.name, "step"))

        def task_blocked(self, task, what):
            told.append((task.name, "blocked"))

        def task_ended(self, task):
            told.append((task.name, "ended"))

    async def coroutine():
        await asyncio.sleep(0)
        await asyncio.sleep(0.001)

    def generator():
        yield
        yield dari.sleep(0.001)

    async def main():
        loop = asyncio.get_running_loop()
        loop.tracer = Teller()
        await asyncio.create_task(coroutine(), name="coroutine")
        await dari.create_task(generator, name="generator")
        seen = list(told)
        loop.tracer = times = dari.TaskTimes()
        with dari.priority(1):
            low = asyncio.create_task(coroutine(), name="low")
        await low
        await dari.create_task(generator, priority=-1)
        loop.tracer = None
        await asyncio.create_task(coroutine())
        return seen, times

    seen, times = run(main)

    assert [what for name, what in seen if name == "coroutine"] == [
        *("created", "step", "woken", "step", "blocked", "woken", "step", "ended")
    ]
    assert [what for name, what in seen if name == "generator"] == [
        *("created", "step", "step", "blocked", "woken", "step", "ended")
    ]
    assert {priority: each.steps for priority, each in times.priorities.items()} == {-1: 3, 0: 2, 1: 3}


def test_a_tracer_that_fails_harms_nobody(caplog):
    """What it raises is logged, and it is told nothing any more."""

    class Broken(dari.Tracer):
        def step_started(self, task):
            raise ValueError("broken")

    async def main():
        for _ in range(3):
            await asyncio.sleep(0)
        return asyncio.get_running_loop().tracer

    assert run(main, tracer=Broken()) is None
    assert [record.levelname for record in caplog.records if "broken" in str(record.exc_info)] == ["ERROR"]


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
