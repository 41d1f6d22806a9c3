"""How many steps one advance may take: what lies between two looks at the clock, the mailbox and the descriptors.

An advance costs as much as fifty trivial steps, so these should be many; and what becomes due meanwhile waits, so they
should not take long. How long a step takes nobody knows before. So the number follows the speed of the last advance:
thousands of trivial steps, a single one when steps are slow.
"""

from __future__ import annotations

from typing import final

__all__ = ["Chunk"]

_LONGEST = 2048  # steps; beyond, an advance costs nothing any more (benchmarks/switch.py)
_BOLDEST = 2.0  # one fast chunk says little about the next


@final
class Chunk:
    """`steps`, chosen so that an advance takes about `seconds`.

    An advance that was faster and did not use up its steps says nothing: it need not be told.
    """

    __slots__ = ("seconds", "steps")

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.steps = 32

    def took(self, seconds: float, *, whole: bool) -> None:
        """The last advance took `seconds`; `whole`: it used up its steps."""
        growth = min(self.seconds / max(seconds, 1e-9), _BOLDEST)
        if whole or growth < 1.0:
            self.steps = max(1, min(int(self.steps * growth), _LONGEST))
