"""`dari.testing` for programs of asyncio: virtual time, what holds it, seeds, standstills."""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
import socket
import subprocess
import sys
import threading
import time
import unittest

import anyio.to_thread
import pytest

import dari
from dari import testing


def now():
    return asyncio.get_running_loop().time()


def test_hours_take_no_time():
    """asyncio's sleeps, timeouts and timers, and dari's, by one clock that begins at 0."""

    async def main():
        fired = []
        asyncio.get_running_loop().call_later(30, lambda: fired.append(now()))
        await asyncio.sleep(3600)
        await dari.sleep(3600)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3600):
                await asyncio.Event().wait()
        return fired, now()

    assert testing.run(main) == ([30.0], 3 * 3600.0)


def test_years_take_no_time():
    """Where a float has no nanoseconds any more, timers of asyncio and dari still fire, also those due at once."""

    async def main():
        with dari.move_on_after(86400 * 365 * 2):
            await asyncio.Event().wait()
        fired = asyncio.Event()
        asyncio.get_running_loop().call_later(0, fired.set)
        await fired.wait()
        await dari.sleep(0.001)
        return now()

    assert testing.run(main) == pytest.approx(86400 * 365 * 2 + 0.001, abs=1e-6)


def test_a_thousand_sleepers_wake_in_order():
    """Each at its very time."""

    async def main():
        woken = []

        async def sleeper(delay):
            await asyncio.sleep(delay)
            woken.append((delay, now()))

        await asyncio.gather(*(sleeper(0.1 * (n * 7919 % 1000)) for n in range(1000)))
        return woken

    woken = testing.run(main)

    assert woken == sorted(woken)
    assert max(abs(delay - at) for delay, at in woken) < 1e-8


# What a program waits for outside; each is given an event of threads, and ends when that is set.


async def in_a_thread(gate):
    await asyncio.to_thread(gate.wait)


async def in_an_executor(gate):
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        await asyncio.get_running_loop().run_in_executor(executor, gate.wait)


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


async def as_a_thread_of_dari(gate):
    await dari.to_thread(gate.wait)


async def in_a_child(gate):
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", "input()", stdin=asyncio.subprocess.PIPE)
    ended = asyncio.ensure_future(child.communicate(b"\n"))
    await in_a_thread(gate)
    await ended


async def in_a_child_without_pipes(gate):
    child = await asyncio.create_subprocess_shell("sleep 0.1")
    gate.set()
    assert await child.wait() == 0


async def from_a_socket(gate):
    left, right = socket.socketpair()

    def answers():
        gate.wait()
        left.send(b"x")

    thread = threading.Thread(target=answers)
    thread.start()
    right.setblocking(False)
    with left, right:
        assert await asyncio.get_running_loop().sock_recv(right, 1) == b"x"
        thread.join()


async def from_another_process_by_tcp(gate):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        answers = f"import socket; s = socket.create_connection({listener.getsockname()!r}); s.recv(1); s.send(b'x')"
        child = subprocess.Popen([sys.executable, "-c", answers])
        connection, _ = listener.accept()
    reader, writer = await asyncio.open_connection(sock=connection)
    writer.write(b"?")
    gate.set()
    assert await reader.read() == b"x"
    writer.close()
    await writer.wait_closed()
    child.wait()


def opened_from_elsewhere():
    """A gate that opens when everybody has been waiting for a while."""
    gate = threading.Event()
    threading.Timer(0.1, gate.set).start()
    return gate


@pytest.mark.parametrize(
    "outside",
    [
        in_a_thread,
        in_an_executor,
        in_a_thread_of_anyio,
        as_a_job,
        as_a_job_of_a_generator,
        as_a_thread_of_dari,
        in_a_child,
        in_a_child_without_pipes,
        from_a_socket,
        from_another_process_by_tcp,
    ],
)
def test_time_does_not_jump_while_something_outside_is_pending(outside):
    """Everybody waits, and the timer is near: it does not fire before the outside has answered."""

    async def main():
        async with asyncio.timeout(0.001):
            await outside(opened_from_elsewhere())
        return now()

    assert testing.run(main) == 0.0


def test_the_log_is_told_why_time_stands_still(monkeypatch):
    """When it takes long: what is waited for. (Here it ends when that is told.)"""
    gate = threading.Event()
    told = []

    def report(what, error):
        told.append(what)
        gate.set()

    monkeypatch.setattr("dari.testing.asyncio_loop._LONG", 0.01)
    monkeypatch.setattr("dari.testing.asyncio_loop.report", report)

    async def main():
        await asyncio.gather(in_a_thread(gate), from_a_socket(gate))

    testing.run(main)

    assert len(told) == 1
    assert "virtual time stands still" in told[0]
    assert "1 jobs or futures of threads, descriptor" in told[0]


def test_a_server_and_its_clients_in_one_program():
    """Connections whose ends are both in here hold nothing: an hour between two messages, and a timeout of one."""

    async def answer(reader, writer):
        line = await reader.readline()
        if line:
            await asyncio.sleep(3600)
            writer.write(line.upper())
        writer.close()
        await writer.wait_closed()

    async def ask(address, text):
        reader, writer = await asyncio.open_connection(*address)
        writer.write(text)
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        return answer

    async def main():
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        async with server:
            address = server.sockets[0].getsockname()
            answers = await asyncio.gather(*(ask(address, b"hello\n") for _ in range(3)))
            reader, writer = await asyncio.open_connection(*address)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(reader.read(), 60)
            writer.close()
            await writer.wait_closed()
            await testing.wait_all_blocked()
        return answers, now()

    assert testing.run(main) == ([b"HELLO\n"] * 3, 3660.0)


def test_a_standstill_is_told():
    """Nothing ready, no timer, nothing outside: an error that shows where asyncio's tasks and dari's stand."""

    def waits(event):
        yield event.wait()

    async def main():
        await asyncio.gather(dari.arun(waits, dari.Event()), asyncio.Event().wait())

    with pytest.raises(dari.DeadlockError) as caught:
        testing.run(main)

    assert "main" in str(caught.value)
    assert "'test_a_standstill_is_told.<locals>.waits' waiting on wait of <Event" in str(caught.value)


def test_what_never_ends_after_main_is_reported(caplog):
    """It costs neither main's result nor the patience of the test."""

    async def stays():
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.Event().wait()

    async def main():
        main.left = asyncio.ensure_future(stays())
        await asyncio.sleep(0)
        return "result"

    result = testing.run(main)
    main.left._log_destroy_pending = False  # asyncio would say on stderr that it is left

    assert result == "result"
    assert "what it left behind never will" in caplog.text


def test_what_main_leaves_behind_is_cancelled():
    """Tasks of asyncio and dari's, before `run` returns."""
    ended = []

    async def stays(name):
        try:
            await asyncio.sleep(3600)
        finally:
            ended.append(name)

    def stays_too():
        try:
            yield dari.sleep(3600)
        finally:
            ended.append("generator")

    async def main():
        main.left = asyncio.ensure_future(stays("coroutine"))
        dari.create_task(stays_too)
        await asyncio.sleep(1)

    testing.run(main)

    assert sorted(ended) == ["coroutine", "generator"]


def test_a_timeout_is_virtual_and_the_programs_own_are_its_own():
    """`timeout` ends main by TimeoutError; one of the program's says what it said."""

    async def fails():
        raise TimeoutError("its own")

    with pytest.raises(TimeoutError, match=r"main did not end within 86400 seconds"):
        testing.run(asyncio.Event().wait, timeout=86400)
    with pytest.raises(TimeoutError, match="its own"):
        testing.run(fails, timeout=1)


def test_in_a_running_program_it_says_so():
    """A loop inside a loop is refused, and the coroutine is not left over with a warning."""

    async def main():
        with pytest.raises(RuntimeError, match=r"inside a running asyncio program"):
            testing.run(asyncio.sleep(1))

    testing.run(main)


def test_a_coroutine_may_run_standalone():
    """Stepped by dari's own scheduler, as before there were loops."""

    async def main():
        await dari.sleep(5)
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()
        return "result"

    assert testing.run(main, loop="standalone") == "result"


@pytest.mark.parametrize(
    ("wrong", "error"),
    [({"clock": "fast"}, "clock is"), ({"loop": "gevent"}, "loop is"), ({"timeout": -1}, "a timeout is")],
)
def test_wrong_arguments_are_named(wrong, error):
    """Before anything runs."""
    with pytest.raises(ValueError, match=error):
        testing.run(asyncio.sleep, 1, **wrong)


async def race():
    """Lost update: reads, lets others run, writes."""
    total = 0

    async def add(turns):
        nonlocal total
        for _ in range(turns):
            await asyncio.sleep(0)
        seen = total
        await asyncio.sleep(0)
        total = seen + 1

    await asyncio.gather(add(0), add(2))
    assert total == 2, "an update was lost"


def test_explore_takes_a_function_and_so_many_seeds():
    """What can run only once is refused at once; an int is the first so many seeds."""

    async def coroutine():
        runs.append("coroutine")

    def generator():
        runs.append("generator")
        yield

    runs = []
    for once in (coroutine(), generator()):
        with pytest.raises(TypeError, match="give it the function that makes <"):
            testing.explore(once)
    with pytest.raises(ValueError, match=r"seeds is an int, 1 or more \(or the seeds themselves\), not 0"):
        testing.explore(generator, seeds=0)
    assert runs == []

    testing.explore(coroutine, seeds=2)
    testing.explore(generator, seeds=[5])

    assert runs == ["coroutine", "coroutine", "generator"]


def test_explore_takes_asyncio_programs():
    """Some schedule shows the race; the seed that is named shows it again."""
    testing.run(race)

    with pytest.raises(AssertionError, match="lost") as caught:
        testing.explore(race, seeds=range(200))
    seed = int(caught.value.__notes__[0].partition("seed=")[2].rstrip(")"))

    with pytest.raises(AssertionError, match="lost"):
        testing.run(race, seed=seed)


def test_the_same_seed_takes_the_same_steps():
    """Coroutines and generators, in one order."""

    def trace(seed):
        order = []

        async def work(name):
            for step in range(3):
                order.append((name, step))
                await asyncio.sleep(0)

        def steps(name):
            for step in range(3):
                order.append((name, step))
                yield

        async def main():
            await asyncio.gather(*map(work, "abc"), *(dari.arun(steps, name) for name in "def"))

        testing.run(main, seed=seed)
        return order

    assert [trace(seed) for seed in range(5)] == [trace(seed) for seed in range(5)]
    assert len({str(trace(seed)) for seed in range(10)}) > 5


def test_a_busy_machine_takes_the_same_steps():
    """Slices of a guest, and batches of the loop, are counted in steps: the order does not depend on their time."""

    def trace(pause):
        order = []

        async def work(name):
            for step in range(20):
                order.append((name, step))
                await asyncio.sleep(0)

        def steps(name):
            for step in range(20):
                order.append((name, step))
                time.sleep(pause)  # a step that takes so long
                yield

        async def main():
            await asyncio.gather(*map(work, "ab"), *(dari.arun(steps, name) for name in "cd"))

        testing.run(main)
        return order

    assert trace(pause=0.001) == trace(pause=0)


def test_the_loop_alone():
    """For whoever makes loops: a runner, with a seed or without arguments."""

    async def main():
        await asyncio.sleep(3600)
        return now()

    with asyncio.Runner(loop_factory=testing.VirtualEventLoop) as runner:
        assert [runner.run(main()), runner.run(main())] == [3600.0, 7200.0]
    loop = testing.VirtualEventLoop(seed=3)
    assert (loop.run_until_complete(main()), inspect.isclass(testing.VirtualEventLoop)) == (3600.0, True)
    loop.close()


@pytest.mark.skipif(sys.version_info < (3, 13), reason="IsolatedAsyncioTestCase.loop_factory came with 3.13")
def test_in_a_test_case_of_unittest():
    """By its `loop_factory`."""

    class Hours(unittest.IsolatedAsyncioTestCase):
        loop_factory = testing.VirtualEventLoop

        async def test_sleeps(self):
            await asyncio.sleep(3600)
            self.assertEqual(now(), 3600.0)

    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(Hours).run(result)

    assert (result.testsRun, result.errors, result.failures) == (1, [], [])
