"""The readers of [daemon.control]: where a service is asked, and who may.

As in `keys`, a reader takes a value and the directory that it was written in; a ValueError says what it must be.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any, Final, cast

from dari.daemon.quantities import read_octal


def _read_socket(value: object, base: str) -> str:
    if value == "none":
        return ""
    if isinstance(value, str) and value and "\0" not in value:
        return os.path.normpath(os.path.join(base, os.path.expanduser(value)))
    raise ValueError("must be the path of a socket, or none")


def _read_mode(value: object, base: str) -> int:
    return read_octal(value, "600")


def _read_uids(value: object, base: str) -> list[int]:
    if isinstance(value, str):  # from the command line or the environment: 1000,1001
        value = [int(part) if part.isascii() and part.isdigit() else part for part in value.split(",") if part]
    if isinstance(value, list):
        uids = cast("list[object]", value)
        if all(isinstance(uid, int) and not isinstance(uid, bool) and uid >= 0 for uid in uids):
            return cast("list[int]", uids)
    raise ValueError("must be a list of user ids, like [1000]")


def _read_address(value: object, base: str) -> str:
    if value == "none":
        return ""
    if isinstance(value, str) and parse_address(value) is not None:
        return value
    raise ValueError('must be an address and a port, like "127.0.0.1:8086" or "[::1]:8086", or none')


def parse_address(text: str) -> tuple[str, int] | None:
    """Return host and port of `host:port`, an IPv6 address in brackets; None when it is none."""
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        return None
    if not colon or not host or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        return None
    return host, int(port)


CONTROL_KEYS: Final[dict[str, Callable[[object, str], Any]]] = {
    "control.socket": _read_socket,
    "control.mode": _read_mode,
    "control.allow_uids": _read_uids,
    "control.health": _read_address,
}
CONTROL_DEFAULTS: Final[dict[str, object]] = {
    "control.mode": 0o600,
    "control.allow_uids": [],
    "control.health": "",
}
