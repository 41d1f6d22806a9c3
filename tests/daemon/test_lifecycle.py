"""The tables, and the promises that hang on them."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from dari.daemon.keys import KEYS
from dari.daemon.lifecycle import SIGNALS, STATUS_EXIT, TRANSITIONS, Event, Exit, Intent, State, Timeline, timeline


def test_the_timeline():
    """Main has its grace before the cancel, and 2 s after it; QUIT waits for no grace."""
    assert timeline(Intent.STOP, grace=30) == Timeline(cancel=30, leave=32)
    assert timeline(Intent.FAST_STOP, grace=30) == Timeline(cancel=0, leave=2)


def test_nothing_leads_back():
    """Once stopping, no event changes the state: a late `ready()` does not undo a stop."""
    assert not [event for state, event in TRANSITIONS if state is State.STOPPING]
    assert {after for (_, event), after in TRANSITIONS.items() if event is not Event.READY} == {State.STOPPING}


def test_no_signal_of_the_table_may_kill():
    """Every signal that an operator sends has a meaning; one that is left to its default would end the service."""
    assert set(SIGNALS) == {getattr(signal, f"SIG{name}") for name in ("TERM", "INT", "QUIT", "HUP", "USR1", "USR2")}


def test_every_state_has_an_exit_code():
    """status has an answer for everything it can find, and the codes are LSB's."""
    assert set(STATUS_EXIT) == set(State)
    assert {code.name: int(code) for code in Exit} == {
        "DONE": 0,
        "FAILED": 1,
        "USAGE": 2,
        "NOT_POSSIBLE": 3,
        "NOT_PERMITTED": 4,
        "NO_TARGET": 5,
        "BAD_CONFIG": 6,
        "NOT_RUNNING": 7,
        "ALREADY_RUNNING": 150,
        "START_TIMEOUT": 151,
        "STOP_TIMEOUT": 152,
        "RELOAD_REFUSED": 153,
        "KILLED": 154,
        "ORPHANED": 155,
    }


def test_the_command_is_light():
    """The command line imports no loop, no logging, no psutil: `status` is asked all day long."""
    code = "import dari.daemon.cli, sys; print(*sorted({'asyncio', 'logging', 'psutil', 'anyio'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "\n"


def test_the_reference_says_what_the_tables_say():
    """Every exit code, key and signal stands in the reference's tables, and no other one does."""
    text = (Path(__file__).parents[2] / "docs/reference/daemon.md").read_text()
    first_cells = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("|")]
    numbers = {int(cell) for cell in first_cells if cell.isdigit()}
    keys = {cell.strip("`") for cell in first_cells if cell.startswith("`")}
    signals = {f"SIG{name}" for cell in first_cells for name in cell.split(", ") if name.isupper() and name.isalnum()}

    assert numbers == set(Exit) | set(STATUS_EXIT.values())
    assert set(KEYS) <= keys
    assert signals == {signum.name for signum in SIGNALS}
