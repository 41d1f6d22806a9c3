"""`dari top`: `status`, once a second, until Ctrl-C or until the reader goes. On a terminal it stays in one place."""

from __future__ import annotations

import json
import os
import select
import sys
import time
from typing import Any, Final

from dari.daemon.commands.status import status
from dari.daemon.config import Settings
from dari.daemon.lifecycle import Exit

_EVERY: Final = 1.0  # seconds
_HOME_AND_CLEAR: Final = "\x1b[H\x1b[J"
_CLEAR: Final = "\x1b[2J"


def show(settings: Settings, *, times: int | None, as_json: bool) -> None:
    """Show it `times` times, None: without end. With `as_json` one object a line."""
    in_place = not as_json and os.isatty(1)
    reader_gone = select.poll()
    reader_gone.register(1, 0)  # asks for nothing: POLLERR and POLLHUP are told all the same
    try:
        if in_place:
            sys.stdout.write(_CLEAR)
        for number in range(times if times is not None else sys.maxsize):
            if number and reader_gone.poll(_EVERY * 1000):
                break
            report = status(settings)
            if as_json:
                text = json.dumps({"name": settings.name, "time": round(time.time(), 3), **_shown(report)})
            else:
                text = "\n".join((f"{settings.name}: {report.text}", *(f"  {line}" for line in report.details)))
            print(f"{_HOME_AND_CLEAR if in_place else ''}{text}", flush=True)
    except (BrokenPipeError, KeyboardInterrupt):
        # Both are how people end this. What the stream still holds has no reader.
        os.dup2(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), 1)


def _shown(report: Any) -> dict[str, Any]:
    return {"code": int(report.code), "ok": report.code == Exit.DONE, "text": report.text, **report.fields}
