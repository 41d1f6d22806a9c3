"""`dari run`: the same service in the foreground, for supervisors, containers and debugging."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_clean_stop_is_0(bench, until, signum):
    """It is the very process that was started, holds lock and pidfile, and ends with 0 after a signal."""
    run = bench.popen("run", "app.py:main")
    until(lambda: bench.is_now("running"))
    answer = json.loads(bench.dari("status", "app.py:main", "--json").stdout)
    run.send_signal(signum)

    assert answer["pid"] == run.pid
    assert run.wait(timeout=30) == 0
    assert bench.status() == (3, "stopped")


def test_stop_reaches_it(bench, until):
    """`dari stop` stops a foreground service too."""
    run = bench.popen("run", "app.py:main")
    until(lambda: bench.is_now("running"))

    assert bench.dari("stop", "app.py:main", "--strict").returncode == 0
    assert run.wait(timeout=30) == 0


def test_already_running_is_150(bench):
    """run never joins: when there is one already it says so and which."""
    pid = bench.start()

    done = bench.dari("run", "app.py:main")

    assert (done.returncode, done.stderr) == (150, f"app: already running (pid {pid})\n")
    assert bench.witnesses() == [pid]


@pytest.mark.parametrize(
    ("body", "code"),
    [("return", 0), ("raise SystemExit(3)", 3), ("raise RuntimeError('no disk')", 1), ("raise SystemExit('x')", 1)],
)
def test_its_exit_code_is_mains(bench, body, code):
    """What main ends with is what run ends with."""
    bench.program(f"async def main(ctx):\n    ctx.ready()\n    {body}\n")

    assert bench.dari("run", "app.py:main").returncode == code
    assert bench.status() == (3, "stopped")


def test_it_keeps_terminal_and_place(bench, until):
    """run changes neither directory nor output, and logs to stderr unless told otherwise."""
    del bench.env["DARI_DAEMON__LOGFILE"]
    bench.program(
        """
        import logging, os
        async def main(ctx):
            ctx.ready()
            print(os.getcwd())
            logging.warning("watch out")
            raise RuntimeError("no disk")
        """
    )
    done = bench.dari("run", "app.py:main")

    assert done.stdout == f"{bench.directory}\n"
    assert "app is ready" in done.stderr
    assert "WARNING root: watch out" in done.stderr
    assert "RuntimeError: no disk" in done.stderr
    assert not bench.logfile.exists()


def test_told_so_it_logs_to_a_file(bench):
    """With a logfile that somebody wrote down run logs there."""
    bench.program("import logging\nasync def main(ctx):\n    logging.warning('watch out')\n")

    assert bench.dari("run", "app.py:main").stderr == ""
    assert "watch out" in bench.log()


def test_kill_9_of_a_foreground_service(bench, until):
    """After kill -9 its status is 1, and the next one starts."""
    run = bench.popen("run", "app.py:main")
    until(lambda: bench.is_now("running"))
    run.kill()
    run.wait()

    assert bench.status() == (1, "dead")
    assert bench.start() == bench.witnesses()[-1]


def test_hup_of_a_closed_terminal_ends_it(bench, until):
    """On a terminal HUP means that the terminal was closed: the service stops, it does not reload for ever."""
    master, slave = os.openpty()
    run = bench.popen("run", "app.py:main", stdin=slave)
    os.close(slave)
    until(lambda: bench.is_now("running"))
    run.send_signal(signal.SIGHUP)

    assert run.wait(timeout=30) == 0
    os.close(master)


AS_PROCESS_1 = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]


@pytest.fixture
def as_process_1(bench):
    """Give what starts the service as process 1 of a namespace of its own, as in a container, and its pid out here."""
    if (
        not shutil.which("unshare")
        or subprocess.run([*AS_PROCESS_1, "true"], check=False, capture_output=True).returncode
    ):
        pytest.skip("no namespace for process 1 can be made here")

    def run(*arguments):
        command = [*AS_PROCESS_1, *bench.command("run", "app.py:main", *arguments)]
        child = subprocess.Popen(command, cwd=bench.directory, env=bench.env, text=True, stdout=subprocess.PIPE)
        bench.children.append(child)
        return child

    return run


def inside(child, until) -> int:
    """The pid, out here, of the process that `unshare` waits for."""
    return int(until(Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text))


def test_process_1_stops_gracefully(bench, until, as_process_1):
    """As process 1, where TERM does nothing by itself, the first TERM is a graceful stop."""
    bench.program(
        """
        async def main(ctx):
            ctx.ready()
            await ctx.stopping.wait()
            print("asked as", os.getpid(), flush=True)
        """
    )
    child = as_process_1()
    pid = inside(child, until)
    until(lambda: bench.pidfile.exists() and "state=running" in bench.pidfile.read_text())
    os.kill(pid, signal.SIGTERM)

    assert (child.communicate(timeout=30)[0], child.returncode) == ("asked as 1\n", 0)
    assert bench.pidfile.read_text() == ""


def test_process_1_can_be_forced(bench, until, as_process_1):
    """No signal kills process 1 from inside, not even its own: it leaves with 128 + 15 after the second TERM."""
    bench.program(
        """
        import time
        async def main(ctx):
            ctx.ready()
            ctx.stopping
            time.sleep(3600)
        """
    )
    child = as_process_1("--stop-grace", "300")
    pid = inside(child, until)
    until(lambda: bench.pidfile.exists() and "state=running" in bench.pidfile.read_text())
    os.kill(pid, signal.SIGTERM)
    until(lambda: "state=stopping" in bench.pidfile.read_text())
    os.kill(pid, signal.SIGTERM)

    assert child.wait(timeout=30) == 143
    assert "leaving hard: SIGTERM came again" in bench.log()
    assert bench.pidfile.read_text() == ""
