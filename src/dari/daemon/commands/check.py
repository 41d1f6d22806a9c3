"""`dari check`: what a start would find, without one. `restart` asks the same before it stops anything.

The configuration is resolved by now; what is left are the files and the port that a start opens (`places`), and
TARGET. It is imported in a process of its own (a program may start threads, take ports or leave the interpreter at
import), in the directory and with the umask of a real start, and `Daemon(parse=…)` is shown the file. Main is never
called.

The child tells what it found in a file without a name, not in a pipe: nobody has to read while it runs, and a process
that the program leaves behind cannot keep us waiting for its end.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from typing import Any, NamedTuple

from dari.daemon import launch
from dari.daemon.config import DEFAULT, TARGET_KEY, Settings
from dari.daemon.document import at, parse_file, pool_values
from dari.daemon.keys import KEYS
from dari.daemon.lifecycle import Exit
from dari.daemon.quantities import POOL_KEYS
from dari.daemon.rights.environment import for_service


class Checked(NamedTuple):
    """What a check found: an exit code of `start`, what is wrong, and which values a `Daemon`'s keywords gave."""

    code: int
    text: str
    keywords: dict[str, Any]


def check_target(settings: Settings) -> Checked:
    """Try places and TARGET in a process of their own, which has `start_timeout` for it."""
    with tempfile.TemporaryFile() as words:
        handover = launch.hand_over(launch.Handover("check", settings, -1, words.fileno()))
        try:
            # What the program prints at import must not stand between a caller and the JSON on our stdout.
            child = subprocess.Popen(
                launch.command(settings, handover, "dari.daemon.commands.trial"),
                stdin=subprocess.DEVNULL,
                stdout=sys.stderr.fileno(),
                env=for_service(os.environ, settings, detached=True),
                pass_fds=(handover, words.fileno()),
            )
        finally:
            os.close(handover)
        try:
            ended = child.wait(settings.start_timeout)
        except subprocess.TimeoutExpired:
            text = f"{settings.target} is still being imported after {settings.start_timeout:g} s (start_timeout)"
            return Checked(Exit.NO_TARGET, text, {})
        finally:
            child.kill()
            child.wait()
        words.seek(0)
        raw = words.read()
    if not raw.endswith(b"\n"):
        how = f"by signal {-ended}" if ended < 0 else f"with exit code {ended}"
        return Checked(Exit.NO_TARGET, f"the import of {settings.target} ended its process, {how}", {})
    word = json.loads(raw)
    return Checked(word["code"], word["text"], word["keywords"])


def explain(settings: Settings, keywords: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return each key with its value and where that comes from."""
    explained: dict[str, dict[str, Any]] = {
        TARGET_KEY: {"value": str(settings.target), "origin": settings.origins.get(TARGET_KEY, DEFAULT)}
    }
    for key in KEYS:
        value: Any = getattr(settings, key.replace(".", "_"))
        if key in ("umask", "control.mode"):
            value = f"{value:03o}"  # as it is written in the file
        explained[key] = {"value": value, "origin": settings.origins.get(key, DEFAULT)}
    pool = pool_values(parse_file(settings.config), settings.config) if settings.config is not None else {}
    for key, default in _pool_defaults().items():
        origin = at(settings.config or "", key, "pool") if key in pool else DEFAULT
        explained[f"pool.{key}"] = {"value": pool.get(key, default), "origin": origin}
    for key, value in keywords.items():
        explained[key] = {"value": value, "origin": "Daemon(...)"}
    return explained


def _pool_defaults() -> dict[str, Any]:
    import inspect

    from dari.pool import Pool

    parameters = inspect.signature(Pool).parameters
    return {key: parameters[key].default for key in POOL_KEYS}


def as_lines(explained: dict[str, dict[str, Any]]) -> list[str]:
    """Return it as a table for people."""
    keys = max(map(len, explained))
    shown = {key: "-" if row["value"] is None else str(row["value"]) for key, row in explained.items()}
    values = max(map(len, shown.values()))
    return [f"{key:{keys}}  {shown[key]:{values}}  {row['origin']}" for key, row in explained.items()]
