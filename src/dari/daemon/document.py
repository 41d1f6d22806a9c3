"""The configuration file: what its tables say, checked, and the line on which it stands."""

from __future__ import annotations

import os
import re
from types import MappingProxyType
from typing import Any, Final, cast

from dari.daemon.keys import KEYS, Doubts, checked, closest, require_known, unknown
from dari.daemon.quantities import POOL_KEYS
from dari.daemon.target import Target, parse
from dari.exceptions import ConfigError

_TABLES: Final = ("daemon", "pool", "app")


def read_file(path: str) -> dict[str, Any]:
    """Read a configuration file and check its [daemon], [pool] and [app]; what else it holds is the program's."""
    document = parse_file(path)
    look_around(document, path)
    file_values(document, path)
    pool_values(document, path)
    app_target(document, path)
    return document


def parse_file(path: str) -> dict[str, Any]:
    """Read a configuration file, and look no further than at its TOML."""
    import tomllib  # not at the top: a command without -c does not need it

    try:
        with open(path, "rb") as file:
            raw = file.read()
        return tomllib.loads(raw.decode())
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error


def freeze(value: Any) -> Any:
    """Return the same data, immutable all the way down: `ctx.config` is a snapshot."""
    if isinstance(value, dict):
        table = cast("dict[str, Any]", value)
        return MappingProxyType({key: freeze(item) for key, item in table.items()})
    if isinstance(value, list):
        return tuple(freeze(item) for item in value)  # pyright: ignore[reportUnknownVariableType] - isinstance knows the list, not its items
    return value


def look_around(document: dict[str, Any], path: str, doubts: Doubts | None = None) -> None:
    """Refuse what stands beside our tables, and was meant for them: it would pass in silence, as the program's."""
    doubts = doubts or Doubts()
    for key, value in document.items():
        if key in _TABLES:
            continue
        meant, concerns = "", key
        if not isinstance(value, dict):
            meant = f"{key} in [daemon]" if key in KEYS else ""
        elif table := _table_meant(key, document):
            meant, concerns = f"[{table}]", "name" if table == "daemon" else key
        elif any(f"{key}.{inner}" in KEYS for inner in cast("dict[str, Any]", value)):
            meant = f"[daemon.{key}]"
        if meant:
            with doubts.about(concerns):
                raise ConfigError(f"{at(path, key, '')}: {key} is nothing that dari reads; did you mean {meant}?")


def _table_meant(name: str, document: dict[str, Any]) -> str:
    """Return which of our tables was probably meant; not one that is there as well, beside a table of the program's."""
    meant = name.lower() if name.lower() in _TABLES else closest(name.lower(), ("daemon", "pool"), cutoff=0.8)
    # A word for something else may be one letter longer in front: spool.
    return meant if meant[:1] == name[:1].lower() and meant not in document else ""


def file_values(document: dict[str, Any], path: str, doubts: Doubts | None = None) -> dict[str, Any]:
    """Return what the [daemon] table says, checked, with tables inside it as `log.level`."""
    table = _table(document, "daemon", path)
    base = os.path.dirname(path)
    values: dict[str, Any] = {}
    doubts = doubts or Doubts()
    for key, value in _flat(table):
        where = at(path, key)
        with doubts.about(key):
            require_known(key, f"{where}: [daemon] {key}", "")
            values[key] = checked(key, value, base, f"{where}: [daemon]")
    return values


def pool_values(document: dict[str, Any], path: str) -> dict[str, Any]:
    """Return what the [pool] table says, checked: keywords for a `dari.Pool`."""
    values: dict[str, Any] = {}
    for key, value in _table(document, "pool", path).items():
        where = at(path, key, "pool")
        if key not in POOL_KEYS:
            unknown(key, f"{where}: [pool] {key}", "", POOL_KEYS)
        values[key] = checked(key, value, path, f"{where}: [pool]", POOL_KEYS)
    least, most = values.get("min_workers", 0), values.get("max_workers")
    if most is not None and least > most:
        where = at(path, "min_workers", "pool")
        raise ConfigError(f"{where}: [pool]: min_workers must be at most max_workers ({most}), not {least}")
    return values


def without_target(path: str) -> str:
    """Say that the file names no TARGET, and what in it may have been meant for that."""
    app = _table(parse_file(path), "app", path)
    near = closest("target", app, cutoff=0.7)
    hint = f"; {at(path, near, 'app')}: [app] {near}: did you mean 'target'?" if near else ""
    return f"{path} has no [app] target{hint}"


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


def app_target(document: dict[str, Any], path: str) -> Target | None:
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
