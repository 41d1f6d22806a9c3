"""Whoever else is told what a service does: in order, and without harm to anybody."""

from __future__ import annotations

import logging

from dari.daemon.context import Context
from dari.daemon.listeners import Listener, Listeners
from dari.daemon.pooling import ServicePool


class Notebook(Listener):
    def __init__(self, pages):
        self.pages = pages

    def starting(self):
        self.pages.append("starting")

    def ready(self):
        self.pages.append("ready")

    def status(self, text):
        self.pages.append(f"status {text}")

    def farewell(self):
        self.pages.append("farewell")

    def report(self):
        return {"pages": len(self.pages)}


class Broken(Listener):
    def ready(self):
        raise OSError("no socket")

    farewell = ready


def test_every_listener_is_told():
    """A listener overrides the moments it wants; the others pass it by."""
    pages = []
    listeners = Listeners()
    listeners.start([Listener(), Notebook(pages)])

    listeners.tell(lambda each: each.ready())
    listeners.tell(lambda each: each.stopping())
    listeners.farewell()

    assert pages == ["starting", "ready", "farewell"]


def test_a_listener_that_fails_harms_nobody_else(caplog):
    """What it raises is logged, with its name, and the others hear of the moment."""
    pages = []
    listeners = Listeners()
    listeners.start([Broken(), Notebook(pages), Broken()])

    with caplog.at_level(logging.ERROR):
        listeners.tell(lambda each: each.ready())
        listeners.farewell()

    assert pages == ["starting", "ready", "farewell"]
    assert [record.getMessage() for record in caplog.records] == [
        "Broken failed when it was told what the service does"
    ] * 4


def test_status_and_report():
    """`ctx.set_status` is one line, told to the listeners; `ctx.report` is what all of them know."""
    pages = []
    listeners = Listeners()
    listeners.start([Notebook(pages)])
    ctx = Context("app", lambda: None, listeners, ServicePool("app"))

    ctx.set_status("7 of 10\n  files")

    assert pages == ["starting", "status 7 of 10 files"]
    assert ctx.report() == {"name": "app", "generation": 1, "status": "7 of 10 files", "pages": 2}
