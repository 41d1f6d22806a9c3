"""The pidfile by itself: the lock, the record, and what a look at both concludes."""

from __future__ import annotations

import os

import pytest

from dari.daemon.lifecycle import State
from dari.daemon.pidfile import (
    STOP_BYTE,
    Record,
    clear,
    is_locked,
    look,
    open_pidfile,
    try_lock,
    write_record,
)
from dari.daemon.process import Handle, Identity


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "app.pid")


@pytest.fixture
def held(path):
    fd = open_pidfile(path, create=True)
    assert try_lock(fd)
    yield fd
    os.close(fd)


def test_a_record_reads_back(held, path):
    """What was written is what is read; line 1 is the pid alone; every state takes the same number of bytes."""
    me = Identity.of(os.getpid())
    known = Record(me, State.STARTING, 3, target="/srv/näme\n=.py:main", grace=1e-3)
    raw = {state: known._replace(state=state).encode() for state in (State.STARTING, State.RUNNING, State.STOPPING)}

    assert {state: Record.decode(text) for state, text in raw.items()} == {s: known._replace(state=s) for s in raw}
    assert len({len(text) for text in (*raw.values(), known._replace(grace=None).encode())}) == 1
    assert raw[State.RUNNING].partition(b"\n")[0] == str(os.getpid()).encode()


@pytest.mark.parametrize("raw", [b"", b"\n", b"12\n", b"x\nstart=1\nboot=b\nlock=3\nstate=running\n", b"\xff\xfe"])
def test_what_is_no_record(raw):
    """Anything else is no record, and no error either."""
    assert Record.decode(raw) is None


def test_a_record_fits_and_older_ones_count():
    """However long its paths are, a reader gets it in one piece; one without target and grace is one, too."""
    me = Identity(1, 2, "boot")
    long = Record(me, State.RUNNING, 3, control="/" + "c" * 3000, target="/" + "t" * 3000, grace=1.0)
    old = "".join(
        f"{key}={value}\n" for key, value in (("start", 2), ("boot", "boot"), ("lock", 3), ("state", "running"))
    )

    assert Record.decode(long.encode()[:4096]) == Record(me, State.RUNNING, 3, grace=1.0)
    assert Record.decode(b"1\n" + old.encode()) == Record(me, State.RUNNING, 3)
    assert Record.decode(b"1\n" + old.encode() + b"grace=inf\n") is None


def test_one_holder(held, path):
    """A second opening of the file does not get the lock, in the same process neither; closing the first gives it."""
    second = open_pidfile(path, create=True)

    assert is_locked(second)
    assert not try_lock(second)
    assert try_lock(second, STOP_BYTE)
    os.close(second)
    assert is_locked(held) is False  # no one else's lock is in our way


def test_asking_takes_nothing(path):
    """`status` never holds the lock, not for a moment: it asks with a descriptor that could not even take it."""
    fd = open_pidfile(path, create=True)
    reader = os.open(path, os.O_RDONLY)

    assert not is_locked(reader)
    assert try_lock(fd)
    assert is_locked(reader)
    os.close(reader)
    os.close(fd)


def test_looks(held, path):
    """Lock and record together give the state; without the lock the record only names the dead."""
    me = Identity.of(os.getpid())
    assert look(path).state is State.STARTING  # the lock, and nobody's name yet
    for state in (State.STARTING, State.RUNNING, State.STOPPING):
        write_record(held, Record(me, state, held))
        assert (look(path).state, look(path).pid) == (state, os.getpid())

    write_record(held, Record(me, State.RUNNING, 0))  # descriptor 0 of ours is another file
    assert look(path).state is State.ORPHANED
    write_record(held, Record(me._replace(start=me.start + 1), State.RUNNING, held))
    assert look(path).state is State.ORPHANED
    write_record(held, Record(me._replace(boot="another"), State.RUNNING, held))
    assert look(path).state is State.ORPHANED
    clear(held)
    assert look(path).state is State.STARTING


def test_looks_without_a_lock(path):
    """No file or an empty one: not running. A record that nobody holds the lock for: dead."""
    assert look(path).state is State.STOPPED
    fd = open_pidfile(path, create=True)
    assert look(path).state is State.STOPPED
    write_record(fd, Record(Identity.of(os.getpid()), State.RUNNING, fd))
    assert look(path).state is State.DEAD
    os.close(fd)


def test_what_cannot_be_read_is_unknown(path):
    """A symlink, a fifo or a directory at the path is unknown, and nothing hangs on it."""
    os.symlink("/etc/passwd", path)
    assert look(path).state is State.UNKNOWN
    os.unlink(path)
    os.mkfifo(path)
    assert look(path).state is State.UNKNOWN


def test_a_handle_is_one_process(bystander):
    """A handle opens for the identity that lives, not for its pid with another start time, and not for the dead."""
    identity = Identity.of(bystander.pid)
    impostor = identity._replace(start=identity.start - 1)

    assert Handle.open(impostor) is None
    with Handle.open(identity) as handle:
        assert not handle.wait(0)
        bystander.kill()
        assert handle.wait(10)  # also while nobody has reaped it
        assert not identity.alive()
    assert Handle.open(identity) is None


def test_a_user_cannot_choose_whom_root_signals(held, path, monkeypatch, tmp_path):
    """For root, a pidfile owned by a user may only name a process of that user (facts b14)."""
    write_record(held, Record(Identity.of(os.getpid()), State.RUNNING, held))
    seen = look(path)

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    owner = os.stat(f"/proc/{os.getpid()}").st_uid
    assert seen._replace(owner=owner).may_be_signalled()
    assert seen._replace(owner=0).may_be_signalled()
    assert not seen._replace(owner=owner + 12345).may_be_signalled()
