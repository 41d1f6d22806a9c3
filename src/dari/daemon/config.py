"""Where a service's settings come from: command line, then environment, then file, then defaults.

The launcher resolves them once, with every path made absolute, and hands the result over: the service never
resolves again under another working directory (facts c15). Each value remembers its origin, because "why does it
use that pidfile?" is the first question, and because a `Daemon(...)` keyword may contradict a default that the
launcher had to act on, never what somebody wrote down.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from dari.daemon.document import app_target, at, file_values, look_around, parse_file, pool_values, without_target
from dari.daemon.keys import DEFAULTS, Doubts, checked, from_text, require_known
from dari.daemon.lifecycle import Exit, Refused
from dari.daemon.target import Target, parse
from dari.exceptions import ConfigError

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

    def where(self, key: str) -> str:
        """Return the beginning of an error about this value: "FILE:LINE: ", or nothing where nobody wrote it down."""
        return f"{self.origins[key]}: " if self.told(key) else ""


def resolve(
    *,
    command_line: Mapping[str, str],
    target: str | None,
    config: str | None,
    environ: Mapping[str, str],
    keywords: Mapping[str, object],
    cwd: str,
    doubts: Doubts | None = None,
) -> Settings:
    """Put the settings together. `keywords` are a `Daemon`'s, and count as defaults."""
    doubts = doubts or Doubts()
    path = os.path.normpath(os.path.join(cwd, config)) if config is not None else None
    document = parse_file(path) if path is not None else {}

    values: dict[str, Any] = dict(DEFAULTS)
    origins: dict[str, str] = {}
    for key, value in keywords.items():
        values[key] = checked(key, value, cwd, "Daemon(...)")
        origins[key] = "Daemon(...)"
    if path is not None:
        look_around(document, path, doubts)
        for key, value in file_values(document, path, doubts).items():
            values[key], origins[key] = value, at(path, key)
    for variable, text in environ.items():
        if variable.startswith("DARI_DAEMON__"):
            key = variable.removeprefix("DARI_DAEMON__").lower().replace("__", ".")
            with doubts.about(key):
                require_known(key, f"environment variable {variable}", "DARI_DAEMON__")
                values[key] = checked(key, from_text(key, text), cwd, f"environment variable {variable}")
                origins[key] = variable
    for key, text in command_line.items():
        option = f"--{key.replace('.', '-').replace('_', '-')}"
        try:
            values[key], origins[key] = checked(key, from_text(key, text), cwd, option), option
        except ConfigError as error:
            raise Refused(Exit.USAGE, str(error)) from error

    in_file: Target | None = None
    if path is not None:
        with doubts.about("pool"):
            pool_values(document, path)
        with doubts.about("app.target" if values.keys() & {"name", "pidfile"} or target is not None else "name"):
            in_file = app_target(document, path)
    found, origins[TARGET_KEY] = _find_target(target, environ, in_file, path, cwd)
    return _complete(values, origins, found, path)


def _find_target(
    given: str | None, environ: Mapping[str, str], in_file: Target | None, path: str | None, cwd: str
) -> tuple[Target | None, str]:
    if given is not None:
        return parse(given, cwd), "command line"  # its ValueError is one about arguments
    if "DARI_APP__TARGET" in environ:
        try:
            return parse(environ["DARI_APP__TARGET"], cwd), "DARI_APP__TARGET"
        except ValueError as error:
            raise ConfigError(f"environment variable DARI_APP__TARGET: {error}") from error
    return in_file, DEFAULT if path is None or in_file is None else at(path, "target", "app")


def _complete(values: dict[str, Any], origins: dict[str, str], target: Target | None, path: str | None) -> Settings:
    """Work out the defaults that depend on other values."""
    if "name" not in values:
        if target is not None:
            values["name"] = checked("name", target.default_name, "/", f"the name of {target.place}")
        elif "pidfile" in values:
            stem = os.path.basename(values["pidfile"]).removesuffix(".pid")
            values["name"] = checked("name", stem, "/", "the pidfile's name")
        else:
            if path is not None:
                raise LookupError(f"which service? Give a TARGET, --name or --pidfile: {without_target(path)}")
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
