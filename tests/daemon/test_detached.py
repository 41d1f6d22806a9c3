"""What the kernel says about a service: its session, its terminal, its descriptors, its place. Read from /proc."""

from __future__ import annotations

import errno
import os
import pty
import resource
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest


def fields(pid: int) -> dict[str, int]:
    with open(f"/proc/{pid}/stat") as file:
        rest = file.read().rpartition(")")[2].split()
    return dict(zip(("ppid", "pgrp", "session", "tty"), map(int, rest[1:5]), strict=True))


def descriptors(pid: int) -> dict[int, str]:
    return {int(fd): os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}


# A leader of a session who opens a terminal, so that it is his; starts the service, and stays when that has started.
LEADER = """
import os, signal, subprocess, sys
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # who runs these tests may ignore it
os.open(sys.argv[1], os.O_RDWR)
subprocess.run(sys.argv[2:], stdout=open("out", "w"), check=True)
open("ended", "w")
while True:
    signal.pause()
"""


def test_session_and_terminal(bench, until):
    """Started under a controlling terminal it has none and cannot get one, in a session of which it is not the
    leader; the terminal is closed, which hangs up whoever belongs to it, and the service goes on."""
    bench.program(
        """
        import asyncio
        async def main(ctx):
            try:
                os.open("/dev/tty", os.O_RDWR)
            except OSError as error:
                print(error.strerror)
            ctx.ready()
            while not os.path.exists(os.environ["WITNESS"] + ".closed"):
                await asyncio.sleep(0.01)
            print("the terminal is gone", flush=True)
            await ctx.stopping.wait()
        """
    )
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", LEADER, os.ttyname(theirs), *bench.command("start", "app.py:main")]
    leader = bench.spawn(command, start_new_session=True)
    os.close(theirs)
    until((bench.directory / "ended").exists)
    [pid] = bench.witnesses()
    facts = fields(pid)

    os.close(ours)
    (bench.directory / "witness.closed").touch()

    assert leader.wait() == -signal.SIGHUP  # so it was a controlling terminal
    until(lambda: "the terminal is gone\n" in bench.log())
    assert (bench.directory / "out").read_text() == f"{os.strerror(errno.ENXIO)}\napp: running (pid {pid})\n"
    assert facts["tty"] == 0
    assert facts["session"] not in (pid, leader.pid, os.getsid(0))
    assert facts["pgrp"] == facts["session"]
    assert bench.status() == (0, "running")


def test_nobody_else_stays(bench):
    """Launcher and middle process are gone when start has returned: one process is left in the session."""
    pid = bench.start()
    session = fields(pid)["session"]
    members = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            state = fields(int(name))
            with open(f"/proc/{name}/cmdline") as file:
                zombie = not file.read()
        except OSError:
            continue
        if state["session"] == session and not zombie:
            members.append(int(name))
    assert members == [pid]


def test_descriptors_are_an_allow_list(bench, until):
    """With 200 inherited descriptors and a limit of 2**20 (or what the hard limit permits) none of them arrives, and
    only those are closed that are open: nobody loops up to the limit."""
    leaked = [os.open("/dev/zero", os.O_RDONLY) for _ in range(200)]
    # Above the hard one only root may go, and not everywhere.
    raised = ["/bin/sh", "-c", 'ulimit -n 1048576 2>/dev/null || ulimit -n $(ulimit -Hn); exec "$@"', "sh"]
    places = bench.directory / "places"
    fault = str(Path(__file__).parent / "fault")
    path = os.pathsep.join(filter(None, [fault, bench.env.get("PYTHONPATH")]))
    env = bench.env | {"PYTHONPATH": path, "PLACES": str(places)}
    try:
        command = [*raised, *bench.command("start", "app.py:main")]
        done = subprocess.run(command, cwd=bench.directory, pass_fds=leaked, env=env, check=False)
    finally:
        for fd in leaked:
            os.close(fd)

    [pid] = bench.witnesses()
    until(lambda: "app is ready" in bench.log())  # said when the pipe to the launcher is closed
    found = descriptors(pid)
    log, lock = str(bench.logfile), str(bench.pidfile)
    standard = [found.pop(0), found.pop(1), found.pop(2)]
    kinds = sorted(name.partition(":")[0] for name in found.values())
    closed = [line for line in places.read_text().splitlines() if line.startswith("service ") and "close" in line]
    assert done.returncode == 0
    assert 200 <= len(closed) < 400
    assert standard == ["/dev/null", log, log]
    # The lock, the log, our signal pipe (two ends), the control socket; asyncio's epoll and its pair of sockets.
    assert kinds == sorted([lock, log, "pipe", "pipe", "socket", "anon_inode", "socket", "socket"])


def test_everything_but_the_standard_three_is_close_on_exec(bench):
    """A child of the service gets 0, 1, 2 and nothing else: not the lock, not the log, not the pipes."""
    bench.program(
        """
        import subprocess, sys
        async def main(ctx):
            ctx.ready()
            subprocess.run([sys.executable, "-c", "import os; print(sorted(os.listdir('/proc/self/fd')))"],
                           close_fds=False, check=True)
            await ctx.stopping.wait()
        """
    )
    bench.start()
    bench.dari("stop", "app.py:main")

    assert "['0', '1', '2', '3']\n" in bench.log()  # 3 is the listing itself


def test_place_and_mask(bench):
    """Its directory is /, its umask 027, its log readable by its group and by nobody else."""
    pid = bench.start()
    with open(f"/proc/{pid}/status") as file:
        mask = next(line.split()[1] for line in file if line.startswith("Umask"))

    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    assert mask == "0027"
    assert stat.S_IMODE(bench.logfile.stat().st_mode) == 0o640
    assert stat.S_IMODE(bench.pidfile.stat().st_mode) == 0o644


def test_ps_names_the_service(bench):
    """`ps` shows the service's name and TARGET, not `dari start`."""
    pid = bench.start()
    with open(f"/proc/{pid}/cmdline") as file:
        arguments = file.read().split("\0")
    with open(f"/proc/{pid}/comm") as file:
        name = file.read()

    assert "start" not in arguments
    assert "app" in arguments
    assert f"{bench.directory}/app.py:main" in arguments
    assert name == "app\n"


def test_closed_standard_descriptors(bench):
    """Started with 0, 1 and 2 closed, nothing it prints lands in the pidfile or the log by accident."""
    bench.program("async def main(ctx):\n    print('stray')\n    ctx.ready()\n    await ctx.stopping.wait()\n")
    command = bench.command("start", "app.py:main")
    done = subprocess.run(
        ["/bin/sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *command],
        cwd=bench.directory,
        env=bench.env,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0
    assert bench.status() == (0, "running")
    assert bench.pidfile.read_text().splitlines()[0] == str(bench.witnesses()[0])


@pytest.mark.parametrize("kind", ["symlink", "fifo", "directory", "hard link"])
def test_what_may_not_stand_at_the_pidfile(bench, kind):
    """No symlink is followed, no fifo waited for; nothing but a regular file with one name is taken for a pidfile."""
    bench.rundir.mkdir()
    precious = bench.directory / "precious"
    precious.write_text("data")
    if kind == "symlink":
        bench.pidfile.symlink_to(precious)
    elif kind == "fifo":
        os.mkfifo(bench.pidfile)
    elif kind == "directory":
        bench.pidfile.mkdir()
    else:
        bench.pidfile.hardlink_to(precious)

    for command in ("start", "run", "stop"):
        done = bench.dari(command, "app.py:main")
        assert done.returncode == 1, (command, done)
        assert str(bench.pidfile) in done.stderr
    assert bench.witnesses() == []
    assert precious.read_text() == "data"


def test_a_directory_that_everybody_may_write_to(bench):
    """A pidfile is not put where anybody could replace it."""
    bench.rundir.mkdir()
    bench.rundir.chmod(0o777)

    done = bench.dari("start", "app.py:main")

    assert done.returncode == 4
    assert "everybody may write" in done.stderr


def test_the_inode_of_the_pidfile_never_changes(bench):
    """The pidfile is never unlinked nor replaced: two processes would lock two files of one name."""
    bench.start()
    with open(bench.pidfile) as first:  # held open, or a new file could get the old one's number
        for command in ("restart", "stop", "start"):
            assert bench.dari(command, "app.py:main").returncode == 0
            assert os.path.samestat(os.fstat(first.fileno()), bench.pidfile.stat())


def test_a_log_that_is_a_symlink_is_refused(bench):
    """A log path that leads elsewhere is refused, and the caller is told."""
    precious = bench.directory / "precious"
    precious.write_text("data")
    bench.logfile.symlink_to(precious)

    done = bench.dari("start", "app.py:main")

    assert done.returncode == 1
    assert "app.log" in done.stderr
    assert precious.read_text() == "data"


def test_limits(bench):
    """[daemon.limits] sets the soft limits and leaves the hard ones; what the kernel refuses is 6."""
    bench.program(
        """
        import resource
        async def main(ctx):
            print(resource.getrlimit(resource.RLIMIT_NOFILE), resource.getrlimit(resource.RLIMIT_CORE))
            ctx.ready()
            await ctx.stopping.wait()
        """
    )
    hard = [resource.getrlimit(which)[1] for which in (resource.RLIMIT_NOFILE, resource.RLIMIT_CORE)]
    config = bench.config("[daemon.limits]\nnofile = 200\ncore = 0\n")

    done = bench.dari("start", "app.py:main", "-c", config)
    refused = bench.dari("check", "app.py:main", "--limits-nofile", str(10**17))

    assert done.stdout.splitlines()[0] == f"(200, {hard[0]}) (0, {hard[1]})"
    assert refused.returncode == 6
    assert f"limits.nofile = {10**17}: " in refused.stderr
    assert f"the hard limit is {hard[0]}" in refused.stderr
