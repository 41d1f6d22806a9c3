"""`daemon.cli()` in a program that has threads, or a running loop: the service knows nothing of either."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

PROGRAM = """
    import asyncio, os, signal, sys, threading
    import dari

    threads, mask = threading.active_count(), signal.pthread_sigmask(signal.SIG_BLOCK, ())

    async def serve(ctx):
        print("others:", [each.name for each in threading.enumerate() if not each.name.startswith(("MainT", "dari-"))])
        ctx.ready()
        await ctx.stopping.wait()
        print("asked", flush=True)

    daemon = dari.Daemon(serve, name="app", stop_grace=5)

    async def in_a_loop():
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, print, "the caller's own handler")
        await asyncio.to_thread(threading.active_count)
        daemon.cli()

    if __name__ == "__main__":
        threading.Thread(target=threading.Event().wait, daemon=True).start()
        {}
"""


@pytest.mark.parametrize("call", ["daemon.cli()", "asyncio.run(in_a_loop())"], ids=["threads", "threads and a loop"])
def test_the_command_of_a_program_that_is_at_work(bench, until, call):
    """start, status, stop and run work from there, as from a shell; what runs there does not come along."""
    bench.program(PROGRAM.format(call))
    own = [sys.executable, "-W", "error", str(bench.directory / "app.py")]
    options = {"cwd": bench.directory, "env": bench.env, "text": True, "stdout": subprocess.PIPE}

    def run(command):
        return subprocess.run([*own, command, "--json"], timeout=30, check=False, stderr=subprocess.PIPE, **options)

    started, status, stopped = run("start"), run("status"), run("stop")
    child = subprocess.Popen([*own, "run"], **options)
    bench.children.append(child)
    until(lambda: bench.is_now("running"))
    child.terminate()

    assert (started.returncode, started.stderr) == (0, "others: []\n")  # stdout is the answer's alone
    assert json.loads(started.stdout)["state"] == "running"
    assert json.loads(status.stdout)["state"] == "running"
    assert (stopped.returncode, json.loads(stopped.stdout)["killed"]) == (0, False)
    assert child.communicate(timeout=30)[0] == "others: []\nasked\n"
    assert child.returncode == 0
    assert "asked" in bench.log()
