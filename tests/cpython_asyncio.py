"""CPython's own asyncio tests, run on `dari.EventLoop`: whatever passes on the stdlib's loop has to pass there.

    python tests/cpython_asyncio.py [--priorities] [--jobs N] [test_events test_tasks …]

They are taken from the interpreter's `test` package (where it is not installed, that is said, and nothing run). Each
module runs in a process of its own, in which every way to a loop leads to ours: the policy, and the names
`asyncio.SelectorEventLoop` and `asyncio.EventLoop`. What fails is run again on the stdlib's loop, alone, and then again
on ours: a failure is what passes there and fails here, twice. With `--priorities` a priority is in use, so that the
lanes take the place of asyncio's deque. Half a minute; for all versions:

    for python in python3.11 python3.12 python3.13; do
        PYTHONPATH=src $python tests/cpython_asyncio.py --priorities
    done
"""

# ruff: noqa: N802, N815 - unittest's names

from __future__ import annotations

import argparse
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# They are about Windows, or build loops that are no loops of the system.
LEFT_OUT = {"test_windows_events", "test_windows_utils", "test_proactor_events"}
# On Linux the loop is tested with epoll; the other selectors' copies of the same hundreds of tests are not ours.
OTHER_SELECTORS = ("KqueueEventLoopTests", "PollEventLoopTests", "SelectEventLoopTests")
SILENCE = 60  # seconds without the end of a test, after which its process is killed
BAD = ("failed", "hung", "died")


# ---- in the process of a module ------------------------------------------------------------------------------------


def lead_to(loop: str, priorities: bool) -> None:
    """Let every way to a loop lead to the one of that name."""
    if loop == "asyncio":
        return
    import asyncio

    import dari

    if priorities:
        with dari.priority(1):
            pass
    policy = getattr(asyncio.unix_events, "_UnixDefaultEventLoopPolicy", None)
    if policy is None:
        asyncio.new_event_loop = asyncio.events.new_event_loop = dari.EventLoop
    else:
        policy._loop_factory = dari.EventLoop
    asyncio.SelectorEventLoop = asyncio.EventLoop = dari.EventLoop


class Told(unittest.TestResult):
    """Writes a line at the beginning and at the end of each test."""

    def __init__(self, out: int) -> None:
        super().__init__()
        self.out = out

    def tell(self, *what: object) -> None:
        os.write(self.out, json.dumps(what).encode() + b"\n")

    def startTest(self, test: unittest.TestCase) -> None:
        super().startTest(test)
        self.became, self.why = "passed", ""
        self.tell("began", test.id())

    def addFailure(self, test: unittest.TestCase, error: object) -> None:
        self.became, self.why = "failed", self._exc_info_to_string(error, test)
        if not hasattr(test, "_testMethodName"):  # a class or module could not be set up
            self.tell("ended", test.id(), self.became, self.why)

    addError = addFailure

    def addSubTest(self, test: unittest.TestCase, subtest: object, error: object) -> None:
        if error is not None:
            self.addFailure(test, error)

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:
        self.became, self.why = "skipped", reason

    def addUnexpectedSuccess(self, test: unittest.TestCase) -> None:
        self.became, self.why = "failed", "unexpected success"

    def stopTest(self, test: unittest.TestCase) -> None:
        super().stopTest(test)
        self.tell("ended", test.id(), self.became, self.why)


def single_tests(suite: unittest.TestSuite) -> list[unittest.TestCase]:
    return [one for each in suite for one in (single_tests(each) if isinstance(each, unittest.TestSuite) else [each])]


def run_here(module: str, loop: str, priorities: bool, only: set[str], out: int) -> None:
    import faulthandler

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    faulthandler.register(signal.SIGQUIT, all_threads=True)
    lead_to(loop, priorities)
    told = Told(out)
    try:
        tests = unittest.TestLoader().loadTestsFromModule(importlib.import_module(f"test.test_asyncio.{module}"))
    except unittest.SkipTest as skipped:
        told.tell("ended", module, "skipped", str(skipped))
    else:
        chosen = [
            test
            for test in single_tests(tests)
            if type(test).__name__ not in OTHER_SELECTORS and (not only or test.id() in only)
        ]
        told.tell("chosen", [test.id() for test in chosen])
        unittest.TestSuite(chosen).run(told)
    told.tell("done")
    os._exit(0)  # threads of tests that failed must not hold it


# ---- in the process that looks on ----------------------------------------------------------------------------------


class Run:
    """One module on one loop: how each of its tests ended."""

    def __init__(self, module: str, loop: str, priorities: bool, only: set[str]) -> None:
        self.module, self.loop, self.priorities = module, loop, priorities
        self.ends: dict[str, tuple[str, str]] = {}
        while not self.once(only):  # after one that hung: the others
            only = self.chosen - self.ends.keys()

    def once(self, only: set[str]) -> bool:
        self.chosen, self.running, self.heard = set(only), "", time.monotonic()
        arguments = [self.module, self.loop, str(int(self.priorities)), json.dumps(sorted(only))]
        with tempfile.TemporaryDirectory() as place, tempfile.TemporaryFile() as errors:
            process = subprocess.Popen(
                [sys.executable, "-W", "ignore", str(Path(__file__).resolve()), "--child", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=place,
                start_new_session=True,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
            threading.Thread(target=self.watch, args=(process,), daemon=True).start()
            assert process.stdout is not None
            done = False
            for line in process.stdout:
                self.heard = time.monotonic()
                done = self.take(json.loads(line)) or done
            hung = process.wait() == -signal.SIGKILL
            errors.seek(0)
            said = errors.read()[-4000:].decode(errors="replace")
        if not done:
            what = self.running or self.module
            self.ends[what] = ("hung" if hung else "died", f"status {process.returncode}\n{said}")
        return done or not self.running or self.chosen <= self.ends.keys()

    def take(self, told: list) -> bool:
        match told:
            case ["chosen", names]:
                self.chosen = set(names)
            case ["began", name]:
                self.running = name
            case ["ended", name, became, why]:
                self.ends[name] = (became, why)
                self.running = ""
        return told == ["done"]

    def watch(self, process: subprocess.Popen[bytes]) -> None:
        while process.poll() is None:
            if time.monotonic() - self.heard > SILENCE:
                process.send_signal(signal.SIGQUIT)  # its threads' stacks go to stderr
                time.sleep(1)
                os.killpg(process.pid, signal.SIGKILL)
                return
            time.sleep(0.5)

    def bad(self) -> set[str]:
        return {name for name, (became, _) in self.ends.items() if became in BAD}


def try_module(module: str, priorities: bool) -> tuple[Run, dict[str, str]]:
    """The module on our loop; and what is our failure, with why."""
    ours = Run(module, "dari", priorities, set())
    failures: dict[str, str] = {}
    if bad := ours.bad():
        theirs = Run(module, "asyncio", False, bad)
        passed = {name for name, (became, _) in theirs.ends.items() if became == "passed"}
        if suspects := bad & passed:
            again = Run(module, "dari", priorities, suspects)
            failures = {name: again.ends[name][1] for name in again.bad()}
    lines = {became: sum(end[0] == became for end in ours.ends.values()) for became in ("passed", "skipped", *BAD)}
    print(f"{module}: " + ", ".join(f"{number} {became}" for became, number in lines.items() if number), flush=True)
    return ours, failures


def main() -> int:
    if sys.argv[1:2] == ["--child"]:
        module, loop, priorities, only = sys.argv[2:]
        run_here(module, loop, priorities == "1", set(json.loads(only)), os.dup(1))
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("modules", nargs="*", help="by default all")
    parser.add_argument("--priorities", action="store_true", help="with a priority in use")
    parser.add_argument("--jobs", type=int, default=4, help="modules at once: they wait most of the time")
    options = parser.parse_args()
    try:
        home = importlib.import_module("test.test_asyncio").__path__[0]
    except ImportError:
        print(f"{sys.executable} has no `test.test_asyncio`: nothing was run (Debian: libpython3-testsuite)")
        return 0
    modules = options.modules or sorted(path.stem for path in Path(home).glob("test_*.py") if path.stem not in LEFT_OUT)
    modules.sort(key=lambda name: name not in ("test_events", "test_tasks"))  # the longest first
    began = time.monotonic()
    with ThreadPoolExecutor(options.jobs) as pool:
        runs = list(pool.map(lambda module: try_module(module, options.priorities), modules))
    ends = [became for ours, _ in runs for became, _ in ours.ends.values()]
    failures = {name: why for _, failed in runs for name, why in failed.items()}
    for name, why in failures.items():
        print(f"\n==== {name} passes on the stdlib's loop, and fails here:\n{why}")
    counts = f"{ends.count('passed')} pass, {ends.count('skipped')} are skipped, {len(failures)} fail"
    took = f"{time.monotonic() - began:.0f} s"
    print(f"CPython {sys.version.split()[0]}: of {len(ends)} tests {counts} that pass on the stdlib's loop ({took})")
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
