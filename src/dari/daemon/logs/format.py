"""How a line of the log looks: text for people, one JSON object a line for machines."""

from __future__ import annotations

import json
import logging
import time
from typing import Any, Final

TEXT: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"

# What every record has. Whatever else it has was given as `extra=` by who logged it, and goes into the object too.
_OWN: Final = {*vars(logging.makeLogRecord({})), "message", "asctime"}


def rfc3339(seconds: float) -> str:
    """Return the moment in UTC, to the millisecond: 2026-11-23T07:04:33.120Z."""
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{int(seconds % 1 * 1000):03}Z"


class JsonFormatter(logging.Formatter):
    """`time`, `level`, `logger`, `message`, and where there is one `exception` or `stack`; then what `extra=` gave."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": rfc3339(record.created),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info and record.exc_info[0] is not None:
            line["exception"] = self.formatException(record.exc_info)
        elif record.exc_text:
            line["exception"] = record.exc_text
        if record.stack_info:
            line["stack"] = self.formatStack(record.stack_info)
        line |= {key: value for key, value in vars(record).items() if key not in _OWN and key not in line}
        try:
            return json.dumps(line, ensure_ascii=False, allow_nan=False, default=repr)
        except (TypeError, ValueError):  # NaN, a key that is no text, a circle: what JSON has no words for
            return json.dumps({key: value if isinstance(value, str) else repr(value) for key, value in line.items()})


def make_formatter(form: str) -> logging.Formatter:
    return JsonFormatter() if form == "json" else logging.Formatter(TEXT)


def as_bytes(line: str) -> bytes:
    """Return the line as it is written: half of a surrogate pair is no reason to lose it."""
    return line.encode("utf-8", "backslashreplace") + b"\n"
