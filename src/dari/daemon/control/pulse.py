"""Whether the loop of a service is alive: a call is posted to it, and the time until it is made is its lag.

Asked from other threads, so that a blocked loop is told as what it is. One question at a time: while the loop owes an
answer everybody waits for that one, or a loop that is blocked for an hour would find thousands of them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import NamedTuple


class Beat(NamedTuple):
    """What one look found."""

    lag: float
    """Seconds from the question to the answer; if there was none yet, seconds since the question."""
    answered: bool


class Pulse:
    """`post` has a call made in the loop's thread (`Host.post`)."""

    def __init__(self, post: Callable[[Callable[[], object]], object]) -> None:
        self._post = post
        self._changed = threading.Condition()
        self._asked: float | None = None  # since when an answer is owed
        self._questions = self._answers = 0
        self.last: Beat | None = None

    def feel(self, patience: float) -> Beat:
        """Ask the loop, and wait for its answer, at most `patience` seconds. From any thread but the loop's own."""
        with self._changed:
            now = time.monotonic()
            ask = self._asked is None
            if ask:
                self._asked = now
                self._questions += 1
            question, deadline = self._questions, now + patience
        if ask:
            self._post(self._answer)
        with self._changed:
            while self._answers < question and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(left)
            if self._answers < question and self._asked is not None:
                self.last = Beat(time.monotonic() - self._asked, answered=False)
            assert self.last is not None
            return self.last

    def _answer(self) -> None:
        # In the loop's thread. Nobody holds the lock for longer than a few lines.
        with self._changed:
            if self._asked is not None:
                self.last = Beat(time.monotonic() - self._asked, answered=True)
            self._asked = None
            self._answers += 1
            self._changed.notify_all()
