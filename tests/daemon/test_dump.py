"""`dari dump` and USR1: every thread and every suspended task, with the line where it waits."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess

import pytest

# Where main itself is looked for another task says that it is ready: main has come to its wait by then.
COROUTINES = """
    import asyncio
    async def innermost():
        await asyncio.sleep(3600)  # HERE
    async def numbers():
        await innermost()
        yield 1
    async def outer():
        async for _ in numbers():
            pass
    async def main(ctx):
        tasks = [asyncio.create_task(outer(), name=f"job-{number}") for number in range(7)]
        await asyncio.sleep(0)
        ctx.ready()
        await ctx.stopping.wait()
"""
GENERATORS = """
    import dari
    def innermost():
        yield dari.sleep(3600)  # HERE
    def outer():
        yield from innermost()
    def main(ctx):
        dari.create_task(outer(), name="job-0")
        dari.create_task(lambda: (yield ctx.ready()))
        yield ctx.stopping.wait()  # MAIN
"""
COROUTINE_IN_A_SCHEDULER = """
    import dari
    async def innermost():
        await dari.sleep(3600)  # HERE
    async def main(ctx):
        task = dari.create_task(innermost(), name="job-0")
        dari.create_task(lambda: (yield ctx.ready()))
        await ctx.stopping.wait()  # MAIN
"""
TRIO = """
    import asyncio, threading
    import trio, trio.testing
    async def innermost():
        await trio.sleep(3600)  # HERE
    async def nursery():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(innermost, name="job-0")
            await trio.testing.wait_all_tasks_blocked()
            inside.set()
    inside = threading.Event()
    async def main(ctx):
        threading.Thread(target=trio.run, args=(nursery,), name="trio's", daemon=True).start()
        await asyncio.to_thread(inside.wait)
        ctx.ready()
        await ctx.stopping.wait()
"""
TRIO_ITSELF = """
    import trio, trio.testing
    async def innermost():
        await trio.sleep(3600)  # HERE
    async def announce(ctx):
        await trio.testing.wait_all_tasks_blocked()
        ctx.ready()
    async def main(ctx):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(innermost, name="job-0")
            nursery.start_soon(announce, ctx)
            await ctx.stopping.wait()  # MAIN
"""


def program_line(bench, marker):
    lines = (bench.directory / "app.py").read_text().splitlines()
    return next(number for number, line in enumerate(lines, 1) if line.endswith(f"# {marker}"))


@pytest.mark.parametrize(
    ("program", "backend"),
    [
        (COROUTINES, "asyncio"),
        (COROUTINES, "uvloop"),
        (GENERATORS, "standalone"),
        (GENERATORS, "asyncio"),
        (COROUTINE_IN_A_SCHEDULER, "standalone"),
        (TRIO, "asyncio"),
        (TRIO_ITSELF, "trio"),
        (GENERATORS, "trio"),
    ],
)
def test_it_says_where_a_task_waits(bench, until, program, backend):
    """asyncio, uvloop, trio in a thread, generator services alike: the line of the innermost await or yield.

    Asked through the control socket; on uvloop and trio by the signal, for those have none here."""
    if backend in ("uvloop", "trio"):
        pytest.importorskip(backend)
        bench.env["DARI_DAEMON__CONTROL__SOCKET"] = "none"
    bench.program(program)
    pid = bench.start("--backend", backend)

    done = bench.dari("dump", "app.py:main")

    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].endswith(f"dump 1 of app (pid {pid})")
    assert lines[-1] == "end of dump 1"
    app = bench.directory / "app.py"
    tasks = done.stdout.partition("== suspended tasks\n")[2]
    assert f'File "{app}", line {program_line(bench, "HERE")}, in innermost\n' in tasks
    assert "job-0" in tasks
    if "# MAIN" in program:
        assert f'File "{app}", line {program_line(bench, "MAIN")}, in main\n' in tasks
    assert done.stdout.count("thread 'MainThread' (") == 1
    assert until(lambda: done.stdout.strip() in bench.log())
    assert bench.status() == (0, "running")


def test_tasks_at_the_same_place_are_told_once(bench):
    """Ten thousand connections that wait in one line are one stack, with the first names and a number."""
    bench.program(COROUTINES)
    bench.start()

    out = bench.dari("dump", "app.py:main").stdout

    assert out.count("in innermost") == 1
    assert out.count("asyncio task 'job-") == 5
    assert "and 2 more, at the same place" in out


def test_a_blocked_loop_shows_where(bench, until):
    """The loop need not take part: the signal is heard by a thread of its own."""
    bench.program(
        """
        import asyncio, time
        async def waits():
            await asyncio.Event().wait()
        async def main(ctx):
            task = asyncio.create_task(waits(), name="the other one")
            await asyncio.sleep(0)
            ctx.ready()
            time.sleep(60)  # BLOCKED
        """
    )
    bench.start()

    blocked = f"line {program_line(bench, 'BLOCKED')}, in main\n"
    out = until(
        lambda: blocked in (said := bench.dari("dump", "app.py:main").stdout) and said
    )  # soon after it is ready

    assert "the other one" in out
    assert re.search(r"asyncio task 'Task-\d+' is running, see its thread", out)


@pytest.mark.parametrize("options", [["--log-format", "json"], ["--log-format", "none"], ["--log-level", "error"]])
def test_whatever_the_log_looks_like(bench, until, options):
    """In JSON it is one object; format none and a high level do not hide what an operator has asked for."""
    bench.start(*options)
    for number in (1, 2):
        done = bench.dari("dump", "app.py:main", "--json")
        answer = json.loads(done.stdout)
        assert (done.returncode, answer["ok"]) == (0, True)
        assert answer["dump"].startswith(f"dump {number} of app (pid {answer['pid']})\n")
        assert answer["dump"].endswith(f"end of dump {number}")
    if "json" in options:
        until(lambda: "end of dump 2" in bench.log())
        assert all(json.loads(line) for line in bench.log().splitlines())


def test_over_a_rotation(bench):
    """A dump for which the log was rotated first is found in the new file."""
    bench.program(COROUTINES)
    bench.start("--log-rotate", "size", "--log-max-bytes", "100")

    for number in (1, 2, 3):
        assert f"end of dump {number}\n" in bench.dari("dump", "app.py:main").stdout


def test_many_at_once(bench):
    """Signals of one kind merge, and everybody who asks sees a dump that began after the question."""
    bench.program(COROUTINES)
    bench.start()
    asking = [bench.popen("dump", "app.py:main") for _ in range(6)]

    for each in asking:
        out, err = each.communicate(timeout=30)
        assert (each.returncode, err) == (0, "")
        assert "HERE" in out


def test_who_cannot_be_asked(bench, until):
    """Nobody runs: 7. Who logs to its stderr does so, and the command says where that is."""
    bench.env["DARI_DAEMON__CONTROL__SOCKET"] = "none"
    assert bench.dari("dump", "app.py:main").returncode == 7
    del bench.env["DARI_DAEMON__LOGFILE"]
    run = bench.popen("run", "app.py:main")
    until(lambda: bench.is_now("running"))

    done = bench.dari("dump", "app.py:main")

    assert done.returncode == 0
    assert re.fullmatch(
        r"app: pid \d+ writes the dump into its log, which is not .* \(its stderr is pipe:.*\): see there\n",
        done.stdout,
    )
    assert until(lambda: "dump 1 of app" in run.stderr.readline())
    anothers = bench.directory / "another.log"
    anothers.touch()
    assert f"not {anothers} (its stderr is pipe:" in bench.dari("dump", "app.py:main", "--logfile", anothers).stdout


def test_a_stopped_process_does_not_answer(bench, monkeypatch):
    """No dump comes: the command says so, and what else there is."""
    pid = bench.start()
    os.kill(pid, signal.SIGSTOP)
    code = "import dari.daemon.commands.dump as it, dari.daemon.cli as cli; it._PATIENCE = 0.3; exit(cli.main())"
    done = subprocess.run(
        [*bench.command()[:1], "-c", code, "dump", "app.py:main"],
        cwd=bench.directory,
        env=bench.env,
        capture_output=True,
        text=True,
        check=False,
    )
    os.kill(pid, signal.SIGCONT)

    assert done.returncode == 1
    assert f"app: pid {pid} was asked, but 0.3 s later there is no dump in {bench.logfile}" in done.stderr


def test_a_reused_pid_is_never_signalled(bench, bystander):
    """USR1 kills who does not expect it: a forged pidfile leads it to nobody."""
    bench.start()
    bench.dari("stop", "app.py:main")
    bench.pidfile.write_text(f"{bystander.pid}\nstart=1 boot=x lock=3 state=running\n")

    assert bench.dari("dump", "app.py:main").returncode in (4, 7)
    assert bystander.poll() is None
