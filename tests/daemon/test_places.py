"""What `check` and `restart` find out about a start's files and its port, before anything is stopped."""

from __future__ import annotations

import os
import socket

import pytest

from dari.daemon.commands.places import try_places
from dari.daemon.config import resolve
from dari.daemon.lifecycle import Failure, Refused, State
from dari.daemon.pidfile import Record, open_pidfile, try_lock, write_record
from dari.daemon.process import Identity

LONG = "c" * 150


def settings_of(directory, **keys):
    command_line = {
        "rundir": "run",
        "logfile": "app.log",
        **{key.replace("__", "."): text for key, text in keys.items()},
    }
    return resolve(
        command_line=command_line, target="app.py:main", config=None, environ={}, keywords={}, cwd=str(directory)
    )


@pytest.fixture
def port():
    """A port on which somebody else listens: this process."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({"logfile": "missing/app.log"}, "cannot open the log {0}/missing/app.log: No such file or directory"),
        ({"logfile": "link"}, "cannot open the log {0}/link: it is a symbolic link; remove it"),
        ({"logfile": "fifo"}, "cannot open the log {0}/fifo: it is not a regular file; remove it"),
        ({"logfile": "dir"}, "cannot open the log {0}/dir: it is a directory"),
        ({"logfile": "file/app.log"}, "cannot open the log {0}/file/app.log: {0}/file is not a directory"),
        ({"pidfile": "missing/app.pid"}, "cannot open the pidfile {0}/missing/app.pid: No such file or directory"),
        ({"pidfile": "link"}, "the pidfile {0}/link is a symbolic link; remove it"),
        ({"rundir": "open/run"}, "everybody may write to {0}/open: no place for a pidfile"),
        ({"control__socket": LONG}, "the path of the control socket is too long"),
        ({"control__socket": "missing/ctl"}, "cannot make the control socket {0}/missing/ctl: No such file"),
        ({"control__socket": "file"}, "{0}/file is no socket"),
        ({"control__socket": "taken"}, "somebody else listens on the socket {0}/taken"),
        ({"control__health": "8.8.8.8:8086"}, "cannot listen on [daemon.control] health = 8.8.8.8:8086"),
        ({"control__health": "127.0.0.1:PORT"}, "health = 127.0.0.1:PORT: Address already in use"),
    ],
)  # fmt: skip
def test_what_a_start_could_not_open(tmp_path, port, keys, text):
    """Each place that would end a start is named with the error of that start, and nothing is made."""
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "dir").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "fifo")
    before = sorted(tmp_path.rglob("*"))
    settings = settings_of(tmp_path, **{key: value.replace("PORT", str(port)) for key, value in keys.items()})

    with socket.socket(socket.AF_UNIX) as taken:
        taken.bind(str(tmp_path / "taken"))
        taken.listen()
        with pytest.raises((Failure, Refused)) as caught:
            try_places(settings, None)

    assert text.format(tmp_path).replace("PORT", str(port)) in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == sorted([*before, tmp_path / "taken"])


def test_places_that_will_do(tmp_path):
    """Directories that a start makes need not be there, what an earlier service has left is no hindrance."""
    (tmp_path / "app.log").write_text("before")
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(tmp_path / "stale"))
    before = sorted(tmp_path.rglob("*"))

    try_places(settings_of(tmp_path, rundir="a/b", control__socket="stale", control__health="127.0.0.1:0"), None)

    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "app.log").read_text() == "before"


def test_a_socket_that_nobody_asked_for_may_fail(tmp_path):
    """A control socket in its default place is no reason not to start, and none for a check to fail."""
    try_places(settings_of(tmp_path, name=LONG), None)


def test_what_the_running_service_holds_is_free(tmp_path, port):
    """The port and the control socket of the service in the pidfile are free for the one that comes after it."""
    (tmp_path / "run").mkdir()
    control = str(tmp_path / "run/app.ctl")
    lock = open_pidfile(str(tmp_path / "run/app.pid"), create=True)
    try_lock(lock)
    write_record(lock, Record(Identity.of(os.getpid()), State.RUNNING, lock, control=control))  # this very process

    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(control)
        listening.listen()
        try_places(settings_of(tmp_path, control__socket=control, control__health=f"127.0.0.1:{port}"), None)

    os.close(lock)
