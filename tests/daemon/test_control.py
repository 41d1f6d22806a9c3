"""The control socket, from outside: what it answers, whom, and that no caller and no blocked loop can silence it."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from dari.daemon.control.asking import ask
from dari.daemon.control.listening import tidy_up
from dari.daemon.control.requests import _COMMANDS
from dari.daemon.pidfile import look

# Both are ready, say what they do, and wait; and both can be held up where nothing else of the loop runs.
ASYNC = """
    import asyncio, logging, pathlib, time
    async def main(ctx):
        ctx.on_reload(lambda new, old: None)
        ctx.set_status("serving\\n 3 clients")
        beside = asyncio.create_task(asyncio.sleep(3600))
        ctx.ready()
        while not ctx.stopping.is_set():
            await asyncio.sleep(0.02)
            while pathlib.Path("block").exists():
                pathlib.Path("blocked").touch()
                time.sleep(0.01)
            logging.debug("all is well")
        beside.cancel()
"""
STEPS = """
    import dari, logging, pathlib, time
    def asleep():
        yield dari.sleep(3600)
    def main(ctx):
        ctx.on_reload(lambda new, old: None)
        ctx.set_status("serving\\n 3 clients")
        beside = dari.create_task(asleep)
        ctx.ready()
        while not ctx.stopping.is_set():
            yield dari.sleep(0.02)
            while pathlib.Path("block").exists():
                pathlib.Path("blocked").touch()
                time.sleep(0.01)
            logging.debug("all is well")
        beside.cancel()
"""


class Line:
    """One connection to the control socket of a bench, spoken by hand."""

    def __init__(self, bench):
        self.path = str(bench.rundir / "app.ctl")
        self.socket = socket.socket(socket.AF_UNIX)
        self.answers = self.socket.makefile("rb")

    def connect(self):
        self.socket.connect(self.path)
        self.socket.settimeout(20)
        return self

    def say(self, raw):
        self.socket.sendall(raw + b"\n")
        return json.loads(self.answers.readline())

    def ask(self, command, **arguments):
        answer = self.say(json.dumps({"version": 1, "command": command, **arguments}).encode())
        assert answer["ok"], answer
        return answer["result"]

    def close(self):
        self.answers.close()
        self.socket.close()


@pytest.fixture
def line(bench):
    opened = []

    def connect():
        opened.append(Line(bench))
        return opened[-1].connect()

    yield connect
    for each in opened:
        each.close()


@pytest.fixture(params=["asyncio", "standalone"])
def service(bench, request):
    """A running service, and its pid."""
    bench.program(STEPS if request.param == "standalone" else ASYNC)
    bench.env["DARI_DAEMON__BACKEND"] = request.param
    pid = bench.start("--chdir", str(bench.directory))
    return bench, pid, request.param


def test_the_reference_says_what_it_understands():
    """Every command, and no other one."""
    page = (Path(__file__).parents[2] / "docs/reference/daemon-control.md").read_text()

    assert sorted(re.findall(r'^\| `"([a-z-]+)"`', page, re.MULTILINE)) == sorted(_COMMANDS)


def test_what_it_answers(service, line, until):
    """Every command, over one connection, to its owner alone; and none of what is no command breaks it."""
    bench, pid, backend = service
    speak = line()
    # On a busy machine any loop may take longer for its answer than is waited for.
    ping = until(lambda: (said := speak.ask("ping"))["answers"] and said)
    status = until(lambda: (said := speak.ask("status"))["loop"]["answers"] and said)
    report = speak.ask("report")

    assert stat.S_IMODE((bench.rundir / "app.ctl").stat().st_mode) == 0o600
    assert (ping["pid"], ping["state"], ping["answers"]) == (pid, "running", True)
    assert (status["name"], status["pid"], status["ready"], status["status"]) == ("app", pid, True, "serving 3 clients")
    assert (status["loop"]["kind"], status["loop"]["answers"]) == (backend, True)
    assert status["loop"]["tasks"] >= 2
    assert status["proc"]["rss"] > 5e6
    assert report.keys() == status.keys()
    assert "\ndari_ready 1\n" in speak.ask("metrics")["text"]
    assert "== suspended tasks" in speak.ask("dump")["text"]
    assert speak.ask("log-level") == {"level": "info", "was": "info"}
    assert speak.ask("reload")["generation"] == 2
    assert speak.ask("status")["last_reload"]["count"] == 1

    for nonsense in (b"", b"\xff\x00", b"[" * 60_000, b"[1]", b'{"command": "shutdown"}', b'{"command": []}', b"{}"):
        answer = speak.say(nonsense)
        assert (answer["ok"], answer["version"]) == (False, 1)
        assert answer["error"].startswith(("a request is a JSON object", "command must be one of ping, status"))
    assert "version 1 is" in speak.say(b'{"version": 2, "command": "ping"}')["error"]
    assert "level must be one of" in speak.say(b'{"command": "log-level", "level": "loud"}')["error"]
    assert "timeout must be" in speak.say(b'{"command": "reload", "timeout": "soon"}')["error"]
    assert speak.say(b'{"command": "ping"}')["ok"]


def test_a_blocked_loop(service, line, until):
    """A service that hangs says so, shows where, and its commands still do their work; then it is as before."""
    bench, pid, _ = service
    (bench.directory / "block").touch()
    until((bench.directory / "blocked").exists)

    ping = line().ask("ping")
    status = bench.dari("status", "app.py:main")
    late = line().say(b'{"command": "reload", "timeout": 0.1}')

    assert not ping["answers"]
    assert ping["lag_ms"] >= 1000
    assert status.returncode == 0
    assert "the loop has not answered for " in status.stdout
    assert re.search(r'app.py", line \d+, in main\n', bench.dari("dump", "app.py:main").stdout)
    assert "it has not answered within 0.1 s" in late["error"]
    (bench.directory / "block").unlink()
    assert until(lambda: line().ask("ping")["answers"])


@pytest.mark.parametrize("service", ["asyncio"], indirect=True)
def test_a_storm_of_callers_harms_nobody(service, line, until):
    """Hundreds of connections that say nothing, garbage, or half of something: the next one is answered, and in the
    end there are as many threads and descriptors as before."""
    bench, pid, _ = service
    speak = line()
    before = speak.ask("report")["proc"]
    crowd = [line() for _ in range(200)]
    for number, each in enumerate(crowd):
        try:
            each.socket.sendall((b"", b"half a li", b"\x00garbage\n" * 100)[number % 3])
        except OSError:  # it has lost its place
            pass

    assert bench.dari("status", "app.py:main").returncode == 0
    assert until(lambda: line().ask("ping")["answers"])
    for each in crowd:
        each.close()

    def is_quiet():
        last = line()
        now = last.ask("report")["proc"]
        last.close()
        return now["fds"] <= before["fds"] + 1 and now["threads"] <= before["threads"] + 1

    assert until(is_quiet)
    assert bench.dari("stop", "app.py:main", "--strict").returncode == 0
    assert os.listdir(bench.rundir) == ["app.pid"]


@pytest.mark.parametrize("service", ["standalone"], indirect=True)
def test_commands_work_without_it(service):
    """A socket that is gone is missed by nobody: signals and the pidfile do, and the kernel says what it can."""
    bench, pid, _ = service
    (bench.rundir / "app.ctl").unlink()

    status = json.loads(bench.dari("status", "app.py:main", "--json").stdout)
    reload = bench.dari("reload", "app.py:main")
    level = bench.dari("logs", "app.py:main", "--level", "debug")

    assert (status["pid"], status["loop"], status["log"], status["status"]) == (pid, None, None, None)
    assert status["proc"]["rss"] > 5e6
    assert (reload.returncode, "generation 2" in reload.stdout) == (0, True)
    assert "== suspended tasks" in bench.dari("dump", "app.py:main").stdout
    assert (level.returncode, "cannot be asked through its control socket" in level.stderr) == (3, True)
    assert bench.dari("stop", "app.py:main", "--strict").returncode == 0


@pytest.mark.parametrize("service", ["asyncio"], indirect=True)
def test_the_log_level_changes_while_it_runs(service, until):
    """`dari logs --level`: at once, and until the next change; what is no level is refused, and so is a stopped one."""
    bench, pid, _ = service
    changed = bench.dari("logs", "app.py:main", "--level", "debug", "--json")
    wrong = bench.dari("logs", "app.py:main", "--level", "loud")

    answer = json.loads(changed.stdout)
    assert (changed.returncode, answer["level"], answer["was"], answer["pid"]) == (0, "debug", "info", pid)
    assert until(lambda: "DEBUG root: all is well" in bench.log())
    assert (wrong.returncode, "must be one of debug, info" in wrong.stderr) == (2, True)
    assert bench.dari("logs", "app.py:main", "--level", "info", "--follow").returncode == 2
    assert bench.dari("status", "app.py:main", "--level", "info").returncode == 2
    bench.dari("stop", "app.py:main")
    assert bench.dari("logs", "app.py:main", "--level", "info").returncode == 7


def test_a_program_that_configures_logging_has_its_level(bench):
    """`format = "none"`: the level is the program's, and no command changes it."""
    bench.start("--log-format", "none")

    done = bench.dari("logs", "app.py:main", "--level", "debug")

    assert (done.returncode, "the program configures logging itself" in done.stderr) == (3, True)


def test_a_users_pidfile_leads_root_to_no_socket_of_another(tmp_path, monkeypatch):
    """Else a `ctl=` that he writes into his own pidfile would have root's `dari stop` remove what he cannot."""
    place = tmp_path / "app.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(place))
    monkeypatch.setattr(os, "geteuid", lambda: 0)

    tidy_up(str(place), named_by=os.getuid() + 1)
    assert place.exists()
    tidy_up(str(place), named_by=os.getuid())
    assert not place.exists()


def test_stale_and_foreign_sockets(bench, line, gone):
    """What a killed service left is replaced; a file, a socket of somebody else and a bad directory are left alone."""
    for command in ("stop", "start"):
        os.kill(first := bench.start(), signal.SIGKILL)
        assert gone(first)
        assert (bench.rundir / "app.ctl").exists()
        if command == "stop":
            bench.dari("stop", "app.py:main")
            assert not (bench.rundir / "app.ctl").exists()
    with pytest.raises(ConnectionRefusedError):
        line()
    second = bench.start()
    assert line().ask("ping")["pid"] == second
    bench.dari("stop", "app.py:main")

    theirs = bench.directory / "theirs.ctl"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(theirs))
        listening.listen()
        foreign = bench.dari("start", "app.py:main", "--control-socket", theirs)
        file = bench.dari("start", "app.py:main", "--control-socket", "app.py")
        (bench.directory / "open").mkdir()
        (bench.directory / "open").chmod(0o777)
        open_to_all = bench.dari("start", "app.py:main", "--control-socket", "open/ctl")
        too_long = bench.dari("start", "app.py:main", "--control-socket", "x" * 200)
        with socket.socket(socket.AF_UNIX) as caller:
            caller.connect(str(theirs))  # it is still theirs

    assert os.listdir(bench.rundir) == ["app.pid"]
    assert (foreign.returncode, "somebody else listens on the socket" in foreign.stderr) == (1, True)
    assert (file.returncode, "app.py is no socket" in file.stderr) == (1, True)
    assert (open_to_all.returncode, "everybody may write to" in open_to_all.stderr) == (4, True)
    assert (too_long.returncode, "control socket is too long" in too_long.stderr) == (6, True)
    assert bench.status() == (3, "stopped")


def test_a_directory_with_a_long_path(bench, until, gone):
    """A path beyond what a socket's address can hold is reached through its directory; at the end it is gone."""
    deep = bench.directory / ("d" * 60) / ("e" * 60)
    deep.mkdir(parents=True)
    pid = bench.start("--control-socket", deep / "app.ctl")
    record = look(str(bench.pidfile)).record

    assert record.control == str(deep / "app.ctl")
    assert until(lambda: ask(record, "ping").result["answers"])
    os.kill(pid, signal.SIGTERM)
    assert gone(pid)
    assert os.listdir(deep) == []


def test_nobody_has_asked_for_it(bench):
    """The default place is taken by something else: the service starts, and says in its log that it cannot be asked."""
    bench.rundir.mkdir()
    (bench.rundir / "app.ctl").mkdir()
    bench.start()

    assert bench.dari("status", "app.py:main").returncode == 0
    assert bench.dari("stop", "app.py:main", "--strict").returncode == 0
    assert "nobody can ask this service: " in bench.log()
    assert look(str(bench.pidfile)).record is None


FOREIGNER = """
import os, socket, sys
os.chdir(sys.argv[1])
os.setuid(65534)
caller = socket.socket(socket.AF_UNIX)
caller.connect("app.ctl")
caller.sendall(b'{"command": "ping"}\\n')
print(caller.makefile().readline())
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_who_may_ask(bench):
    """The file's mode comes first, then the caller's uid, as the kernel knows it; `allow_uids` lets one in."""

    def foreigner():
        return subprocess.run(
            [sys.executable, "-c", FOREIGNER, str(bench.rundir)], capture_output=True, text=True, check=False
        )

    bench.start()
    closed = foreigner()
    bench.dari("restart", "app.py:main", "--control-mode", "666")
    refused = foreigner()
    bench.dari("restart", "app.py:main", "--control-mode", "666", "--control-allow-uids", "1,65534")
    allowed = foreigner()

    assert "PermissionError" in closed.stderr
    assert json.loads(refused.stdout)["error"].startswith("uid 65534 may not ask")
    assert json.loads(allowed.stdout)["ok"]


def test_only_the_service_is_believed(bench):
    """A socket that another process listens on is told nothing, and its answer is not waited for."""
    bench.start()
    theirs = str(bench.directory / "theirs.ctl")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(theirs)
        listening.listen()
        record = look(str(bench.pidfile)).record._replace(control=theirs)

        assert ask(record, "ping") is None
        connected, _ = listening.accept()
        with connected:
            assert connected.recv(1) == b""


def test_a_forked_child_does_not_hold_it(bench, line, gone, until):
    """After the service was killed its callers are refused at once, although a child of it lives on."""
    bench.program(
        """
        import time
        async def main(ctx):
            ctx.ready()
            if os.fork() == 0:
                with open(os.environ["WITNESS"] + ".children", "a") as file:  # the child itself: it has let go by now
                    file.write(f"{os.getpid()}\\n")
                time.sleep(3600)
            await ctx.stopping.wait()
        """
    )
    pid = bench.start()
    until(bench.children_of_services)
    os.kill(pid, signal.SIGKILL)
    assert gone(pid)

    with pytest.raises(ConnectionRefusedError):
        line()
