"""What must never happen to a pool, as far as no other file has its test: DESIGN §6 and the list it grew from.

Lost jobs and jobs run twice are looked for by `test_machine.py` and `benchmarks/pool_chaos.py`, what memory keeps by
`test_memory.py`, the ends of processes and forks by `test_process.py`.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
from collections import deque
from weakref import ref

import pytest

import dari
from dari._kernel.priority import Priority
from dari.drivers.mailbox import Mailbox
from dari.exceptions import JobCancelled, PoolClosed
from dari.pool import JobState, Pool, Retry, current_job

from .conftest import PATIENCE, until

HOURS = 10_000.0
TURNS = 1500


# ---- a shutdown that hangs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_time", [True, False], ids=["drained", "given up"])
def test_a_shutdown_ends_and_ends_every_wait(gate, in_time):
    """For jobs that are queued, run, wait for their time or for each other; for places; for the end; in every world."""
    pool = Pool(2, max_queue=4, exit_timeout=0.05)
    ends = []

    def waits(call):
        def wait():
            try:
                ends.append(call())
            except (JobCancelled, PoolClosed) as error:
                ends.append(type(error))

        thread = threading.Thread(target=wait, daemon=True)
        thread.start()
        return thread

    def fails():
        raise ValueError

    async def coroutine():
        return await pool.run_sync(pow, 2, 5)

    def task():
        return (yield pool.run_sync(pow, 2, 6))

    (running,) = gate.hold(pool)
    again = pool.options(retry=Retry(1, wait_initial=HOURS, wait_max=HOURS)).submit(fails)
    until(lambda: again.attempt == 2 and again.state is JobState.SCHEDULED)
    later = pool.options(delay=HOURS).submit(pow, 2, 2)
    outer = pool.submit(later.result)  # a job that waits for one that waits for its time
    until(outer.running)
    queued = [pool.submit(pow, 2, 3), pool.submit(pow, 2, 4)]  # with the two that are scheduled the queue is full
    threads = [waits(job.result) for job in (running, later, outer, *queued)]
    threads += [waits(lambda: pool.submit(pow, 2, 7)), waits(lambda: asyncio.run(coroutine()))]
    threads += [waits(lambda: dari.run(task)), waits(pool.join)]
    until(lambda: len(pool._desk._places) == 3)

    if in_time:
        assert not pool.shutdown(timeout=0.01)
        gate.open()
        assert later.cancel()
        assert again.cancel()
        assert pool.shutdown(timeout=PATIENCE)
    else:
        assert not pool.shutdown(cancel_futures=True, timeout=0.01)
        assert [job.state for job in (again, later, *queued)] == [JobState.CANCELLED] * 4
        gate.open()
        assert pool.shutdown(timeout=PATIENCE)
    for thread in threads:
        thread.join(PATIENCE)

    left = [8, 16] if in_time else [JobCancelled] * 2
    expected = ["through", True, *[PoolClosed] * 3, *[JobCancelled] * 2, *left]
    assert sorted(map(str, ends)) == sorted(map(str, expected))


def test_no_thread_is_left_that_came_and_went_while_the_pool_drained():
    """A worker that is started by a job that still runs, runs the last job, and leaves the list in the same moment."""
    pool, begun, go, threads = Pool(2), threading.Event(), threading.Event(), []
    local, leaves = threading.local(), threading.Event()

    class Slow:
        def __del__(self):
            leaves.wait(0.2)  # when the thread ends

    def first():
        begun.set()
        assert go.wait(PATIENCE)
        pool.submit(last)

    def last():
        threads.append(threading.current_thread())
        local.slow = Slow()
        until(lambda: pool.stats().running == 1)

    pool.submit(first)
    assert begun.wait(PATIENCE)
    timer = threading.Timer(0.02, go.set)
    timer.start()
    left = pool.shutdown(timeout=PATIENCE)
    alive = [thread for thread in threads if thread.is_alive()]
    leaves.set()
    timer.join()

    assert (left, len(threads), alive) == (True, 1, [])


# ---- inversion -------------------------------------------------------------------------------------------------------


def test_an_urgent_job_that_finds_the_queue_full_is_overtaken_by_one_job_at_most(make_pool, gate):
    """By the one whose place it gets; not by the others that are queued, nor by those that wait for places."""
    pool = make_pool(1, max_queue=3)
    order, threads = [], []
    gate.hold(pool)
    for number in range(3):
        pool.options(priority=Priority.LOW).submit(order.append, f"low {number}")
    for priority in (Priority.LOW, Priority.NORMAL, Priority.URGENT):
        view = pool.options(priority=priority)
        threads.append(threading.Thread(target=view.submit, args=(order.append, priority.name)))
        threads[-1].start()
        until(lambda: len(pool._desk._places) == len(threads))
    gate.open()
    for thread in threads:
        thread.join(PATIENCE)
    assert pool.join(PATIENCE)

    assert order == ["low 0", "URGENT", "NORMAL", "low 1", "low 2", "LOW"]


def test_what_is_tried_again_stands_where_its_priority_says(one, gate):
    """An urgent job goes before what was queued meanwhile; a low one does not overtake anybody."""
    order, jobs = [], {}

    def fails_once(name):
        order.append(f"{name} {current_job().attempt}")
        if current_job().attempt == 1:
            raise ValueError

    def stands_again(name):
        until(lambda: jobs[name].attempt == 2 and jobs[name].state is JobState.QUEUED)

    gate.hold(one)
    low, urgent = one.options(priority=Priority.LOW), one.options(priority=Priority.URGENT)
    retry = Retry(1, wait_initial=0.0, wait_jitter=0.0)
    jobs["low"] = low.options(retry=retry).submit(fails_once, "low")
    jobs["urgent"] = urgent.options(retry=retry).submit(fails_once, "urgent")
    one.options(priority=Priority.HIGH).submit(stands_again, "urgent")
    one.submit(order.append, "normal")
    low.submit(stands_again, "low")
    low.submit(order.append, "another low")
    gate.open()
    assert one.join(PATIENCE)

    assert order == ["urgent 1", "urgent 2", "normal", "low 1", "another low", "low 2"]


def test_an_urgent_job_that_waits_for_a_low_one_waits_for_nobody_else(one, gate):
    """It runs it itself, before all that stands between them."""
    order = []

    def outer():
        one.options(priority=Priority.LOW).submit(order.append, "inner").result()
        order.append("outer")

    gate.hold(one)
    for number in range(3):
        one.submit(order.append, number)
    one.options(priority=Priority.URGENT).submit(outer)
    gate.open()
    assert one.join(PATIENCE)

    assert order == ["inner", "outer", 0, 1, 2]


# ---- a wake-up that is lost ------------------------------------------------------------------------------------------


def test_no_wake_up_of_two_loops_is_lost(make_pool):
    """Wave after wave: in a steady load the next wake-up would make up for a lost one."""
    pool, got, usual = make_pool(2), {}, sys.getswitchinterval()

    async def main(number):
        for turn in range(TURNS):
            wave = [(number, turn, each) for each in range(2 + turn % 4)]
            assert await asyncio.gather(*[pool.run_sync(tuple, each) for each in wave]) == wave
            got[number] = turn

    threads = [threading.Thread(target=asyncio.run, args=(main(number),), daemon=True) for number in (0, 1)]
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(2 * PATIENCE)
    finally:
        sys.setswitchinterval(usual)

    assert got == {0: TURNS - 1, 1: TURNS - 1}


def test_who_posts_while_a_box_is_emptied_wakes_it_again():
    """The same, not left to chance: the call came too late for this time, so there must be a next one."""
    wakes = []

    class Meddled(deque):
        def popleft(self):
            first = super().popleft()
            if first is str:
                box.put(int)
            return first

    box = Mailbox(lambda: wakes.append("wake"))
    box._calls = Meddled()
    box.put(str)

    assert (box.take(), len(wakes)) == ([str], 2)
    assert box.take() == [int]


# ---- more threads than allowed ---------------------------------------------------------------------------------------


def test_abandoned_threads_never_let_more_functions_run_than_there_are_workers(make_pool):
    """However many jobs run out of their time, and whether the pool shrinks meanwhile."""
    pool, lock, inside, at_once = make_pool(3), threading.Lock(), set(), {}
    gates = [threading.Event() for _ in range(8)]

    def work(number):
        with lock:
            inside.add(number)
            at_once[number] = len(inside)
        assert gates[number].wait(PATIENCE)
        with lock:
            inside.remove(number)

    jobs = [pool.options(timeout=0.001).submit(work, number) for number in range(8)]
    for number, limit in enumerate([3, 3, 3, 3, 2, 2, 2, 2]):
        pool.resize(limit)
        for event in gates[: max(0, number - limit + 1)]:
            event.set()
        until(lambda number=number: number in at_once and jobs[number].state is JobState.TIMED_OUT)
        assert pool.stats().workers <= 3
        assert number < 2 or len(inside) == limit  # and the rest is still queued
    assert pool.stats().abandoned == 2
    for event in gates:
        event.set()
    until(lambda: not pool.stats().abandoned)

    assert (inside, max(at_once.values()), at_once[6], at_once[7]) == (set(), 3, 2, 2)


# ---- a traceback that grows ------------------------------------------------------------------------------------------


def depth(error):
    traceback, frames = error.__traceback__, 0
    while traceback is not None:
        traceback, frames = traceback.tb_next, frames + 1
    return frames


def test_a_traceback_does_not_grow_in_any_world(one):
    """Three times awaited, yielded, or asked for in a job: as long as the first time."""
    depths = {"asyncio": [], "task": [], "job": []}

    async def coroutine(job):
        for _ in range(3):
            try:
                await job
            except ZeroDivisionError as error:
                depths["asyncio"].append(depth(error))

    def task(job):
        for _ in range(3):
            try:
                yield job
            except ZeroDivisionError as error:
                depths["task"].append(depth(error))

    def outer():
        job = one.submit(divmod, 1, 0)
        for _ in range(3):
            try:
                job.result()
            except ZeroDivisionError as error:
                depths["job"].append(depth(error))

    asyncio.run(coroutine(one.submit(divmod, 1, 0)))
    dari.run(task, one.submit(divmod, 1, 0))
    one.submit(outer).result(timeout=PATIENCE)

    assert {world: len(set(each)) for world, each in depths.items()} == {"asyncio": 1, "task": 1, "job": 1}


# ---- a payload that is kept after a cancel ---------------------------------------------------------------------------


class Payload:
    def __call__(self):
        """It is function and argument at once."""


def by_shutdown(pool, payload):
    pool.submit(payload)
    return lambda: pool.shutdown(wait=False, cancel_futures=True)


def by_an_error_in_the_block(pool, payload):
    pool.submit(payload)

    def leave():
        with pytest.raises(KeyError), pool:
            raise KeyError

    return leave


def by_the_executors_future(pool, payload):
    return pool.as_executor().submit(payload).cancel


def by_leaving_a_map(pool, payload):
    mapped = pool.map(id, [payload])
    return mapped.close


WAYS = [by_shutdown, by_an_error_in_the_block, by_the_executors_future, by_leaving_a_map]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_a_payload_is_free_whoever_cancels(gate, way):
    """At once, while the only worker is busy."""
    pool = Pool(1, exit_timeout=0.0)
    gate.hold(pool)
    payload = Payload()
    payload_ref = ref(payload)
    cancel = way(pool, payload)
    del payload
    assert payload_ref() is not None
    cancel()

    assert payload_ref() is None
    gate.open()
    assert pool.shutdown(timeout=PATIENCE)


@pytest.mark.parametrize("asked", [False, True], ids=["failed", "asked to end"])
def test_what_failed_inline_is_free_without_the_collector(one, asked):
    """Its frames when its error is forgotten, and its payload when it has ended, though the error lives."""
    refs = []

    def inner(payload):
        refs.append(ref(payload))
        if asked:
            del payload
            current_job().cancel()
        raise ValueError

    def outer():
        retry = Retry(1, wait_initial=HOURS) if asked else None
        jobs.append(one.options(retry=retry).submit(inner, Payload()))
        with pytest.raises(ValueError):
            jobs[-1].result()

    jobs = []
    gc.disable()
    try:
        one.submit(outer).result(timeout=PATIENCE)
        one.submit(int).result(timeout=PATIENCE)
        if not asked:
            jobs.clear()
        assert refs[0]() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("call", ["run_sync", "asubmit"])
@pytest.mark.parametrize("full", [False, True], ids=["queued", "waiting for a place"])
def test_a_payload_is_free_when_its_waiter_is_cancelled(make_pool, gate, call, full):
    """In the queue, and in the line for a place."""
    pool = make_pool(1, max_queue=1)
    gate.hold(pool)
    if full:
        pool.submit(int)

    async def main():
        waiter = asyncio.ensure_future(wait(getattr(pool, call)(payloads.pop())))
        for _ in range(5):
            await asyncio.sleep(0)
        assert payload() is not None
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter

    async def wait(operation):
        return await (await operation)

    payloads = [Payload()]
    payload = ref(payloads[0])
    asyncio.run(main())

    assert payload() is None
