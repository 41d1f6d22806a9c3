"""The public names: one list, the same for people, checkers and the interpreter."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import dari

TYPING = Path(__file__).parent / "typing"


def isolated(code: str) -> str:
    """What a fresh interpreter prints."""
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def test_every_public_name_is_there():
    """Each name of `__all__` can be had, and `dir` shows it."""
    assert [name for name in dari.__all__ if not hasattr(dari, name)] == []
    assert set(dari.__all__) <= set(dir(dari))


def test_all_is_sorted_and_has_no_double():
    """One list, in order."""
    assert sorted(set(dari.__all__)) == sorted(dari.__all__)


def test_every_public_exception_is_exported():
    """What can be raised can be caught by name."""
    from dari import exceptions

    assert set(exceptions.__all__) <= set(dari.__all__)


def test_a_typo_is_an_attribute_error():
    """A name that does not exist is an error at once, and says so."""
    with pytest.raises(AttributeError, match="Nope"):
        dari.Nope


HEAVY = [
    "asyncio",
    "anyio",
    "trio",
    "psutil",
    "threading",
    "selectors",
    "socket",
    "logging",
    "concurrent",
    "dataclasses",
]


def test_import_stays_cheap():
    """`import dari` loads none of the worlds that it bridges, nor what only the pool or the daemon needs."""
    loaded = isolated(f"import sys, dari; print([name for name in {HEAVY!r} if name in sys.modules])")

    assert loaded == "[]"


def test_import_has_no_side_effect_on_asyncio():
    """No policy, no loop, no handler: asyncio is as it was."""
    code = (
        "import asyncio, signal; before = type(asyncio.get_event_loop_policy()), signal.getsignal(signal.SIGINT)\n"
        "import dari; dari.Scheduler, dari.Pool, dari.Daemon\n"
        "print(before == (type(asyncio.get_event_loop_policy()), signal.getsignal(signal.SIGINT)))"
    )

    assert isolated(code) == "True"


def expected_errors(path: Path) -> set[int]:
    """The lines that a checker must refuse: those that end in `# error`."""
    return {number for number, line in enumerate(path.read_text().splitlines(), 1) if line.endswith("# error")}


def refused_lines(output: str, path: Path) -> set[int]:
    return {int(found[1]) for found in re.finditer(rf"{path.name}:(\d+).*? error", output)}


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(["mypy", "--strict", "--no-incremental", "--no-error-summary"], id="mypy"),
        pytest.param(["pyright", "--pythonpath", sys.executable], id="pyright"),
    ],
)
def test_checkers_see_real_names(command):
    """A typo like `dari.Nope`, a wrong argument and a wrong result type are errors for mypy and pyright."""
    path = TYPING / "refused.py"
    root = TYPING.parent.parent

    result = subprocess.run(
        [sys.executable, "-m", *command, str(path)], capture_output=True, text=True, cwd=root, check=False
    )

    assert refused_lines(result.stdout, path) == expected_errors(path), result.stdout
