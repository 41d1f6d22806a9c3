"""SIGKILL of whoever takes part in a start or a stop, at any place: the next start works, and nothing stays behind.

The places are found in the code itself (`fault/sitecustomize.py`), each call and return of a function of the daemon and
each system call that it makes: so none is forgotten, and no line of the daemon exists for these tests. All of them:

    FAULT_STRIDE=1 python -m pytest tests/daemon/test_fault.py -k every --timeout 0
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

FAULT = Path(__file__).parent / "fault"
SIDE_BY_SIDE = 4  # a start waits more than it computes

PLACES = {
    "launcher": ["return try_lock", "c_call _fork fork", "c_call _Launch._await_ready poll"],
    "middle": ["c_call _be_middle setsid", "return _fork", "c_call _be_middle write", "c_call _wait_child poll"],
    "heir": ["call write_record", "c_call _be_service execve"],
    "service": [
        "return read_handover",
        "call Inbox.open",
        "call Service.ready",
        "c_call Service._tell close",
        "call Service.ask_to_stop",
        "return Service.farewell",
    ],
    "stop": ["return try_lock", "return Handle.send"],
}


@pytest.fixture
def benches(bench, tmp_path_factory):
    """Return a function that makes one more bench."""
    made = []

    def make():
        made.append(type(bench)(tmp_path_factory.mktemp("fault")))
        return made[-1]

    yield make
    for each in made:
        each.clean_up()


def under_fault(bench, **variables):
    """Return the environment in which processes die, or tell where they come through."""
    path = os.pathsep.join(filter(None, [str(FAULT), bench.env.get("PYTHONPATH")]))
    return bench.env | {"PYTHONPATH": path, "DIED": str(bench.directory / "died")} | variables


def settled(bench) -> bool:
    """Nobody starts and nobody stops."""
    return bench.status()[1] in ("running", "stopped", "dead")


def die_at(bench, until, place: str) -> bool:
    """Start and stop with a SIGKILL at that place, and see that all is well afterwards; True when one was killed."""
    who = place.split()[0]
    env = under_fault(bench, DIE_AT=place)
    died = bench.directory / "died"

    begun = bench.dari("start", "app.py:main", env=env)
    if begun.returncode == 0 and not died.exists():
        begun = bench.dari("stop", "app.py:main", env=env)
        assert begun.returncode == (-9 if died.exists() and who == "stop" else 0), (place, begun)
        if who == "stop":
            begun = bench.dari("stop", "app.py:main", env=bench.env)
        assert (begun.returncode, bench.status(), bench.processes()) == (0, (3, "stopped"), []), (place, begun)
    elif who != "launcher" and begun.returncode != 0:  # the launcher lived, and has said that the start failed
        assert begun.returncode != -9, (place, begun)
        assert begun.stderr, place
        assert (bench.status(), bench.processes()) == ((3, "stopped"), []), (place, begun)
    until(lambda: settled(bench))

    pid = bench.start()
    until(lambda: bench.processes() == [pid])  # the one between may still be going
    ended = bench.dari("stop", "app.py:main", env=bench.env)
    assert (ended.returncode, bench.status(), bench.processes()) == (0, (3, "stopped"), []), (place, ended)
    return died.exists()


@pytest.mark.slow
@pytest.mark.parametrize("who", PLACES)
def test_killed_at_a_place(benches, until, who):
    """Launcher, middle process, service before and after the exec, `dari stop`: each is killed at its turning points.
    A start that failed, and could say so, leaves status 3 and no process; the next one works."""
    places = [f"{who} {place}" for place in PLACES[who]]
    with ThreadPoolExecutor(SIDE_BY_SIDE) as executor:
        killed = list(executor.map(lambda place: die_at(benches(), until, place), places))

    assert dict(zip(places, killed, strict=True)) == dict.fromkeys(places, True)


@pytest.mark.slow
def test_killed_at_every_place(bench, benches, until):
    """The same at each place that a start and a stop come through (here every 25th of some 700)."""
    env = under_fault(bench, PLACES=str(bench.directory / "places"))
    for command in ("start", "stop"):
        assert bench.dari(command, "app.py:main", env=env).returncode == 0
    found = list(dict.fromkeys((bench.directory / "places").read_text().splitlines()))
    places = found[:: int(os.environ.get("FAULT_STRIDE", "25"))]

    with ThreadPoolExecutor(SIDE_BY_SIDE) as executor:
        killed = list(executor.map(lambda place: die_at(benches(), until, place), places))
    assert len(killed) > 20
    assert sum(killed) > 0.9 * len(killed)  # threads do not come through the same places each time
