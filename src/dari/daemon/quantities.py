"""The readers of numbers: of permissions, of [daemon.limits] and of [pool]; how many, how large, how long.

As in `keys`, a reader takes a value and the directory that it was written in; a ValueError says what it must be.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final, cast


def read_octal(value: object, like: str) -> int:
    """Permissions are written in octal, and 27 without quotes would be a decimal number: 033."""
    if isinstance(value, str) and re.fullmatch(r"(0o?)?[0-7]{1,3}", value):
        return int(value.removeprefix("0o"), 8)
    raise ValueError(f'must be an octal number in quotes, like "{like}"')


def read_descriptors(value: object, base: str) -> int:
    return _whole(_number(value), 16, "a whole number, 16 or more")  # below, no interpreter comes up with its imports


def read_bytes(value: object, base: str) -> int:
    return _whole(_number(value), 0, "a whole number of bytes, 0 or more")


def _number(value: object) -> object:
    """What comes from the command line or the environment is text."""
    return int(value) if isinstance(value, str) and value.isascii() and value.isdigit() else value


def _whole(value: object, least: int, what: str) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value >= least:
        return value
    raise ValueError(f"must be {what}")


def _read_one_or_more(value: object, base: str) -> int:
    return _whole(value, 1, "a whole number, 1 or more")


def _read_none_or_more(value: object, base: str) -> int:
    return _whole(value, 0, "a whole number, 0 or more")


def _read_patience(value: object, base: str) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < float("inf"):
        return float(value)
    raise ValueError("must be a number of seconds, 0 or more")


def _read_on_full(value: object, base: str) -> str:
    if value in ("wait", "raise"):
        return str(value)
    raise ValueError("must be 'wait' or 'raise'")


def _read_places(value: object, base: str) -> dict[str, int]:
    what = "a table of whole numbers, 1 or more"
    if isinstance(value, dict):
        places = cast("dict[str, object]", value)
        return {key: _whole(number, 1, what) for key, number in places.items()}
    raise ValueError(f"must be {what}")


# The keys of [pool], which are `dari.Pool`'s own. Only a file has them, so nothing here comes as text.
POOL_KEYS: Final[dict[str, Callable[[object, str], Any]]] = {
    "max_workers": _read_one_or_more,
    "min_workers": _read_none_or_more,
    "idle_timeout": _read_patience,
    "max_queue": _read_one_or_more,
    "on_full": _read_on_full,
    "starvation_limit": _read_one_or_more,
    "limits": _read_places,
    "exit_timeout": _read_patience,
}
