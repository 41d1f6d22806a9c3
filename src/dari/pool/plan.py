"""What `options` ask of a job's time. Nothing but these wishes, checked where they are given."""

from __future__ import annotations

from math import inf
from typing import NamedTuple

from dari._kernel.numbers import seconds

__all__ = ["Plan", "finite", "limit"]


class Plan(NamedTuple):
    """Shared by all jobs of one view. A job without any such wish has no plan at all."""

    delay: float = 0.0
    queue_timeout: float | None = None
    timeout: float | None = None


def finite(what: str, given: float, above: bool = False) -> float:
    """`given` as a number of seconds after which something will happen."""
    number = float(seconds(what, given, above))  # a Decimal cannot be added to the clock
    if number == inf:
        raise ValueError(f"{what} is a finite number of seconds, not {given!r}")
    return number


def limit(what: str, given: float | None) -> float | None:
    """`given` as a number of seconds that must not be exceeded; None, as infinity: there is no such limit."""
    if given is None:
        return None
    number = float(seconds(what, given, above=True))
    return None if number == inf else number
