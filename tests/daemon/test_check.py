"""`dari check`: what a start would find. It never starts anything."""

from __future__ import annotations

import json
import subprocess

import pytest

from dari.daemon.keys import KEYS
from dari.daemon.quantities import POOL_KEYS

MAIN = """
    import dari
    async def main(ctx):
        ctx.ready()
        await ctx.stopping.wait()
"""


def check(bench, *arguments):
    done = bench.dari("check", *arguments, "--json")
    assert done.stderr == ""
    return done.returncode, json.loads(done.stdout)


def test_every_value_has_its_origin(bench):
    """check shows each key with its value and where that comes from: option, variable, file and line, keyword."""
    bench.program(f"{MAIN}\n    daemon = dari.Daemon(main, log_level='debug', stop_grace=10)\n")
    config = bench.config(
        "[daemon]\nchdir = '.'\n\nstart_timeout = 7\n[app]\ntarget = 'app.py:daemon'\n[pool]\nmax_workers = 3\n"
    )

    bench.env["DARI_LOG__LEVEL"] = "debug"
    bench.env["DARI_DAEMON__LIMITS__CORE"] = "0"
    code, answer = check(bench, "-c", config, "--umask", "022")

    assert (code, answer["ok"], answer["config"]) == (0, True, str(config))
    assert set(answer["values"]) == {"app.target", *KEYS, *(f"pool.{key}" for key in POOL_KEYS)}
    expected = {
        "app.target": {"value": f"{bench.directory}/app.py:daemon", "origin": f"{config}:6"},
        "name": {"value": "app", "origin": "default"},
        "pidfile": {"value": str(bench.pidfile), "origin": "default"},
        "logfile": {"value": str(bench.logfile), "origin": "DARI_DAEMON__LOGFILE"},
        "rundir": {"value": str(bench.rundir), "origin": "DARI_DAEMON__RUNDIR"},
        "umask": {"value": "022", "origin": "--umask"},
        "chdir": {"value": str(bench.directory), "origin": f"{config}:2"},
        "backend": {"value": "asyncio", "origin": "default"},
        "start_timeout": {"value": 7.0, "origin": f"{config}:4"},
        "stop_grace": {"value": 10.0, "origin": "DARI_DAEMON__STOP_GRACE"},
        "log.level": {"value": "debug", "origin": "Daemon(...)"},
        "limits.nofile": {"value": None, "origin": "default"},
        "pool.max_workers": {"value": 3, "origin": f"{config}:8"},
        "pool.on_full": {"value": "wait", "origin": "default"},
        "limits.core": {"value": 0, "origin": "DARI_DAEMON__LIMITS__CORE"},
    }
    assert {key: answer["values"][key] for key in expected} == expected
    text = "environment variable DARI_LOG__LEVEL: nobody reads it; did you mean 'DARI_DAEMON__LOG__LEVEL'?"
    assert answer["warnings"] == [text]


def test_people_get_a_table(bench):
    """Without --json the same stands on stdout, a key a line, and the verdict last."""
    bench.env["DARI_DAEMON_NAME"] = "x"

    done = bench.dari("check", "app.py:main")

    *rows, warning, last = done.stdout.splitlines()
    assert warning.startswith("warning: environment variable DARI_DAEMON_NAME: nobody reads it")
    assert (done.returncode, done.stderr) == (0, "")
    assert [row.split()[0] for row in rows[:3]] == ["app.target", "name", "pidfile"]
    assert [row.split()[-1] for row in rows if row.startswith("stop_grace")] == ["DARI_DAEMON__STOP_GRACE"]
    assert last == "app: the configuration is valid, and TARGET can be imported"


def test_what_the_program_prints_at_import(bench):
    """What the import prints goes to stderr: nothing stands between a caller and the JSON."""
    bench.program(
        f"import os\nprint('hello', flush=True)\nos.system('echo there')\n{MAIN.replace(chr(10) + '    ', chr(10))}"
    )

    done = bench.dari("check", "app.py:main", "--json")

    assert (done.returncode, json.loads(done.stdout)["ok"]) == (0, True)
    assert done.stderr == "hello\nthere\n"


def test_it_starts_nothing(bench):
    """TARGET is imported in a process of its own that ends; main is not called, no pidfile and no log are made."""
    bench.program("def __getattr__(name): raise AttributeError\nasync def main(ctx):\n    open('/called', 'w')\n")

    assert bench.dari("check", "app.py:main").returncode == 0

    assert len(bench.witnesses()) == 1
    assert sorted(path.name for path in bench.directory.iterdir()) == ["app.py", "witness"]


def test_a_running_service_is_not_touched(bench):
    """check beside a running service changes nothing there."""
    pid = bench.start()
    record = bench.pidfile.read_bytes()

    assert bench.dari("check", "app.py:main").returncode == 0

    assert bench.pidfile.read_bytes() == record
    assert bench.witnesses()[0] == pid
    assert bench.status() == (0, "running")


@pytest.mark.parametrize(
    ("program", "arguments", "code", "text"),
    [
        (MAIN, ["missing.py:main"], 5, "there is no file"),
        (MAIN, ["app.py:mian"], 5, "has no 'mian'"),
        ("1 / 0\n", ["app.py:main"], 5, "ZeroDivisionError: division by zero"),
        ("import sys; sys.exit(0)\n", ["app.py:main"], 5, "left by SystemExit(0)"),
        ("import os; os._exit(0)\n", ["app.py:main"], 5, "ended its process, with exit code 0"),
        ("import os; os.abort()\n", ["app.py:main"], 5, "ended its process, by signal 6"),
        ("import time; time.sleep(60)\n", ["app.py:main", "--start-timeout", "0.5"], 5, "imported after 0.5 s"),
        ("def main(ctx): ...\n", ["app.py:main"], 5, "must be an `async def` or a generator function"),
        (MAIN, ["app.py:main", "-c", "bad.toml"], 6, "bad.toml:2: [daemon] nmae: unknown key; did you mean 'name'?"),
        (MAIN, ["app.py:main", "-c", "missing.toml"], 6, "cannot read"),
        (MAIN, ["app.py:main", "--chdir", "/nowhere"], 6, "chdir /nowhere"),
        (f"{MAIN}\n    d = dari.Daemon(main, name='other')\n", ["app.py:d"], 6, "says name='other'"),
        (f"{MAIN}\n    d = dari.Daemon(main, parse=lambda r: r['app'])\n", ["app.py:d"], 6, "KeyError"),
        (MAIN, [], 2, "which service?"),
        (MAIN, ["--name", "app"], 2, "what is to be checked?"),
    ],
)  # fmt: skip
def test_what_a_start_would_refuse(bench, program, arguments, code, text):
    """check refuses with start's codes, 5 for TARGET and 6 for the configuration, and says what is wrong."""
    bench.program(program)
    (bench.directory / "bad.toml").write_text("[daemon]\nnmae = 'x'\n")

    ended, answer = check(bench, *arguments)

    assert (ended, answer["code"], answer["ok"]) == (code, code, False)
    assert text in answer["text"]


def test_what_the_program_leaves_behind_keeps_nobody_waiting(bench):
    """A thread that the import starts, or a process that it forks, does not hold up the check."""
    bench.program(
        """
        import os, threading, time
        threading.Thread(target=time.sleep, args=(60,)).start()
        if os.fork() == 0:
            with open(os.environ["WITNESS"] + ".children", "a") as file:
                file.write(f"{os.getpid()}\\n")
            time.sleep(60)
        async def main(ctx): ...
        """
    )

    done = bench.dari("check", "app.py:main", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    assert done.returncode == 0


@pytest.mark.parametrize(
    ("program", "config", "code", "reason"),
    [
        ("import nowhere_to_be_found\n", "", 5, "No module named 'nowhere_to_be_found'"),
        (MAIN, "[daemon]\nstop_grace = 'soon'\n", 6, "dari.toml:2: [daemon]: stop_grace must be a number of seconds"),
        (MAIN, "[daemon\n", 6, "dari.toml: "),
        (f"{MAIN}\n    main = dari.Daemon(main, parse=lambda raw: raw['app'])\n", "", 6, "parse: KeyError: 'app'"),
        (f"{MAIN}\n    main = dari.Daemon(main, umask='077')\n", "", 6, "says umask='077'"),
        (
            MAIN,
            "[daemon.control]\nhealth = '8.8.8.8:8086'\n",
            1,
            "cannot listen on [daemon.control] health = 8.8.8.8:8086",
        ),
        ("import time\ntime.sleep(60)\n", "", 5, "still being imported after 1 s"),
    ],
)
def test_restart_leaves_alone_what_it_cannot_start_again(bench, program, config, code, reason):
    """restart checks first, as `check` does: with a broken file or program the old service runs on, untouched."""
    pid = bench.start()
    record = bench.pidfile.read_bytes()
    bench.program(program)
    bench.config(config)

    done = bench.dari("restart", "app.py:main", "-c", "dari.toml", "--json", "--start-timeout", "1")

    answer = json.loads(done.stdout)
    assert (done.returncode, answer["code"], answer["ok"], done.stderr) == (code, code, False, "")
    assert reason in answer["text"]
    if answer["name"] is not None:  # where the file can be read, the service has a name and is looked at
        assert (answer["state"], answer["pid"], answer["stopped"]) == ("running", pid, None)
        assert answer["text"].endswith(f"cannot be started, so what runs was left alone (running (pid {pid}))")
    assert bench.pidfile.read_bytes() == record
    assert bench.status() == (0, "running")


def test_restart_after_a_check_that_passes(bench, gone):
    """With a good file restart ends the one and starts the other with the new configuration, and says both pids."""
    first = bench.start()
    bench.program(f"{MAIN}\n    daemon = dari.Daemon(main, parse=lambda raw: raw['app'])\n")
    bench.config("[app]\ntarget = 'app.py:daemon'\n")

    done = bench.dari("restart", "-c", "dari.toml", "--json")

    answer = json.loads(done.stdout)
    assert (done.returncode, answer["stopped"], answer["state"]) == (0, first, "running")
    assert gone(first, timeout=0)
    assert answer["pid"] == bench.witnesses()[-1] != first
