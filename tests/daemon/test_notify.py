"""sd_notify: a socket as systemd has it, and what a real service says to it, datagram by datagram."""

from __future__ import annotations

import logging
import os
import signal
import socket
import time

import pytest

from dari.daemon.commands.operate import start
from dari.daemon.config import resolve
from dari.daemon.lifecycle import Exit, Refused
from dari.daemon.notify import Supervisor, take

from .conftest import PATIENCE

TELLS = """\
import os, subprocess, sys

def environment():
    return sorted(name for name in os.environ if name.startswith(("NOTIFY", "WATCHDOG")))

async def main(ctx):
    child = subprocess.run(["env"], capture_output=True, text=True, check=True).stdout
    ctx.set_status(f"found {environment()}, child {'NOTIFY' in child}")
    ctx.ready()
    await ctx.stopping.wait()
    ctx.set_status("saving")
"""

# The reload blocks the loop until the file `go` is there.
BLOCKS = """\
import os, time

async def main(ctx):
    @ctx.on_reload
    def block(new, old):
        while not os.path.exists("go"):
            time.sleep(0.005)

    ctx.ready()
    await ctx.stopping.wait()
"""


@pytest.fixture(params=["path", "abstract"])
def supervisor(request, tmp_path):
    """Where systemd would listen: its socket, and what it calls it in NOTIFY_SOCKET."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        address = str(tmp_path / "notify") if request.param == "path" else f"@dari-test-{os.getpid()}-{id(request)}"
        listening.bind(address.replace("@", "\0"))
        listening.settimeout(PATIENCE)
        yield listening, address


def heard(listening):
    return listening.recv(4096).decode()


def next_but(listening, unwanted):
    while (said := heard(listening)) == unwanted:
        pass
    return said


def test_what_a_supervisor_hears(bench, supervisor):
    """READY; at each reload, refused or not, RELOADING with its time in one datagram, and READY; first of all STOPPING.

    The variables are gone when the program is imported, so that no child of its speaks in its name.
    """
    listening, address = supervisor
    bench.program(TELLS)
    config = bench.config('[app]\ntarget = "app.py:main"\n')
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000

    service = bench.popen("run", "-c", config, env=bench.env | {"NOTIFY_SOCKET": address})
    told = [heard(listening), heard(listening)]
    os.kill(service.pid, signal.SIGHUP)
    first = heard(listening).split("\n")
    told += [first[0], heard(listening)]
    config.write_text("nonsense")
    os.kill(service.pid, signal.SIGHUP)
    told += [heard(listening).split("=1\n")[0], heard(listening)]
    os.kill(service.pid, signal.SIGTERM)
    told += [heard(listening), heard(listening)]

    assert told == [
        "STATUS=found [], child False",
        "READY=1",
        "RELOADING=1",
        "READY=1\nSTATUS=reloaded; configuration 2",
        "RELOADING",
        "READY=1\nSTATUS=reload refused, the log says why; configuration 2",
        "STOPPING=1",
        "STATUS=saving",
    ]
    assert before < int(first[1].removeprefix("MONOTONIC_USEC=")) < time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    assert service.wait(PATIENCE) == 0


@pytest.mark.parametrize("supervisor", ["path"], indirect=True)
@pytest.mark.parametrize("backend", ["asyncio", "trio", "standalone"])
def test_a_blocked_loop_says_nothing(bench, supervisor, backend):
    """WATCHDOG comes by the loop: not while it is blocked, and again when it is not."""
    listening, address = supervisor
    bench.program(BLOCKS.replace("async def", "def").replace("await", "yield") if backend == "standalone" else BLOCKS)
    environ = bench.env | {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "400000", "DARI_DAEMON__BACKEND": backend}

    service = bench.popen("run", "app.py:main", env=environ)
    alive = [next_but(listening, "READY=1") for _ in range(3)]
    os.kill(service.pid, signal.SIGHUP)
    reloading = next_but(listening, "WATCHDOG=1")
    listening.settimeout(0.6)  # more than what the watchdog bears
    with pytest.raises(TimeoutError):
        heard(listening)
    listening.settimeout(PATIENCE)
    (bench.directory / "go").touch()
    again = [heard(listening).split("\n")[0], heard(listening)]

    assert (alive, reloading[:11], again) == (["WATCHDOG=1"] * 3, "RELOADING=1", ["READY=1", "WATCHDOG=1"])


@pytest.mark.parametrize("supervisor", ["path"], indirect=True)
def test_start_tells_its_caller_and_no_supervisor(bench, supervisor):
    """Who called `dari start` waits for it; the socket in his environment is about him. Systemd itself is advised."""
    listening, address = supervisor
    bench.program(TELLS)
    bench.env["NOTIFY_SOCKET"] = address
    as_systemd = ["sh", "-c", 'export SYSTEMD_EXEC_PID=$$; exec "$@"', "sh"]

    said = bench.spawn([*as_systemd, *bench.command("start", "app.py:main")]).communicate(timeout=PATIENCE)[0]
    again = bench.dari("restart", "app.py:main").stdout
    bench.dari("stop", "app.py:main")

    listening.settimeout(0)
    with pytest.raises(BlockingIOError):
        heard(listening)
    assert ("a unit wants `dari run`" in said, "a unit" in again) == (True, False)


def test_process_1_does_not_start(tmp_path, monkeypatch):
    """A container ends with its process 1: `dari start` would take its service with it."""
    settings = resolve(command_line={}, target="app.py:main", config=None, environ={}, keywords={}, cwd=str(tmp_path))
    monkeypatch.setattr(os, "getpid", lambda: 1)

    with pytest.raises(Refused, match="use `dari run`") as caught:
        start(settings, strict=False)
    assert caught.value.code == Exit.NOT_POSSIBLE


@pytest.mark.parametrize(
    ("environ", "watchdog"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "3000000"}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "7"}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-1"}, None),
    ],
)
def test_whose_watchdog_it_is(environ, watchdog):
    """WATCHDOG_PID names who is watched; the variables are taken out either way."""
    environ = {"NOTIFY_SOCKET": "/nowhere", "HOME": "/", **environ}

    found = take(environ, pid=7)

    assert found is not None
    assert (found._watchdog, environ) == (watchdog, {"HOME": "/"})


@pytest.mark.parametrize("address", ["", "vsock:2:1234", "relative"])
def test_nobody_listens(address):
    """Without an address that is a local socket there is nobody to tell."""
    assert take({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1000"}, pid=7) is None


def test_a_supervisor_that_is_gone(tmp_path, caplog):
    """The service goes on, and its log says so once."""
    gone = Supervisor(str(tmp_path / "nobody"), None)

    with caplog.at_level(logging.WARNING):
        gone.ready()
        gone.status("busy")

    assert [record.message for record in caplog.records] == [
        "cannot tell the supervisor (NOTIFY_SOCKET): [Errno 2] No such file or directory"
    ]
