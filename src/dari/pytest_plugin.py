"""pytest's plugin: `@pytest.mark.dari` tests are programs, run by `dari.testing.run`.

A generator, an `async def` of asyncio's and one of trio's are collected and run alike: what pytest, and every other
plugin, sees is a plain function with the same name, marks and arguments (pytest refuses generators, other plugins run
coroutines in real time). Each seed is a test of its own, with fixtures of its own: a hundred runs that shared a
database or a counter would fail for that alone.

Public hooks only; and cheap, for every pytest of whoever has dari installed imports this: no loop is loaded before a
marked test runs.
"""

from __future__ import annotations

import functools
import inspect
import shlex
from typing import TYPE_CHECKING, Any, cast

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

_OPTIONS = {"clock", "loop", "seeds", "timeout"}
_OTHERS = {  # who else runs coroutines, by mark
    "asyncio": "pytest-asyncio (its tests are in virtual time by its hook: pytest_asyncio_loop_factories)",
    "anyio": "anyio (with the fixture anyio_backend, and without the mark, dari runs the test on each backend)",
    "trio": 'pytest-trio (dari(loop="trio") runs it on trio)',
}

_claimed = pytest.StashKey[bool]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("dari").addoption(
        "--dari-seed",
        type=int,
        metavar="N",
        help="run tests marked dari(seeds=…) under this one seed: repeats what the report of a failed one tells",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "dari(clock='virtual', loop=None, seeds=None, timeout=None): run a generator or async test by dari.testing.run,"
        " in virtual time; under each of so many seeds, or of these seeds, as a test of its own",
    )


@pytest.fixture
def dari_seed(request: pytest.FixtureRequest) -> int | None:
    """The seed under which the test runs, to draw from in the test, too. None: it is not marked dari(seeds=…)."""
    seed: int | None = getattr(request, "param", None)
    return seed


# ---- collecting --------------------------------------------------------------------------------------------------


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makeitem(collector: pytest.Module | pytest.Class, name: str, obj: object) -> Any:
    """Let pytest and the plugins collect a stand-in for a marked program: a plain function."""
    function = getattr(obj, "__func__", obj)  # of a static method
    program = _inner(function)
    marked = collector.get_closest_marker("dari") or any(
        mark.name == "dari" for mark in getattr(function, "pytestmark", ())
    )
    if not _is_program(program) or not marked or not collector.istestfunction(obj, name):
        return None
    return collector.ihook.pytest_pycollect_makeitem(collector=collector, name=name, obj=_stand_in(function, program))


@pytest.hookimpl(specname="pytest_pycollect_makeitem", wrapper=True, trylast=True)
def pytest_pycollect_makeitem_of_programs() -> Generator[None, Any, Any]:
    """The innermost: no other plugin has seen the items yet. pytest has looked up their functions by name again."""
    made = yield
    items = cast("list[object]", made if isinstance(made, list) else [made])
    for item in items:
        if isinstance(item, pytest.Function) and item.get_closest_marker("dari") is not None:
            _claim(item)
    return made  # pyright: ignore[reportUnknownVariableType] - whatever it was


@pytest.hookimpl(trylast=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test for each seed."""
    seeds: int | Iterable[int] | None = _options(metafunc.definition).get("seeds")
    if seeds is None or not hasattr(_inner(metafunc.function), "_dari_program"):
        return
    only: int | None = metafunc.config.getoption("dari_seed")
    if only is not None:
        seeds = [only]
    elif isinstance(seeds, int):
        seeds = range(seeds)
    if "dari_seed" not in metafunc.fixturenames:
        metafunc.fixturenames.append("dari_seed")
    metafunc.parametrize("dari_seed", list(seeds), indirect=True, ids=lambda seed: f"seed={seed}")


def _inner(function: Any) -> Any:
    """The test itself, which Hypothesis' `@given` calls with what it has drawn."""
    given = getattr(function, "hypothesis", None)
    return function if given is None else given.inner_test


def _is_program(function: Any) -> bool:
    return inspect.isgeneratorfunction(function) or inspect.iscoroutinefunction(function)


def _stand_in(function: Any, program: Callable[..., Any], item: pytest.Function | None = None) -> Any:
    """A plain function like `function`, which runs the program with the options of `item`."""

    @functools.wraps(program)
    def run(*args: Any, **kwargs: Any) -> Any:
        from dari import testing

        assert item is not None
        return testing.run(lambda: program(*args, **kwargs), **_how_to_run(item))

    run._dari_program = program  # type: ignore[attr-defined]
    if getattr(function, "hypothesis", None) is None:
        return run
    function.hypothesis.inner_test = run  # Hypothesis' own way to put something between itself and the test
    return function


def _claim(item: pytest.Function) -> None:
    inner = _inner(item.obj)
    program = getattr(inner, "_dari_program", inner)  # it may be a stand-in already
    if _is_program(program):
        _options(item)
        item.obj = _stand_in(item.obj, program, item)
        item.stash[_claimed] = True


# ---- options -----------------------------------------------------------------------------------------------------


def _options(node: pytest.Item) -> dict[str, Any]:
    """Of all marks on the test, its class and its module; the closest one's count."""
    options: dict[str, Any] = {}
    for mark in reversed(list(node.iter_markers("dari"))):
        if mark.args or not mark.kwargs.keys() <= _OPTIONS:
            wrong = ", ".join((*map(repr, mark.args), *sorted(mark.kwargs.keys() - _OPTIONS)))
            pytest.fail(f"{node.nodeid}: mark.dari takes {', '.join(sorted(_OPTIONS))}, not {wrong}", pytrace=False)
        options.update(mark.kwargs)
    return options


def _seed_of(item: pytest.Item) -> int | None:
    params: dict[str, Any] = getattr(getattr(item, "callspec", None), "params", {})
    return params.get("dari_seed")


def _how_to_run(item: pytest.Function) -> dict[str, Any]:
    options = _options(item)
    options.pop("seeds", None)
    if options.get("loop") is None:
        backend: Any = item.funcargs.get("anyio_backend")  # anyio's fixture: a name, or a name and options
        options["loop"] = backend[0] if isinstance(backend, tuple) else backend
    return {**options, "seed": _seed_of(item)}


# ---- running -----------------------------------------------------------------------------------------------------


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Refuse what would not run as its mark says."""
    if item.get_closest_marker("dari") is not None:
        for reason in _refusals(item):
            pytest.fail(f"{item.nodeid} is marked dari, but {reason}", pytrace=False)


def _refusals(item: pytest.Item) -> Iterator[str]:
    if item.stash.get(_claimed, False):
        for mark, runner in _OTHERS.items():
            if item.get_closest_marker(mark) is not None:
                yield f"also {mark}: of two plugins that run it, take the mark of one away: dari's, or that of {runner}"
    elif isinstance(item, pytest.Function) and _is_program(item.obj):
        yield "its class runs it: unittest.IsolatedAsyncioTestCase takes loop_factory = dari.testing.VirtualEventLoop"
    elif any(mark.name == "dari" for mark in item.own_markers):
        yield "it is no program: dari runs generators (with a `yield` in them) and `async def` tests"


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
) -> Generator[None, object, object]:
    """An asynchronous fixture lives in a loop of whoever runs it, and not in that of the test."""
    if request.scope == "function" and request.node.stash.get(_claimed, False):
        function = fixturedef.func
        if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
            pytest.fail(
                f"{request.node.nodeid} is marked dari, which runs the test in a loop of its own: the asynchronous"
                f" fixture {fixturedef.argname!r} would live in another one, in real time. Enter it in the test,"
                " as an async context manager",
                pytrace=False,
            )
    return (yield)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> None:
    """The test is about to be called: Hypothesis' inner test is one for all seeds, and shall be this item's now."""
    if pyfuncitem.stash.get(_claimed, False):
        _claim(pyfuncitem)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Tell how to repeat what failed."""
    report = yield
    seed = _seed_of(item)
    if report.failed and seed is not None and item.stash.get(_claimed, False):
        again = f"pytest {shlex.quote(item.nodeid)} --dari-seed {seed}"
        report.sections.append(("dari", f"failed under seed {seed}; to repeat it: {again}"))
    return report
