"""The process of `dari check`: tries a start's places, imports TARGET, shows it the configuration, calls no main.

`python -m dari.daemon.commands.trial NAME TARGET --handover=FD`, started by `check` alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from typing import Any, Final, NoReturn

from dari.daemon.commands.places import try_own_log, try_places
from dari.daemon.importing import import_program
from dari.daemon.launch import read_handover
from dari.daemon.lifecycle import Exit, Failure, Refused
from dari.daemon.reload import make_config
from dari.daemon.rights.accounts import account
from dari.daemon.rights.privileges import drop, require_access
from dari.daemon.setup import go_home, settle
from dari.exceptions import ConfigError

_LONGEST: Final = 60_000  # of a traceback; a recursion error's would not fit into any terminal


def main(argv: list[str]) -> NoReturn:
    """Import the program, and write down what came of it."""
    handover = read_handover(int(argv[-1].removeprefix("--handover=")))
    os.set_inheritable(handover.status, False)
    settings = handover.settings
    code, text = Exit.DONE, ""
    keywords: dict[str, Any] = {}
    try:
        who = account(settings.user, settings.group)
        try_places(settings, who)
        settle(settings, detached=True)
        if who is not None:
            drop(who)
            require_access(settings, who, log=settings.logfile)
            try_own_log(settings, who)
        go_home(settings, detached=True)
        program = import_program(settings)
        keywords = {key: value for key, value in program.keywords.items() if not settings.told(key)}
        make_config(settings.config, program.parse)
    except (Failure, Refused) as failure:
        code, text = failure.code, str(failure)
    except ConfigError as error:
        code, text = Exit.BAD_CONFIG, str(error)
    except SystemExit as leaving:
        code, text = Exit.NO_TARGET, f"the import of {settings.target} left by SystemExit({leaving.code!r})"
    word = {"code": code, "text": text[-_LONGEST:], "keywords": keywords}
    os.write(handover.status, json.dumps(word, default=str).encode() + b"\n")
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)  # threads that the import has started, and its exit handlers, are no part of a check


if __name__ == "__main__":
    main(sys.argv)
