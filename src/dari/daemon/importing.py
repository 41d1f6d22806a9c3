"""The import of TARGET, in the process it stays in, and what may be wrong with it.

Whoever starts a service has by now acted on settings (`dari start` cannot import the program to ask it), so this is
also where a `Daemon`'s own keywords meet them.
"""

from __future__ import annotations

import importlib.util
import os
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, NamedTuple

from dari.daemon.config import DEFAULT, Settings
from dari.daemon.entry import check_main
from dari.daemon.keys import KEYS
from dari.daemon.lifecycle import Exit, Failure
from dari.daemon.logs.log import Log
from dari.daemon.program import Daemon
from dari.daemon.signals import StartInterrupted
from dari.daemon.target import load

_LIBRARY: Final = os.path.dirname(os.__file__)
_NOT_THE_PROGRAM: Final = (
    os.path.dirname(os.path.dirname(__file__)) + os.sep,
    os.path.join(_LIBRARY, "asyncio"),
    os.path.join(_LIBRARY, "importlib"),
    "<frozen",
    "uvloop/",  # as its compiled frames are called
)


class Program(NamedTuple):
    """What the import of TARGET gave."""

    main: Any
    backend: str
    parse: Callable[[Any], Any] | None
    keywords: dict[str, Any]


def import_program(settings: Settings) -> Program:
    """Return main and what goes with it; `Failure` when there is none or when it contradicts the launcher."""
    assert settings.target is not None  # the launcher started us for it
    try:
        found = load(settings.target)
    except (SystemExit, StartInterrupted):
        raise
    except BaseException as error:
        raise Failure(Exit.NO_TARGET, f"cannot import {settings.target}\n{own_traceback(error)}") from error
    program = Program(found, settings.backend, None, {})
    if isinstance(found, Daemon):
        program = Program(found.main, _agree(found, settings), found.parse, found.keywords)
    if wrong := check_main(program.main):
        raise Failure(Exit.NO_TARGET, f"{settings.target}: {wrong}")
    if program.backend in ("uvloop", "trio") and importlib.util.find_spec(program.backend) is None:
        raise Failure(
            Exit.BAD_CONFIG, f"backend {program.backend} is not installed: pip install 'dari[{program.backend}]'"
        )
    return program


def _agree(daemon: Daemon, settings: Settings) -> str:
    """Check a `Daemon`'s keywords against what the launcher has acted on by now; return the backend.

    What somebody wrote down wins over a keyword. But a mere default of the launcher, which cannot import the
    program to see the keyword, must not win silently.
    """
    for key, value in daemon.keywords.items():
        attribute = key.replace(".", "_")
        acted_on = getattr(settings, attribute)
        try:
            wanted = KEYS[key](value, os.path.dirname(settings.target.place) if settings.target else "/")
        except ValueError as error:
            raise Failure(Exit.BAD_CONFIG, f"Daemon(...): {key} {error}, not {value!r}") from error
        if settings.told(key) or wanted == acted_on:
            continue
        if key == "backend":
            return str(wanted)
        if key == "log.level":
            Log.set_level(str(wanted))
            continue
        raise Failure(
            Exit.BAD_CONFIG,
            f"{settings.target} says {key}={value!r}, but the command that started it, which does not import it, "
            f"used the {DEFAULT} {acted_on!r}; give --{key.replace('_', '-')}, write it into the [daemon] "
            f"table, or use the program's own command (daemon.cli())",
        )
    return settings.backend


def own_traceback(error: BaseException) -> str:
    """Return the traceback from the first line of the program on: what called it is not its author's business."""
    tb: TracebackType | None = error.__traceback__
    while tb is not None and tb.tb_frame.f_code.co_filename.startswith(_NOT_THE_PROGRAM):
        tb = tb.tb_next
    return "".join(traceback.format_exception(type(error), error, tb or error.__traceback__)).rstrip()
