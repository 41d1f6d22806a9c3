"""Tasks that the tests of trio's seam have in common."""

from __future__ import annotations

import time

import trio

import dari


def spin(steps):
    for _ in range(steps):
        yield


def spin_until(flag):
    """Until the flag is set; or so long that the test shows that it never will be."""
    end = time.monotonic() + 2
    while not flag and time.monotonic() < end:
        yield


def rest(log, name="ended"):
    """Waits until it is cancelled, and cleans up slowly."""
    try:
        yield dari.Event().wait()
    finally:
        with dari.CancelScope(shield=True):
            yield dari.sleep(0.002)
            yield from spin(20)
        log.append(name)


async def turns(number):
    for _ in range(number):
        await trio.lowlevel.checkpoint()
