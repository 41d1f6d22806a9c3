"""Deadlocks are told: a cycle at once, a standstill when nothing could end it, a warning when a stranger might."""

from __future__ import annotations

import logging
import signal
import threading

import pytest

import dari


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

    class Releases(logging.Handler):
        def emit(self, record):
            release.set()

    handler = Releases()
    logging.getLogger("dari").addHandler(handler)
    try:
        with caplog.at_level(logging.WARNING, "dari"):
            assert dari.run(main) == "woken"
    finally:
        logging.getLogger("dari").removeHandler(handler)
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

    assert dari.run(main).endswith("'first' waits for 'third' waits for 'second' waits for 'first'")


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
