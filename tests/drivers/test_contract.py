"""What holds on every driver. Real clocks, threads and sockets; the kernel's own logic is tested in tests/kernel."""

from __future__ import annotations

import contextvars
import socket
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

import dari


def test_gives_the_result(run):
    """A task's return value comes out."""

    def main(a, b):
        yield
        return a + b

    assert run(main, 1, 2) == 3


def test_raises_the_error_with_the_tasks_own_traceback(run):
    """A task's error comes out, and shows the line in the task."""

    def main():
        yield
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine") as caught:
        run(main)

    assert caught.traceback[-1].name == "main"


def test_all_spellings_of_a_sleep(run_really):
    """Operation, `yield from`, tuple: the same sleep, none ends early."""
    now = time.monotonic

    def main():
        started = now()
        yield dari.sleep(0.01)
        yield from dari.sleep(0.01)
        yield ("sleep", 0.01)
        return now() - started

    assert run_really(main) >= 0.03


def test_coroutine_tasks_await_operations(run):
    """`async def` tasks await what generators yield, whoever steps them."""

    async def producer(queue):
        await dari.sleep(0.001)
        await queue.put("item")

    async def consumer(queue):
        return await queue.get()

    def main():
        queue = dari.Queue()
        dari.create_task(producer, queue)
        return (yield dari.create_task(consumer, queue))

    assert run(main) == "item"


def test_sleeps_end_in_the_order_of_their_deadlines(run):
    """Whoever sleeps less wakes first, whatever the order of creation."""

    def main():
        order = []

        def child(delay):
            yield dari.sleep_until(start + delay)
            order.append(delay)

        with dari.move_on_after(0.05) as scope, dari.TaskGroup() as group:
            start = scope.deadline
            scope.deadline += 100
            for delay in (0.03, 0.01, 0.02):
                group.create_task(child, delay)
            yield group.join()
        return order

    assert run(main) == [0.01, 0.02, 0.03]


@pytest.mark.parametrize("delay", [1e12, float("inf")])
def test_a_sleep_of_ages_is_no_overflow(run, delay):
    """Longer than any timer of a loop can count."""

    def main():
        with dari.move_on_after(0.005):
            yield dari.sleep(delay)
        yield dari.create_task(ages)
        return True

    def ages():
        other = dari.create_task(sleeps)
        yield dari.sleep(0.005)
        other.cancel()

    def sleeps():
        yield dari.sleep(delay)

    assert run(main) is True


def test_timeout(run):
    """`timeout` cancels what is inside, lets it clean up, and raises TimeoutError."""

    def main():
        cleaned = False
        try:
            with dari.timeout(0.01):
                try:
                    yield dari.sleep(60)
                finally:
                    cleaned = True
        except TimeoutError:
            return cleaned

    assert run(main) is True


def test_move_on_after(run):
    """`move_on_after` leaves the block silently and tells."""

    def main():
        with dari.move_on_after(0.01) as scope:
            yield dari.sleep(60)
        return scope.cancelled_caught

    assert run(main) is True


def test_cancelling_the_waiter_ends_what_it_waits_for(run):
    """Who waits, owns: the child has really ended when its cancelled waiter goes on."""

    def main():
        log = []

        def child():
            try:
                yield dari.sleep(60)
            finally:
                with dari.CancelScope(shield=True):
                    yield dari.sleep(0.005)
                log.append("child has ended")

        task = dari.create_task(child)
        with dari.move_on_after(0.005):
            yield task
        return log, task.state

    assert run(main) == (["child has ended"], dari.TaskState.CANCELLED)


def test_group_raises_what_its_children_raise(run):
    """The first failure cancels the others; the group raises an ExceptionGroup."""

    def main():
        cancelled = []

        def fails():
            yield
            raise ValueError("child")

        def sleeps():
            try:
                yield dari.sleep(60)
            except dari.Cancelled:
                cancelled.append(True)
                raise

        try:
            with dari.TaskGroup() as group:
                group.create_task(sleeps)
                group.create_task(fails)
                yield group.join()
        except* ValueError as errors:
            failed = [str(error) for error in errors.exceptions]
        return failed, cancelled

    assert run(main) == (["child"], [True])


def test_a_higher_priority_runs_first(run):
    """What becomes ready together runs by priority."""

    def main():
        order = []

        def child(number):
            order.append(number)
            yield

        with dari.TaskGroup() as group:
            for priority in (1, 0, -1):
                group.create_task(child, priority, priority=priority)
            yield group.join()
        return order

    assert run(main) == [-1, 0, 1]


def test_context_variables_travel_in_and_do_not_leak(run):
    """A task sees its creator's variables, and keeps its own changes to itself, over all its life."""
    variable = contextvars.ContextVar("variable", default="unset")

    def child():
        seen = [variable.get()]
        variable.set("child")
        yield
        yield dari.sleep(0.001)
        seen.append(variable.get())
        return seen

    def main():
        variable.set("main")
        seen = yield dari.create_task(child)
        return [*seen, variable.get()]

    assert run(main) == ["main", "child", "main"]
    assert variable.get() == "unset"


def test_waits_for_a_future_of_a_thread(run):
    """A `concurrent.futures.Future` is waited for; its result, error and cancellation come back."""

    def fails():
        raise KeyError("thread")

    def main():
        with ThreadPoolExecutor(1) as executor:
            good = yield executor.submit(lambda: "done")
            try:
                yield executor.submit(fails)
            except KeyError as error:
                bad = error.args[0]
        cancelled = Future()
        cancelled.cancel()
        try:
            yield cancelled
        except dari.TaskCancelledError:
            return good, bad, "cancelled"

    assert run(main) == ("done", "thread", "cancelled")


def test_cancelling_a_task_that_waits_for_a_thread_awaits_its_end(run_really):
    """What runs in a thread cannot be cancelled: the waiter goes on when it has ended, with its result."""

    def main():
        started, release = threading.Event(), threading.Event()

        def job():
            started.set()
            release.wait()
            return "late"

        with ThreadPoolExecutor(1) as executor:
            future = executor.submit(job)
            started.wait()
            with dari.move_on_after(0.005) as scope:
                dari.create_task(releases, release)
                result = yield future
                yield  # a cancel point: now the scope gets its way
            return result, scope.cancelled_caught

    def releases(release):
        yield dari.sleep(0.01)
        release.set()

    assert run_really(main) == ("late", True)


def test_waits_for_descriptors(run):
    """An echo over a socket pair, both ends in tasks."""

    def echo(sock):
        yield from dari.wait_readable(sock)
        got = sock.recv(100)
        yield dari.wait_writable(sock)
        sock.send(got.upper())

    def main():
        ours, theirs = socket.socketpair()
        with ours, theirs:
            for sock in (ours, theirs):
                sock.setblocking(False)
            dari.create_task(echo, theirs)
            yield dari.wait_writable(ours)
            ours.send(b"hello")
            yield dari.wait_readable(ours)
            return ours.recv(100)

    assert run(main) == b"HELLO"


def test_a_descriptor_number_that_is_used_again_is_watched_anew(run_really):
    """A cancelled wait, a close, and a new socket under the same number: its readiness is not missed."""

    def main():
        number = None
        while True:
            ours, theirs = socket.socketpair()
            with ours, theirs:
                again = ours.fileno() == number
                number = ours.fileno()
                if again:
                    theirs.send(b"x")
                with dari.move_on_after(5 if again else 0.002) as scope:
                    yield dari.wait_readable(ours)
            if again:
                return scope.cancelled_caught

    assert run_really(main) is False


def test_one_waiter_per_descriptor_and_direction(run):
    """A second one is told so, and harms nobody."""

    def second(sock):
        try:
            yield dari.wait_readable(sock)
        except RuntimeError as error:
            return "already" in str(error)

    def main():
        ours, theirs = socket.socketpair()
        with ours, theirs:
            first = dari.create_task(dari_wait, ours)
            yield
            refused = yield dari.create_task(second, ours)
            theirs.send(b"x")
            yield first
            return refused

    def dari_wait(sock):
        yield dari.wait_readable(sock)

    assert run(main) is True


def test_ten_thousand_posts_from_threads_all_arrive(run_really):
    """What threads post is done, each once, in the order of each thread."""
    threads, posts = 4, 2500

    def main():
        got = [[] for _ in range(threads)]
        done = dari.Event()
        post = dari.current_task().kernel.driver.post

        def poster(number):
            for index in range(posts):
                post(lambda number=number, index=index: got[number].append(index))
            post(ended)

        def ended():
            nonlocal left
            left -= 1
            if left == 0:
                done.set()

        left = threads
        workers = [threading.Thread(target=poster, args=(number,)) for number in range(threads)]
        for worker in workers:
            worker.start()
        yield done.wait()
        for worker in workers:
            worker.join()
        return got

    assert run_really(main) == [list(range(posts))] * threads


def test_a_wrong_yield_is_thrown_into_the_task(run):
    """The task gets the error at that very yield, with a way out, and goes on."""

    def child():
        yield

    def main():
        messages = []
        for wrong in (42, child(), ("no such", 1), ("sleep",), ("sleep", -1)):
            try:
                yield wrong
            except (TypeError, ValueError) as error:
                messages.append(str(error))
        return messages

    messages = run(main)

    assert len(messages) == 5
    assert "yield from" in messages[1]
    assert "known: yield, sleep" in messages[2]


def test_keyboard_interrupt_of_a_task_comes_out(run):
    """What means "stop the program" is not swallowed by the scheduler."""

    def main():
        yield
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(main)
