"""The examples of docs/howto/test-with-pytest-asyncio.md, collected and run by a pytest of their own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "test-with-pytest-asyncio.md"
BLOCK = re.compile(r"^```(python|toml)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

BLOCKS = [(match[1], match[2]) for match in BLOCK.finditer(PAGE.read_text())]
CONFIGURATION = next(text for language, text in BLOCKS if language == "toml")
FIRST, FIXTURE, VIRTUAL, HOOK = [text for language, text in BLOCKS if language == "python"]


def run_pytest(directory: Path, *options: str) -> tuple[int, dict[str, str]]:
    """The exit code of pytest, with no other plugin, and what it tells of each test; warnings are errors."""
    command = [sys.executable, "-m", "pytest", "-W", "error", "-vv", "-p", "pytest_asyncio.plugin", *options]
    alone = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(command, cwd=directory, env=alone, capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""
    ends = re.findall(r"^test_\w+\.py::(\S+) (PASSED|FAILED|ERROR)", done.stdout, re.MULTILINE)
    told: dict[str, str] = {}
    for name, end in ends:
        told[name] = f"{told[name]} {end}" if name in told else end
    return done.returncode, told


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project as the page describes it."""
    (tmp_path / "pyproject.toml").write_text(CONFIGURATION)
    (tmp_path / "test_first.py").write_text(FIRST)
    (tmp_path / "test_fixture.py").write_text(FIXTURE)
    return tmp_path


def test_the_tests_of_the_page_pass(project: Path) -> None:
    """As they stand, without a warning."""
    passed = dict.fromkeys(["test_total", "test_does_not_take_for_ever", "test_double"], "PASSED")

    assert run_pytest(project) == (0, passed)


def test_on_each_loop(project: Path) -> None:
    """With the hook in conftest.py each runs on asyncio's loop, on uvloop and on ours."""
    pytest.importorskip("pytest_asyncio", minversion="1.4", reason="the hook came with 1.4")
    (project / "conftest.py").write_text(HOOK)

    code, told = run_pytest(project)

    assert (code, sorted(told)) == (
        0,
        sorted(
            f"{name}[{loop}]"
            for name in ("test_total", "test_does_not_take_for_ever", "test_double")
            for loop in ("asyncio", "uvloop", "dari")
        ),
    )


def test_in_virtual_time(project: Path) -> None:
    """With the other hook in conftest.py an hour takes no time, and what can never end does not hang."""
    pytest.importorskip("pytest_asyncio", minversion="1.4", reason="the hook came with 1.4")
    (project / "conftest.py").write_text(VIRTUAL)
    more = """

@pytest.mark.asyncio
async def test_hour(scheduler):
    await scheduler.create_task(hour)
    await asyncio.sleep(3600)
    assert asyncio.get_running_loop().time() == 7200

@pytest.mark.asyncio
async def test_never_ends():
    await asyncio.Event().wait()

def hour():
    yield dari.sleep(3600)

import asyncio
"""
    (project / "test_fixture.py").write_text(FIXTURE + more)

    assert run_pytest(project, "test_fixture.py") == (
        1,
        {"test_double": "PASSED", "test_hour": "PASSED", "test_never_ends": "FAILED"},
    )


def test_without_marks(project: Path) -> None:
    """In auto mode the marks are not needed."""
    for path in project.glob("test_*.py"):
        path.write_text(path.read_text().replace("@pytest.mark.asyncio\n", ""))

    code, told = run_pytest(project, "-o", "asyncio_mode=auto")

    assert (code, set(told.values())) == (0, {"PASSED"})


def test_what_the_page_says_of_tests_that_go_wrong(project: Path) -> None:
    """A failed test does not hang; an error that nobody saw fails one that passed; what runs on is ended."""
    more = """

@pytest.mark.asyncio
async def test_fails(scheduler):
    scheduler.create_task(double, dari.Queue(), dari.Queue())
    assert False


@pytest.mark.asyncio
async def test_passes_though_a_task_failed(scheduler):
    def fails():
        yield
        failed.set()
        raise LookupError

    failed = dari.Event()
    scheduler.create_task(fails)
    await failed.wait()


@pytest.mark.asyncio
async def test_leaves_a_task_on_its_loop():
    def runs_on():
        try:
            yield dari.Event().wait()
        finally:
            ended.append("it was ended")

    def starts():
        dari.create_task(runs_on)
        yield

    await dari.arun(starts)
    assert ended == []


def test_was_ended():
    assert ended == ["it was ended"]


ended = []


def pause():
    yield dari.sleep(0)


@pytest_asyncio.fixture(loop_scope="module")
async def wide():
    async with dari.Scheduler() as scheduler:
        yield scheduler


@pytest.mark.asyncio
async def test_on_another_loop(wide):
    with pytest.raises(RuntimeError, match="another event loop"):
        await wide.create_task(pause)


@pytest.mark.asyncio(loop_scope="module")
async def test_on_the_same_loop(wide):
    await wide.create_task(pause)
"""
    (project / "test_fixture.py").write_text(FIXTURE + more)

    assert run_pytest(project, "test_fixture.py") == (
        1,
        {
            "test_double": "PASSED",
            "test_fails": "FAILED",
            "test_passes_though_a_task_failed": "PASSED ERROR",
            "test_leaves_a_task_on_its_loop": "PASSED",
            "test_was_ended": "PASSED",
            "test_on_another_loop": "PASSED",
            "test_on_the_same_loop": "PASSED",
        },
    )
