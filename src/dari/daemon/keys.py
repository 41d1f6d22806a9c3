"""The keys of [daemon], and who reads each: the one list that options, variables, files and keywords are checked by.

A reader takes a value and the directory that its relative paths start from, and says in a ValueError what it must be.
What comes as text (command line, environment) has been through `from_text` before.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Collection, Generator, Mapping
from typing import Any, Final, NoReturn

from dari.daemon.control.access import CONTROL_DEFAULTS, CONTROL_KEYS
from dari.daemon.quantities import read_bytes, read_descriptors, read_octal
from dari.daemon.rights.accounts import ACCOUNT_KEYS
from dari.exceptions import ConfigError

BACKENDS: Final = ("asyncio", "uvloop", "trio", "dari", "standalone")
LEVELS: Final = ("debug", "info", "warning", "error", "critical")
FORMATS: Final = ("text", "json", "none")
ROTATIONS: Final = ("none", "size", "time")


def _read_name(value: object, base: str) -> str:
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.@-]*", value):
        return value
    raise ValueError("must be a name of letters, digits and . _ @ -")


def _read_path(value: object, base: str) -> str:
    if isinstance(value, str) and value and "\0" not in value:
        return os.path.normpath(os.path.join(base, os.path.expanduser(value)))
    raise ValueError("must be a path")


def _read_umask(value: object, base: str) -> int:
    return read_octal(value, "027")


def _read_seconds(value: object, base: str) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < float("inf"):
        return float(value)
    raise ValueError("must be a number of seconds above 0")


def _read_backend(value: object, base: str) -> str:
    if isinstance(value, str) and value in BACKENDS:
        return value
    raise ValueError(f"must be one of {', '.join(BACKENDS)}")


def _read_level(value: object, base: str) -> str:
    if isinstance(value, str) and value.lower() in LEVELS:
        return value.lower()
    raise ValueError(f"must be one of {', '.join(LEVELS)}")


def _read_format(value: object, base: str) -> str:
    if isinstance(value, str) and value in FORMATS:
        return value
    raise ValueError(f"must be one of {', '.join(FORMATS)}")


def _read_rotation(value: object, base: str) -> str:
    if isinstance(value, str) and value in ROTATIONS:
        return value
    raise ValueError(f"must be one of {', '.join(ROTATIONS)}")


def _read_count(value: object, base: str) -> int:
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return value
    raise ValueError("must be a whole number of 1 or more")


def _read_interval(value: object, base: str) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < float("inf"):
        return float(value)
    raise ValueError("must be a number of seconds, or 0 for never")


# The keys of [daemon]; a dot leads into a table inside it. The command line's --option and the environment's
# DARI_DAEMON__KEY are made from the same list.
KEYS: Final[dict[str, Callable[[object, str], Any]]] = {
    "name": _read_name,
    "pidfile": _read_path,
    "logfile": _read_path,
    "rundir": _read_path,
    **ACCOUNT_KEYS,
    "umask": _read_umask,
    "chdir": _read_path,
    "backend": _read_backend,
    "start_timeout": _read_seconds,
    "stop_grace": _read_seconds,
    "log.level": _read_level,
    "limits.nofile": read_descriptors,
    "limits.core": read_bytes,
    "log.format": _read_format,
    "log.rotate": _read_rotation,
    "log.max_bytes": _read_count,
    "log.backups": _read_count,
    "log.report_every": _read_interval,
    **CONTROL_KEYS,
}
IDENTITY: Final = ("name", "rundir", "pidfile")  # whoever looks for a service finds it by these
DEFAULTS: Final[dict[str, object]] = {
    "umask": 0o027,
    "chdir": "/",
    "backend": "asyncio",
    "start_timeout": 30.0,
    "stop_grace": 30.0,
    "log.level": "info",
    "log.format": "text",
    "log.rotate": "none",
    "log.max_bytes": 10_000_000,
    "log.backups": 5,
    "log.report_every": 0.0,
    **CONTROL_DEFAULTS,
}


class Doubts:
    """What is wrong with a configuration: an error for who starts by it, a warning for who only looks for the service.

    Not where it is about the keys that the service is found by: looking in the wrong place would say "not running".
    """

    def __init__(self, *, strict: bool = True) -> None:
        self._strict = strict
        self.warnings: list[str] = []

    @contextlib.contextmanager
    def about(self, key: str) -> Generator[None]:
        """Let no `ConfigError` out of the block, unless it matters."""
        try:
            yield
        except ConfigError as error:
            if self._strict or key in IDENTITY or closest(key) in IDENTITY:
                raise
            self.warnings.append(f"{error}: ignored here")


def from_text(key: str, text: str) -> object:
    if KEYS[key] not in (_read_seconds, _read_interval):
        return text
    try:
        return float(text)
    except ValueError:
        return text  # its reader then says what it must be


def checked(
    key: str, value: object, base: str, where: str, known: Mapping[str, Callable[[object, str], Any]] = KEYS
) -> Any:
    try:
        return known[key](value, base)
    except ValueError as error:
        raise ConfigError(f"{where}: {key} {error}, not {value!r}") from error


def require_known(key: str, where: str, prefix: str) -> None:
    if key not in KEYS:
        unknown(key, where, prefix)


def unknown(key: str, where: str, prefix: str, known: Collection[str] = KEYS) -> NoReturn:
    if any(longer.startswith(f"{key}.") for longer in known):
        raise ConfigError(f"{where}: must be a table")
    close = closest(key, known)
    spelled = f"{prefix}{close.replace('.', '__').upper()}" if close and prefix else close
    hint = f"did you mean {spelled!r}?" if close else f"known are {', '.join(known)}"
    raise ConfigError(f"{where}: unknown key; {hint}")


def closest(key: str, known: Collection[str] = KEYS, *, cutoff: float = 0.5) -> str:
    """Return what was probably meant, or an empty string."""
    import difflib  # only on the way out

    return "".join(difflib.get_close_matches(key, known, n=1, cutoff=cutoff))


def unread(environ: Mapping[str, str]) -> list[str]:
    """Return a sentence for each DARI_* variable that nobody reads, and that looks like one that is read."""
    spelled = {_squeezed(f"DAEMON{key}"): f"DARI_DAEMON__{key.replace('.', '__').upper()}" for key in KEYS}
    spelled |= {_squeezed(key): variable for key, variable in zip(KEYS, list(spelled.values()), strict=True)}
    spelled["APPTARGET"] = "DARI_APP__TARGET"
    found: list[str] = []
    for variable in environ:
        is_read = variable.startswith("DARI_DAEMON__") or variable == "DARI_APP__TARGET"
        if is_read or not variable.upper().startswith("DARI_"):
            continue
        if close := closest(_squeezed(variable[5:]), spelled, cutoff=0.8):
            found.append(f"environment variable {variable}: nobody reads it; did you mean {spelled[close]!r}?")
    return found


def _squeezed(key: str) -> str:
    return key.upper().replace("_", "").replace(".", "")
