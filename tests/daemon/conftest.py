"""Real `dari` processes, each in a directory of its own, and every one of them gone when its test is over."""

from __future__ import annotations

import contextlib
import io
import json
import os
import select
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dari.daemon import cli
from dari.daemon.lifecycle import STATUS_EXIT
from dari.daemon.pidfile import look

PATIENCE = 60.0  # for an event that must come; nothing waits this long unless it is broken

# What `Bench.dari` does without a process of its own, in most tests: each has others, which start real ones.
HERE = ("stop", "reload", "dump", "metrics", "status")

# Every service says that it ran, and who it was: what the starts *believe* counts for nothing.
WITNESS = """\
import os
with open(os.environ["WITNESS"], "a") as _file:
    _file.write(f"{os.getpid()}\\n")
"""

GOOD = """\
async def main(ctx):
    ctx.ready()
    await ctx.stopping.wait()
"""


def wait_gone(pid: int, timeout: float = PATIENCE) -> bool:
    """Wait until the process has ended; it need not be a child."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        return bool(poll.poll(timeout * 1000))
    finally:
        os.close(fd)


def wait_until(fact: Callable[[], Any], timeout: float = PATIENCE) -> Any:
    """Wait for something that gives no event (a line in another process's file), and return it."""
    deadline = time.monotonic() + timeout
    while not (found := fact()):
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.005)
    return found


class Bench:
    """A directory with one program in it, and the command `dari` pointed at it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.python = sys.executable
        self.rundir = directory / "run"
        self.pidfile = self.rundir / "app.pid"
        self.logfile = directory / "app.log"
        self.witness = directory / "witness"
        self.env = {key: value for key, value in os.environ.items() if not key.startswith("DARI_")}
        self.env |= {
            "WITNESS": str(self.witness),
            "HOME": str(directory),
            "DARI_DAEMON__RUNDIR": str(self.rundir),
            "DARI_DAEMON__LOGFILE": str(self.logfile),
            "DARI_DAEMON__STOP_GRACE": "10",
        }
        if path := self.env.get("PYTHONPATH"):  # the processes run in another directory
            self.env["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, path.split(os.pathsep)))
        self.children: list[subprocess.Popen[str]] = []
        self.program(GOOD)

    def program(self, text: str, name: str = "app.py") -> Path:
        path = self.directory / name
        path.write_text(WITNESS + textwrap.dedent(text))
        return path

    def config(self, text: str) -> Path:
        path = self.directory / "dari.toml"
        path.write_text(textwrap.dedent(text))
        return path

    def command(self, *arguments: str | Path) -> list[str]:
        return [self.python, "-m", "dari", *map(str, arguments)]

    def popen(self, *arguments: str | Path, **options: Any) -> subprocess.Popen[str]:
        return self.spawn(self.command(*arguments), **options)

    def spawn(self, command: list[str], **options: Any) -> subprocess.Popen[str]:
        """Run any command in this place; it is gone when the test is over."""
        pipe = subprocess.PIPE
        options = {"stdout": pipe, "stderr": pipe, "env": self.env, "cwd": self.directory, **options}
        child = subprocess.Popen(command, text=True, **options)
        self.children.append(child)
        return child

    def dari(self, *arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run the command to its end."""
        if arguments and arguments[0] in HERE and not options and self.python == sys.executable:
            return self._here([str(argument) for argument in arguments])
        child = self.popen(*arguments, **options)
        out, err = child.communicate(timeout=PATIENCE)
        return subprocess.CompletedProcess(child.args, child.returncode, out, err)

    def _here(self, arguments: list[str]) -> subprocess.CompletedProcess[str]:
        """The same in this very process, for commands that only speak to a service: an interpreter less to start."""
        out, err = io.StringIO(), io.StringIO()
        before = dict(os.environ)
        with contextlib.chdir(self.directory), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            os.environ.clear()
            os.environ.update(self.env)
            try:
                code: Any = cli.main(arguments)
            except SystemExit as leaving:  # argparse's
                code = leaving.code
            finally:
                os.environ.clear()
                os.environ.update(before)
        return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())

    def start(self, *arguments: str | Path, target: str = "app.py:main") -> int:
        """Start the service, which must work; return its pid."""
        done = self.dari("start", target, "--json", *arguments)
        assert done.returncode == 0, done
        pid: int = json.loads(done.stdout)["pid"]
        return pid

    def status(self) -> tuple[int, str]:
        """Return what `dari status` ends with, and says: without a process, for that one is asked in its own tests."""
        state = look(str(self.pidfile)).state
        return STATUS_EXIT[state], state.value

    def is_now(self, state: str) -> bool:
        return look(str(self.pidfile)).state.value == state

    def witnesses(self) -> list[int]:
        """Return the pid of every service that ever ran here, in order."""
        return [int(line) for line in self.witness.read_text().split()] if self.witness.exists() else []

    def children_of_services(self) -> list[int]:
        path = Path(f"{self.witness}.children")
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    def processes(self) -> list[int]:
        """Return whatever lives of this directory's commands and services: all of them inherit our environment."""
        mark = f"WITNESS={self.witness}".encode()
        found = []
        for name in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                if mark in Path(f"/proc/{name}/environ").read_bytes().split(b"\0"):
                    found.append(int(name))
        return found

    def log(self) -> str:
        return self.logfile.read_text() if self.logfile.exists() else ""

    def clean_up(self) -> None:
        for child in self.children:
            if child.poll() is None:
                child.kill()
                child.wait()
            for stream in (child.stdin, child.stdout, child.stderr):
                if stream is not None:
                    stream.close()
        while pids := self.processes():  # again, for who was being forked meanwhile
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                wait_gone(pid)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.clean_up()


@pytest.fixture
def gone() -> Callable[..., bool]:
    return wait_gone


@pytest.fixture
def until() -> Callable[..., Any]:
    return wait_until


@pytest.fixture
def start_time() -> Callable[[int], int]:
    """Field 22 of /proc/PID/stat, read here in the simplest way, not by the code under test."""
    return lambda pid: int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


@pytest.fixture
def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    """A process that has nothing to do with us, and must never be signalled."""
    process = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    yield process
    process.kill()
    process.wait()
