"""The mutants of `tests/mutants.py` follow the source: what each replaces stands there, once, and so do its tests."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

HERE = Path(__file__).parent
MUTANTS = runpy.run_path(str(HERE / "mutants.py"))["MUTANTS"]


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_follows_the_source(name):
    """A mutant that changes nothing, or something else, would prove nothing."""
    import dari

    mutant = MUTANTS[name]
    text = (Path(dari.__file__).parent / mutant.file).read_text()

    assert text.count(mutant.right) == 1
    assert mutant.right != mutant.wrong
    for test in mutant.tests.split():
        file, _, function = test.partition("::")
        assert f"def {function.partition('[')[0]}" in (HERE.parent / file).read_text()
