"""Concurrent starts, released together by the wall clock: exactly one wins, every time.

Without the barrier processes start one after the other and nothing ever collides (a library that leaves four
daemons behind in ten rounds of ten looks fine without it, facts d.T4). Who won is counted by what the services
themselves wrote into a file, not by what the starts believe.
"""

from __future__ import annotations

import json
import sys
import time

import pytest

# It imports everything first, so that at the instant nothing is left to do but to start.
WORKER = """\
import sys, time
from dari.daemon.cli import main
import dari.daemon.launch, tomllib
instant = float(sys.argv[1])
time.sleep(max(0.0, instant - time.time() - 0.005))
while time.time() < instant:
    pass
sys.exit(main(sys.argv[2:]))
"""
STARTS = 8


def race(bench, *options: str) -> list[tuple[int, dict]]:
    """Release the starts at one instant; return their exit codes and answers."""
    worker = bench.directory / "worker.py"
    worker.write_text(WORKER)
    instant = time.time() + 0.9
    arguments = [str(worker), str(instant), "start", "app.py:main", "--json", *options]
    bench.command = lambda *rest: [sys.executable, *rest]
    try:
        children = [bench.popen(*arguments) for _ in range(STARTS)]
    finally:
        del bench.command
    assert time.time() < instant, "this machine is too slow for the barrier: the starts did not collide"
    answers = []
    for child in children:
        out, err = child.communicate(timeout=60)
        assert (err, len(out.splitlines())) == ("", 1)
        answers.append((child.returncode, json.loads(out)))
    return answers


def strict_rounds(bench, rounds: int) -> None:
    for done in range(rounds):
        answers = race(bench, "--strict")

        assert len(bench.witnesses()) == done + 1, "more than one service ran"
        winner = bench.witnesses()[-1]
        assert sorted(code for code, _ in answers) == [0] + [150] * (STARTS - 1)
        assert {answer["pid"] for _, answer in answers} == {winner}
        assert bench.status() == (0, "running")
        assert bench.dari("stop", "app.py:main").returncode == 0


def test_exactly_one_wins(bench):
    """Of 8 starts one wins; the losers say 150 and name the winner's pid."""
    strict_rounds(bench, 3)


@pytest.mark.slow
def test_exactly_one_wins_fifty_times(bench):
    """The same, 50 rounds of 50."""
    strict_rounds(bench, 50)


def test_all_are_told_ready(bench):
    """Without --strict all 8 end with 0 once the one service is ready, and one of them started it."""
    answers = race(bench)

    [pid] = bench.witnesses()
    assert {(code, answer["pid"]) for code, answer in answers} == {(0, pid)}
    assert sorted(answer["already"] for _, answer in answers) == [False] + [True] * (STARTS - 1)


def test_after_kill_9_too(bench, gone):
    """The pidfile of a killed one does not make two of the next starts win, nor one name the ghost's pid."""
    import os
    import signal

    ghost = bench.start()
    os.kill(ghost, signal.SIGKILL)
    gone(ghost)
    answers = race(bench, "--strict")

    [_, winner] = bench.witnesses()
    assert sorted(code for code, _ in answers) == [0] + [150] * (STARTS - 1)
    assert {answer["pid"] for _, answer in answers} == {winner}
