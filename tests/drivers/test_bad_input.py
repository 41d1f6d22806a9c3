"""Mistakes with worlds, on every driver: one too many, the wrong one, one that has ended. The others go on.

What a kernel by itself can tell is in tests/kernel/test_bad_input.py.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import os
import socket
import sys

import pytest

import dari
from dari import testing


def neighbour():
    for _ in range(3):
        yield dari.sleep(0.001)
    return "undisturbed"


def one_too_many(start):
    """Within a task: what `start` says, and how the neighbour fares."""
    beside = dari.create_task(neighbour)
    made = neighbour()
    with pytest.raises(RuntimeError) as caught:
        start(made)
    made.close()
    return str(caught.value), (yield beside)


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (dari.run, "run() inside a task that dari steps: use `yield from`, or create_task and wait for the task"),
        (
            lambda _: dari.Scheduler().run(),
            "run() inside a task that dari steps: use `yield from`, or create_task and wait for the task",
        ),
        (
            lambda _: dari.Scheduler().schedule(),
            "schedule() inside a task that dari steps: use `yield from`, or create_task and wait for the task",
        ),
        (
            testing.run,
            "a dari scheduler runs on this thread already: inside it, use `yield from` or create_task",
        ),
        (
            lambda made: dari.arun(made).send(None),
            "arun inside a task that dari steps: use `yield from`, or create_task and wait for the task",
        ),
    ],
    ids=["run", "Scheduler.run", "schedule", "testing.run", "arun"],
)
def test_a_scheduler_inside_a_task(run, start, message):
    """Refused, with what to do instead."""
    text, beside = run(one_too_many, start)

    assert (text.removeprefix("Scheduler."), beside) == (message, "undisturbed")


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (dari.run, r"run\(\) inside a running asyncio program: use `await dari\.arun\(main\)`"),
        (
            lambda _: dari.Scheduler().run(),
            r"Scheduler\.run\(\) inside a running asyncio program: use `await dari\.arun",
        ),
    ],
    ids=["run", "Scheduler.run"],
)
def test_a_scheduler_by_itself_inside_asyncio(loop_factory, start, message):
    """Refused, and told what there is for that; a coroutine beside it goes on."""

    async def main():
        beside = asyncio.create_task(asyncio.sleep(0.001, "undisturbed"))
        made = neighbour()
        with pytest.raises(RuntimeError, match=message):
            start(made)
        return await dari.arun(made), await beside

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        assert runner.run(main()) == ("undisturbed", "undisturbed")


def test_after_the_end_of_a_guest(loop_factory):
    """Neither tasks nor calls nor another `async with`; each says that it is over, and the loop goes on."""

    async def main():
        async with dari.Scheduler(name="over") as scheduler:
            pass
        made = neighbour()
        with pytest.raises(dari.SchedulerClosed, match="<Scheduler 'over' ended, 0 tasks> takes no more tasks"):
            scheduler.create_task(made)
        with pytest.raises(dari.SchedulerClosed, match=r"<built-in function print>\) was posted to a scheduler that"):
            scheduler.call_soon_threadsafe(print)
        with pytest.raises(
            dari.SchedulerClosed, match=r"<built-in function print>, 1\) was posted to a scheduler that"
        ):
            scheduler.call_soon_threadsafe(print, 1)
        with pytest.raises(RuntimeError, match="was entered before: make a new one"):
            async with scheduler:
                pass
        return await dari.arun(made), scheduler

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        undisturbed, scheduler = runner.run(main())

    assert undisturbed == "undisturbed"
    for drive in (scheduler.run, scheduler.schedule):
        with pytest.raises(RuntimeError, match=r"\(\) of <Scheduler 'over' ended, 0 tasks>: it has ended"):
            drive()


def test_a_group_that_was_left(run):
    """Takes no more children, in whatever task it is asked."""

    def main():
        with dari.TaskGroup() as group:
            group.create_task(neighbour)
            yield group.join()
        beside = dari.create_task(neighbour)
        made = neighbour()
        with pytest.raises(RuntimeError, match="was left already: children are started inside `with TaskGroup"):
            group.create_task(made)
        made.close()
        return (yield beside)

    assert run(main) == "undisturbed"


def test_after_the_end_of_run():
    """Outside of tasks there is nothing to create one on, and it says where there is."""
    dari.run(neighbour)
    made = neighbour()
    with pytest.raises(RuntimeError, match=r"create_task outside of a task: .*start by dari\.run\(main\)"):
        dari.create_task(made)

    assert dari.run(made) == "undisturbed"


def test_a_task_that_is_created_in_the_last_moment(run):
    """By the cleanup of what main has left behind: it runs like any other, and is waited for."""
    log = []

    def leftover():
        try:
            yield dari.sleep(60)
        finally:
            task = dari.create_task(neighbour)
            with dari.CancelScope(shield=True):
                log.append((yield task))

    def main():
        left = dari.create_task(leftover)
        yield
        left.cancel()
        with pytest.raises(dari.TaskCancelledError):
            yield left
        dari.create_task(leftover)
        yield
        return "main"

    assert run(main) == "main"
    assert log == ["undisturbed"] * 2


def test_a_lock_that_is_acquired_twice_by_one_task():
    """Waits for itself: the standstill names the lock and the line."""
    lock = dari.Lock()

    def main():
        with (yield lock.acquire()), (yield lock.acquire()):
            pass

    with pytest.raises(dari.DeadlockError, match="main' waiting on acquire of <Lock held by task") as caught:
        testing.run(main)
    assert f"{__file__}:{main.__code__.co_firstlineno + 1} in main" in str(caught.value)


def test_who_swallows_cancellation_at_the_end_of_run(caplog):
    """Main's result is not lost; who holds up the end is named, once; what else was left behind ends before it."""
    log = []

    def stubborn():
        times = 0
        while times < 40:
            try:
                yield
            except dari.Cancelled:
                times += 1
        log.append("stubborn")

    def leftover():
        try:
            yield dari.sleep(60)
        finally:
            with dari.CancelScope(shield=True):
                yield dari.sleep(0.01)
            log.append("leftover")

    def main():
        dari.create_task(stubborn, name="stubborn")
        dari.create_task(leftover)
        yield
        return "main"

    with caplog.at_level(logging.WARNING, "dari"):
        assert testing.run(main) == "main"
    assert log == ["leftover", "stubborn"]
    assert [("'stubborn'" in each.message, "let it out of the task" in each.message) for each in caplog.records] == [
        (True, True)
    ]


def test_one_coroutine_for_two_tasks_of_a_guest(loop_factory):
    """The second is told; the first has its own result, and so has the neighbour."""

    async def work():
        for _ in range(3):
            await dari.checkpoint()
        return "done"

    def main():
        coroutine = work()
        beside = dari.create_task(neighbour)
        first, second = dari.create_task(coroutine), dari.create_task(coroutine)
        with pytest.raises(RuntimeError, match="coroutine is being awaited already"):
            yield second
        return (yield first), (yield beside)

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        assert runner.run(dari.arun(main)) == ("done", "undisturbed")


def test_a_source_of_a_pipeline_that_ignores_generatorexit(run):
    """Who closes the line is told; the stages have ended, and the others go on."""
    ended = []

    def source():
        ignored = False
        while True:
            try:
                yield "item"
            except GeneratorExit:
                if ignored:
                    raise  # it is collected, and need not tell all the world
                ignored = True

    def stage(item):
        try:
            yield
            return item
        finally:
            ended.append(item)

    def main():
        beside = dari.create_task(neighbour)
        line = dari.Pipeline(source()).map(stage)
        yield line.get()
        begun = len(ended)
        with pytest.raises(RuntimeError, match="generator ignored GeneratorExit"):
            yield line.aclose()
        return begun > 0, (yield beside)

    assert run(main) == (True, "undisturbed")


# ---- numbers


@pytest.mark.parametrize("timeout", [math.nan, -1, "1"], ids=repr)
@pytest.mark.parametrize(
    "run",
    [
        lambda main, timeout: dari.run(main, timeout=timeout),
        lambda main, timeout: testing.run(main, timeout=timeout),
        lambda _, timeout: dari.Scheduler().run(timeout),
    ],
    ids=["run", "testing.run", "Scheduler.run"],
)
def test_a_timeout_is_zero_or_more(run, timeout):
    """Refused before anything has run."""
    begun = []

    def main():
        begun.append("main")
        yield

    with pytest.raises((ValueError, TypeError), match="a timeout is a number of seconds, 0 or more, not ") as caught:
        run(main, timeout)

    assert (repr(timeout) in str(caught.value), begun) == (True, [])


@pytest.mark.parametrize("wrong", [0, -1, 1.5, math.nan, "3"], ids=repr)
@pytest.mark.parametrize("name", ["max_tasks", "starvation_limit"])
def test_bounds_of_a_scheduler_are_ints(name, wrong):
    """By name; None is the word for no bound."""
    with pytest.raises((ValueError, TypeError)) as caught:
        dari.Scheduler(**{name: wrong})

    assert str(caught.value).startswith(f"{name} is an int, 1 or more (or None")
    assert str(caught.value).endswith(f"), not {wrong!r}")


@pytest.mark.parametrize("loop", [dari.EventLoop, testing.VirtualEventLoop])
def test_a_loop_that_is_refused_leaves_nothing_to_close(loop, monkeypatch):
    """The error is all that is told: asyncio's destructor finds no loop that somebody forgot to close."""
    monkeypatch.setattr(sys, "unraisablehook", lambda told: unraisable.append(told.exc_value))
    unraisable = []

    with pytest.raises(ValueError, match="starvation_limit is an int, 1 or more"):
        loop(starvation_limit=0)
    gc.collect()  # the error's frames hold the loop until here

    assert unraisable == []


@pytest.mark.parametrize("wrong", [0, -1, math.nan, "3"], ids=repr)
def test_a_slice_takes_time(wrong):
    """A guest that never steps would hang."""
    with pytest.raises((ValueError, TypeError), match="max_slice is a number of seconds above 0, not "):
        dari.Scheduler(max_slice=wrong)


def test_a_priority_that_is_no_int():
    """Of a scheduler's task, and of a pool's jobs."""
    made = neighbour()
    with pytest.raises(TypeError, match=r"a priority is an int, not 1\.5"):
        dari.Scheduler().create_task(made, priority=1.5)
    made.close()
    with dari.Pool(1) as pool, pytest.raises(TypeError, match=r"a priority is an int, not 1\.5"):
        pool.options(priority=1.5)


# ---- descriptors


@pytest.fixture(params=["closed", "no such number", "too great a number", "a regular file"])
def unwatchable(request, tmp_path):
    """What nobody can wait for."""
    (tmp_path / "file").touch()
    closed = socket.socket()
    closed.close()
    with open(tmp_path / "file") as file:
        yield {"closed": closed, "no such number": 9999, "too great a number": 2**40, "a regular file": file}[
            request.param
        ]


@pytest.mark.parametrize("wait", [dari.wait_readable, dari.wait_writable], ids=["read", "write"])
def test_a_descriptor_that_cannot_be_waited_for(run, unwatchable, wait):
    """Who waits for it is told at that very yield, and can go on."""

    def wrong():
        with pytest.raises((OSError, ValueError, OverflowError)) as caught:
            yield wait(unwatchable)
        yield dari.sleep(0.001)
        return [entry.path for entry in caught.traceback]

    def main():
        beside, wrong_one = dari.create_task(neighbour), dari.create_task(wrong)
        return (yield wrong_one), (yield beside)

    frames, beside = run(main)

    assert ({str(frame) for frame in frames}, beside) == ({__file__}, "undisturbed")


def test_a_descriptor_that_two_cannot_wait_for(run, tmp_path):
    """Both directions, in one task each: both are told, with what can be wrong."""
    (tmp_path / "file").touch()

    def wrong(wait, file):
        with pytest.raises(PermissionError) as caught:
            yield wait(file)
        return caught.value.__notes__

    def main():
        with open(tmp_path / "file") as file:
            return (yield [wrong(dari.wait_readable, file), wrong(dari.wait_writable, file)])

    for notes in run(main):
        assert len(notes) == 1
        assert "it is closed, or a regular file (a pool reads those)" in notes[0]


def test_a_descriptor_that_a_transport_of_the_loop_has(loop_factory):
    """The loop refuses it to others: the task is told so."""

    def wrong(file):
        with pytest.raises(RuntimeError, match="is used by transport"):
            yield dari.wait_readable(file)
        return "told"

    async def main():
        ours, theirs = socket.socketpair()
        with theirs:
            _, writer = await asyncio.open_connection(sock=ours)
            number = writer.get_extra_info("socket").fileno()
            async with dari.Scheduler() as scheduler:
                beside = scheduler.create_task(neighbour)
                told = await scheduler.create_task(wrong, number)
                undisturbed = await beside
            writer.close()
            await writer.wait_closed()
        return told, undisturbed

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        assert runner.run(main()) == ("told", "undisturbed")


def test_a_descriptor_that_is_closed_while_it_is_waited_for(run_really):
    """The system does not tell who waits; a cancel ends the wait, and the number can be another file's."""

    def reads(file):
        yield dari.wait_readable(file)

    def main():
        first, peer = socket.socketpair()
        waiting, beside = dari.create_task(reads, first), dari.create_task(neighbour)
        yield dari.sleep(0.001)
        first.close()
        peer.close()
        undisturbed = yield beside
        waiting.cancel()
        with pytest.raises(dari.TaskCancelledError):
            yield waiting
        second, peer = socket.socketpair()
        with second, peer:
            peer.send(b"x")
            yield [dari.create_task(reads, second), neighbour()]
        return undisturbed

    assert run_really(main) == "undisturbed"


def test_a_closed_descriptor_whose_number_a_transport_of_the_loop_got():
    """The loop refuses to stop watching it; the wait ends all the same, and others go on. (uvloop has no transport.)"""

    def waits(file):
        with dari.move_on_after(0.02) as scope:
            yield dari.wait_readable(file)
        return scope.cancelled_caught

    async def main():
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # asyncio's own trouble with that number
        ours, theirs = socket.socketpair()
        async with dari.Scheduler() as scheduler:
            waiting = scheduler.create_task(waits, theirs)
            await asyncio.sleep(0.001)
            number = theirs.fileno()
            theirs.close()
            os.dup2(ours.fileno(), number)
            ours.close()
            _, writer = await asyncio.open_connection(sock=socket.socket(fileno=number))
            ended = await waiting, await scheduler.create_task(neighbour)
        writer.close()
        return ended

    assert asyncio.run(main()) == (True, "undisturbed")


@pytest.mark.parametrize("shape", ["one", "two kernels"])
def test_primitives_of_two_schedulers_on_one_thread(shape):
    """They are shared: what one scheduler's task lets go, the other's takes, and each runs its own tasks."""
    first = dari.Scheduler()
    second = first if shape == "one" else dari.Scheduler()
    lock, queue, event, barrier = dari.Lock(), dari.Queue(1), dari.Event(), dari.Barrier(2)

    def gives():
        with (yield lock.acquire()):
            for number in range(3):
                yield queue.put(number)
        yield event.wait()
        return (yield barrier.wait())

    def takes():
        got = []
        for _ in range(3):
            got.append((yield queue.get()))
        with (yield lock.acquire()):
            event.set()
        return got, (yield barrier.wait())

    giver, taker = first.create_task(gives), second.create_task(takes)
    while first.schedule() or second.schedule():
        pass

    got, number = taker.result()
    assert (got, {number, giver.result()}) == ([0, 1, 2], {0, 1})
