"""Turns a program that has a loop into a well-behaved Unix service."""

from dari.daemon.context import Context as Context
from dari.daemon.context import Stopping as Stopping
from dari.daemon.program import Daemon as Daemon

__all__ = ["Context", "Daemon", "Stopping"]
