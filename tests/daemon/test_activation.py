"""Socket activation: sockets that are open before the service is, handed to it by number and name."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys

import pytest

from dari.daemon.activation import passed
from dari.daemon.lifecycle import Refused

from .conftest import PATIENCE

# Starts `dari` as systemd does: the sockets are 3 and 4, and LISTEN_PID is the very process that becomes `dari`.
ACTIVATE = """\
import os, sys
sockets, names, *command = sys.argv[1:]
for number, fd in enumerate(map(int, sockets.split(","))):
    os.dup2(fd, 100 + number)
for number in range(len(sockets.split(","))):
    os.dup2(100 + number, 3 + number)
    os.close(100 + number)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(number + 1), "LISTEN_FDNAMES": names}
os.execv(command[0], command)
"""

SERVES = """\
import asyncio, json, os

async def main(ctx):
    async def answer(reader, writer):
        said = {
            "pid": os.getpid(),
            "names": {name: len(each) for name, each in ctx.sockets.items()},
            "environment": [name for name in os.environ if name.startswith("LISTEN")],
            "inherited": [sock.get_inheritable() for each in ctx.sockets.values() for sock in each],
        }
        writer.write(json.dumps(said).encode())
        writer.close()

    for sock in ctx.sockets["web"]:
        await asyncio.start_server(answer, sock=sock)
    ctx.ready()
    await ctx.stopping.wait()
"""


@pytest.mark.parametrize("action", ["run", "start"])
def test_a_service_finds_its_sockets(bench, action):
    """By name and in order, over the forks of `start` too; who has connected before the service ran is answered."""
    bench.program(SERVES)
    bench.program(ACTIVATE, "activate.py")
    with contextlib.ExitStack() as stack:
        web = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2)]
        numbers = ",".join(str(each.fileno()) for each in web)
        callers = [stack.enter_context(socket.create_connection(each.getsockname(), PATIENCE)) for each in web]
        command = [sys.executable, "activate.py", numbers, "web:web", *bench.command(action, "app.py:main")]

        bench.spawn(command, pass_fds=[each.fileno() for each in web])
        answers = [json.loads(caller.makefile().read()) for caller in callers]

    pid = bench.witnesses()[-1]
    assert answers == [{"pid": pid, "names": {"web": 2}, "environment": [], "inherited": [False, False]}] * 2


def test_what_was_passed_to_somebody_else():
    """LISTEN_PID names whose the descriptors are; a process that inherited the variables has none."""
    environ = {"LISTEN_FDS": "1", "LISTEN_PID": "7", "LISTEN_FDNAMES": "web"}

    assert passed(environ, pid=8) == []
    assert passed({}, pid=8) == []


def test_what_is_no_socket():
    """A number that leads to no socket is an error that names it, before anything is started."""
    if os.path.exists("/proc/self/fd/2000"):
        pytest.fail("this test needs a number that is not open")

    with pytest.raises(Refused, match=r"LISTEN_FDS=1998, but descriptor \d+ \(unknown\) is no socket"):
        passed({"LISTEN_FDS": "1998", "LISTEN_PID": "7"}, pid=7)
