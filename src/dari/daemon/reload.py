"""From a file to `ctx.config`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from dari.daemon.config import freeze, read_file
from dari.exceptions import ConfigError


class Made(NamedTuple):
    """A configuration file, and what the program sees of it."""

    document: Any  # immutable; what the next reload is compared with
    config: Any


def make_config(path: str | None, parse: Callable[[dict[str, Any]], Any] | None) -> Made:
    """Read and check the file, and show it to the program's `parse`; `ConfigError` when one of them refuses it."""
    raw = read_file(path) if path is not None else {}
    document = freeze(raw)
    if parse is None:
        return Made(document, document)
    try:
        return Made(document, parse(raw))
    except Exception as error:
        raise ConfigError(f"{path or 'no configuration file'}: parse: {type(error).__name__}: {error}") from error
