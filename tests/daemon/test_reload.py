"""`dari reload`, and HUP: all of it or nothing, and whoever asked is told which."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import signal
import stat
from pathlib import Path

import pytest

from dari.daemon.answer import place
from dari.daemon.config import resolve
from dari.daemon.context import Context
from dari.daemon.control.asking import ask
from dari.daemon.listeners import Listeners
from dari.daemon.pidfile import look
from dari.daemon.pooling import ServicePool
from dari.daemon.reload import Reloader, make_config

APP = "[app]\nport = 1\n"
CONFIG = "[app]\ntarget = 'app.py:daemon'\nport = {}\n"

# Tells what its callbacks are asked, and at the end which snapshots it holds.
PROGRAM = """
    import asyncio, dari
    async def main(ctx):
        first = ctx.config
        @ctx.on_reload
        def plain(new, old):
            print(f"plain {old['app']['port']} -> {new['app']['port']}", flush=True)
        @ctx.on_reload
        async def waiting(new, old):
            await asyncio.sleep(0)
            print(f"async {old['app']['port']} -> {new['app']['port']}", flush=True)
        @ctx.on_reload
        def steps(new, old):
            yield dari.sleep(0)
            print(f"steps {old['app']['port']} -> {new['app']['port']}", flush=True)
            if new["app"]["port"] == 13:
                raise ValueError("no such port")
        ctx.ready()
        await ctx.stopping.wait()
        print(f"kept {first['app']['port']}, now {ctx.config['app']['port']}, {ctx.config is first}", flush=True)
    daemon = dari.Daemon(main)
"""

STANDALONE = """
    import dari
    async def coroutine(text):
        await dari.sleep(0)
        print(text, flush=True)
    def main(ctx):
        first = ctx.config
        @ctx.on_reload
        def plain(new, old):
            print(f"plain {old['app']['port']} -> {new['app']['port']}", flush=True)
        @ctx.on_reload
        async def waiting(new, old):
            await coroutine(f"async {old['app']['port']} -> {new['app']['port']}")
        @ctx.on_reload
        def steps(new, old):
            yield dari.sleep(0)
            print(f"steps {old['app']['port']} -> {new['app']['port']}", flush=True)
            if new["app"]["port"] == 13:
                raise ValueError("no such port")
        ctx.ready()
        yield ctx.stopping.wait()
        print(f"kept {first['app']['port']}, now {ctx.config['app']['port']}, {ctx.config is first}", flush=True)
    daemon = dari.Daemon(main)
"""


def reload(bench, *arguments):
    """Ask for a reload, without showing the command the file: what is wrong with it is for the service to find."""
    done = bench.dari("reload", "app.py:daemon", "--json", *arguments)
    assert done.stderr == ""
    return done.returncode, json.loads(done.stdout)


def told(bench):
    return [line for line in bench.log().splitlines() if re.match(r"(plain|async|steps|kept) ", line)]


def links(pid):
    found = []
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            found.append(os.readlink(fd))
    return found


@pytest.fixture(params=["asyncio", "uvloop", "standalone"])
def service(bench, request):
    """A running service; the one on uvloop has no control socket, so that HUP and the pidfile do it all."""
    if request.param == "uvloop":
        pytest.importorskip("uvloop")
        bench.env["DARI_DAEMON__CONTROL__SOCKET"] = "none"
    bench.program(STANDALONE if request.param == "standalone" else PROGRAM)
    bench.config(CONFIG.format(1))
    bench.start("-c", "dari.toml", "--backend", request.param, target="app.py:daemon")
    return bench


@pytest.fixture
def simple(bench):
    """A service on asyncio that is started by `begin`, with further lines in its main."""

    def begin(body="", keywords="", options=(), more=""):
        lines = "".join(f"        {line}\n" for line in body.splitlines())
        bench.program(
            "import asyncio, logging, os, pathlib, time, dari\n"
            f"async def main(ctx):\n    if True:\n        pass\n{lines}"
            f"    ctx.ready()\n    await ctx.stopping.wait()\ndaemon = dari.Daemon(main, {keywords})\n"
        )
        bench.config(CONFIG.format(1) + more)
        done = bench.dari("start", "-c", "dari.toml", "--json", *options)
        return json.loads(done.stdout)["pid"]

    return begin


def test_a_reload_swaps_and_tells(service):
    """Every callback is asked, in order, whatever kind of function it is; then the new snapshot is there."""
    service.config(CONFIG.format(2) + "[new]\nkey = 1\n")

    code, answer = reload(service)

    text = f"reloaded {service.directory}/dari.toml, generation 2; changed: app.port, new"
    assert (code, answer["text"]) == (0, text)
    assert (answer["generation"], answer["changed"], answer["restart"]) == (2, ["app.port", "new"], [])
    status = json.loads(service.dari("status", "app.py:daemon", "--json").stdout)
    assert (status["generation"], status["last_reload"]["count"], status["last_reload"]["ok"]) == (2, 1, True)
    assert service.dari("stop", "app.py:daemon", "--strict").returncode == 0
    assert f"INFO dari.daemon: {text}" in service.log()
    assert told(service) == ["plain 1 -> 2", "async 1 -> 2", "steps 1 -> 2", "kept 1, now 2, False"]


def test_a_refusal_calls_the_earlier_ones_back(service):
    """The third callback refuses: the first two are called back, in reverse; the old snapshot stays."""
    service.config(CONFIG.format(13))

    code, answer = reload(service)

    assert (code, answer["generation"], answer["ok"]) == (153, 1, False)
    assert answer["text"].startswith("the configuration stays as it was: on_reload callback main.<locals>.steps")
    assert answer["text"].endswith("ValueError: no such port")
    status = service.dari("status", "app.py:daemon").stdout
    assert ", generation 1\n" in status
    assert "\n  last reload refused " in status
    assert "no such port" in status
    assert service.dari("stop", "app.py:daemon", "--strict").returncode == 0
    asked = ["plain 1 -> 13", "async 1 -> 13", "steps 1 -> 13"]
    assert told(service) == [*asked, "async 13 -> 1", "plain 13 -> 1", "kept 1, now 1, True"]


def test_who_is_answered_finds_the_reload_ended(bench, simple):
    """However long the pidfile takes to be written: `reload` answers when it is, and `status` then shows no reload."""
    simple("pwrite = os.pwrite\nos.pwrite = lambda *args: (time.sleep(1), pwrite(*args))[1]")

    code, answer = reload(bench)

    assert (code, answer["generation"]) == (0, 2)
    assert bench.dari("status", "app.py:daemon").stdout.splitlines()[0].endswith(", generation 2")


def test_who_sees_in_the_pidfile_that_it_has_ended_finds_what_became_of_it(bench, simple, until):
    """However long it takes to tell everybody: the service's own figures have it before the pidfile says so."""
    go = bench.directory / "go"
    simple(
        "import __main__ as service\n"
        "def late(self, answer, really=service.Service.reloaded):\n"
        f"    while not pathlib.Path({str(go)!r}).exists():\n"
        "        time.sleep(0.005)\n"
        "    really(self, answer)\n"
        "service.Service.reloaded = late"
    )
    record = look(str(bench.pidfile)).record
    os.kill(record.identity.pid, signal.SIGHUP)
    until(lambda: look(str(bench.pidfile)).record.reloads.ended)

    told = ask(record, "report").result["last_reload"]

    go.touch()
    assert (told["count"], told["ok"]) == (1, True)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[app\n", "dari.toml: Expected ']'"),
        ("[daemon]\nnmae = 'x'\n", "dari.toml:2: [daemon] nmae: unknown key; did you mean 'name'?"),
        ("[daemon]\nstop_grace = 'soon'\n", "dari.toml:2: [daemon]: stop_grace must be a number of seconds"),
        (
            "[daemon]\nname = 'other'\n" + APP,
            "dari.toml:2: [daemon] name cannot change while the service runs: it is 'app'",
        ),
        ("[daemon]\npidfile = '/x'\n" + APP, "dari.toml:2: [daemon] pidfile cannot change while the service runs"),
        ("[app]\nport = 'x'\n", "dari.toml: parse: ValueError: invalid literal"),
        (None, "cannot read "),
        (b"\xff", "dari.toml: 'utf-8' codec"),
    ],
)
def test_a_bad_file_is_refused(bench, simple, text, reason):
    """Whatever is wrong with the file: 153, the reason with line and key, and the service goes on with the old one."""
    pid = simple(keywords="parse=lambda raw: int(raw['app']['port'])")
    file = bench.directory / "dari.toml"
    if text is None:
        file.unlink()
    else:
        file.write_bytes(text if isinstance(text, bytes) else text.encode())

    code, answer = reload(bench)

    assert (code, answer["pid"], answer["generation"]) == (153, pid, 1)
    assert answer["text"].startswith("the configuration stays as it was: ")
    assert reason in answer["text"]
    bench.config(CONFIG.format(5))
    assert reload(bench)[1]["generation"] == 2


def test_a_bad_file_that_the_command_sees_itself(bench, simple):
    """With -c the command reads the file too: 153 again, and the service is not even asked."""
    simple()
    bench.config("[daemon]\nnmae = 'x'\n")

    done = bench.dari("reload", "-c", "dari.toml")

    assert done.returncode == 153
    assert "the configuration stays as it was" in done.stderr
    assert "did you mean 'name'?" in done.stderr
    assert look(str(bench.pidfile)).record.reloads.begun == 0


def test_parse_makes_the_configuration(bench, simple, until):
    """ctx.config is what `parse` returns, at the start and after a reload; it is given the whole file as a dict."""
    simple("ctx.on_reload(lambda new, old: print(old, new, flush=True))", "parse=lambda raw: (type(raw), raw['app'])")
    bench.config(CONFIG.format(2))

    assert reload(bench)[0] == 0

    settings = "{{'target': 'app.py:daemon', 'port': {}}}"
    row = f"(<class 'dict'>, {settings.format(1)}) (<class 'dict'>, {settings.format(2)})"
    assert until(lambda: row in bench.log().splitlines())


def test_a_start_with_a_file_that_parse_refuses(bench):
    """parse refuses at the start: 6, and nothing stays."""
    bench.program(
        "import dari\nasync def main(ctx): ...\ndaemon = dari.Daemon(main, parse=lambda raw: raw['nothing'])\n"
    )
    bench.config(CONFIG.format(1))

    done = bench.dari("start", "-c", "dari.toml")

    assert done.returncode == 6
    assert f"{bench.directory}/dari.toml: parse: KeyError: 'nothing'" in done.stderr
    assert bench.status() == (3, "stopped")


def test_what_changes_at_once_and_what_needs_a_restart(bench, simple, until):
    """The log level and the times change with a reload; other keys and the target are told to need a restart."""
    simple("ctx.on_reload(lambda new, old: logging.debug('heard'))")
    bench.config(
        "[daemon]\numask = '077'\nbackend = 'asyncio'\nstop_grace = 1\nlog = {level = 'debug'}\n"
        "[app]\ntarget = 'app.py:other'\nport = 1\n"
    )
    first = reload(bench)[1]
    second = reload(bench)[1]

    assert first["restart"] == ["daemon.umask", "app.target"]
    assert "; needs a restart: daemon.umask, app.target" in first["text"]
    assert (first["generation"], second["generation"]) == (2, 3)
    assert "; nothing has changed; needs a restart: daemon.umask, app.target" in second["text"]
    until(lambda: "generation 3" in bench.log())
    assert bench.log().count("DEBUG root: heard") == 1  # from the second reload on


def test_what_was_taken_back_needs_no_restart(tmp_path):
    """Compared is what runs with what a start would use now, not one file with the file before it."""
    file = tmp_path / "dari.toml"
    rest = "stop_grace = 5\n[app]\ntarget = 'app.py:main'\n"
    file.write_text("[daemon]\nchdir = '/tmp'\nlog.backups = 5\n" + rest)
    settings = resolve(command_line={}, target=None, config=str(file), environ={}, keywords={}, cwd=str(tmp_path))
    context = Context("app", lambda: None, Listeners(), ServicePool("app"))
    reloader = Reloader(Fake(), settings, context, verdict="none")
    reloader.adopt(None, {"backend": "trio", "limits.nofile": 64})  # as `Daemon(...)` has it

    def needs_restart(text):
        file.write_text(text)
        return reloader._needs_restart(make_config(str(file), None))

    same = "[daemon]\nchdir = '/tmp'\n" + rest  # but for a line that says what is the default
    assert needs_restart("[daemon]\numask = '022'\n" + same[9:]) == ["daemon.umask"]
    assert needs_restart(same) == []
    assert needs_restart("[daemon]\numask = '027'\nbackend = 'trio'\n" + same[9:]) == []
    assert needs_restart("[daemon]\nbackend = 'asyncio'\n" + same[9:]) == ["daemon.backend"]
    assert needs_restart("[daemon]\nlog.level = 'debug'\n" + rest) == ["daemon.chdir"]
    assert needs_restart("[daemon]\n" + rest) == ["daemon.chdir"]  # still, although this file is like the one before
    assert needs_restart(same.replace(":main", ":other")) == ["app.target"]
    assert needs_restart(same.replace("target", "tgt")) == ["app.target"]
    assert needs_restart(same) == []


class Fake:
    """A service that is only looked at."""


def test_a_program_that_configures_logging_itself_keeps_its_level(bench, simple):
    """`format = "none"`: a reload leaves that alone, too."""
    level = bench.directory / "level"
    simple(
        f"ctx.on_reload(lambda new, old: pathlib.Path({str(level)!r}).write_text(str(logging.getLogger().level)))\n"
        "logging.getLogger().setLevel(35)",
        more="[daemon.log]\nformat = 'none'\n",
    )
    bench.config(CONFIG.format(1) + "[daemon.log]\nformat = 'none'\nlevel = 'debug'\n")

    assert [reload(bench)[0], reload(bench)[0]] == [0, 0]
    assert level.read_text() == "35"  # told to the second reload, after the first


def test_what_the_environment_says_is_not_the_files_to_change(bench, simple):
    """A key that command line or environment have given is no change, whatever the file says."""
    simple(options=("--umask", "022"))
    bench.config("[daemon]\numask = '077'\nrundir = '/elsewhere'\n" + CONFIG.format(1))

    code, answer = reload(bench)

    assert (code, answer["restart"]) == (0, [])


def test_stop_grace_changes_with_a_reload(bench, simple):
    """The grace of the next stop is that of the last accepted file."""
    del bench.env["DARI_DAEMON__STOP_GRACE"]
    pid = simple("ctx.ready()\nawait ctx.stopping.wait()\nawait asyncio.sleep(60)", more="[daemon]\nstop_grace = 60\n")
    bench.config(CONFIG.format(1) + "[daemon]\nstop_grace = 0.1\n")
    assert reload(bench)[0] == 0

    stopped = json.loads(bench.dari("stop", "app.py:daemon", "--json", "--stop-grace", "60").stdout)

    assert (stopped["killed"], stopped["pid"]) == (False, pid)
    assert stopped["seconds"] < 10


def test_a_callback_that_never_answers(bench, simple, until):
    """A callback that waits for ever is a refusal at start_timeout, and the next reload works."""
    simple(
        "async def slow(new, old):\n    if new['app']['port'] == 2: await asyncio.Event().wait()\n"
        "ctx.on_reload(lambda new, old: print('plain', old['app']['port'], flush=True))\nctx.on_reload(slow)",
    )
    impatient = "[daemon]\nstart_timeout = 1.5\n"  # not at the start, which may well take so long
    bench.config(CONFIG.format(1) + impatient)
    assert reload(bench)[0] == 0
    bench.config(CONFIG.format(2) + impatient)
    code, answer = reload(bench)
    bench.config(CONFIG.format(3) + impatient)

    assert code == 153
    assert answer["text"].endswith("slow had no answer within 1.5 s (start_timeout)")
    assert reload(bench)[0] == 0
    assert until(lambda: told(bench) == ["plain 1", "plain 1", "plain 2", "plain 1"])


def test_a_callback_that_blocks_the_loop(bench, simple):
    """Nobody can time out a blocked loop from inside: the command gives up, 1, and says so."""
    simple("ctx.on_reload(lambda new, old: time.sleep(60))")

    code, answer = reload(bench, "--start-timeout", "0.2")

    assert code == 1
    assert "has not answered within 2.4 s" in answer["text"]
    assert bench.dari("status", "app.py:daemon").stdout.splitlines()[0].endswith(", generation 1, reloading")


def test_each_caller_is_answered_for_the_file_as_it_was_then(bench, simple, until):
    """A reload that is asked for while another one is under way reads the file again, and answers for that."""
    simple(
        "async def slow(new, old):\n"
        "    print('plain', new['app']['port'], flush=True)\n"
        f"    while not pathlib.Path({str(bench.directory)!r}, str(new['app']['port'])).exists():\n"
        "        await asyncio.sleep(0.01)\n"
        "ctx.on_reload(slow)"
    )
    bench.config(CONFIG.format(2))
    first = bench.popen("reload", "app.py:daemon", "--json")
    until(lambda: told(bench) == ["plain 2"])
    bench.config(CONFIG.format(3))
    others = [bench.popen("reload", "app.py:daemon", "--json") for _ in range(2)]
    for child in others:
        until(lambda: any("pidfd" in link for link in links(child.pid)))  # noqa: B023 - asked at once; it has looked at the pidfile
    begun = look(str(bench.pidfile)).record.reloads.begun
    (bench.directory / "2").touch()
    answer = json.loads(first.communicate(timeout=20)[0])
    (bench.directory / "3").touch()
    answers = [json.loads(child.communicate(timeout=20)[0]) for child in others]

    assert begun == 1
    assert (answer["code"], answer["generation"]) == (0, 2)
    assert [answer["code"] for answer in answers] == [0, 0]
    assert min(answer["generation"] for answer in answers) > 2
    assert until(lambda: told(bench)[:2] == ["plain 2", "plain 3"])


def test_who_does_not_run_is_not_reloaded(bench, until):
    """Stopped, dead and starting services: 7, and no signal."""
    stopped = reload(bench)
    bench.program("import time\ntime.sleep(60)\n")
    bench.popen("start", "app.py:daemon")
    pid = int(until(lambda: bench.pidfile.read_text().partition("\n")[0] if bench.pidfile.exists() else ""))
    starting = reload(bench)
    os.kill(pid, signal.SIGKILL)

    assert stopped[0] == 7
    assert (starting[0], starting[1]["text"]) == (7, f"starting (pid {pid}), and does not reload now")


def test_who_runs_in_a_terminal_is_not_reloaded(bench, until):
    """In the foreground of a terminal HUP stops: reload says so, 3, and does not send it."""
    ours, theirs = pty.openpty()
    run = bench.popen("run", "app.py:main", stdin=theirs, stdout=theirs, stderr=theirs)
    until(lambda: bench.is_now("running"))

    code, answer = reload(bench)

    assert code == 3
    assert "HUP stops it" in answer["text"]
    assert run.poll() is None
    os.close(theirs)
    os.close(ours)


def test_a_service_that_ends_instead(bench, simple):
    """A callback that leaves the process, or a kill meanwhile: the caller is told, 1, and does not wait."""
    simple("ctx.on_reload(lambda new, old: os._exit(3))")

    code, answer = reload(bench)

    assert code == 1
    assert "ended while it was to reload" in answer["text"]


def test_a_stop_during_a_reload(bench, simple, until):
    """A stop does not wait for a reload that is under way, and whoever waits for that is told."""
    simple(
        "async def slow(new, old):\n    print('plain', flush=True)\n    await asyncio.sleep(60)\nctx.on_reload(slow)"
    )
    waiting = bench.popen("reload", "app.py:daemon", "--json")
    until(lambda: "\nplain\n" in bench.log())

    assert bench.dari("stop", "app.py:daemon", "--strict").returncode == 0

    assert waiting.wait(timeout=20) == 1
    assert "interrupted by CancelledError" in bench.log()


def test_the_reason_is_for_the_services_user_only(bench, simple):
    """The reason may quote a secret: it stands in a file of mode 600, which goes with the service."""
    simple(keywords="parse=lambda raw: int(raw['app']['port'])")
    bench.config(CONFIG.format("'hunter2'"))
    answer = Path(place(str(bench.pidfile)))

    assert "hunter2" in reload(bench)[1]["text"]
    assert stat.S_IMODE(answer.stat().st_mode) == 0o600
    assert b"hunter2" not in bench.pidfile.read_bytes()
    assert bench.dari("stop", "app.py:daemon").returncode == 0
    assert os.listdir(bench.rundir) == ["app.pid"]


def test_a_reason_that_cannot_be_written_is_in_the_log(bench, simple, until):
    """Where no file can be put beside the pidfile the codes are right all the same, and the log has the reason."""
    bench.env["DARI_DAEMON__CONTROL__SOCKET"] = "none"  # which would tell it
    simple(keywords="parse=lambda raw: int(raw['app']['port'])")
    Path(f"{place(str(bench.pidfile))}.new").mkdir()
    accepted = reload(bench)
    bench.config(CONFIG.format("'x'"))
    refused = reload(bench)

    assert (accepted[0], refused[0]) == (0, 153)
    assert f"the details are in the log, {bench.logfile}" in refused[1]["text"]
    assert until(lambda: "ERROR dari.daemon: the configuration stays as it was" in bench.log())


def test_an_answer_of_a_killed_service_is_nobodys(bench, simple, gone):
    """After kill -9 the next one begins with generation 1, and the old answer is gone."""
    pid = simple()
    assert reload(bench)[1]["generation"] == 2
    os.kill(pid, signal.SIGKILL)
    assert gone(pid)
    dead = reload(bench)
    bench.start("-c", "dari.toml", target="app.py:daemon")

    assert (dead[0], sorted(os.listdir(bench.rundir))) == (7, ["app.ctl", "app.pid"])
    assert json.loads(bench.dari("status", "app.py:daemon", "--json").stdout)["generation"] == 1


@pytest.mark.parametrize(
    ("backend", "times"), [("asyncio", 200), ("standalone", 200), pytest.param("asyncio", 1000, marks=pytest.mark.slow)]
)
def test_many_reloads_leak_no_descriptor(bench, until, backend, times):
    """Hundreds of reloads, good and bad ones, all kinds of callbacks: as many descriptors and threads as before."""
    bench.program(STANDALONE if backend == "standalone" else PROGRAM)
    bench.config(CONFIG.format(2))
    pid = bench.start("-c", "dari.toml", "--backend", backend, target="app.py:daemon")

    def again(number):
        before = look(str(bench.pidfile)).record.reloads.ended
        bench.config(CONFIG.format(13 if number % 3 == 0 else number + 20))
        os.kill(pid, signal.SIGHUP)
        until(lambda: look(str(bench.pidfile)).record.reloads.ended > before)

    def counts():
        return len(os.listdir(f"/proc/{pid}/fd")), len(os.listdir(f"/proc/{pid}/task"))

    for number in range(3):
        again(number)
    after_the_first = counts()
    for number in range(times):
        again(number)

    assert counts() == after_the_first
    reloads = look(str(bench.pidfile)).record.reloads
    refused = 1 + len(range(0, times, 3))
    assert (reloads.ended, reloads.generation) == (3 + times, 1 + 3 + times - refused)
