"""A configuration that was broken while its service runs: who looks for the service, or stops it, does without."""

from __future__ import annotations

import json
import os

import pytest

from dari.daemon import cli
from dari.daemon.lifecycle import State
from dari.daemon.pidfile import Record, open_pidfile, try_lock, write_record
from dari.daemon.process import Identity

TYPOS = """\
[daemon]
name = "app"
rundir = "run"
stop_grce = 3
umask = 27
[pool]
max_wokers = 3
[app]
target = "main"
"""
WARNINGS = [
    "{0}:4: [daemon] stop_grce: unknown key; did you mean 'stop_grace'?: ignored here",
    '{0}:5: [daemon]: umask must be an octal number in quotes, like "027", not 27: ignored here',
    "{0}:7: [pool] max_wokers: unknown key; did you mean 'max_workers'?: ignored here",
    "{0}:9: [app] target: 'main' must be module:attribute or path/to/file.py:attribute, like app.py:main: ignored here",
]


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "run").mkdir()
    return tmp_path / "dari.toml"


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("status", 3),
        ("stop", 0),
        ("metrics", 0),
        ("dump", 7),
        ("start", 6),
        ("restart", 6),
        ("reload", 153),
        ("check", 6),
    ],
)
def test_who_looks_does_without(file, capsys, command, code):
    """Mistakes are warnings, all of them, for who only looks or stops; who would use the file refuses the first one."""
    file.write_text(TYPOS)

    assert cli.main([command, "-c", str(file)]) == code

    lines = capsys.readouterr().err.splitlines()
    expected = [f"dari: {text.format(file)}" for text in WARNINGS]
    if code in (6, 153):
        assert len(lines) == 1
        assert expected[0].removesuffix(": ignored here").removeprefix("dari: ") in lines[0]
    else:
        assert lines[:4] == expected


def test_what_is_valid_counts(file, capsys):
    """A service in the file's own directory is found in spite of the typos beside it."""
    file.write_text(TYPOS)
    lock = open_pidfile(str(file.parent / "run/app.pid"), create=True)
    try_lock(lock)
    write_record(lock, Record(Identity.of(os.getpid()), State.RUNNING, lock))  # this very process

    code = cli.main(["status", "-c", str(file), "--json"])

    os.close(lock)
    answer = json.loads(capsys.readouterr().out)
    assert (code, answer["pid"], answer["state"]) == (0, os.getpid(), "running")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[daemon\n", "(at line 1, column 8)"),
        ("[daemon]\nname = 'app'\nrundri = 'run'\n", ":3: [daemon] rundri: unknown key; did you mean 'rundir'?"),
        ("[daemon]\nname = 3\n", ":2: [daemon]: name must be a name"),
        ("[app]\ntarget = 'nothing'\n", ":2: [app] target: 'nothing' must be"),
    ],
)
def test_nobody_looks_in_the_wrong_place(file, capsys, text, message):
    """Where the file does not say which service, that is unknown (4), not "not running", and the way out is told."""
    file.write_text(text)

    codes = [cli.main([command, "-c", str(file)]) for command in ("status", "stop", "start")]

    status, stop, start = capsys.readouterr().err.splitlines()
    assert codes == [4, 6, 6]
    assert all(message in line for line in (status, stop, start))
    assert status.endswith("; without -c, --pidfile or --name finds the service")
    assert stop == status
    assert "without -c" not in start
    assert cli.main(["status", "--pidfile", str(file.parent / "run/app.pid")]) == 3
