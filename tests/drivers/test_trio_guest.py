"""The trio guest: slices and passes, context and priority, exits and ends, and several worlds in one process."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import socket
import subprocess
import sys
import threading
import time
import weakref
from concurrent.futures import Future

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import dari
from dari.drivers.trio_guest import TrioGuest
from dari.scheduler import implicit_scheduler

from .trio_tasks import rest, spin, spin_until


class Passes(trio.abc.Instrument):
    """Counts the passes of trio's loop, and the steps of the scheduler's task in it."""

    def __init__(self):
        self.passes = self.steps = 0

    def before_io_wait(self, timeout):
        self.passes += 1

    def before_task_step(self, task):
        self.steps += task.name == "dari scheduler"


@pytest.fixture
def quiet(caplog):
    """Nothing was logged, and the collector had nothing to say."""
    yield
    gc.collect()
    assert [record.getMessage() for record in caplog.get_records("call")] == []


# ---- slices and passes -----------------------------------------------------------------------------------------------


def test_a_slice_and_an_empty_turn(monkeypatch):
    """A busy guest costs trio two steps of one system task a slice, however many steps of ours the slice takes."""
    slices, count = [], Passes()
    original = TrioGuest._slice
    monkeypatch.setattr(TrioGuest, "_slice", lambda guest: (slices.append(1), original(guest))[1])

    async def main():
        async with dari.Scheduler(max_slice=0.002) as scheduler:
            for _ in range(100):
                scheduler.create_task(spin, 2000)
            started, passes = time.monotonic(), count.passes
        return time.monotonic() - started, count.passes - passes, scheduler.stats().switches

    elapsed, passes, switches = trio.run(main, instruments=[count])

    assert switches >= 200_000
    assert len(slices) <= elapsed / 0.002 + 2
    assert abs(count.steps - 2 * len(slices)) <= 3
    assert abs(passes - 2 * len(slices)) <= 3


def test_an_idle_hour_costs_nothing():
    """Tasks that wait for an event, a thread, a coroutine or a far deadline ask nothing of trio."""
    count = Passes()

    async def main():
        async with dari.Scheduler() as scheduler:
            event, future = dari.Event(), Future()

            def waits():
                yield event.wait()

            def waits_for_a_thread():
                yield future

            async def coroutine():
                await event.wait()

            def sleeps():
                with dari.move_on_after(36_000):
                    yield event.wait()

            for task in (waits, waits_for_a_thread, coroutine, sleeps):
                scheduler.create_task(task)
            await wait_all_tasks_blocked()
            steps, passes = count.steps, count.passes
            await trio.sleep(3600)
            idle = count.steps - steps, count.passes - passes
            event.set()
            future.set_result(None)
        return idle

    steps, passes = trio.run(main, clock=MockClock(autojump_threshold=0), instruments=[count])

    assert (steps, passes <= 4) == (0, True)


class ThreadTime(trio.abc.Clock):
    """The processor time of this thread: what other processes take does not move it."""

    def start_clock(self):
        pass

    def current_time(self):
        return time.thread_time()

    def deadline_to_sleep_time(self, deadline):
        return deadline - time.thread_time()


def test_heartbeat_with_ten_thousand_spinning_tasks():
    """Half of the beats of 5 ms are late by at most about one slice. (p99, on a quiet machine: benchmarks/guest.py)"""
    max_slice = 0.002

    async def main():
        late, stop = [], []
        async with dari.Scheduler(max_slice=max_slice) as scheduler:

            def spins():
                while not stop:
                    yield

            for _ in range(10_000):
                scheduler.create_task(spins)
            await trio.sleep(0.1)
            for _ in range(200):
                due = time.thread_time() + 0.005
                await trio.sleep(0.005)
                late.append(time.thread_time() - due)
            stop.append(True)
        return sorted(late)

    late = trio.run(main, clock=ThreadTime())

    assert late[100] <= 1.25 * max_slice, f"p50 {late[100]:.4f} p99 {late[197]:.4f} max {late[-1]:.4f}"


def test_slow_steps_are_cut_into_slices():
    """Where a single step is slow, a slice ends after the first step past its end."""

    async def main():
        stop = []

        def slow():
            while not stop:
                until = time.monotonic() + 0.001
                while time.monotonic() < until:
                    pass
                yield

        async with dari.Scheduler(max_slice=0.002) as scheduler:
            for _ in range(50):
                scheduler.create_task(slow)
            await turns(10)  # the first slice does not know yet how slow they are
            before = scheduler.stats().switches
            await turns(200)
            steps = scheduler.stats().switches - before
            stop.append(True)
        return steps

    async def turns(number):
        for _ in range(number):
            await trio.lowlevel.checkpoint()

    # Two turns a slice, and about two steps in each: never a whole batch of fifty between two turns.
    assert trio.run(main) < 4 * 200


def test_hours_in_virtual_time():
    """`MockClock` rules the sleeps, timeouts and deadlines of generator tasks, too."""

    def sleeps():
        yield dari.sleep(3600)
        with dari.move_on_after(3600) as scope:
            yield dari.sleep(36_000)
        return scope.cancelled_caught

    async def main():
        before = trio.current_time()
        caught = await dari.arun(sleeps)
        await dari.sleep(3600)
        return caught, trio.current_time() - before

    started = time.monotonic()
    caught, slept = trio.run(main, clock=MockClock(autojump_threshold=0))

    assert (caught, slept) == (True, pytest.approx(3 * 3600))
    assert time.monotonic() - started < 60


def test_slices_end_where_the_clock_stands_still():
    """Under `MockClock` as well, a task that spins lets those of trio run: how long a slice lasts, it does not say."""

    async def main():
        flag = []
        async with dari.Scheduler() as scheduler:
            task = scheduler.create_task(spin_until, flag)
            for _ in range(10):
                await trio.lowlevel.checkpoint()
            flag.append("set while it spins" if not task.done() else "it spun until it gave up")
        return flag

    assert trio.run(main, clock=MockClock()) == ["set while it spins"]


def test_a_busy_guest_is_not_blocked():
    """`wait_all_tasks_blocked` waits until generator tasks wait, too."""

    async def main():
        async with dari.Scheduler() as scheduler:
            task = scheduler.create_task(spin, 10_000)
            await wait_all_tasks_blocked()
            return task.done()

    assert trio.run(main) is True


# ---- context and priority --------------------------------------------------------------------------------------------


def test_context_travels_in_and_does_not_leak_back():
    """Generators and coroutines see their creator's variables; what they set stays with them."""
    variable = contextvars.ContextVar("variable", default=0)

    async def coroutine():
        seen = variable.get()
        variable.set(99)
        await trio.lowlevel.checkpoint()
        return seen, variable.get()

    def work():
        seen = [variable.get()]
        variable.set(1)
        seen.append((yield coroutine()))
        seen.append((yield dari.create_task(coroutine)))
        return [*seen, variable.get()]

    async def main():
        variable.set(7)
        async with dari.Scheduler() as scheduler:
            entered = await scheduler.create_task(work)
        return entered, await dari.arun(work), variable.get()

    expected = [7, (1, 99), (1, 99), 1]
    assert trio.run(main) == (expected, expected, 7)


def test_priority_reaches_trio_tasks_and_back():
    """It is inherited along the chain, through coroutines and their nurseries."""
    seen = []

    def child():
        yield
        seen.append(dari.current_task().priority)

    async def coroutine(scheduler):
        await scheduler.create_task(child)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(dari.arun, child)

    async def main():
        async with dari.Scheduler() as scheduler:

            def work():
                yield coroutine(scheduler)

            await scheduler.create_task(work, priority=-3)
            with dari.priority(5):
                await dari.arun(child)
            await dari.arun(child)

    trio.run(main)

    assert seen == [-3, -3, 5, 0]


def test_who_waits_less_patiently_runs_first():
    """Tasks that became ready together run by priority."""

    async def main():
        order = []

        def child(number):
            order.append(number)
            yield

        async with dari.Scheduler() as scheduler:
            for priority in (1, 0, -1):
                scheduler.create_task(child, priority, priority=priority)
        return order

    assert trio.run(main) == [-1, 0, 1]


# ---- the exit of a scheduler -----------------------------------------------------------------------------------------


def test_the_exit_waits_for_all_and_raises_what_nobody_observed(caplog):
    """Unobserved failures are logged when they happen, and raised together at the exit."""

    def fails(name):
        yield
        raise ValueError(name)

    ended = []

    def ends():
        yield dari.sleep(0.005)
        ended.append(True)

    async def main():
        async with dari.Scheduler() as scheduler:
            scheduler.create_task(fails, "nobody looks")
            scheduler.create_task(ends)
            with pytest.raises(ValueError, match="seen"):
                await scheduler.create_task(fails, "seen")

    with caplog.at_level(logging.ERROR, "dari"), pytest.raises(ExceptionGroup) as caught:
        trio.run(main)

    assert [str(error) for error in caught.value.exceptions] == ["nobody looks"]
    assert (ended, len(caplog.records)) == ([True], 1)


def test_what_was_posted_before_the_exit_is_done(quiet):
    """With no task left too; what it creates is waited for."""
    done = []

    def created():
        yield
        done.append("created")

    async def main():
        async with dari.Scheduler() as scheduler:
            scheduler.call_soon_threadsafe(done.append, "called")
            scheduler.call_soon_threadsafe(scheduler.create_task, created)
        async with dari.Scheduler():
            pass

    trio.run(main)

    assert done == ["called", "created"]


def test_a_scheduler_that_has_ended_leaves_no_task_of_trio_behind():
    """Nor does one whose tasks ran coroutines and waited for descriptors."""

    def tasks(root):
        return 1 + sum(tasks(child) for nursery in root.child_nurseries for child in nursery.child_tasks)

    def work(sock):
        yield trio.lowlevel.checkpoint()
        with dari.move_on_after(0.001):
            yield dari.wait_readable(sock)

    async def main():
        ours, theirs = socket.socketpair()
        with ours, theirs:
            before = tasks(trio.lowlevel.current_root_task())
            async with dari.Scheduler() as scheduler:
                scheduler.create_task(work, ours)
            await wait_all_tasks_blocked()
            return before, tasks(trio.lowlevel.current_root_task())

    before, after = trio.run(main)

    assert before == after


def test_an_error_in_the_block_cancels_the_tasks():
    """The block's error comes out after its tasks have ended."""
    log = []

    async def main():
        async with dari.Scheduler() as scheduler:
            scheduler.create_task(rest, log)
            await wait_all_tasks_blocked()
            raise KeyError("block")

    with pytest.raises(KeyError, match="block"):
        trio.run(main)

    assert log == ["ended"]


@pytest.mark.parametrize("where", ["in the block", "at its exit"])
def test_a_cancel_of_the_block_cancels_the_tasks(where):
    """A scope around `async with Scheduler()` passes its cancel on, and is left when the tasks have ended."""

    async def main():
        log = []
        async with trio.open_nursery() as nursery:
            with trio.CancelScope() as scope:

                @nursery.start_soon
                async def cancels():
                    await wait_all_tasks_blocked()
                    scope.cancel()

                async with dari.Scheduler() as scheduler:
                    scheduler.create_task(rest, log)
                    if where == "in the block":
                        await trio.sleep_forever()
            return log, scope.cancelled_caught

    assert trio.run(main) == (["ended"], True)


def test_a_scheduler_is_stopped_by_one_of_its_tasks():
    """All its tasks are cancelled, and the block goes on."""

    async def main():
        log = []

        def stops():
            yield
            scheduler.stop()
            yield from rest(log, "the one that stops")

        async with dari.Scheduler() as scheduler:
            scheduler.create_task(rest, log, "another")
            scheduler.create_task(stops)
        return sorted(log)

    assert trio.run(main) == ["another", "the one that stops"]


# ---- KeyboardInterrupt and SystemExit of a task ----------------------------------------------------------------------


def exits(error, event=None):
    yield
    if event is not None:
        event.set()
    raise error


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("way", ["arun", "await task", "by a generator", "by a coroutine"])
def test_what_ends_the_program_comes_out_of_who_waits(quiet, way, error):
    """KeyboardInterrupt and SystemExit, out of `trio.run`."""

    def generator():
        yield dari.create_task(exits, error)

    async def coroutine():
        await dari.arun(exits, error)

    async def main():
        if way == "arun":
            await dari.arun(exits, error)
        elif way == "await task":
            async with dari.Scheduler() as scheduler:
                await scheduler.create_task(exits, error)
        else:
            await dari.arun(generator if way == "by a generator" else coroutine)

    with pytest.raises(error):
        trio.run(main)


@pytest.mark.parametrize("when", ["at its exit", "in the block"])
def test_what_ends_the_program_comes_out_of_the_block_if_nobody_waits(quiet, when):
    """`async with Scheduler()` raises it, after the other tasks have ended."""
    log = []

    async def main():
        event = dari.Event()
        async with dari.Scheduler() as scheduler:
            if when == "at its exit":
                scheduler.create_task(rest, log)
            scheduler.create_task(exits, SystemExit(3), event)
            if when == "in the block":
                await event.wait()
                await wait_all_tasks_blocked()

    with pytest.raises(SystemExit) as caught:
        trio.run(main)

    assert (caught.value.code, log) == (3, ["ended"] if when == "at its exit" else [])


def test_what_ends_the_program_may_be_told_to_a_waiter_who_goes_on(quiet):
    """Who caught it, has decided; the scheduler runs on, and its exit says nothing more."""

    async def main():
        log = []
        async with dari.Scheduler() as scheduler:
            with pytest.raises(SystemExit):
                await scheduler.create_task(exits, SystemExit(3))
            await scheduler.create_task(spin, 3)
            log.append("went on")
        return log

    assert trio.run(main) == ["went on"]


# ---- the end of the program ------------------------------------------------------------------------------------------


async def coroutine_rests(log, name, wait=trio.sleep_forever):
    try:
        await wait()
    finally:
        with trio.CancelScope(shield=True):
            await trio.lowlevel.checkpoint()
        log.append(name)


def left_mid_wait(create, log):
    """One of each kind of wait over the seam."""
    queue = dari.Queue()

    def yields(coroutine):
        yield coroutine

    async def awaits_a_generator():
        await dari.arun(rest, log, "3 below")

    create(rest, log, "1")
    create(yields(coroutine_rests(log, "2")))
    create(coroutine_rests, log, "3", awaits_a_generator)
    create(coroutine_rests, log, "4", queue.get)
    create(coroutine_rests, log, "5")


NAMES = ["1", "2", "3", "3 below", "4", "5"]


@pytest.mark.parametrize("which", ["implicit", "never exited"])
def test_the_program_ends_around_tasks(quiet, which):
    """They are cancelled, every `finally` runs, and nothing hangs or is said."""
    log = []

    async def main():
        if which == "implicit":

            def leaves():
                left_mid_wait(dari.create_task, log)
                yield

            await dari.arun(leaves)
        else:
            scheduler = await dari.Scheduler().__aenter__()
            left_mid_wait(scheduler.create_task, log)
        await wait_all_tasks_blocked()
        return "main's result"

    assert trio.run(main) == "main's result"
    assert sorted(log) == NAMES


def test_the_program_ends_before_anything_has_begun(quiet):
    """Nothing hangs, no coroutine is said to have never been awaited."""
    log = []

    def leaves():
        left_mid_wait(dari.create_task, log)
        yield

    async def main():
        await dari.arun(leaves)

    async def at_once():
        scheduler = await dari.Scheduler().__aenter__()
        scheduler.create_task(leaves)

    trio.run(main)
    trio.run(at_once)


def test_the_program_ends_by_an_error_around_tasks(quiet):
    """The error comes out when they have ended."""
    log = []

    def leaves():
        left_mid_wait(dari.create_task, log)
        yield

    async def main():
        await dari.arun(leaves)
        await wait_all_tasks_blocked()
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        trio.run(main)

    assert sorted(log) == NAMES


def test_the_program_ends_while_generators_clean_up(quiet):
    """A shielded cleanup may run coroutines and operations in the program that is ending, and is waited for."""
    log = []

    async def says_goodbye(queue):
        await trio.sleep(0.001)
        await queue.put("goodbye")
        log.append(await queue.get())

    def plan():
        try:
            yield dari.Event().wait()
        finally:
            with dari.CancelScope(shield=True):
                yield says_goodbye(dari.Queue())
            log.append("ended")

    def leaves():
        dari.create_task(plan)
        yield

    async def main():
        await dari.arun(leaves)
        await wait_all_tasks_blocked()

    trio.run(main)

    assert log == ["goodbye", "ended"]


def test_the_program_s_end_waits_for_the_jobs_of_its_tasks(quiet):
    """What a generator waits for in a thread is asked to end, and awaited."""
    log = []

    def job():
        started.set()
        while not dari.current_job().cancel_requested:
            time.sleep(0.001)
        log.append("the job")

    def plan():
        try:
            yield pool.submit(job)
        finally:
            log.append("its waiter")

    def leaves():
        dari.create_task(plan)
        yield

    async def main():
        await dari.arun(leaves)
        await trio.to_thread.run_sync(started.wait)

    started = threading.Event()
    with dari.Pool(1) as pool:
        trio.run(main)

    assert log == ["the job", "its waiter"]


@pytest.mark.parametrize("which", ["implicit", "never exited"])
def test_after_the_program_s_end_nothing_is_let_in(which):
    """Neither tasks nor calls vanish: SchedulerClosed."""

    async def main():
        if which == "implicit":
            await dari.arun(spin, 1)
            return implicit_scheduler(trio.lowlevel.current_trio_token())
        return await dari.Scheduler().__aenter__()

    scheduler = trio.run(main)

    for call in (scheduler.call_soon_threadsafe, scheduler.create_task_threadsafe, scheduler.create_task):
        with pytest.raises(dari.SchedulerClosed):
            call(lambda: (yield))


def test_a_program_that_ended_leaves_nothing_behind():
    """Neither trio's token nor a scheduler is kept: a process may run as many programs as it likes."""

    async def main():
        await dari.arun(spin, 1)
        token = trio.lowlevel.current_trio_token()
        return weakref.ref(token), weakref.ref(implicit_scheduler(token))

    refs = trio.run(main)
    gc.collect()
    gc.collect()  # the scheduler goes when the token has gone

    assert [ref() for ref in refs] == [None, None]


# ---- several worlds --------------------------------------------------------------------------------------------------


def test_one_program_after_the_other():
    """Each has a scheduler of its own; primitives serve them all."""
    queue = dari.Queue()

    def puts(item):
        yield queue.put(item)

    async def main(item):
        await dari.arun(puts, item)
        return await queue.get()

    async def asyncio_main(item):
        return await main(item)

    assert [trio.run(main, 1), asyncio.run(asyncio_main(2)), trio.run(main, 3)] == [1, 2, 3]


def test_several_schedulers_in_one_program():
    """Tasks of one wait for those of another; `arun` takes the innermost around the code, also in a nursery's tasks."""

    def inner():
        yield
        return dari.current_task().kernel

    def outer(task):
        return (yield task)

    async def main():
        seen = []

        async def child():
            seen.append(await dari.arun(inner))

        async with dari.Scheduler() as one, dari.Scheduler() as two:
            seen.append(await one.create_task(outer, two.create_task(inner)))
            seen.append(await dari.arun(inner))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(child)
        seen.append(await dari.arun(inner))
        return [kernel is two._kernel for kernel in seen]

    assert trio.run(main) == [True, True, True, False]


def test_what_is_refused():
    """Wrong worlds are told apart by errors that name the way out."""

    def nested(scheduler):
        with pytest.raises(RuntimeError, match="yield from"):
            dari.run(spin, 1)
        with pytest.raises(RuntimeError, match="driven by the loop"):
            scheduler.schedule()
        yield

    async def main():
        with pytest.raises(RuntimeError, match=r"trio program: use `await dari\.arun"):
            dari.run(spin, 1)
        async with dari.Scheduler() as scheduler:
            await scheduler.create_task(nested, scheduler)
        with pytest.raises(RuntimeError, match="entered before"):
            await scheduler.__aenter__()

    trio.run(main)


def test_trio_and_asyncio_in_two_threads():
    """Both use dari, at the same time; a task of the other one is refused where it is awaited."""

    async def asyncio_main(foreign):
        with pytest.raises(RuntimeError, match="another event loop"):
            await foreign
        await asyncio.sleep(0)
        return await dari.arun(spin_until, flag)

    async def trio_main():
        async with dari.Scheduler() as scheduler:
            task = scheduler.create_task(spin_until, flag)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.to_thread.run_sync, asyncio.run, asyncio_main(task))
                nursery.start_soon(trio.to_thread.run_sync, dari.run, spin, 10)
                await trio.sleep(0.01)
                flag.append(True)

    flag = []
    trio.run(trio_main)


def test_trio_as_a_guest_of_asyncio():
    """dari in both: on each side its own scheduler; an event that one side sets wakes tasks of the other."""

    async def trio_main(ours, theirs):
        def work():
            yield dari.sleep(0.001)
            yield trio.sleep(0.001)
            theirs.set()
            yield ours.wait()
            return "trio"

        return await dari.arun(work)

    async def main():
        ours, theirs = dari.Event(), dari.Event()
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        trio.lowlevel.start_guest_run(
            trio_main,
            ours,
            theirs,
            run_sync_soon_threadsafe=loop.call_soon_threadsafe,
            done_callback=done.set_result,
        )

        def work():
            yield theirs.wait()
            yield asyncio.sleep(0.01)  # trio has gone to wait in its thread
            ours.set()
            return "asyncio"

        return await dari.arun(work), (await done).unwrap()

    assert asyncio.run(asyncio.wait_for(main(), 5)) == ("asyncio", "trio")


# ---- misuse ----------------------------------------------------------------------------------------------------------

SCOPE = """
import dari, trio

def wrong():
    with trio.move_on_after(0.01):
        yield dari.sleep(0.03)

def other():
    yield dari.sleep(0.05)
    print("other")

async def main():
    async with dari.Scheduler() as scheduler:
        scheduler.create_task(wrong)
        scheduler.create_task(other)

trio.run(main)
"""


def test_a_scope_of_trio_in_a_generator_harms_nobody_else():
    """It would act on the scheduler's own task. Whatever becomes of the generator, the others run on, and all ends."""
    process = subprocess.run([sys.executable, "-c", SCOPE], capture_output=True, text=True, timeout=60, check=False)

    assert "other" in process.stdout
