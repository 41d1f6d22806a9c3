"""Where a service's settings come from: command line, then environment, then file, then defaults.

The launcher resolves them once, with every path made absolute, and hands the result over: the service never
resolves again under another working directory (facts c15). Each value remembers its origin, because "why does it
use that pidfile?" is the first question, and because a `Daemon(...)` keyword may contradict a default that the
launcher had to act on, never what somebody wrote down.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, NamedTuple, NoReturn, cast

from dari.daemon.control.access import CONTROL_DEFAULTS, CONTROL_KEYS
from dari.daemon.lifecycle import Exit, Refused
from dari.daemon.quantities import POOL_KEYS, read_bytes, read_descriptors, read_octal
from dari.daemon.rights.accounts import ACCOUNT_KEYS
from dari.daemon.target import Target, parse
from dari.exceptions import ConfigError

BACKENDS: Final = ("asyncio", "uvloop", "trio", "dari", "standalone")
LEVELS: Final = ("debug", "info", "warning", "error", "critical")
FORMATS: Final = ("text", "json", "none")
ROTATIONS: Final = ("none", "size", "time")
DEFAULT: Final = "default"
TARGET_KEY: Final = "app.target"


class Settings(NamedTuple):
    """All that a launcher and a service have to agree on."""

    name: str
    target: Target | None
    config: str | None
    rundir: str
    pidfile: str
    logfile: str
    umask: int
    chdir: str
    backend: str
    start_timeout: float
    stop_grace: float
    log_level: str
    log_format: str
    log_rotate: str
    log_max_bytes: int
    log_backups: int
    log_report_every: float
    control_socket: str  # "": none
    control_mode: int
    control_allow_uids: list[int]
    control_health: str  # "": none
    origins: dict[str, str]
    limits_nofile: int | None = None
    limits_core: int | None = None
    user: str | None = None
    group: str | None = None
    pass_environment: Sequence[str] = ()

    def told(self, key: str) -> bool:
        """Tell whether somebody wrote this value down."""
        return self.origins.get(key, DEFAULT) != DEFAULT


# Each reader takes a value and the directory that its relative paths start from, and says in a ValueError what it
# must be. What comes as text (command line, environment) has been through `_from_text` before.


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


def _from_text(key: str, text: str) -> object:
    if KEYS[key] not in (_read_seconds, _read_interval):
        return text
    try:
        return float(text)
    except ValueError:
        return text  # its reader then says what it must be


def read_file(path: str) -> dict[str, Any]:
    """Read a configuration file and check its [daemon], [pool] and [app]; what else it holds is the program's."""
    import tomllib  # not at the top: a command without -c does not need it

    try:
        with open(path, "rb") as file:
            raw = file.read()
        document = tomllib.loads(raw.decode())
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error
    file_values(document, path)
    pool_values(document, path)
    _app_target(document, path)
    return document


def freeze(value: Any) -> Any:
    """Return the same data, immutable all the way down: `ctx.config` is a snapshot."""
    if isinstance(value, dict):
        table = cast("dict[str, Any]", value)
        return MappingProxyType({key: freeze(item) for key, item in table.items()})
    if isinstance(value, list):
        return tuple(freeze(item) for item in value)  # pyright: ignore[reportUnknownVariableType] - isinstance knows the list, not its items
    return value


def resolve(
    *,
    command_line: Mapping[str, str],
    target: str | None,
    config: str | None,
    environ: Mapping[str, str],
    keywords: Mapping[str, object],
    cwd: str,
) -> Settings:
    """Put the settings together. `keywords` are a `Daemon`'s, and count as defaults."""
    path = os.path.normpath(os.path.join(cwd, config)) if config is not None else None
    document = read_file(path) if path is not None else {}

    values: dict[str, Any] = dict(DEFAULTS)
    origins: dict[str, str] = {}
    for key, value in keywords.items():
        values[key] = _checked(key, value, cwd, "Daemon(...)")
        origins[key] = "Daemon(...)"
    if path is not None:
        for key, value in file_values(document, path).items():
            values[key], origins[key] = value, at(path, key)
    for variable, text in environ.items():
        if variable.startswith("DARI_DAEMON__"):
            key = variable.removeprefix("DARI_DAEMON__").lower().replace("__", ".")
            _require_known(key, f"environment variable {variable}", "DARI_DAEMON__")
            values[key] = _checked(key, _from_text(key, text), cwd, f"environment variable {variable}")
            origins[key] = variable
    for key, text in command_line.items():
        option = f"--{key.replace('.', '-').replace('_', '-')}"
        try:
            values[key], origins[key] = _checked(key, _from_text(key, text), cwd, option), option
        except ConfigError as error:
            raise Refused(Exit.USAGE, str(error)) from error

    found, origins[TARGET_KEY] = _find_target(target, environ, document, path, cwd)
    return _complete(values, origins, found, path)


def _find_target(
    given: str | None, environ: Mapping[str, str], document: dict[str, Any], path: str | None, cwd: str
) -> tuple[Target | None, str]:
    if given is not None:
        return parse(given, cwd), "command line"  # its ValueError is one about arguments
    if "DARI_APP__TARGET" in environ:
        try:
            return parse(environ["DARI_APP__TARGET"], cwd), "DARI_APP__TARGET"
        except ValueError as error:
            raise ConfigError(f"environment variable DARI_APP__TARGET: {error}") from error
    found = _app_target(document, path) if path is not None else None
    return found, DEFAULT if path is None or found is None else at(path, "target", "app")


def _complete(values: dict[str, Any], origins: dict[str, str], target: Target | None, path: str | None) -> Settings:
    """Work out the defaults that depend on other values."""
    if "name" not in values:
        if target is not None:
            values["name"] = _checked("name", target.default_name, "/", f"the name of {target.place}")
        elif "pidfile" in values:
            stem = os.path.basename(values["pidfile"]).removesuffix(".pid")
            values["name"] = _checked("name", stem, "/", "the pidfile's name")
        else:
            raise LookupError("which service? Give a TARGET, -c FILE, --name or --pidfile")
    name = values["name"]
    root = os.geteuid() == 0
    state = os.path.expanduser(f"~/.local/state/{name}")
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if root:
        rundir = f"/run/{name}"
    else:
        rundir = os.path.join(runtime, name) if os.path.isabs(runtime) else state
    values.setdefault("rundir", rundir)
    values.setdefault("pidfile", os.path.join(values["rundir"], f"{name}.pid"))
    values.setdefault("logfile", f"/var/log/{name}.log" if root else os.path.join(state, f"{name}.log"))
    # Beside the pidfile, whose directory exists and is not everybody's.
    values.setdefault("control.socket", f"{values['pidfile'].removesuffix('.pid')}.ctl")
    fields = {key.replace(".", "_"): value for key, value in values.items()}
    return Settings(target=target, config=path, origins=origins, **fields)


def _checked(
    key: str, value: object, base: str, where: str, known: Mapping[str, Callable[[object, str], Any]] = KEYS
) -> Any:
    try:
        return known[key](value, base)
    except ValueError as error:
        raise ConfigError(f"{where}: {key} {error}, not {value!r}") from error


def file_values(document: dict[str, Any], path: str) -> dict[str, Any]:
    """Return what the [daemon] table says, checked, with tables inside it as `log.level`."""
    table = _table(document, "daemon", path)
    base = os.path.dirname(path)
    values: dict[str, Any] = {}
    for key, value in _flat(table):
        where = at(path, key)
        _require_known(key, f"{where}: [daemon] {key}", "")
        values[key] = _checked(key, value, base, f"{where}: [daemon]")
    return values


def pool_values(document: dict[str, Any], path: str) -> dict[str, Any]:
    """Return what the [pool] table says, checked: keywords for a `dari.Pool`."""
    values: dict[str, Any] = {}
    for key, value in _table(document, "pool", path).items():
        where = at(path, key, "pool")
        if key not in POOL_KEYS:
            _unknown(key, f"{where}: [pool] {key}", "", POOL_KEYS)
        values[key] = _checked(key, value, path, f"{where}: [pool]", POOL_KEYS)
    least, most = values.get("min_workers", 0), values.get("max_workers")
    if most is not None and least > most:
        where = at(path, "min_workers", "pool")
        raise ConfigError(f"{where}: [pool]: min_workers must be at most max_workers ({most}), not {least}")
    return values


def _table(document: dict[str, Any], name: str, path: str) -> dict[str, Any]:
    table: object = document.get(name, {})
    if not isinstance(table, dict):
        raise ConfigError(f"{at(path, name)}: {name} must be a table: [{name}]")
    return cast("dict[str, Any]", table)


def _flat(table: dict[str, Any], prefix: str = "") -> list[tuple[str, object]]:
    """Return `log = {level = "info"}` as `log.level`; a table that should not be one stays a value."""
    flat: list[tuple[str, object]] = []
    for key, value in table.items():
        name = prefix + key
        if isinstance(value, dict) and name not in KEYS:
            flat += _flat(cast("dict[str, Any]", value), f"{name}.")
        else:
            flat.append((name, cast("object", value)))
    return flat


def _app_target(document: dict[str, Any], path: str) -> Target | None:
    text: object = _table(document, "app", path).get("target")
    if text is None:
        return None
    where = f"{at(path, 'target', 'app')}: [app] target"
    if not isinstance(text, str):
        raise ConfigError(f"{where}: must be module:attribute or path/to/file.py:attribute, not {text!r}")
    try:
        return parse(text, os.path.dirname(path))
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error


def _require_known(key: str, where: str, prefix: str) -> None:
    if key not in KEYS:
        _unknown(key, where, prefix)


def _unknown(key: str, where: str, prefix: str, known: Collection[str] = KEYS) -> NoReturn:
    import difflib  # only on the way out

    if any(longer.startswith(f"{key}.") for longer in known):
        raise ConfigError(f"{where}: must be a table")
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    spelled = f"{prefix}{close[0].replace('.', '__').upper()}" if close and prefix else "".join(close)
    hint = f"did you mean {spelled!r}?" if close else f"known are {', '.join(known)}"
    raise ConfigError(f"{where}: unknown key; {hint}")


def at(path: str, key: str, table: str = "daemon") -> str:
    """Return "path:line" of a key, or just the path where it is spelled in a way that this does not find.

    tomllib gives no positions; a scan for `[table]` and `key =` finds them in every file as people write them.
    """
    inside, _, leaf = key.rpartition(".")
    wanted = f"{table}.{inside}" if inside else table
    current = ""
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if header := re.match(r"\s*\[\s*([^\[\]]+?)\s*\]", line):
                    current = header[1].replace('"', "").replace(" ", "")
                    if current in (key, f"{table}.{key}"):
                        return f"{path}:{number}"
                elif assigned := re.match(r"\s*([\w.\"-]+)\s*=", line):
                    full = f"{current}.{assigned[1]}".replace('"', "").removeprefix(".")
                    if full in (f"{wanted}.{leaf}", wanted, key):
                        return f"{path}:{number}"
    except (OSError, UnicodeDecodeError):
        pass
    return path
