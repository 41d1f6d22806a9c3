"""Where a driver tells what nobody else will hear of: the logger `dari`. Loaded when there is something to tell."""

from __future__ import annotations

import logging

__all__ = ["report"]

logging.getLogger("dari").addHandler(logging.NullHandler())


def report(what: str, error: BaseException | None) -> None:
    if error is None:
        logging.getLogger("dari").warning("%s", what)
    else:
        logging.getLogger("dari").error("%s", what, exc_info=error)
