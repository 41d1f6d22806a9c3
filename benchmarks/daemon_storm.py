"""A storm of commands and kills on one service: never two at a time, whatever the storm.

    python benchmarks/daemon_storm.py [SECONDS] [SEED]

Start, stop, restart, reload, status and dump at random, several at once, and `kill -9` of services, launchers and
everything else that takes part. Who runs is counted by the services themselves: each appends to one file when its main
begins and when it ends, under a lock of its own (flock on another file) that it asks for without waiting. A service
that finds this lock taken has met a second one, and says so in the file. At the end nothing is left, a last start and
stop work, and no command has ended with a traceback or with a code that it may not have.

The figures of a storm differ from run to run: SEED fixes what is tried and when, not what the machine makes of it.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import IO

SERVICE = """\
import asyncio, fcntl, os, random, time
place = os.environ["STORM"]

def tell(what):
    fd = os.open(f"{place}/told", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(fd, f"{what} {os.getpid()} {time.monotonic_ns()}\\n".encode())
    os.close(fd)

async def main(ctx):
    alone = os.open(f"{place}/alone", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(alone, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        tell("SECOND")
        raise SystemExit(99)
    tell("begin")
    await asyncio.sleep(random.expovariate(20))
    ctx.ready()
    await ctx.stopping.wait()
    await asyncio.sleep(random.expovariate(20))
    tell("end")
"""
COMMANDS = {"start": 6, "stop": 3, "restart": 2, "reload": 2, "status": 3, "dump": 1}
# What each may end with in a storm; -9 is ours. A signal's 128 + n is the service's, before it was ready.
CODES = {
    "start": {0, 1, 137, 143, 151, 155},
    "stop": {0, 155},
    "restart": {0, 1, 5, 137, 143, 151, 155},  # 5: the process that tries the import was killed
    "reload": {0, 1, 3, 7, 155},
    "status": {0, 1, 3, 4},
    "dump": {0, 1, 3, 7, 155},
}
AT_ONCE = 6


class Storm:
    def __init__(self, directory: Path, seed: int) -> None:
        self.random = random.Random(seed)
        self.directory = directory
        self.env = {key: value for key, value in os.environ.items() if not key.startswith("DARI_")}
        self.env |= {
            "STORM": str(directory),
            "HOME": str(directory),
            "DARI_DAEMON__RUNDIR": str(directory / "run"),
            "DARI_DAEMON__LOGFILE": str(directory / "app.log"),
            "DARI_DAEMON__STOP_GRACE": "2",
        }
        (directory / "app.py").write_text(SERVICE)
        self.running: list[tuple[str, subprocess.Popen[str], IO[str]]] = []
        self.count: Counter[str] = Counter()
        self.wrong: list[str] = []

    def command(self, name: str) -> subprocess.Popen[str]:
        argv = [sys.executable, "-m", "dari", name, "app.py:main"]
        # Into files: a service that becomes ready late still writes to its caller's output.
        out = (self.directory / "output").open("a")
        err = tempfile.TemporaryFile("w+", dir=self.directory)  # noqa: SIM115 - read and closed by `collect`
        with out:
            child = subprocess.Popen(argv, cwd=self.directory, env=self.env, text=True, stdout=out, stderr=err)
        self.running.append((name, child, err))
        self.count[name] += 1
        return child

    def processes(self) -> list[int]:
        """Return whatever lives of this storm: all of them inherit our environment."""
        mark = f"STORM={self.directory}".encode()
        found: list[int] = []
        for name in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                if mark in Path(f"/proc/{name}/environ").read_bytes().split(b"\0"):
                    found.append(int(name))
        return found

    def kill_one(self) -> None:
        if victims := self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.random.choice(victims), signal.SIGKILL)
                self.count["kill -9"] += 1

    def collect(self, *, wait: bool = False) -> None:
        for command in list(self.running):
            name, child, errors = command
            if wait:
                child.wait(timeout=120)
            if child.poll() is None:
                continue
            self.running.remove(command)
            errors.seek(0)
            text = errors.read()
            errors.close()
            if child.returncode not in CODES[name] | {-9} or "Traceback" in text:
                self.wrong.append(f"{name} ended with {child.returncode}: {text.strip()}")

    def rage(self, seconds: float) -> None:
        names, weights = list(COMMANDS), list(COMMANDS.values())
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.collect()
            if len(self.running) < AT_ONCE:
                self.command(self.random.choices(names, weights)[0])
            if self.random.random() < 0.1:
                self.kill_one()
            time.sleep(self.random.expovariate(30))
        self.collect(wait=True)

    def told(self) -> Counter[str]:
        path = self.directory / "told"
        return Counter(line.split()[0] for line in path.read_text().splitlines()) if path.exists() else Counter()


def main(seconds: float, seed: int) -> int:
    with tempfile.TemporaryDirectory() as directory:
        storm = Storm(Path(directory), seed)
        storm.rage(seconds)
        storm.command("stop")
        storm.collect(wait=True)
        for name, code in (("status", 3), ("start", 0), ("status", 0), ("stop", 0), ("status", 3)):
            child = storm.command(name)
            child.wait(timeout=120)
            if child.returncode != code:
                storm.wrong.append(f"at the end: {name} ended with {child.returncode}, not {code}")
        storm.collect(wait=True)
        told = storm.told()
        left = storm.processes()
        for pid in left:
            os.kill(pid, signal.SIGKILL)
    done = ", ".join(f"{count} {name}" for name, count in sorted(storm.count.items()))
    print(f"{seconds:g} s, seed {seed}: {done}")
    print(f"services: {told['begin']} began, {told['end']} ended gracefully, {told['SECOND']} met another one")
    print(f"left behind: {len(left)} processes")
    for text in storm.wrong:
        print(text)
    bad = bool(storm.wrong or left or told["SECOND"] or not told["begin"])
    print("BROKEN" if bad else "never two at a time, nothing left behind")
    return bad


if __name__ == "__main__":
    arguments = sys.argv[1:]
    raise SystemExit(main(float(arguments[0]) if arguments else 60, int(arguments[1]) if len(arguments) > 1 else 1))
