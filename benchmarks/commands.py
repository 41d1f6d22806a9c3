"""What the command `dari` costs, and `import dari`: whole processes, as a share of what `import asyncio` costs.

All of them above a bare interpreter, whose own start is subtracted. Wall time, in turns, medians.

    python benchmarks/commands.py [rounds]
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rounds import medians, rounds_asked, versions

SERVICE = """\
async def main(ctx):
    ctx.ready()
    await ctx.stopping.wait()
"""
GOALS = {"import dari": 0.3, "status, stopped": 0.8, "status, running": 1.2, "start to ready": 3.0}


class Place:
    """A directory with one service."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        (directory / "app.py").write_text(SERVICE)
        self._env = {key: value for key, value in os.environ.items() if not key.startswith("DARI_")}
        self._env |= {"DARI_DAEMON__RUNDIR": str(directory), "DARI_DAEMON__LOGFILE": str(directory / "app.log")}
        # Everybody's modules are compiled once, whatever this environment says.
        self._env.pop("PYTHONDONTWRITEBYTECODE", None)
        self._env["PYTHONPYCACHEPREFIX"] = str(directory / "compiled")

    def run(self, *arguments: str) -> float:
        """Seconds of one process."""
        began = time.perf_counter()
        # Into a file: a pipe would have to be read, and the service has it open until it is ready.
        with open(self._directory / "out", "w", encoding="utf-8") as out:
            subprocess.run(
                [sys.executable, *arguments], cwd=self._directory, env=self._env, stdout=out, stderr=out, check=False
            )
        return time.perf_counter() - began

    def dari(self, command: str) -> float:
        return self.run("-m", "dari", command, "app.py:main")

    def start(self) -> float:
        self.dari("stop")
        return self.dari("start")

    def status(self, *, running: bool) -> Callable[[], float]:
        def measure() -> float:
            self.dari("start" if running else "stop")
            return self.dari("status")

        return measure


def main() -> None:
    rounds = rounds_asked(15)
    print(versions("psutil"))
    with tempfile.TemporaryDirectory() as directory:
        place = Place(Path(directory))
        candidates: dict[str, Callable[[], float]] = {
            "bare": lambda: place.run("-c", "pass"),
            "import asyncio": lambda: place.run("-c", "import asyncio"),
            "import dari": lambda: place.run("-c", "import dari"),
            "status, stopped": place.status(running=False),
            "start to ready": place.start,
            "status, running": place.status(running=True),
        }
        medians(candidates, 1)  # .pyc files, the page cache
        found = medians(candidates, rounds)
        place.dari("stop")
    unit = found["import asyncio"] - found["bare"]
    print(f"bare interpreter {found['bare'] * 1000:.1f} ms, import asyncio {unit * 1000:.1f} ms above it")
    for name, goal in GOALS.items():
        above = found[name] - found["bare"]
        print(f"  {name:16} {above * 1000:7.1f} ms  {above / unit:5.2f} x  (goal {goal:g})")


if __name__ == "__main__":
    main()
