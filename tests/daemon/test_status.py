"""`dari status`, `dari top`, `dari metrics` and `ctx.report()`: the same figures, for people and for machines."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess

import pytest

from dari.daemon import process
from dari.daemon.commands import status as status_command
from dari.daemon.commands.status import _duration
from dari.daemon.lifecycle import State
from dari.daemon.pidfile import Record, open_pidfile, try_lock, write_record
from dari.daemon.process import Identity

KEYS = {
    *("action", "name", "ok", "code", "text", "version", "state", "ready", "pid", "starttime", "boot_id", "uptime_s"),
    *("target", "generation", "status", "last_reload", "loop", "proc", "pool", "log", "paths"),
}
WITH_A_POOL = """
    import json, pathlib, subprocess, sys
    async def main(ctx):
        await ctx.pool.submit(sum, [1, 2])
        ctx.set_status("at it")
        pathlib.Path(os.environ["HOME"], "report").write_text(json.dumps(ctx.report()))
        ctx.ready()
        child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
        with open(os.environ["WITNESS"] + ".children", "a") as file:
            file.write(f"{child.pid}\\n")
        await ctx.stopping.wait()
        child.kill()
        child.wait()
"""
STEPS = """
    import dari
    def main(ctx):
        ctx.ready()
        yield ctx.stopping.wait()
"""


def status(bench):
    done = bench.dari("status", "app.py:main", "--json")
    return done.returncode, json.loads(done.stdout)


def test_the_keys_are_the_same_in_every_state(bench, gone):
    """Stopped, running, dead, and a pidfile that cannot be read: what is not known is null."""
    stopped = status(bench)
    pid = bench.start()
    running = status(bench)
    os.kill(pid, signal.SIGKILL)
    assert gone(pid)
    dead = status(bench)
    bench.pidfile.unlink()
    bench.pidfile.mkdir()
    unknown = status(bench)

    answers = [stopped, running, dead, unknown]
    assert [(code, answer["state"], answer["ready"], answer["pid"]) for code, answer in answers] == [
        (3, "stopped", False, None),
        (0, "running", True, pid),
        (1, "dead", False, None),
        (4, "unknown", False, None),
    ]
    for code, answer in answers:
        assert answer.keys() == KEYS
        assert (answer["code"], answer["version"], answer["paths"]["pidfile"]) == (code, 1, str(bench.pidfile))
    assert dead[1]["proc"] is None


def test_what_people_see(bench, until, start_time, boot_id):
    """One sentence, and below it what is known: the text that the program has set, figures, the pool, the log."""
    bench.program(WITH_A_POOL)
    pid = bench.start()
    until(bench.children_of_services)
    done = until(lambda: "has not answered" not in (said := bench.dari("status", "app.py:main")).stdout and said)
    answer = status(bench)[1]

    assert re.fullmatch(
        rf"app: running \(pid {pid}\), up \d+ s, generation 1\n"
        r"  at it\n"
        r"  cpu \d+\.\d %, memory \d+\.\d MB, \d+ descriptors, \d+ threads, 1 child\n"
        r"  asyncio: \d+ tasks?, loop lag \d+\.\d ms\n"
        r"  pool: \d workers?, \d idle; 0 jobs queued, 0 running, 1 completed, 0 failed\n"
        rf"  target {bench.directory}/app.py:main\n"
        rf"  log {bench.logfile}\n",
        done.stdout,
    ), done.stdout
    assert (answer["starttime"], answer["boot_id"]) == (start_time(pid), boot_id)
    assert answer["proc"]["children"] == bench.children_of_services()
    assert 0 < answer["proc"]["cpu_s"] < 60
    assert answer["log"] == {"level": "info", "dropped": 0}
    assert answer["paths"] == {
        "pidfile": str(bench.pidfile),
        "logfile": str(bench.logfile),
        "config": None,
        "control": str(bench.rundir / "app.ctl"),
        "health": None,
    }
    report = json.loads((bench.directory / "report").read_text())
    assert report.keys() | {"action", "ok", "code", "text"} == KEYS
    assert (report["state"], report["pid"], report["status"], report["pool"]["completed"]) == (
        "starting",
        pid,
        "at it",
        1,
    )


def test_who_cannot_be_asked_is_looked_at(bench):
    """Without a control socket the kernel tells what the process uses; of its loop nothing is said."""
    bench.program(STEPS)
    pid = bench.start("--backend", "standalone", "--control-socket", "none")
    done = bench.dari("status", "app.py:main")
    answer = status(bench)[1]

    assert re.fullmatch(
        rf"app: running \(pid {pid}\), up \d+ s, generation 1\n"
        r"  cpu \d+\.\d %, memory \d+\.\d MB, \d+ descriptors, \d+ threads\n"
        rf"  target {bench.directory}/app.py:main\n"
        rf"  log {bench.logfile}\n",
        done.stdout,
    ), done.stdout
    assert (answer["loop"], answer["log"], answer["pool"], answer["status"]) == (None, None, None, None)
    assert answer["proc"]["threads"] >= 3


def test_a_service_that_was_stopped_by_a_signal(bench, until):
    """Nothing is waited for then: it is said at once, with the way out. It runs all the same: 0."""
    pid = bench.start()
    os.kill(pid, signal.SIGSTOP)
    until(lambda: process.is_stopped(pid))
    done = bench.dari("status", "app.py:main")
    code, answer = status(bench)
    os.kill(pid, signal.SIGCONT)

    assert done.stdout.splitlines()[1] == f"  it is stopped (SIGSTOP): `kill -CONT {pid}` lets it go on"
    assert (done.returncode, code, answer["state"]) == (0, 0, "running")
    assert answer["loop"] == {"kind": None, "tasks": None, "lag_ms": None, "answers": False}
    assert answer["proc"]["threads"] > 0


def test_a_service_that_does_not_answer(bench, tmp_path, monkeypatch):
    """Asked, and no answer (the GIL is held): that is said in the first lines, and is no "no socket"."""
    monkeypatch.setattr(status_command, "_PATIENCE", 0.1)
    bench.rundir.mkdir()
    held = open_pidfile(str(bench.pidfile), create=True)
    assert try_lock(held)
    path = str(tmp_path / "ctl")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        write_record(held, Record(Identity.of(os.getpid()), State.RUNNING, held, control=path))
        refused = status(bench)[1]
        listening.listen()
        said = bench.dari("status", "app.py:main").stdout.splitlines()
        metrics = bench.dari("metrics", "app.py:main").stdout
        code, answer = status(bench)
    os.close(held)

    assert said[0].startswith(f"app: running (pid {os.getpid()}), up ")
    assert said[1].startswith("  has not answered for 0.1 s: C code keeps the interpreter to itself (py-spy")
    assert (code, answer["state"], answer["ready"]) == (0, "running", True)
    assert answer["loop"] == {"kind": None, "tasks": None, "lag_ms": 100.0, "answers": False}
    assert "\ndari_loop_answers 0\n" in metrics
    assert refused["loop"] is None


def test_top(bench):
    """Once a second: so many times, or until the reader goes; a service that does not run is shown as that."""
    stopped = bench.dari("top", "app.py:main", "-n", "1")
    bench.start()
    lines = bench.dari("top", "app.py:main", "-n", "2", "--json").stdout.splitlines()
    endless = bench.popen("top", "app.py:main", "--json")
    first = json.loads(endless.stdout.readline())
    endless.stdout.close()

    assert (stopped.returncode, stopped.stdout) == (0, "app: not running\n")
    assert [json.loads(line)["state"] for line in lines] == ["running", "running"]
    assert first.keys() == KEYS - {"action"} | {"time"}
    assert (endless.wait(timeout=20), endless.stderr.read()) == (0, "")


def test_top_ends_with_ctrl_c(bench):
    """That is how people end it: 0, and no traceback."""
    top = bench.popen("top", "app.py:main", stdout=subprocess.PIPE)
    assert top.stdout.readline() == "app: not running\n"
    top.send_signal(signal.SIGINT)

    assert (top.wait(timeout=20), top.stderr.read()) == (0, "")


def test_metrics_of_who_runs_and_who_does_not(bench, until):
    """0 is a figure, too: what scrapes it must not fail with the service."""
    stopped = bench.dari("metrics", "app.py:main")
    bench.start()
    running = until(lambda: "_answers 1" in (said := bench.dari("metrics", "app.py:main")).stdout and said)

    assert (stopped.returncode, running.returncode) == (0, 0)
    assert '\ndari_info{name="app",state="stopped"} 1\n' in stopped.stdout
    assert "\ndari_ready 0\n" in stopped.stdout
    assert "\ndari_ready 1\n" in running.stdout
    assert "\ndari_loop_answers 1\n" in running.stdout


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 s"), (59.4, "59 s"), (60, "1 min"), (3725, "1 h 2 min"), (273_659, "3 d 4 h"), (86_405, "1 d 5 s")],
)
def test_durations(seconds, text):
    """The two largest units that are not zero."""
    assert _duration(seconds) == text
