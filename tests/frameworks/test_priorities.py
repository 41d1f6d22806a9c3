"""docs/examples/priorities.py: the same service under the same load, on asyncio's loop and on ours."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from pathlib import Path
from statistics import median
from typing import Any

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "priorities.py"


def load_example() -> Any:
    spec = importlib.util.spec_from_file_location("priorities_example", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    sys.modules["priorities_example"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_health_check_does_not_stand_in_line() -> None:
    """On a saturated loop of ours it takes a fraction (a twentieth to a hundredth) of what it takes on asyncio's."""
    example = load_example()
    example.CUSTOMERS = 60

    async def measure() -> tuple[float, ...]:
        return tuple([median((await example.measure(loop, 0.3))[0]) for loop in ("asyncio", "dari")])

    on_asyncio, on_dari = asyncio.run(asyncio.wait_for(measure(), 60))

    assert on_dari < on_asyncio / 2
