"""The numbers that users give, checked where they are given: by name, with what they must be and what came.

Later it would be too late: a priority of 1.5 stands in the lane of another one, a semaphore of 1.5 is never at 0, NaN
stands anywhere in a heap, and half of a change is done when Python says that a string cannot be added. A number is what
acts as one, be it NumPy's or a Fraction.
"""

from __future__ import annotations

from math import inf
from operator import index

__all__ = ["finite", "limit", "moment", "seconds", "whole"]


def whole(what: str, given: int, least: int | None = None, otherwise: str = "") -> int:
    """`given` as an int, of at least `least`. `otherwise` tells in the error what else it might have been."""
    try:
        number = index(given)
        if least is None or number >= least:
            return number
        kind: type[Exception] = ValueError
    except TypeError:
        kind = TypeError
    at_least = "" if least is None else f", {least} or more"
    raise kind(f"{what} is an int{at_least}{otherwise}, not {given!r}")


def seconds(what: str, given: float, above: bool = False) -> float:
    """`given`, if it is a number of seconds, 0 or more; or `above` 0."""
    try:
        if given > 0 or (given == 0 and not above):  # NaN is neither
            return given
        kind: type[Exception] = ValueError
    except TypeError:
        kind = TypeError
    raise kind(f"{what} is a number of seconds{' above 0' if above else ', 0 or more'}, not {given!r}")


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


def moment(what: str, given: float) -> float:
    """`given`, if it is a time on a clock: any number but NaN."""
    try:
        if given >= 0 or given < 0:
            return given
        kind: type[Exception] = ValueError
    except TypeError:
        kind = TypeError
    raise kind(f"{what} is a time on the scheduler's clock, in seconds, not {given!r}")
