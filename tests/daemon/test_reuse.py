"""A pid that the kernel has given to somebody else: never signalled, however well everything else fits."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

# Runs as process 1 of a pid namespace of its own, where it may choose the next pid.
INSIDE = """\
import json, os, signal, subprocess, sys, time

def dari(*arguments):
    done = subprocess.run([sys.executable, "-m", "dari", *arguments, "--json"], capture_output=True, text=True)
    return done.returncode, json.loads(done.stdout)

service = dari("start", "app.py:main")[1]["pid"]
record = open(sys.argv[1]).read()
lock = int(record.partition("lock=")[2].split()[0])
os.kill(service, signal.SIGKILL)
while os.waitpid(-1, 0)[0] != service:  # process 1 is the parent of whoever has lost his own
    pass
with open("/proc/sys/kernel/ns_last_pid", "w") as file:
    file.write(str(service - 1))
ready, tell = os.pipe()
stranger = os.fork()
if stranger == 0:
    # The very same number, with the pidfile open under the very same descriptor.
    fd = os.open(sys.argv[1], os.O_RDWR)
    os.dup2(fd, lock, inheritable=False)
    os.write(tell, b"x")
    while True:
        time.sleep(3600)
os.read(ready, 1)
answers = {command: dari(command, "app.py:main") for command in ("status", "reload", "dump", "stop")}
unharmed = os.waitpid(stranger, os.WNOHANG) == (0, 0)
holds = open(sys.argv[1]).read() == record
started = dari("start", "app.py:main")
print(json.dumps({"reused": stranger == service, "unharmed": unharmed, "holds": holds, "started": started[0],
                  "codes": {command: code for command, (code, _) in answers.items()},
                  "states": answers["status"][1]["state"]}))
"""
# Leaves the lock to a child that outlives it: so the lock is held, and the pidfile names the dead.
LEAVES_THE_LOCK = """
    import subprocess
    async def main(ctx):
        lock = int(open({pidfile!r}).read().partition("lock=")[2].split()[0])
        subprocess.Popen(["sleep", "3600"], pass_fds=[lock], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        ctx.ready()
        await ctx.stopping.wait()
"""


def in_a_pid_namespace(bench):
    """Run the program as process 1 of a new namespace; return what it printed."""
    unshare = ["unshare", "--pid", "--fork", "--mount-proc"]
    if os.geteuid() != 0 or subprocess.run([*unshare, "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip("a pid namespace is not permitted here")
    program = bench.directory / "inside.py"
    program.write_text(INSIDE)
    done = subprocess.run(
        [*unshare, "--kill-child", sys.executable, str(program), str(bench.pidfile)],
        cwd=bench.directory,
        env=bench.env,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done
    return json.loads(done.stdout)


def test_a_reused_pid_that_holds_nothing(bench):
    """The service was killed and a stranger got its pid: it is dead for every command, and the next start works."""
    told = in_a_pid_namespace(bench)

    codes = {"status": 1, "reload": 7, "dump": 7, "stop": 0}
    assert told == {
        "reused": True,
        "unharmed": True,
        "holds": False,
        "started": 0,
        "codes": codes,
        "states": "dead",
    }


def test_a_reused_pid_under_a_held_lock(bench):
    """The lock is held by an orphan, and the stranger has the pidfile open as the service had: only the start time
    tells them apart. Everybody refuses, and nothing is signalled or written."""
    bench.program(LEAVES_THE_LOCK.format(pidfile=str(bench.pidfile)))
    told = in_a_pid_namespace(bench)

    codes = {"status": 4, "reload": 155, "dump": 155, "stop": 155}
    assert told == {
        "reused": True,
        "unharmed": True,
        "holds": True,
        "started": 155,
        "codes": codes,
        "states": "orphaned",
    }
