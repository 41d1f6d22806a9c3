"""Deadlocks are told: a cycle at once, a standstill when nothing could end it, a warning when a stranger might."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import threading
from contextlib import contextmanager

import pytest

import dari
import dari.testing


def standstill():
    yield dari.Event().wait()


@pytest.fixture(autouse=True)
def no_strangers(monkeypatch):
    """Threads and handlers of other tests are no strangers here."""
    monkeypatch.setattr(threading, "enumerate", lambda: [threading.current_thread()])
    monkeypatch.setattr(signal, "valid_signals", lambda: {signal.SIGUSR2})


def test_a_standstill_raises_and_shows_where_everybody_stands():
    """`run` raises DeadlockError with each task, what it waits for, and its line."""

    def waits(event):
        yield from event.wait()

    def main():
        yield dari.create_task(waits, dari.Event())

    with pytest.raises(dari.DeadlockError) as caught:
        dari.run(main)

    text = str(caught.value)
    assert "main' waiting on task" in text
    assert "waits' waiting on wait of <Event" in text
    assert "test_deadlock.py:" in text


def test_main_cleans_up_after_a_deadlock():
    """The tasks are cancelled before the error comes out."""
    log = []

    def main():
        try:
            yield from standstill()
        finally:
            log.append("cleaned up")

    with pytest.raises(dari.DeadlockError):
        dari.run(main)
    assert log == ["cleaned up"]


@contextmanager
def released_by_the_warning(release, caplog):
    """What waits for `release` goes on when the driver has warned."""

    class Releases(logging.Handler):
        def emit(self, record):
            release.set()

    handler = Releases()
    logging.getLogger("dari").addHandler(handler)
    try:
        with caplog.at_level(logging.WARNING, "dari"):
            yield
    finally:
        logging.getLogger("dari").removeHandler(handler)


def test_a_thread_that_could_end_it_makes_it_a_warning(monkeypatch, caplog):
    """One warning with the dump, and then it waits."""
    monkeypatch.undo()
    release = threading.Event()

    def main():
        event = dari.Event()
        post = dari.current_task().kernel.driver.post
        thread = threading.Thread(target=lambda: (release.wait(), post(event.set)), name="the-stranger")
        thread.start()
        yield event.wait()
        thread.join()
        return "woken"

    with released_by_the_warning(release, caplog):
        assert dari.run(main) == "woken"
    assert ["the-stranger" in record.getMessage() for record in caplog.records] == [True]


def test_a_signal_handler_that_could_end_it_makes_it_a_warning(caplog):
    """A handler may set an event at any time."""

    def main():
        event = dari.Event()
        post = dari.current_task().kernel.driver.post
        before = signal.signal(signal.SIGUSR2, lambda *_: post(event.set))

        class Raises(logging.Handler):
            def emit(self, record):
                signal.raise_signal(signal.SIGUSR2)

        handler = Raises()
        logging.getLogger("dari").addHandler(handler)
        try:
            yield event.wait()
        finally:
            logging.getLogger("dari").removeHandler(handler)
            signal.signal(signal.SIGUSR2, before)

    with caplog.at_level(logging.WARNING, "dari"):
        dari.run(main)
    assert ["SIGUSR2" in record.getMessage() for record in caplog.records] == [True]


def test_what_waits_for_the_outside_is_no_deadlock():
    """A job, a timeout, a descriptor: something will happen."""

    def main(pool):
        yield pool.submit(str)
        with dari.move_on_after(0.01):
            yield from standstill()
        return True

    with dari.Pool(1) as pool:
        assert dari.run(main, pool) is True


def test_a_cycle_of_joins_is_told_at_the_yield_that_would_close_it():
    """The others are not harmed: they end when that task does."""

    def first():
        yield
        try:
            yield tasks["third"]
        except dari.DeadlockError as error:
            return str(error)

    def waits(name):
        return (yield tasks[name])

    def main():
        tasks["first"] = dari.create_task(first, name="first")
        tasks["second"] = dari.create_task(waits, "first", name="second")
        tasks["third"] = dari.create_task(waits, "second", name="third")
        return (yield tasks["third"])

    tasks = {}

    told, *lines = dari.run(main).splitlines()
    circle = [tasks[name].label for name in ("first", "third", "second", "first")]
    assert told == f"this would never end: {' waits for '.join(circle)}"
    assert sum("test_deadlock.py:" in line for line in lines) == 3


def test_a_child_that_waits_for_its_joining_parent_is_a_cycle():
    """Groups and gather are followed too."""

    def child(parent):
        yield
        with pytest.raises(dari.DeadlockError):
            yield parent

    def main():
        with dari.TaskGroup() as group:
            group.create_task(child, dari.current_task())
            yield group.join()
        yield dari.gather(dari.create_task(child, dari.current_task()))

    dari.run(main)


def test_a_circle_that_is_left_behind_does_not_hold_up_the_end(caplog):
    """One of the two is told and fails, the other hears of it, and `run` gives what main gave."""
    tasks = []

    def waits(number):
        yield
        yield [tasks[1 - number]]

    def main():
        tasks.extend(dari.create_task(waits, number) for number in range(2))
        yield dari.sleep(0.01)
        return "main"

    assert dari.run(main, timeout=5) == "main"
    assert [task.state for task in tasks] == [dari.TaskState.FAILED] * 2
    assert "this would never end" in caplog.text


def never_lets_go(log):
    try:
        with dari.CancelScope(shield=True):
            yield dari.Event().wait()
    finally:
        log.append("closed")


@pytest.mark.parametrize("run", [dari.run, dari.testing.run], ids=["run", "testing.run"])
@pytest.mark.parametrize("fails", [False, True])
def test_what_never_ends_does_not_hold_up_the_end(caplog, run, fails):
    """Main's result, or its error, comes out; who is left standing is logged, with the line; and is closed."""
    log = []

    def main():
        dari.create_task(never_lets_go, log)
        yield dari.sleep(0.01)
        if fails:
            raise OSError("main's own")
        return "main"

    if fails:
        with pytest.raises(OSError, match="main's own"):
            run(main)
    else:
        assert run(main) == "main"
    [record] = caplog.records
    gc.collect()

    assert record.getMessage().startswith("main has ended, but what it left behind never will: every task waits")
    assert "never_lets_go' waiting on wait of <Event" in record.getMessage()
    assert "test_deadlock.py:" in record.getMessage()
    assert log == ["closed"]


def test_main_that_stands_still_and_does_not_let_go(caplog):
    """The standstill is what comes out; that main stood still again while it was cancelled is logged."""

    def main():
        try:
            yield from standstill()
        finally:
            yield from never_lets_go([])

    with pytest.raises(dari.DeadlockError, match="main' waiting on wait of <Event"):
        dari.run(main)
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        "main has ended, but what it left behind never will"
    ]


def test_a_stranger_who_may_end_what_main_left_behind(monkeypatch, caplog):
    """Then it is waited for, and warned of once, also if it was warned of before."""
    monkeypatch.undo()
    release, post = threading.Event(), []

    def left(event):
        with dari.CancelScope(shield=True):
            yield event.wait()

    def main():
        event = dari.Event()
        post.append((dari.current_task().kernel.driver.post, event.set))
        thread = threading.Thread(target=lambda: (release.wait(), post[0][0](post[0][1])), name="the-stranger")
        thread.start()
        dari.create_task(left, event)
        yield
        return "main"

    with released_by_the_warning(release, caplog):
        assert dari.run(main) == "main"
    assert ["the-stranger" in record.getMessage() for record in caplog.records] == [True]


def test_a_circle_of_coroutines_of_the_host(loop_factory):
    """Told at the `await` that closes it, in whatever way they await; a generator that yields one is a link as well."""

    async def awaits(number, what):
        for _ in range(20 * number):  # turns, not seconds: whose link comes last does not depend on the machine
            await asyncio.sleep(0)
        try:
            await what(tasks[(number + 1) % 3])
        except dari.DeadlockError as error:
            return str(error).splitlines()[0]
        return "went on"

    def generator(number, what):
        return (yield awaits(number, what))

    async def task_itself(task):
        await task

    async def main():
        async with dari.Scheduler() as scheduler:
            tasks.append(scheduler.create_task(awaits, 0, task_itself, name="a"))
            tasks.append(scheduler.create_task(generator, 1, dari.gather, name="b"))
            tasks.append(scheduler.create_task(awaits, 2, task_itself, name="c"))
        return [task.result() for task in tasks]

    tasks = []
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        told = runner.run(asyncio.wait_for(main(), 5))

    assert told[:2] == ["went on", "went on"]
    names = [link.split()[-1] for link in told[2].removeprefix("this would never end: ").split(" waits for ")]
    assert names == ["'c'", "'a'", "'b'", "'_do'", "'c'"]  # `_do` gathers for the coroutine of b


def test_a_coroutine_of_the_host_that_waits_for_its_own_task(loop_factory):
    """Told, as a generator that yields its own task is."""

    async def awaits_itself():
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match=r"'.*awaits_itself' .* waits for itself: that would never end"):
            await tasks[0]
        return "went on"

    async def main():
        async with dari.Scheduler() as scheduler:
            tasks.append(scheduler.create_task(awaits_itself))
        return tasks[0].result()

    tasks = []
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        assert runner.run(asyncio.wait_for(main(), 5)) == "went on"


def test_a_coroutine_of_the_host_that_awaits_the_parent_who_left_its_group(loop_factory):
    """The parent cannot be kept from waiting for its child, so the coroutine gets the error, at its `await`."""

    async def child(parent):
        try:
            await parent
        except dari.DeadlockError:
            await asyncio.sleep(0.01)
            ended.append("child")
            raise

    def parent():
        try:
            with dari.TaskGroup() as group:
                group.create_task(child, dari.current_task())
                yield dari.sleep(0.01)
                raise OSError
        finally:
            try:
                yield
            except BaseExceptionGroup as error:
                ended.append(("parent", [type(inner) for inner in error.exceptions]))

    async def main():
        async with dari.Scheduler() as scheduler:
            with pytest.raises(BaseExceptionGroup):
                await scheduler.create_task(parent)

    ended = []
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(asyncio.wait_for(main(), 5))

    assert ended == ["child", ("parent", [dari.DeadlockError])]


def test_dump_tells_where_every_task_stands():
    """`Scheduler.dump` shows the lines of generators and coroutines, through `yield from` and `await`."""
    scheduler = dari.Scheduler()

    def outer():
        yield from inner()

    def inner():
        yield dari.sleep(1)

    async def coroutine():
        await dari.sleep(1)

    scheduler.create_task(outer)
    scheduler.create_task(coroutine)
    scheduler.run(timeout=0.001)
    dumped = scheduler.dump()
    scheduler.cancel()
    scheduler.run()

    assert [line.rpartition(" in ")[2] for line in dumped.splitlines() if " in " in line] == [
        "outer",
        "inner",
        "coroutine",
    ]
    assert dumped.count("waiting on sleep(1)") == 2
