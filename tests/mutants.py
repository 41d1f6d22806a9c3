"""Do the tests notice? Mistakes that a program like this one invites, each made in a copy of the source.

    python tests/mutants.py [name…]

For each of them a copy of `src` gets the mistake, and the tests that guard the rule run against that copy: one of them
must fail. (Before that they pass against a copy without any mistake.) Prints which test failed, and ends with 1 if a
mutant lived. Run from the root of the repository, in the environment that runs the tests.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent


class Mutant(NamedTuple):
    file: str
    """Below src/dari."""
    right: str
    """What stands there, exactly once."""
    wrong: str
    tests: str


MUTANTS = {
    "wait id ignored": Mutant(
        "_kernel/task.py",
        "        if task._wait is not self:\n            return False\n        task._wait = None\n",
        "        if task._wait is None:\n            return False\n        task._wait = None\n",
        "tests/kernel/test_yields.py tests/kernel/test_join.py tests/kernel/test_model.py",
    ),
    "LIFO instead of FIFO": Mutant(
        "sync/waiters.py",
        "waiting.popitem(last=False)",
        "waiting.popitem(last=True)",
        "tests/kernel/test_locks.py tests/kernel/test_sync.py",
    ),
    "undo skipped": Mutant(
        "_kernel/task.py",
        "            if self._undo(self):\n                self.wake(CANCEL)\n",
        "            self.wake(CANCEL)\n",
        "tests/kernel/test_join.py tests/kernel/test_sync.py tests/kernel/test_queues.py",
    ),
    "starvation bound off by one": Mutant(
        "_kernel/bursts.py",
        "self._taken - limit\n",
        "self._taken - limit - 1\n",
        "tests/kernel/test_bursts.py tests/kernel/test_fairness.py",
    ),
    "inner scope beats outer": Mutant(
        "_kernel/scope.py",
        "        if scope.cancel_called and not scope._closed:\n            found = scope\n",
        "        if found is None and scope.cancel_called and not scope._closed:\n            found = scope\n",
        "tests/kernel/test_scopes.py tests/kernel/test_timeouts.py",
    ),
    "won result dropped by a later cancel": Mutant(
        "_kernel/task.py",
        "        elif self._pending is None or self._pending is FIRST or self._pending is GIVEN:\n",
        "        else:\n",
        "tests/kernel/test_join.py tests/kernel/test_queues.py tests/kernel/test_locks.py",
    ),
    "deadline counted from a stale time": Mutant(
        "_kernel/operations.py",
        "kernel.deadlines.set(task.block(self, undone), kernel.clock() + self._delay)",
        "kernel.deadlines.set(task.block(self, undone), task.started_at + self._delay)",
        "tests/kernel/test_deadlines.py",
    ),
    "heap never pruned": Mutant(
        "_kernel/deadlines.py",
        "            elif self._stale * 2 > len(self._heap) + _SLACK:\n",
        "            elif False:\n",
        "tests/kernel/test_deadlines.py",
    ),
    "group leaves a child": Mutant(
        "_kernel/group.py",
        "        if running or (as_it_is and self._errors):\n            self._parent._owe(self)\n",
        "        if as_it_is and self._errors:\n            self._parent._owe(self)\n",
        "tests/kernel/test_groups_left.py tests/kernel/test_groups.py",
    ),
    "hand-over loses a permit": Mutant(
        "sync/lock.py",
        "    def take_back(self, value: Guard) -> None:\n        value.release()\n",
        "    def take_back(self, value: Guard) -> None:\n        pass\n",
        "tests/kernel/test_combine.py tests/drivers/test_shared_primitives.py",
    ),
    "an empty box stays armed": Mutant(
        "drivers/mailbox.py",
        "        self._armed = False\n        calls = self._calls\n",
        "        calls = self._calls\n        self._armed = self._armed and not calls\n",
        "tests/drivers/test_mailbox.py",
    ),
    "urgent callbacks wait for the batch": Mutant(
        "drivers/asyncio_ready.py",
        "            if self._left and priority < self._priority:",
        "            if False:",
        "tests/drivers/test_host_queue.py tests/drivers/test_host.py",
    ),
    "what goes at once counts as a turn of the lane that is served": Mutant(
        "drivers/asyncio_ready.py",
        "self._left = self._passed = self._left - 1",
        "self._left = self._left - 1",
        "tests/drivers/test_host_queue.py",
    ),
    "a descriptor is told of again and again": Mutant(
        "drivers/asyncio_inside.py",
        "id(handle) not in events",
        "True",
        "tests/drivers/test_host.py::test_a_descriptor_is_told_of_once_until_it_is_heard",
    ),
    "slices step tasks of every priority": Mutant(
        "drivers/asyncio_lanes.py",
        "self.kernel.step_only(self._priority)",
        "self.kernel.step_only(1 << 62)",
        "tests/drivers/test_host.py::test_tasks_of_both_kinds_are_ordered_by_one_rule",
    ),
    # The daemon's start real processes, so each names the one test that is made for it.
    "lock not held over exec": Mutant(
        "daemon/pidfile.py",
        "fcntl.F_OFD_SETLK, _lock_request(fcntl.F_WRLCK, byte)",
        "fcntl.F_SETLK, _lock_request(fcntl.F_WRLCK, byte)",
        "tests/daemon/test_start.py::test_the_lock_is_held_over_exec_and_not_by_children",
    ),
    "lock inherited by forked children": Mutant(
        "daemon/service.py",
        "    os.register_at_fork(after_in_child=service.leave_to_parent)\n",
        "",
        "tests/daemon/test_start.py::test_the_lock_is_held_over_exec_and_not_by_children",
    ),
    "pidfile unlinked at the end": Mutant(
        "daemon/life.py",
        "            clear(self._lock_fd)\n",
        "            os.unlink(self.settings.pidfile)\n",
        "tests/daemon/test_detached.py::test_the_inode_of_the_pidfile_never_changes",
    ),
    "pidfile cleared before it is locked": Mutant(
        "daemon/launch.py",
        "        if try_lock(fd):\n            clear(fd)\n",
        "        clear(fd)\n        if try_lock(fd):\n",
        "tests/daemon/test_start.py::test_start_when_running",
    ),
    "pid signalled without the start-time check": Mutant(
        "daemon/process.py",
        "self.boot == boot_id() and self.start == start_time(self.pid)",
        "self.boot == boot_id() and start_time(self.pid) is not None",
        "tests/daemon/test_stop.py::test_the_start_time_is_checked_even_when_the_file_is_open",
    ),
    "EOF taken for ready": Mutant(
        "daemon/launch.py",
        "                    poll.unregister(status)\n",
        "                    return pid\n",
        "tests/daemon/test_start.py::test_eof_before_ready_is_a_failure",
    ),
    "second TERM ignored": Mutant(
        "daemon/stopping.py",
        "        elif count > 1:\n",
        "        elif False:\n",
        "tests/daemon/test_stop.py::test_the_second_signal_forces_on_a_blocked_loop[sleep]",
    ),
    "stop beside a stop sends a TERM": Mutant(
        "daemon/commands/operate.py",
        "tell=first and seen.state is not State.STOPPING",
        "tell=seen.state is not State.STOPPING",
        "tests/daemon/test_stop.py::test_a_stop_beside_a_stop_only_waits",
    ),
    "stop of a stopping one sends a TERM": Mutant(
        "daemon/commands/operate.py",
        "tell=first and seen.state is not State.STOPPING",
        "tell=first",
        "tests/daemon/test_stop.py::test_a_stop_of_a_stopping_service_only_waits",
    ),
    "log reopened without append": Mutant(
        "daemon/logs/log.py",
        "        fresh = open_log(self.path, create_directory=False)\n",
        "        fresh = os.open(self.path, os.O_WRONLY | os.O_CREAT, 0o640)\n",
        "tests/daemon/test_logs.py::test_copytruncate_loses_and_doubles_no_line[copytruncate]",
    ),
    "READY not sent after RELOADING": Mutant(
        "daemon/notify.py",
        'self._send(f"READY=1\\nSTATUS={said}; configuration {answer.generation}")',
        'self._send(f"STATUS={said}; configuration {answer.generation}")',
        "tests/daemon/test_notify.py::test_what_a_supervisor_hears",
    ),
    "umask 0": Mutant(
        "daemon/setup.py",
        "    os.umask(settings.umask)\n",
        "    os.umask(0)\n",
        "tests/daemon/test_detached.py::test_place_and_mask",
    ),
    "signals let in before there are handlers": Mutant(
        "daemon/launch.py",
        "        mask = signals.block()\n",
        "        mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())\n",
        "tests/daemon/test_signals.py::test_hup_during_the_start_does_not_kill",
    ),
    "virtual time jumps past a thread": Mutant(
        "testing/asyncio_loop.py",
        "        if outside:\n",
        "        if False:\n",
        "tests/testing/test_asyncio.py",
    ),
}


def run(tests: str, source: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests.split()],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(source), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def copy_of_source(directory: Path) -> Path:
    source = directory / "src"
    shutil.copytree(ROOT / "src", source, ignore=shutil.ignore_patterns("__pycache__"))
    return source


def what_became_of(name: str) -> str:
    """Which test killed it; empty if it lived."""
    mutant = MUTANTS[name]
    with tempfile.TemporaryDirectory() as directory:
        source = copy_of_source(Path(directory))
        path = source / "dari" / mutant.file
        text = path.read_text()
        path.write_text(text.replace(mutant.right, mutant.wrong))
        result = run(mutant.tests, source)
    if result.returncode == 0:
        return ""
    killer = re.search(r"^FAILED (\S+)", result.stdout, re.MULTILINE)
    if result.returncode != 1 or killer is None:  # a test must have failed, not the run
        raise SystemExit(f"{name}: the tests did not run:\n{result.stdout}{result.stderr}")
    return killer[1]


def main() -> None:
    names = sys.argv[1:] or list(MUTANTS)
    unknown = [name for name in names if name not in MUTANTS]
    if unknown:
        raise SystemExit(f"no such mutant: {', '.join(unknown)}; there are {', '.join(MUTANTS)}")
    tests = " ".join(sorted({test for name in names for test in MUTANTS[name].tests.split()}))
    with tempfile.TemporaryDirectory() as directory:
        result = run(tests, copy_of_source(Path(directory)))
    if result.returncode != 0:
        raise SystemExit(f"without a mutant these tests must pass:\n{result.stdout}{result.stderr}")
    print("without a mutant the tests pass", flush=True)
    lived = 0
    # Half of the machine: CI tries the wheels on the other half meanwhile.
    with ThreadPoolExecutor(max(1, (os.cpu_count() or 1) // 2)) as executor:
        for name, killer in zip(names, executor.map(what_became_of, names), strict=True):
            lived += not killer
            print(f"{name:38} {f'killed by {killer}' if killer else 'LIVED'}", flush=True)
    raise SystemExit(lived > 0)


if __name__ == "__main__":
    main()
