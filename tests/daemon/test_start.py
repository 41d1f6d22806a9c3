"""`dari start`: it returns when the service is ready, and otherwise tells what happened."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from dari.daemon.lifecycle import State
from dari.daemon.pidfile import Record, open_pidfile, try_lock, write_record
from dari.daemon.process import Identity

from .conftest import PATIENCE


def test_round_trip(bench):
    """start, status and stop agree with each other, say it in words, and end with 0."""
    assert bench.status() == (3, "stopped")

    started = bench.dari("start", "app.py:main")
    [pid] = bench.witnesses()
    running = bench.dari("status", "app.py:main", env=bench.env)  # real processes, here
    stopped = bench.dari("stop", "app.py:main", env=bench.env)

    assert (started.returncode, started.stdout, started.stderr) == (0, f"app: running (pid {pid})\n", "")
    assert running.returncode == 0
    assert running.stdout.startswith(f"app: running (pid {pid}), up ")
    assert (stopped.returncode, stopped.stdout) == (0, f"app: stopped (pid {pid})\n")
    assert bench.status() == (3, "stopped")
    assert bench.pidfile.read_bytes() == b""


def test_json_round_trip(bench):
    """With --json every command answers with one object on stdout, and nothing on stderr."""
    answers = {}
    for command in ("start", "status", "restart", "stop"):
        done = bench.dari(command, "app.py:main", "--json", env=bench.env)
        assert done.stderr == ""
        answers[command] = json.loads(done.stdout)

    first, second = bench.witnesses()[0], bench.witnesses()[-1]
    common = {"name": "app", "ok": True, "code": 0}
    for command, answer in answers.items():
        assert answer["action"] == command
        assert common.items() <= answer.items()
    assert {"state": "running", "pid": first, "already": False}.items() <= answers["start"].items()
    assert {"state": "running", "ready": True, "pid": first}.items() <= answers["status"].items()
    assert answers["status"]["paths"]["pidfile"] == str(bench.pidfile)
    assert answers["status"]["paths"]["logfile"] == str(bench.logfile)
    assert 0 <= answers["status"]["uptime_s"] < 60
    assert {"state": "running", "pid": second, "stopped": first}.items() <= answers["restart"].items()
    assert {"state": "stopped", "pid": second, "killed": False}.items() <= answers["stop"].items()


def test_start_waits_for_ready(bench, until):
    """Until `ctx.ready()` is called `start` does not return, and status says starting, 4."""
    bench.program(
        """
        import asyncio, os, pathlib
        async def main(ctx):
            while not pathlib.Path("go").exists():
                await asyncio.sleep(0.01)
            ctx.ready()
            await ctx.stopping.wait()
        """
    )
    start = bench.popen("start", "app.py:main", "--chdir", bench.directory)
    until(bench.witnesses)

    assert bench.status() == (4, "starting")
    assert start.poll() is None
    (bench.directory / "go").touch()
    assert start.wait(timeout=30) == 0
    assert bench.status() == (0, "running")


def test_second_start_joins_the_first(bench, until):
    """A start while another one is under way waits for that one's readiness, and says that it was already there."""
    bench.program(
        """
        import asyncio, pathlib
        async def main(ctx):
            while not pathlib.Path("go").exists():
                await asyncio.sleep(0.01)
            ctx.ready()
            await ctx.stopping.wait()
        """
    )
    first = bench.popen("start", "app.py:main", "--chdir", bench.directory)
    until(bench.witnesses)
    second = bench.popen("start", "app.py:main", "--json")
    strict = bench.dari("start", "app.py:main", "--strict")
    assert (first.poll(), second.poll()) == (None, None)
    (bench.directory / "go").touch()

    assert first.wait(timeout=30) == 0
    answer = json.loads(second.communicate(timeout=30)[0])
    [pid] = bench.witnesses()
    assert (second.returncode, answer["already"], answer["pid"]) == (0, True, pid)
    assert (strict.returncode, strict.stderr) == (150, f"app: already running (pid {pid})\n")


def test_a_loser_waits_for_the_winners_name(bench, until):
    """Between the winner's lock and its first line a loser waits for the name, and then says it."""
    bench.rundir.mkdir()
    ours = open_pidfile(str(bench.pidfile), create=True)
    assert try_lock(ours)
    loser = bench.popen("start", "app.py:main", "--strict")
    with pytest.raises(subprocess.TimeoutExpired):
        loser.wait(timeout=1)  # that nothing happens gives no event; a loser that does not wait needs a tenth of it
    write_record(ours, Record(Identity.of(os.getpid()), State.STARTING, ours))
    err = loser.communicate(timeout=30)[1]
    os.close(ours)

    assert (loser.returncode, err) == (150, f"app: already running (pid {os.getpid()})\n")


@pytest.mark.parametrize(
    ("body", "code", "origin", "text"),
    [
        ("raise RuntimeError('no disk')", 1, "service", "RuntimeError: no disk"),
        ("raise SystemExit(7)", 7, "service", "it ended with 7 before it was ready"),
        ("raise SystemExit('no luck')", 1, "service", "no luck"),
        ("os._exit(9)", 9, "service", "it ended with 9 before it was ready"),
        ("os.abort()", 128 + signal.SIGABRT, "service", "it was killed by SIGABRT before it was ready"),
        ("os.kill(os.getpid(), signal.SIGKILL)", 137, "service", "it was killed by SIGKILL before it was ready"),
        ("return", 1, "dari", "it ended with 0 before it was ready"),
    ],
)
def test_failed_start_tells_all(bench, body, code, origin, text):
    """A service that ends before it is ready gives `start` its own exit code or 128 + signal, and its words."""
    bench.program(f"import os, signal\nasync def main(ctx):\n    {body}\n")

    done = bench.dari("start", "app.py:main", "--json")

    answer = json.loads(done.stdout)
    assert (done.returncode, answer["code"], answer["ok"], answer["origin"]) == (code, code, False, origin)
    assert text in answer["text"]
    assert bench.status() == (3, "stopped")


def test_failed_start_prints_the_programs_traceback(bench):
    """The traceback goes to the caller's stderr and to the log, begins at the program's line, and is all there."""
    bench.program("async def main(ctx):\n    inner()\ndef inner():\n    raise RuntimeError('no disk')\n")

    done = bench.dari("start", "app.py:main")

    lines = done.stderr.splitlines()
    assert done.stdout == ""
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[1].lstrip().startswith(f'File "{bench.directory}/app.py", line')
    assert "in inner" in done.stderr
    assert lines[-1] == "app: RuntimeError: no disk"
    assert "RuntimeError: no disk" in bench.log()


def test_eof_before_ready_is_a_failure(bench, gone):
    """A service that lets the status pipe go without the word is stopped, not believed to be ready."""
    # It is the one pipe above 2 of which the service has one end only.
    bench.program(
        """
        import asyncio, collections, os
        async def main(ctx):
            ends = collections.defaultdict(list)
            for fd in range(3, 100):
                try:
                    ends[os.readlink(f"/proc/self/fd/{fd}")].append(fd)
                except OSError:
                    pass
            [[status]] = [fds for name, fds in ends.items() if name.startswith("pipe:") and len(fds) == 1]
            os.close(status)
            await asyncio.sleep(3600)
        """
    )
    # It keeps the caller's output, which nobody must wait for who takes it for ready.
    done = bench.dari("start", "app.py:main", "--start-timeout", "300", stdout=subprocess.DEVNULL, stderr=None)

    [pid] = bench.witnesses()
    assert done.returncode == 151
    assert gone(pid, timeout=0)
    assert bench.status() == (3, "stopped")


def test_start_timeout(bench):
    """A service that does not become ready in time is stopped, and the code is 151."""
    bench.program("import asyncio\nasync def main(ctx):\n    await asyncio.sleep(3600)\n")

    done = bench.dari("start", "app.py:main", "--start-timeout", "0.5")

    assert done.returncode == 151
    assert "not ready after 0.5 s" in done.stderr
    assert bench.processes() == []  # on a busy machine it has not even come to its program
    assert bench.status() == (3, "stopped")


@pytest.mark.slow
def test_start_timeout_kills_who_ignores_term(bench):
    """At the start timeout, too, KILL follows the TERM that is not heard."""
    bench.program(
        """
        import signal, time
        async def main(ctx):
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(3600)
        """
    )
    done = bench.dari("start", "app.py:main", "--start-timeout", "1")

    assert done.returncode == 151
    assert bench.processes() == []
    assert bench.status() == (3, "stopped")


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_interrupted_start_leaves_nothing(bench, until, gone, signum, code):
    """Ctrl-C while `start` waits, a `timeout 5 dari start`, a closed terminal: what was started is stopped."""
    bench.program("import asyncio\nasync def main(ctx):\n    await asyncio.sleep(3600)\n")
    start = bench.popen("start", "app.py:main")
    [pid] = until(bench.witnesses)

    start.send_signal(signum)

    assert start.wait(timeout=PATIENCE) == code
    assert gone(pid)
    assert bench.status() == (3, "stopped")


# A launcher that does not come to listen before the service has come and gone.
LATE = """
import os, select
from dari.daemon import cli, launch
def late(self, status, verdict, really=launch._Launch._await_ready):
    while not (os.path.exists(os.environ["WITNESS"]) and (line := open(os.environ["WITNESS"]).readline())):
        select.select([], [], [], 0.005)
    try:
        select.select([os.pidfd_open(int(line))], [], [])
    except ProcessLookupError:
        pass
    return really(self, status, verdict)
launch._Launch._await_ready = late
exit(cli.main())
"""

# Ctrl-C, when it has taken the pid out of the pipe and does not know it yet.
INTERRUPTED = """
import os, signal
from dari.daemon import cli, launch
def interrupted(verdict, really=launch._Launch._read_verdict):
    word = really(verdict)
    launch._Launch._read_verdict = staticmethod(really)
    os.kill(os.getpid(), signal.SIGINT)
    return word
launch._Launch._read_verdict = staticmethod(interrupted)
exit(cli.main())
"""


def test_a_launcher_that_is_late(bench):
    """It hears that the service is ready when that one has ended: ready it was, and its pid is told."""
    bench.program("async def main(ctx):\n    ctx.ready()\n")

    start = bench.spawn([sys.executable, "-c", LATE, "start", "app.py:main", "--json"])

    answer = json.loads(start.communicate(timeout=60)[0])
    assert (start.returncode, answer["pid"]) == (0, bench.witnesses()[0])


def test_a_start_that_is_interrupted_in_the_midst_of_a_word(bench):
    """Whom the launcher would have known a moment later it finds by the pidfile, and stops."""
    bench.program("import asyncio\nasync def main(ctx):\n    await asyncio.sleep(3600)\n")

    start = bench.spawn([sys.executable, "-c", INTERRUPTED, "start", "app.py:main"])

    start.communicate(timeout=60)
    assert (start.returncode, bench.processes(), bench.status()) == (130, [], (3, "stopped"))


def test_service_survives_the_launcher(bench, until):
    """A launcher killed while it waits does not take the service with it: it becomes ready all the same."""
    bench.program(
        """
        import asyncio, pathlib
        async def main(ctx):
            while not pathlib.Path("go").exists():
                await asyncio.sleep(0.01)
            ctx.ready()
            await ctx.stopping.wait()
        """
    )
    start = bench.popen("start", "app.py:main", "--chdir", bench.directory)
    until(bench.witnesses)
    start.kill()
    start.wait()
    (bench.directory / "go").touch()

    until(lambda: bench.is_now("running"))
    assert bench.dari("stop", "app.py:main").returncode == 0


def test_what_it_prints_before_ready_reaches_the_caller(bench):
    """Before readiness stdout and stderr are the caller's, afterwards they are the log file."""
    bench.program(
        """
        import os, sys
        async def main(ctx):
            print("early")
            print("early error", file=sys.stderr)
            ctx.ready()
            print("late")
            os.write(2, b"late, from C\\n")
            await ctx.stopping.wait()
        """
    )
    done = bench.dari("start", "app.py:main")
    bench.dari("stop", "app.py:main")

    assert done.stdout.splitlines()[0] == "early"
    assert done.stderr == "early error\n"
    assert "late\n" in bench.log()
    assert "late, from C\n" in bench.log()
    assert "early" not in bench.log()


@pytest.mark.parametrize("command", ["start", "restart"])
def test_an_answer_in_json_stands_alone_on_stdout(bench, command):
    """What the program prints before it is ready goes to stderr then."""
    bench.program("print('at import')\nasync def main(ctx):\n    print('early')\n    ctx.ready()\n")

    done = bench.dari(command, "app.py:main", "--json")

    assert json.loads(done.stdout)["ok"]
    assert {"at import", "early"} <= set(done.stderr.splitlines())


def test_command_substitution_returns(bench):
    """`x=$(dari start ...)` returns: the service holds no end of the caller's pipe."""
    done = subprocess.run(
        ["/bin/sh", "-c", 'x=$("$@") && echo "got $x"', "sh", *bench.command("start", "app.py:main")],
        cwd=bench.directory,
        env=bench.env,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    [pid] = bench.witnesses()
    assert done.stdout == f"got app: running (pid {pid})\n"


def test_kill_9_and_start_again(bench, gone):
    """After kill -9 status is 1 and names the dead; the next start works; its status is 0."""
    first = bench.start()
    os.kill(first, signal.SIGKILL)
    assert gone(first)

    dead = bench.dari("status", "app.py:main")
    second = bench.start()

    assert (dead.returncode, str(first) in dead.stdout) == (1, True)
    assert bench.witnesses() == [first, second]
    assert bench.status() == (0, "running")


def test_stop_after_kill_9(bench, gone):
    """stop of a dead one is done at once, and clears the pidfile; with --strict it says 7."""
    pid = bench.start()
    os.kill(pid, signal.SIGKILL)
    assert gone(pid)

    assert bench.dari("stop", "app.py:main").returncode == 0
    assert bench.status() == (3, "stopped")
    assert bench.dari("stop", "app.py:main", "--strict").returncode == 7


def test_start_when_running(bench):
    """start when it runs is done, with the same pid; --strict says 150."""
    pid = bench.start()

    again = json.loads(bench.dari("start", "app.py:main", "--json").stdout)
    strict = bench.dari("start", "app.py:main", "--strict")

    assert (again["code"], again["pid"], again["already"]) == (0, pid, True)
    assert (strict.returncode, strict.stderr) == (150, f"app: already running (pid {pid})\n")
    assert bench.witnesses() == [pid]


def test_the_lock_is_held_over_exec_and_not_by_children(bench, gone, until):
    """The service itself holds the lock; a child that it forked does not hold it after the service's death."""
    bench.program(
        """
        import os, time
        async def main(ctx):
            ctx.ready()
            if os.fork() == 0:
                with open(os.environ["WITNESS"] + ".children", "w") as file:  # the child itself: it has let go by now
                    file.write(f"{os.getpid()}\\n")
                time.sleep(60)
                os._exit(0)
            await ctx.stopping.wait()
        """
    )
    pid = bench.start()
    until(bench.children_of_services)
    assert bench.status() == (0, "running")
    os.kill(pid, signal.SIGKILL)
    assert gone(pid)

    assert bench.status() == (1, "dead")
    assert bench.dari("start", "app.py:main").returncode == 0


def test_daemon_object_as_target(bench):
    """TARGET may name a `Daemon`; its name counts where nobody said another."""
    bench.program(
        """
        import dari
        async def f(ctx):
            ctx.ready()
            await ctx.stopping.wait()
        d = dari.Daemon(f, name="app")
        """
    )

    assert bench.start(target="app.py:d") == bench.witnesses()[0]


def test_a_keyword_that_contradicts_a_default_of_the_launcher(bench):
    """The launcher cannot see `Daemon(name=...)`; when its own guess differs, start ends with 6 and shows both."""
    bench.program("import dari\nasync def f(ctx): ...\nd = dari.Daemon(f, name='other')\n")

    done = bench.dari("start", "app.py:d")
    told = bench.dari("start", "app.py:d", "--name", "third", "--json")

    assert done.returncode == 6
    assert "'other'" in done.stderr
    assert "'app'" in done.stderr
    assert told.returncode == 1  # what somebody wrote down wins, so it came as far as main, which just ends
