"""What an operator can get wrong, and what the machine can refuse: each a clear error and the right code, and nothing
of what runs or stands there is lost."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess

import pytest

PR_CAPBSET_DROP = 24
CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 1, 2


def as_anybody() -> None:
    """After the exec root's permissions are those of the files' owner, as everybody's are."""
    libc = ctypes.CDLL(None)
    for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
        libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)


MISTAKES = {
    "bad TOML": ("[app\n", 6, "dari.toml: Expected ']'"),
    "unknown key": ("[daemon]\nnmae = 'x'\n", 6, "dari.toml:2: [daemon] nmae: unknown key; did you mean 'name'?"),
    "wrong type": ("[daemon]\nstop_grace = []\n", 6, "dari.toml:2: [daemon]: stop_grace must be a number of seconds"),
    "no table": ("daemon = 1\n", 6, "dari.toml"),
    "unreadable": (None, 6, "cannot read"),
    "missing target": ("[app]\ntarget = 'nowhere.py:main'\n", 5, "there is no file"),
}


def test_a_configuration_that_cannot_be_used(bench):
    """Whatever is wrong with the file: start, restart and check end with the same code and say where it is; nobody
    stops the service that runs, nor starts a second one."""
    running = bench.start()
    record = bench.pidfile.read_bytes()
    for number, (text, code, reason) in enumerate(MISTAKES.values()):
        file = bench.directory / f"{number}" / "dari.toml"
        file.parent.mkdir()
        file.write_text(text or "")
        file.chmod(0 if text is None else 0o644)
        target = [] if reason == "there is no file" else ["app.py:main"]
        other = ["--name", "other", "--pidfile", bench.rundir / "other.pid"]
        names = {"check": ["--name", "app"], "restart": ["--name", "app"], "start": other}
        asked = {
            command: bench.popen(command, *target, *name, "-c", file, preexec_fn=as_anybody)
            for command, name in names.items()
        }
        for command, child in asked.items():
            out, err = child.communicate(timeout=60)
            assert (child.returncode, out) == (code, ""), (command, err)
            assert reason in err, command
            assert "Traceback" not in err

    assert bench.witnesses() == [running]
    assert bench.pidfile.read_bytes() == record
    assert bench.status() == (0, "running")


def test_a_directory_that_cannot_be_written(bench):
    """Where pidfile or log cannot be made: not permitted (4) or failed (1), with the path; and nothing is left."""
    bench.rundir.mkdir(mode=0o500)
    done = bench.dari("start", "app.py:main", preexec_fn=as_anybody)
    assert (done.returncode, done.stdout) == (4, "")
    assert str(bench.pidfile) in done.stderr

    bench.rundir.chmod(0o700)
    logs = bench.directory / "logs"
    logs.mkdir(mode=0o500)
    done = bench.dari("start", "app.py:main", "--logfile", logs / "app.log", preexec_fn=as_anybody)
    assert done.returncode in (1, 4)
    assert f"{logs}/app.log" in done.stderr
    assert bench.status() == (3, "stopped")
    assert bench.witnesses() == []


def test_a_full_disk_under_the_pidfile(bench):
    """No room for the record: the start fails, says so, and leaves nothing; when there is room the next one works.
    A service that runs already goes on, reloads and stops on a full disk: its record is written in place."""
    disk = bench.rundir
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k,mode=700", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("mounting is not permitted here")
    try:
        filler = disk / "filler"
        filler.write_bytes(b"x" * 65536)
        full = bench.dari("start", "app.py:main")
        after = bench.status()
        filler.unlink()
        pid = bench.start()
        filler.write_bytes(b"x" * (os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize))
        reloaded = json.loads(bench.dari("reload", "app.py:main", "--json").stdout)
        status = bench.dari("status", "app.py:main")
        stopped = bench.dari("stop", "app.py:main", "--strict")
    finally:
        bench.clean_up()
        subprocess.run(["umount", str(disk)], check=True)

    assert full.returncode == 1, full
    assert os.strerror(28) in full.stderr
    assert after == (3, "stopped")
    assert bench.witnesses() == [pid]
    assert (reloaded["code"], reloaded["generation"]) == (0, 2)
    assert status.returncode == 0
    assert stopped.returncode == 0


def test_an_answer_that_nobody_reads(bench):
    """`dari status | head -1`: not running is still 3, and not the 1 of a traceback, which would mean dead."""
    reader, writer = os.pipe()
    os.close(reader)

    done = bench.dari("status", "--name", "app", stdout=writer)

    os.close(writer)
    assert (done.returncode, done.stderr) == (3, "")


def test_an_answer_that_finds_no_place(bench):
    """A full disk is told in one line, and the state is unknown then."""
    with open("/dev/full", "w") as full:
        done = bench.dari("status", "--name", "app", stdout=full)

    text = "dari: status: the answer could not be written: No space left on device\n"
    assert (done.returncode, done.stderr) == (4, text)
