"""TARGET: `module:attribute` or `path/to/file.py:attribute`, a `Daemon` or a main function.

Two halves that must not meet: `parse` is the launcher's, which looks at names and files and imports nothing of the
program; `load` is the service's, after the last exec, where threads and descriptors that the program makes at
import stay where they are made (facts b21).
"""

from __future__ import annotations

import os
import sys
from typing import Any, NamedTuple


class Target(NamedTuple):
    """Where main is. `directory` goes first on the program's `sys.path`, as Python does for a script."""

    place: str  # an absolute path that ends in .py, or a module's name
    attribute: str
    directory: str

    @property
    def is_file(self) -> bool:
        return self.place.endswith(".py")

    @property
    def default_name(self) -> str:
        return os.path.basename(self.place)[:-3] if self.is_file else self.place.rpartition(".")[2]

    def __str__(self) -> str:
        return f"{self.place}:{self.attribute}"


def parse(text: str, base: str) -> Target:
    """Read a TARGET that was written in the directory `base`; raise `ValueError` that shows the right spelling."""
    place, colon, attribute = text.rpartition(":")
    if not colon or not place or not all(part.isidentifier() for part in attribute.split(".")):
        raise ValueError(f"{text!r} must be module:attribute or path/to/file.py:attribute, like app.py:main")
    if place.endswith(".py"):
        path = os.path.normpath(os.path.join(base, os.path.expanduser(place)))
        return Target(path, attribute, os.path.dirname(path))
    if not all(part.isidentifier() for part in place.split(".")):
        raise ValueError(f"{place!r} is not a module's name, and no file's: that would end in .py")
    return Target(place, attribute, base)


def may_be_same(one: str, other: str, *, attributes: bool) -> bool:
    """Tell whether two spellings of a TARGET can mean one program; without `attributes`, one file or module.

    A file is compared with a module by the end of its path, for `python -m pkg.app` and `pkg/app.py` are both usual.
    """
    (place, _, attribute), (other_place, _, other_attribute) = one.rpartition(":"), other.rpartition(":")
    if attributes and attribute != other_attribute:
        return False
    if place.endswith(".py") == other_place.endswith(".py"):
        same_file = place.endswith(".py") and os.path.realpath(place) == os.path.realpath(other_place)
        return place == other_place or same_file
    file, module = (place, other_place) if place.endswith(".py") else (other_place, place)
    return file.endswith(f"/{module.replace('.', '/')}.py")


def load(target: Target) -> Any:
    """Import the program and return what TARGET names. What its import raises passes through."""
    if target.directory not in sys.path:
        sys.path.insert(0, target.directory)
    found: Any = _load_file(target.place) if target.is_file else _load_module(target.place)
    for part in target.attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise ImportError(f"{target.place} has no {target.attribute!r}") from None
    return found


def _load_module(name: str) -> Any:
    import importlib

    return importlib.import_module(name)


def _load_file(path: str) -> Any:
    from importlib.util import module_from_spec, spec_from_file_location

    # Under its own name, so that pickle and multiprocessing find it again; unless that name is taken (a program
    # called queue.py must not become the standard library's queue).
    stem = os.path.basename(path)[:-3]
    taken = stem in sys.modules or stem in sys.stdlib_module_names
    name = f"dari_target_{stem}" if taken else stem
    spec = spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be loaded as a Python file")
    module = module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
