"""The pytest plugin: programs as tests, seeds as tests of their own, and peace with the other plugins."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import dari

# What the inner pytests use is imported here, once: each of them lets go of what it has imported itself, and a module
# of dari's that was loaded anew would not know the old one's operations. (dari's names load when they are looked for.)
for _module in ("asyncio", "hypothesis", "trio", "dari.testing"):
    importlib.import_module(_module)
for _name in dari.__all__:
    getattr(dari, _name)

pytest_plugins = ["pytester"]

HEAD = """
import asyncio, pytest, trio
import dari
from hypothesis import HealthCheck, given, settings, strategies as st
calm = dict(database=None, deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""


@pytest.fixture
def run(pytester):
    """`run(code, *options)`: an inner pytest of these tests, where warnings are errors; gives the ends, by name."""
    pytester.makeini("[pytest]\nfilterwarnings = error\nasyncio_default_fixture_loop_scope = function\n")

    def run(code, *options, conftest="", leaks=False):
        if not leaks:  # looking for what was left to the garbage takes half a second each time
            options = ("-p", "no:unraisableexception", *options)
        pytester.makeconftest(conftest)
        pytester.makepyfile(test_it=HEAD + code)
        run.result = pytester.runpytest_inprocess("-p", "no:cacheprovider", "--assert=plain", "-vv", *options)
        run.text = run.result.stdout.str()
        ends = re.findall(r"^test_it\.py::(\S+) (PASSED|FAILED|ERROR|SKIPPED)", run.text, re.MULTILINE)
        return dict(ends)

    return run


def test_importing_it_is_cheap():
    """Every pytest where dari is installed pays for this import: no loop is loaded, no thread module, no pool."""
    code = (
        "import pytest, sys; before = set(sys.modules); import dari.pytest_plugin;"
        " print({'asyncio', 'trio', 'anyio', 'selectors', 'dari.testing', 'dari.pool'} & (set(sys.modules) - before))"
    )

    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "set()\n"


def test_programs_of_every_kind_run_in_virtual_time(run):
    """Generators, coroutines of asyncio and of trio; functions and methods; with fixtures and parameters."""
    ends = run(
        """
@pytest.fixture
def day():
    return 86400

@pytest.mark.dari
@pytest.mark.parametrize("days", [1, 2])
def test_generator(day, days):
    yield dari.sleep(days * day)

@pytest.mark.dari
async def test_asyncio(day):
    await asyncio.sleep(day)
    assert asyncio.get_running_loop().time() == day

@pytest.mark.dari(loop="trio")
async def test_trio(day):
    await trio.sleep(day)

@pytest.mark.dari(loop="asyncio")
def test_generator_on_asyncio(day):
    yield asyncio.sleep(day)

class TestClass:
    @pytest.mark.dari
    def test_method(self, day):
        assert isinstance(self, TestClass)
        yield dari.sleep(day)

    @pytest.mark.dari
    async def test_async_method(self, day):
        await asyncio.sleep(day)

    @staticmethod
    @pytest.mark.dari
    def test_static(day):
        yield dari.sleep(day)
""",
        leaks=True,
    )

    assert ends == dict.fromkeys(
        [
            "test_generator[1]",
            "test_generator[2]",
            "test_asyncio",
            "test_trio",
            "test_generator_on_asyncio",
            "TestClass::test_method",
            "TestClass::test_async_method",
            "TestClass::test_static",
        ],
        "PASSED",
    )


def test_options_of_the_mark(run):
    """A clock on the wall, and a timeout; marks of the module and of the test add up, the test's count."""
    ends = run("""
import time
pytestmark = pytest.mark.dari(clock="real", timeout=3600)

async def test_real():
    before = time.monotonic()
    await asyncio.sleep(0.001)
    assert time.monotonic() >= before + 0.001

@pytest.mark.dari(clock="virtual")
async def test_too_long():
    await asyncio.sleep(3601)

def test_no_program():
    "The mark of a module, or of a class, is for its programs."
""")

    assert ends == {"test_real": "PASSED", "test_too_long": "FAILED", "test_no_program": "PASSED"}
    assert "main did not end within 3600 seconds" in run.text


RACE = """
made = []

@pytest.fixture
def account(dari_seed):
    made.append(dari_seed)
    return {"total": 0}

@pytest.mark.dari(seeds=30)
async def test_race(account):
    async def add():
        seen = account["total"]
        await asyncio.sleep(0)
        account["total"] = seen + 1

    async def later():
        await asyncio.sleep(0)
        await add()

    await asyncio.gather(add(), later())
    assert account["total"] == 2

def test_fixtures():
    assert len(set(made)) == len(made)
"""


def test_each_seed_is_a_test_of_its_own(run):
    """With its own fixtures; a failing one is told with the way to repeat it, which repeats it."""
    ends = run(RACE)
    failed = [name for name, end in ends.items() if end == "FAILED"]

    assert [name for name in ends if "race" in name] == [f"test_race[seed={seed}]" for seed in range(30)]
    assert ends["test_fixtures"] == "PASSED"
    assert failed
    again = re.search(
        rf"to repeat it: pytest '?test_it\.py::{re.escape(failed[0])}'? (--dari-seed \d+)$", run.text, re.MULTILINE
    )
    assert again is not None
    assert run(RACE, f"test_it.py::{failed[0]}", *again[1].split()) == {failed[0]: "FAILED"}


def test_one_seed_by_the_command_line(run):
    """`--dari-seed` takes the place of the mark's, also beyond them, for whoever looks on."""
    ends = run(RACE, "--dari-seed", "1234", "-k", "race")

    assert list(ends) == ["test_race[seed=1234]"]


def test_seeds_may_be_named(run):
    """Any iterable of them; the seed is there for the test's own chance."""
    ends = run("""
@pytest.mark.dari(seeds=[3, 17])
def test_seeded(dari_seed):
    yield
    assert dari_seed in (3, 17)

@pytest.mark.dari
def test_unseeded(dari_seed):
    yield
    assert dari_seed is None
""")

    assert ends == dict.fromkeys(["test_seeded[seed=3]", "test_seeded[seed=17]", "test_unseeded"], "PASSED")


def test_a_standstill_fails_the_test(run):
    """It does not hang; the report shows who waits for what."""
    ends = run("""
@pytest.mark.dari
async def test_stands_still():
    await dari.Event().wait()
""")

    assert ends == {"test_stands_still": "FAILED"}
    assert "DeadlockError" in run.text


def test_hypothesis(run):
    """Every example is a run; seeds and examples go together; a failing example is found, and shrunk."""
    ends = run("""
@pytest.mark.dari
@given(delay=st.integers(0, 1000))
@settings(max_examples=10, **calm)
async def test_coroutine(delay):
    await asyncio.sleep(delay)

@pytest.mark.dari(seeds=2)
@given(delay=st.integers(0, 1000))
@settings(max_examples=10, **calm)
def test_generator(delay, tmp_path_factory):
    yield dari.sleep(delay)

@pytest.mark.dari
@settings(max_examples=100, **calm, derandomize=True)
@given(delay=st.integers(0, 1000))
def test_fails(delay):
    yield dari.sleep(delay)
    assert delay < 100
""")

    assert ends == {
        "test_coroutine": "PASSED",
        "test_generator[seed=0]": "PASSED",
        "test_generator[seed=1]": "PASSED",
        "test_fails": "FAILED",
    }
    assert "delay=100" in run.text


@pytest.mark.parametrize("mode", ["strict", "auto"])
def test_beside_pytest_asyncio(run, mode):
    """In both of its modes, also with its hook: each plugin runs its own, and virtual time is there for both."""
    ends = run(
        """
@pytest.mark.dari(seeds=2)
async def test_ours():
    await asyncio.sleep(3600)

@pytest.mark.dari
@given(delay=st.integers(0, 1000))
@settings(max_examples=3, **calm)
async def test_ours_given(delay):
    await asyncio.sleep(delay)

@pytest.mark.asyncio
async def test_theirs():
    await asyncio.sleep(3600)
    assert asyncio.get_running_loop().time() == 3600.0
""",
        "-o",
        f"asyncio_mode={mode}",
        conftest="""
from dari.testing import VirtualEventLoop

def pytest_asyncio_loop_factories():
    return {"virtual": VirtualEventLoop}
""",
    )

    assert ends == {
        "test_ours[seed=0]": "PASSED",
        "test_ours[seed=1]": "PASSED",
        "test_ours_given": "PASSED",
        "test_theirs": "PASSED",
    }


@pytest.mark.parametrize("mode", ["strict", "auto"])
def test_beside_anyio(run, mode):
    """Its fixture chooses the loops (also in its auto mode); its own tests may be in virtual time, too."""
    ends = run(
        """
import anyio

@pytest.mark.dari
async def test_ours(anyio_backend):
    await anyio.sleep(3600)

class TestTheirs:
    @pytest.fixture
    def anyio_backend(self):
        from dari.testing import VirtualEventLoop
        return "asyncio", {"loop_factory": VirtualEventLoop}

    @pytest.mark.anyio
    async def test_theirs(self):
        await anyio.sleep(3600)
""",
        "-o",
        f"anyio_mode={mode}",
    )

    assert ends == dict.fromkeys(["test_ours[asyncio]", "test_ours[trio]", "TestTheirs::test_theirs"], "PASSED")


def test_what_would_run_in_real_time_is_refused(run):
    """Two plugins for one test, a class of unittest's, a foreign fixture, no program at all: each is told a way out."""
    ends = run("""
import unittest, pytest_asyncio
ours = pytest.mark.dari

@ours
@pytest.mark.asyncio
async def test_asyncio_too(): ...

@ours
@pytest.mark.anyio
async def test_anyio_too(): ...

class TestCase(unittest.IsolatedAsyncioTestCase):
    @ours
    async def test_method(self): ...

@pytest_asyncio.fixture
async def connection():
    return 1

@ours
async def test_fixture(connection): ...

@ours
def test_no_program(): ...
""")

    assert set(ends.values()) == {"ERROR"}
    assert len({name.partition("[")[0] for name in ends}) == 5  # (anyio's may be there for each backend)
    for way_out in (
        "also asyncio: of two plugins that run it",
        "also anyio: of two plugins that run it",
        "loop_factory = dari.testing.VirtualEventLoop",
        "the asynchronous fixture 'connection' would live in another one",
        "it is no program",
    ):
        assert way_out in run.text


def test_a_mistake_in_the_mark_is_named(run):
    """When the test is collected."""
    run("""
@pytest.mark.dari(seed=17)
async def test_seed(): ...
""")

    assert "mark.dari takes clock, loop, seeds, timeout, not seed" in run.text


def test_the_page_in_the_docs(run):
    """Its tests pass as they stand."""
    page = Path(__file__).parents[2] / "docs" / "howto" / "test-with-pytest.md"
    first, bank = re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)

    assert run(first) == dict.fromkeys(["test_generator", "test_asyncio", "test_trio"], "PASSED")
    assert run(bank) == {f"test_deposits[seed={seed}]": "PASSED" for seed in range(20)}


def test_the_mark_is_registered(run):
    """So that `--strict-markers` knows it, and `--markers` explains it."""
    run("", "--markers")

    assert "@pytest.mark.dari(clock='virtual', loop=None, seeds=None, timeout=None)" in run.text
