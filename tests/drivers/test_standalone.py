"""The scheduler by itself: `run`, `Scheduler.run`, `schedule`, `stop`, and Ctrl-C in a real process."""

from __future__ import annotations

import gc
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing, contextmanager

import pytest

import dari
from dari._kernel.kernel import Kernel
from dari.drivers.standalone import Standalone


def sleeper(log, name="sleeper"):
    try:
        yield dari.sleep(60)
    finally:
        log.append(name)


def test_run_cancels_what_main_left_behind():
    """Main's result comes after the tasks that it left have ended."""
    log = []

    def main():
        dari.create_task(sleeper, log)
        yield
        return "result"

    assert dari.run(main) == "result"
    assert log == ["sleeper"]


def test_run_cancels_what_main_left_behind_when_it_fails():
    """Main's error comes after the tasks that it left have ended."""
    log = []

    def main():
        dari.create_task(sleeper, log)
        yield
        raise ValueError("main")

    with pytest.raises(ValueError, match="main"):
        dari.run(main)
    assert log == ["sleeper"]


def test_run_timeout():
    """At the timeout main is cancelled, cleans up, and TimeoutError is raised."""
    log = []

    with pytest.raises(TimeoutError, match=r"0\.01 seconds"):
        dari.run(sleeper, log, timeout=0.01)
    assert log == ["sleeper"]


def stubborn():
    """A job that has its result only when it is asked to end."""
    while not dari.current_job().cancel_requested:
        time.sleep(0.001)
    return "late"


@pytest.mark.parametrize("spelled", ["generator", "coroutine"])
@pytest.mark.parametrize("ends", ["timeout", "ctrl-c"])
def test_what_main_wins_last_does_not_make_up_for_its_end(ends, spelled):
    """The result of its job came after the timeout, or Ctrl-C, and main has ended with it: that is not lost."""
    error = KeyboardInterrupt if ends == "ctrl-c" else TimeoutError

    def begin(pool):
        if ends == "ctrl-c":
            os.kill(os.getpid(), signal.SIGINT)
        return pool.submit(stubborn)

    def generator(pool):
        return (yield begin(pool))

    async def coroutine(pool):
        return await begin(pool)

    with dari.Pool(1) as pool, pytest.raises(error):
        dari.run(generator if spelled == "generator" else coroutine, pool, timeout=0.01 if ends == "timeout" else None)


def test_main_that_sees_its_end_may_end_as_it_likes():
    """As with `asyncio.run`: who catches the cancel, and returns, has an answer."""

    def main():
        try:
            yield dari.sleep(60)
        except dari.Cancelled:
            return "cleaned up"

    assert dari.run(main, timeout=0.01) == "cleaned up"


def test_run_takes_generators_and_coroutines_and_functions_that_make_them():
    """Four spellings of main."""

    def generator(x):
        yield
        return x

    async def coroutine(x):
        await dari.checkpoint()
        return x

    assert [dari.run(generator, 1), dari.run(generator(2)), dari.run(coroutine, 3), dari.run(coroutine(4))] == [
        1,
        2,
        3,
        4,
    ]


def test_a_main_that_is_cancelled_is_told_apart():
    """Somebody cancelled main: `run` raises TaskCancelledError with the reason."""

    def main():
        dari.current_task().cancel("because")
        yield

    with pytest.raises(dari.TaskCancelledError, match="because"):
        dari.run(main)


def test_run_does_not_report_what_it_raises(caplog):
    """Main's failure is raised, so it is not logged too."""

    def main():
        yield
        raise ValueError

    with caplog.at_level(logging.DEBUG, "dari"), pytest.raises(ValueError):
        dari.run(main)
    assert caplog.records == []


def test_coroutines_of_asyncio_are_refused_with_the_way_out():
    """Standalone, a coroutine or asyncio future that is yielded is an error in the task."""

    async def coroutine():
        pass

    def main():
        made = coroutine()
        try:
            yield made
        except TypeError as error:
            return str(error)
        finally:
            made.close()

    assert "arun" in dari.run(main)


def test_scheduler_run_gives_true_at_the_end_and_logs_failures(caplog):
    """`Scheduler.run` returns when all tasks have ended; failures are logged, once each."""
    scheduler = dari.Scheduler()

    def fails():
        yield
        raise ValueError("logged")

    task = scheduler.create_task(fails)
    with caplog.at_level(logging.ERROR, "dari"):
        finished = scheduler.run()

    assert (finished, task.state, len(caplog.records)) == (True, dari.TaskState.FAILED, 1)
    assert "ValueError: logged" in caplog.text


def test_scheduler_run_gives_false_at_its_timeout_and_can_go_on():
    """A timeout of `Scheduler.run` cancels nothing."""
    scheduler = dari.Scheduler()
    scope = dari.CancelScope()

    def work():
        with scope:
            yield dari.sleep(3600)
        return "done"

    task = scheduler.create_task(work)

    assert scheduler.run(timeout=0.001) is False
    assert task.state is dari.TaskState.WAITING
    scope.cancel()
    assert scheduler.run() is True
    assert task.result() == "done"


def test_schedule_runs_one_step():
    """`schedule` takes one step of one task, and tells when nothing could run."""
    scheduler = dari.Scheduler()
    steps = []

    def work(name):
        steps.append((name, 1))
        yield
        steps.append((name, 2))

    scheduler.create_task(work, "a")
    scheduler.create_task(work, "b")
    results = [scheduler.schedule() for _ in range(5)]

    assert steps == [("a", 1), ("b", 1), ("a", 2), ("b", 2)]
    assert results == [True] * 4 + [False]


def test_schedule_does_not_wait():
    """A sleeping task is not ready."""
    scheduler = dari.Scheduler()
    scheduler.create_task(sleeper, [])

    assert [scheduler.schedule(), scheduler.schedule()] == [True, False]
    scheduler.cancel()
    assert scheduler.run() is True


@pytest.mark.parametrize("how", ["task", "thread", "signal"])
def test_stop_from_anywhere(how):
    """`stop` ends `run` with False, from a task, another thread or a signal handler; `run` can be called again."""
    scheduler = dari.Scheduler()
    log = []
    scheduler.create_task(sleeper, log)
    before = signal.signal(signal.SIGUSR1, lambda *_: scheduler.stop())

    def stops():
        yield dari.sleep(0.01)
        if how == "task":
            scheduler.stop()
        elif how == "thread":
            threading.Thread(target=scheduler.stop).start()
        else:
            os.kill(os.getpid(), signal.SIGUSR1)

    try:
        scheduler.create_task(stops)
        stopped = scheduler.run()
    finally:
        signal.signal(signal.SIGUSR1, before)

    assert (stopped, log) == (False, [])
    scheduler.cancel()
    assert (scheduler.run(), log) == (True, ["sleeper"])


def test_a_thread_wakes_a_scheduler_that_waits_for_nothing():
    """`call_soon_threadsafe` reaches a scheduler that sleeps without a deadline."""
    scheduler = dari.Scheduler()
    event = dari.Event()

    def waits():
        yield event.wait()
        return "woken"

    def post():
        ready.wait()
        scheduler.call_soon_threadsafe(event.set)

    ready = threading.Event()
    thread = threading.Thread(target=post)
    thread.start()
    task = scheduler.create_task(waits)
    scheduler.call_soon_threadsafe(ready.set)

    assert scheduler.run(timeout=10) is True
    thread.join()
    assert task.result() == "woken"


def test_run_keeps_no_descriptor():
    """Not even until the collector comes: a thousand runs do not run out of them."""

    def main():
        yield dari.sleep(0.001)

    gc.disable()
    try:
        dari.run(main)
        before = len(os.listdir("/dev/fd"))
        for _ in range(3):
            dari.run(main)
        assert len(os.listdir("/dev/fd")) == before
    finally:
        gc.enable()


def test_the_pipe_outlives_who_is_about_to_write_into_it():
    """Its number is not given out again before: else the byte would go into somebody else's file."""
    driver = Standalone()
    with closing(driver):
        kernel = Kernel(driver)
        kernel.create_task(lambda: (yield dari.sleep(0.001)))
        driver.drive(kernel)
        about_to_write = driver._waker
        number = about_to_write.reading
    with open(os.devnull) as other:
        taken = other.fileno()
        about_to_write.wake()
        assert (os.read(number, 10), taken == number) == (b"\0", False)

    del about_to_write
    with open(os.devnull) as other:
        assert other.fileno() <= number
    driver.stop()  # too late, and harmless


def test_max_tasks():
    """A full scheduler refuses, and says how many it holds."""
    scheduler = dari.Scheduler(max_tasks=1)
    scheduler.create_task(sleeper, [])
    refused = sleeper([])

    with pytest.raises(dari.SchedulerFull, match="1 tasks"):
        scheduler.create_task(refused)
    scheduler.cancel()
    assert scheduler.run() is True


def test_stats_add_up():
    """Every task is counted once at its end."""
    scheduler = dari.Scheduler()

    def ends(how):
        yield
        if how == "fail":
            raise ValueError
        if how == "cancel":
            dari.current_task().cancel()
            yield

    for how in ("complete", "complete", "fail", "cancel"):
        scheduler.create_task(ends, how)
    scheduler.create_task(sleeper, [], priority=5)
    scheduler.run(timeout=0.01)
    stats = scheduler.stats()

    assert (stats.created, stats.completed, stats.failed, stats.cancelled) == (5, 2, 1, 1)
    assert (stats.ready, stats.waiting, stats.priorities) == (0, 1, {5: 1})
    assert stats.switches == 2 * 3 + 3 + 1
    assert "alive at priority 5" in str(stats)
    scheduler.cancel()
    scheduler.run()


CTRL_C = """
import dari, os, signal, sys

def main():
    try:
        print("ready", flush=True)
        yield dari.sleep(60)
    finally:
        with dari.CancelScope(shield=True):
            print("cleaning up", flush=True)
            yield dari.sleep({cleanup})
        print("cleaned up", flush=True)

try:
    dari.run(main)
except KeyboardInterrupt:
    print("KeyboardInterrupt", signal.getsignal(signal.SIGINT) is signal.default_int_handler, flush=True)
"""


@contextmanager
def after_ctrl_c(cleanup):
    """A process that was told to stop by Ctrl-C, and is at its cleanup, which takes `cleanup` seconds."""
    code = CTRL_C.format(cleanup=cleanup)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "ready\n"
            process.send_signal(signal.SIGINT)
            assert process.stdout.readline() == "cleaning up\n"
            yield process
        finally:
            process.kill()


def test_ctrl_c_lets_main_clean_up():
    """The first Ctrl-C cancels main between two steps; its cleanup runs, and KeyboardInterrupt comes after it."""
    with after_ctrl_c(cleanup=0.01) as process:
        assert process.stdout.read() == "cleaned up\nKeyboardInterrupt True\n"


def test_the_second_ctrl_c_is_hard():
    """Whoever presses twice does not wait for the cleanup."""
    with after_ctrl_c(cleanup=60) as process:
        process.send_signal(signal.SIGINT)

        assert "KeyboardInterrupt True" in process.stdout.read()


@pytest.mark.parametrize("turns", [0, 100_000])
def test_the_second_ctrl_c_never_breaks_off_the_kernel(turns):
    """Where it comes in the middle of the kernel's own code, it waits until that is done; main may have ended then."""
    log = []

    def presses_twice():
        frame = sys._getframe()
        while not frame.f_globals["__name__"].startswith("dari._kernel."):
            frame = frame.f_back
        press = signal.getsignal(signal.SIGINT)
        press(signal.SIGINT, None)
        press(signal.SIGINT, frame)
        log.append("went on")
        for _ in range(turns):
            with dari.CancelScope(shield=True):
                yield
        log.append("ended")

    with pytest.raises(KeyboardInterrupt):
        dari.run(presses_twice)

    assert log == (["went on"] if turns else ["went on", "ended"])
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_second_ctrl_c_breaks_off_a_task():
    """A task that hangs in its own code is where it is wanted."""

    def presses_twice():
        press = signal.getsignal(signal.SIGINT)
        press(signal.SIGINT, None)
        with pytest.raises(KeyboardInterrupt):
            press(signal.SIGINT, sys._getframe())
        return "saw it"
        yield

    assert dari.run(presses_twice) == "saw it"


def test_ctrl_c_ends_scheduler_run_and_loses_no_task():
    """KeyboardInterrupt comes between two steps, wherever the signal struck; `run` can be called again."""
    done = []

    class InItsHands(dari.Operation):
        def begin(self, task):
            signal.raise_signal(signal.SIGINT)
            task.resume()

    def main():
        yield InItsHands()
        done.append("main")

    scheduler = dari.Scheduler()
    scheduler.create_task(main)
    with pytest.raises(KeyboardInterrupt):
        scheduler.run()

    assert (scheduler.run(timeout=5), done) == (True, ["main"])


def test_a_signal_handler_wakes_a_scheduler_that_sleeps():
    """What a handler does directly, without a post, is seen at once: Python itself would go on waiting (PEP 475)."""
    event = dari.Event()

    def main():
        thread = threading.Thread(target=kills)
        thread.start()
        yield event.wait()
        thread.join()
        return dari.current_task().steps

    def kills():
        while task.state is not dari.TaskState.WAITING:
            pass
        os.kill(os.getpid(), signal.SIGUSR1)

    scheduler = dari.Scheduler()
    before = signal.signal(signal.SIGUSR1, lambda *_: event.set())
    try:
        task = scheduler.create_task(main)
        assert scheduler.run(timeout=60) is True
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert task.result() == 2
    assert signal.set_wakeup_fd(-1) == -1


@pytest.mark.parametrize("when", ["before the wait", "in the wait"])
def test_no_signal_is_slept_through(when):
    """One that comes between the last look and the system call ends the wait as one that comes later does."""
    event = dari.Event()
    scheduler = dari.Scheduler()
    driver, poll = scheduler._own, scheduler._own._poll

    def waits():
        yield event.wait()

    def poll_as_a_signal_comes(kernel, timeout):
        if timeout:
            # What the C handler does: a byte, and a flag that Python sees before its next instruction.
            signal.raise_signal(signal.SIGUSR1)
        return poll(kernel, timeout)

    def between():  # the driver has decided to wait, and has not begun to
        if when == "before the wait" and task.state is dari.TaskState.WAITING:
            signal.raise_signal(signal.SIGUSR1)
        return False

    before = signal.signal(signal.SIGUSR1, lambda *_: event.set())
    if when == "in the wait":
        driver._poll = poll_as_a_signal_comes
    try:
        task = scheduler.create_task(waits)
        started = time.monotonic()
        driver.drive(scheduler._kernel, until=between, deadline=started + 30)
    finally:
        signal.signal(signal.SIGUSR1, before)

    assert task.done()
    assert time.monotonic() - started < 20


def test_who_hears_signals_already_goes_on_hearing_them():
    """A descriptor that somebody else has set is left alone."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing)
    try:
        dari.run(lambda: (yield dari.sleep(0.001)))
        assert signal.set_wakeup_fd(-1) == writing
    finally:
        signal.set_wakeup_fd(-1)
        os.close(reading)
        os.close(writing)
