"""Debian's own tools and dari's service: `start-stop-daemon` finds, starts and stops it. (`logrotate`: test_logs.)"""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest


@pytest.fixture
def tool(bench):
    """Return a function that runs start-stop-daemon on the service's pidfile and gives its exit code and output."""
    program = shutil.which("start-stop-daemon", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if program is None:
        assert os.geteuid() != 0, "as root .ci/run installs dpkg: a skip would hide what this is for"
        pytest.skip("start-stop-daemon is not installed")

    def run(*arguments: str) -> tuple[int, str]:
        command = [program, *arguments, "--pidfile", str(bench.pidfile)]
        if "--" in arguments:
            at = arguments.index("--")
            command = [program, *arguments[:at], "--pidfile", str(bench.pidfile), *arguments[at:]]
        done = subprocess.run(
            command, cwd=bench.directory, env=bench.env, capture_output=True, text=True, timeout=60, check=False
        )
        return done.returncode, done.stdout + done.stderr

    return run


def test_it_finds_and_stops_a_service_of_ours(bench, tool, gone):
    """Its --status reads our pidfile's first line; its --stop is a graceful one."""
    bench.program("async def main(ctx):\n    ctx.ready()\n    await ctx.stopping.wait()\n    print('graceful')\n")
    pid = bench.start()

    assert tool("--status") == (0, "")
    assert tool("--stop", "--retry", "TERM/60/KILL/5", "--quiet") == (0, "")
    assert gone(pid)  # the tool looks into the pidfile, which is cleared a moment before
    assert "graceful\n" in bench.log()
    assert bench.status() == (3, "stopped")
    assert tool("--status")[0] == 4  # the file is there, and names nobody: it cannot tell


def test_it_starts_a_service_of_ours(bench, tool):
    """It runs `dari start` unless the pidfile names somebody who lives, and gets its exit code."""
    python, *rest = bench.command("start", "app.py:main")
    start = ("--start", "--chdir", str(bench.directory), "--startas", python, "--", *rest)

    code, out = tool(*start)
    [pid] = bench.witnesses()
    again, told = tool(*start)
    bench.program("1 / 0\n")
    bench.dari("stop", "app.py:main")
    broken, reason = tool(*start)

    assert (code, out) == (0, f"app: running (pid {pid})\n")
    assert again == 1
    assert "already running" in told
    assert broken == 5
    assert "ZeroDivisionError" in reason


def test_it_puts_run_into_the_background(bench, tool, until):
    """With --background it detaches `dari run`, which writes the pidfile itself."""
    python, *rest = bench.command("run", "app.py:main")

    assert tool("--start", "--background", "--chdir", str(bench.directory), "--startas", python, "--", *rest)[0] == 0
    until(lambda: bench.is_now("running"))
    assert tool("--status") == (0, "")
    assert bench.dari("stop", "app.py:main", "--strict").returncode == 0
