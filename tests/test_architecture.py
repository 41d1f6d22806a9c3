"""The arrows of the house: who may import whom. Read off the syntax trees, type-only imports counted too."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import dari

ROOT = Path(dari.__file__).parent
MODULES = {
    ".".join(("dari", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
}

# Each floor, and the floors that it may import. `dari` itself (the friendly face) and `__main__` are the roof.
FLOORS: dict[str, set[str]] = {
    "exceptions": set(),
    "_kernel": {"exceptions"},
    "sync": {"_kernel", "exceptions"},
    "queues": {"sync", "_kernel", "exceptions"},
    "resources": {"sync", "_kernel", "exceptions"},
    "pipeline": {"queues", "sync", "_kernel", "exceptions"},
    "drivers": {"_kernel", "exceptions"},
    "scheduler": {"drivers", "_kernel", "sync", "exceptions"},
    "outside": {"scheduler", "drivers", "_kernel", "exceptions"},
    "lowlevel": {"drivers", "_kernel", "exceptions"},
    "pool": {"drivers", "_kernel", "sync", "exceptions"},
    "daemon": {"scheduler", "pool", "drivers", "_kernel", "sync", "exceptions"},
    "tracing": {"_kernel", "exceptions"},
    "testing": {"scheduler", "drivers", "_kernel", "exceptions"},  # a generator on a foreign loop needs `arun`
    "pytest_plugin": {"testing"},
}
NEVER_IN_THE_LANGUAGE = {
    "asyncio",
    "concurrent",
    "logging",
    "os",
    "random",
    "selectors",
    "signal",
    "socket",
    "threading",
    "time",
}
# asyncio, and what needs it, has its places; everywhere else not even inside a function.
FOREIGN_LOOPS: dict[str, tuple[str, ...]] = {
    "asyncio": ("dari.drivers.asyncio_", "dari.daemon.", "dari.testing", "dari.pytest_plugin"),
    "uvloop": ("dari.daemon.",),
    "trio": ("dari.drivers.trio_", "dari.daemon.", "dari.testing."),
    "anyio": ("dari.outside", "dari.daemon."),
}


def imports(path: Path) -> list[tuple[str, bool]]:
    """Every module that the file imports, and whether it costs nothing at import: in a function, or for types only."""
    found: list[tuple[str, bool]] = []

    def walk(node: ast.AST, inside: bool) -> None:
        if isinstance(node, ast.Import):
            found.extend((alias.name, inside) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the arrows"
            assert node.module is not None
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.append((whole if whole in MODULES else node.module, inside))
        inside = inside or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        inside = inside or (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
        for child in ast.iter_child_nodes(node):
            walk(child, inside)

    walk(ast.parse(path.read_text()), False)
    return found


def floor(module: str) -> str:
    return module.split(".")[1] if "." in module else "dari"


@pytest.mark.parametrize("module", MODULES)
def test_arrows_point_down(module):
    """A module imports its own floor and the floors below, and never the face `dari` itself."""
    if module in ("dari", "dari.__main__"):
        return
    allowed = FLOORS[floor(module)] | {floor(module)}

    wrong = [
        name
        for name, _ in imports(MODULES[module])
        if name == "dari" or (name.startswith("dari.") and floor(name) not in allowed)
    ]

    assert wrong == []


def test_no_circles():
    """No module imports itself through others, not even for types."""
    arrows = {
        module: {name for name, _ in imports(path) if name in MODULES and name != module}
        for module, path in MODULES.items()
    }
    left = dict(arrows)
    while free := [module for module, below in left.items() if not below & left.keys()]:
        for module in free:
            del left[module]

    assert left == {}


LANGUAGE = ("_kernel", "sync", "queues", "pipeline", "resources")


@pytest.mark.parametrize("module", [name for name in MODULES if floor(name) in LANGUAGE])
def test_the_language_knows_no_machine(module):
    """Kernel, primitives and pipeline know no clock, loop, thread, socket or signal."""
    top_level = {name.split(".")[0] for name, inside in imports(MODULES[module]) if not inside or name != "random"}

    assert top_level & NEVER_IN_THE_LANGUAGE == set()


@pytest.mark.parametrize("foreign", FOREIGN_LOOPS)
def test_foreign_loops_have_their_places(foreign):
    """asyncio, uvloop, trio and anyio are imported where DESIGN §5 says; in the daemon inside functions only."""
    wrong = [
        module
        for module, path in MODULES.items()
        for name, inside in imports(path)
        if name.split(".")[0] == foreign
        and (not module.startswith(FOREIGN_LOOPS[foreign]) or (module.startswith("dari.daemon.") and not inside))
    ]

    assert wrong == []


def test_every_floor_is_named():
    """A new module finds its place in FLOORS before it lands."""
    assert {floor(module) for module in MODULES} - FLOORS.keys() == {"dari", "__main__"}


def test_no_drawers():
    """No module is named for being a drawer."""
    drawers = {"utils", "util", "helpers", "common", "base", "manager", "misc"}

    assert [module for module in MODULES if module.rsplit(".", 1)[-1] in drawers] == []


@pytest.mark.parametrize("module", MODULES)
def test_files_and_functions_stay_small(module):
    """About 400 lines a file, about 60 a function, or the reason stands on the spot ("Long: …")."""
    source = MODULES[module].read_text()
    lines = source.splitlines()
    tree = ast.parse(source)
    long_functions = [
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno > 65
        and "Long:" not in "\n".join(lines[node.lineno - 1 : node.end_lineno])
    ]

    assert long_functions == []
    assert len(lines) <= 420 or "Long:" in source
