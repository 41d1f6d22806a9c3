"""`dari unit`: what systemd and logrotate read, checked by themselves, and run as they would."""

from __future__ import annotations

import gzip
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys

import pytest

from dari.daemon import cli
from dari.daemon.commands.unit import logrotate_snippet, systemd_unit
from dari.daemon.config import resolve

from .conftest import PATIENCE
from .test_logs import COUNTER, numbers, run_logrotate


def verify(*paths):
    """What systemd has against these units."""
    program = shutil.which("systemd-analyze")
    if program is None:
        assert os.geteuid() != 0, "as root .ci/run installs systemd: a skip would hide what this is for"
        pytest.skip("systemd-analyze is not installed")
    done = subprocess.run(
        [program, "verify", "--man=no", *map(str, paths)], capture_output=True, text=True, timeout=60, check=False
    )
    return done.returncode, done.stdout + done.stderr


def settings_of(directory, *, config=None, target=None, **keys):
    command_line = {key.replace("__", "."): value for key, value in keys.items()}
    return resolve(command_line=command_line, target=target, config=config, environ={}, keywords={}, cwd=str(directory))


def value_of(unit, key):
    """Return what the unit says of a key; None where it says nothing."""
    found = re.findall(rf"^{key}=(.*)$", unit, re.MULTILINE)
    assert len(found) < 2
    return found[0] if found else None


def words(command):
    """Return a command line as systemd reads it."""
    return [word.replace("%%", "%").replace("$$", "$") for word in shlex.split(command)]


def test_systemd_has_nothing_against_them(tmp_path):
    """A unit with a user, one without, and one whose paths need every kind of quoting."""
    (tmp_path / 'a "$HOME" of 50%\\').mkdir()
    odd = 'a "$HOME" of 50%\\/dari.toml'
    (tmp_path / odd).write_text('[app]\ntarget = "app.py:main"\n')
    units = {
        "user": settings_of(tmp_path, target="app.py:main", user="daemon", group="mail", limits__nofile="4096"),
        "none": settings_of(tmp_path, target="package.module:main", logfile="/var/log/app/app.log"),
        "odd": settings_of(tmp_path, config=odd, rundir="a run", logfile="/srv/app.log"),
    }
    for name, settings in units.items():
        (tmp_path / f"{name}.service").write_text(systemd_unit(settings))

    written = value_of((tmp_path / "odd.service").read_text(), "ExecStart")
    assert r'/a \"$$HOME\" of 50%%\\/dari.toml"' in written
    assert f"{tmp_path}/{odd}" in words(written)
    assert verify(*(tmp_path / f"{name}.service" for name in units)) == (0, "")


def test_what_is_written_down(tmp_path):
    """Interpreter, TARGET and options are resolved, and what the file says is left to the file."""
    (tmp_path / "dari.toml").write_text('[daemon]\nstop_grace = 7.5\nuser = "nobody"\n[app]\ntarget = "app.py:main"\n')
    (tmp_path / "more").mkdir()
    command = f"{sys.executable} -P -m dari run"

    of_file = systemd_unit(settings_of(tmp_path, config="dari.toml", log__level="debug"))
    by_hand = systemd_unit(
        settings_of(tmp_path / "more", target="package:main", user="daemon", umask="077", control__socket="none")
    )

    assert words(value_of(of_file, "ExecStart")) == [
        *words(command), "-c", f"{tmp_path}/dari.toml", "--log-level", "debug", "--rundir", "/run/app"
    ]  # fmt: skip
    assert words(value_of(by_hand, "ExecStart")) == [
        *words(command), "package:main", "--umask", "077", "--control-socket", "none", "--rundir", "/run/package"
    ]  # fmt: skip
    assert [
        value_of(of_file, key) for key in ("User", "TimeoutStopSec", "UMask", "WorkingDirectory", "DynamicUser")
    ] == [
        "nobody",
        "17.5",
        "0027",
        None,
        None,
    ]
    assert [value_of(by_hand, key) for key in ("User", "TimeoutStopSec", "UMask", "WorkingDirectory")] == [
        "daemon",
        "40",
        "0077",
        f"{tmp_path}/more",
    ]


@pytest.mark.parametrize(
    ("logfile", "lines"),
    [
        ("/var/log/app/app.log", ["LogsDirectory=app"]),
        ("/var/log/app.log", ["ReadWritePaths=/var/log"]),
        ("/srv/my logs/app.log", ['ReadWritePaths="/srv/my logs"']),
        (None, []),
    ],
)
def test_where_it_may_write(tmp_path, logfile, lines):
    """Nothing but its own directories, and that of its log."""
    keys = {} if logfile is None else {"logfile": logfile}

    unit = systemd_unit(settings_of(tmp_path, target="app.py:main", **keys))

    found = [line for line in unit.splitlines() if line.startswith(("LogsDirectory", "ReadWritePaths"))]
    assert found == lines
    assert (value_of(unit, "StateDirectory"), value_of(unit, "RuntimeDirectory")) == ("app", "app")


def test_the_commands_of_a_unit_work(bench):
    """Run as systemd runs them, from / and without an environment: it is ready, reloads, refuses, and stops."""
    config = bench.config(f'[daemon]\nrundir = "{bench.rundir}"\n[app]\ntarget = "app.py:main"\nport = 1\n')
    env = {"PATH": "/usr/bin:/bin", "WITNESS": str(bench.witness)}
    unit = bench.dari("unit", "-c", config, env=env | {"PYTHONPATH": bench.env.get("PYTHONPATH", "")}).stdout
    assert words(value_of(unit, "ExecReload")) == [
        "reload" if word == "run" else word for word in words(value_of(unit, "ExecStart"))
    ]
    if said := value_of(unit, "Environment"):
        env |= dict([words(said)[0].split("=", 1)])
    address = bench.directory / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(address))
        systemd.settimeout(PATIENCE)

        service = bench.spawn(words(value_of(unit, "ExecStart")), env=env | {"NOTIFY_SOCKET": str(address)}, cwd="/")
        ready = systemd.recv(4096)
        reload = words(value_of(unit, "ExecReload"))
        codes = []
        for text in ("port = 2", "port = nonsense"):
            config.write_text(config.read_text().replace("port = 1", text).replace("port = 2", text))
            done = bench.spawn(reload, env=env, cwd="/")
            done.communicate(timeout=PATIENCE)
            codes.append(done.returncode)
        service.terminate()

        assert (ready, codes, service.wait(PATIENCE)) == (b"READY=1", [0, 153], 0)


def all_lines(bench):
    """Return what stands in all files of the log, the oldest first."""
    raw = [path.read_bytes() for path in sorted(bench.directory.glob("app.log*"), reverse=True)]
    return b"".join(gzip.decompress(each) if each.startswith(b"\x1f\x8b") else each for each in raw).decode()


def test_the_snippet_loses_no_line(bench, until):
    """The real logrotate, three times in the midst of the writing: compressed, created anew, whole and in order."""
    bench.program(COUNTER)
    bench.start()
    options = ("--logfile", bench.logfile, "--rundir", bench.rundir)
    snippet = bench.dari("unit", "app.py:main", "--logrotate", *options).stdout

    for _ in range(3):
        until(lambda: "logged" in bench.log())
        run_logrotate(bench, snippet)
    until(lambda: "logged" in bench.log())
    assert bench.dari("stop", "app.py:main", "--strict").returncode == 0
    text = all_lines(bench)

    assert sorted(path.name for path in bench.directory.glob("app.log.*")) == [
        "app.log.1",
        "app.log.2.gz",
        "app.log.3.gz",
    ]
    last = numbers(text, "logged")[-1]
    assert numbers(text, "logged") == list(range(1, last + 1))


def test_the_snippet_when_nothing_runs(bench):
    """A service that is stopped is no reason for logrotate to complain."""
    bench.logfile.write_text("old\n")
    snippet = logrotate_snippet(settings_of(bench.directory, target="app.py:main", logfile="app.log", rundir="run"))

    program = shutil.which("logrotate", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if program is None:
        assert os.geteuid() != 0
        pytest.skip("logrotate is not installed")
    config = bench.directory / "logrotate.conf"
    config.write_text(snippet)
    config.chmod(0o644)
    done = subprocess.run(
        [program, "--force", "--state", str(bench.directory / "state"), str(config)],
        env=bench.env, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done
    assert (bench.directory / "app.log.1").read_text() == "old\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root rotates what is somebody else's")
def test_a_log_in_somebody_elses_directory(tmp_path):
    """Is rotated as that one, who could otherwise put a link where root writes."""
    (tmp_path / "logs").mkdir()
    shutil.chown(tmp_path / "logs", "nobody", "daemon")

    snippet = logrotate_snippet(settings_of(tmp_path, target="app.py:main", logfile="logs/app.log"))

    assert "    su nobody daemon\n" in snippet


def test_json_and_mistakes(bench):
    """The text comes in JSON as well; --logrotate is for `unit`, and `unit` needs a service."""
    done = bench.dari("unit", "app.py:main", "--json")
    unit = json.loads(done.stdout)["text"]

    assert unit.startswith("# app.service")
    assert bench.dari("status", "app.py:main", "--logrotate").returncode == 2


@pytest.mark.parametrize("option", [[], ["--logrotate"]])
def test_an_error_is_no_unit(tmp_path, monkeypatch, capsys, option):
    """stdout, which goes into a file, has nothing when there is no unit; stderr says why."""
    monkeypatch.chdir(tmp_path)

    assert cli.main(["unit", "--name", "app", *option]) == 2

    out, err = capsys.readouterr()
    assert (out, err.split("?")[0]) == ("", "dari: what is to be written down")
