"""Concurrent starts, released together by the wall clock: exactly one wins, every time.

Without the barrier processes start one after the other and nothing ever collides (a library that leaves four
daemons behind in ten rounds of ten looks fine without it, facts d.T4). Who won is counted by what the services
themselves wrote into a file, not by what the starts believe.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

# One process for each starter. It imports everything once; for each round it is told the instant, and forks a `dari`
# that has nothing left to do at that instant but to start.
STARTER = """\
import json, os, sys, time
from dari.daemon.cli import main
import dari.daemon.launch, dari.daemon.commands.operate, tomllib
print("here", flush=True)
for line in sys.stdin:
    instant = float(line)
    child = os.fork()
    if child == 0:
        while time.time() < instant:
            pass
        code = main(sys.argv[1:])
        sys.stdout.flush()
        os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(json.dumps({"ended": code}), flush=True)
"""
STARTS = 8
SOON = 0.03  # after all are there: long enough for eight forks, and one that comes late collides with the others' work


@pytest.fixture
def race(bench):
    """Return a function that has 8 `dari start` begin at one instant, and gives their exit codes and answers."""
    program = bench.directory / "starter.py"
    program.write_text(STARTER)
    starters = []

    def begin(*options: str) -> list[tuple[int, dict]]:
        if not starters:
            command = [sys.executable, str(program), "start", "app.py:main", "--json", *options]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
            for _ in range(STARTS):
                starters.append(subprocess.Popen(command, cwd=bench.directory, env=bench.env, text=True, **pipes))
            assert {starter.stdout.readline() for starter in starters} == {"here\n"}
        instant = time.time() + SOON
        for starter in starters:
            starter.stdin.write(f"{instant}\n")
            starter.stdin.flush()
        answers = [json.loads(starter.stdout.readline()) for starter in starters]
        codes = [json.loads(starter.stdout.readline())["ended"] for starter in starters]
        return list(zip(codes, answers, strict=True))

    yield begin
    for starter in starters:
        starter.stdin.close()
        starter.wait()
        starter.stdout.close()


def strict_rounds(bench, race, gone, rounds: int) -> None:
    for done in range(rounds):
        answers = race("--strict")

        assert len(bench.witnesses()) == done + 1, "more than one service ran"
        winner = bench.witnesses()[-1]
        assert sorted(code for code, _ in answers) == [0] + [150] * (STARTS - 1)
        assert {answer["pid"] for _, answer in answers} == {winner}
        assert bench.status() == (0, "running")
        os.kill(winner, signal.SIGKILL if done % 3 == 2 else signal.SIGTERM)  # a ghost's name must not confuse anybody
        assert gone(winner)


def test_exactly_one_wins(bench, race, gone):
    """Of 8 starts one wins; the losers say 150 and name the winner's pid; after a kill -9, too."""
    strict_rounds(bench, race, gone, 7)


@pytest.mark.slow
def test_exactly_one_wins_a_hundred_times(bench, race, gone):
    """The same, 100 rounds of 100."""
    strict_rounds(bench, race, gone, 100)


def test_all_are_told_ready(bench, race):
    """Without --strict all 8 end with 0 once the one service is ready, and one of them started it."""
    answers = race()

    [pid] = bench.witnesses()
    assert {(code, answer["pid"]) for code, answer in answers} == {(0, pid)}
    assert sorted(answer["already"] for _, answer in answers) == [False] + [True] * (STARTS - 1)
