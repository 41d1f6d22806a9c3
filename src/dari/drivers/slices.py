"""A slice: what a guest runs before it gives the loop back, at most `max_slice` seconds of steps.

A callback of the host per step would pay a turn of its loop for each; an unbounded batch would keep the host's own work
waiting. The clock is that on the wall, whatever the host's own may show: it is about how long its loop is kept.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, final

from dari._kernel.contract import MORE
from dari.drivers.chunk import Chunk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from dari._kernel.contract import Direction, Need
    from dari._kernel.kernel import Kernel
    from dari.drivers.mailbox import Mailbox

__all__ = ["Slices"]

_CHUNKS_PER_SLICE = 16  # how often the clock is read


@final
class Slices:
    __slots__ = ("_chunk", "_kernel", "_mailbox", "_max_slice", "ready", "starting")

    def __init__(self, kernel: Kernel, mailbox: Mailbox, max_slice: float) -> None:
        self._kernel = kernel
        self._mailbox = mailbox
        self._max_slice = max_slice
        self._chunk = Chunk(max_slice / _CHUNKS_PER_SLICE)
        if not max_slice:
            self._chunk.steps = 1  # and it stays so: a slice is one step then, however long that takes
        self.ready: list[tuple[int, Direction]] = []  # descriptors, for the next advance
        self.starting: list[Callable[[], object]] = []  # what the advance asked to be called when it is over

    def run(self, may_go_on: Callable[[], bool] | None = None) -> Need:
        """Run one; gives what the kernel needs then. KeyboardInterrupt and SystemExit of a task come out.

        `may_go_on` is asked a few times on the way.
        """
        kernel, mailbox, chunk = self._kernel, self._mailbox, self._chunk
        before = monotonic()
        end = before + self._max_slice
        while True:
            ready: Iterable[tuple[int, Direction]] = ()
            if self.ready:
                ready, self.ready = self.ready, []
            need = kernel.advance(ready, mailbox.take(), chunk.steps)
            if self.starting:
                starting, self.starting = self.starting, []
                for start in starting:
                    start()
            now = monotonic()
            if need is not MORE:
                if now - before > chunk.seconds:
                    chunk.took(now - before, whole=False)
                return need
            chunk.took(now - before, whole=True)
            if now >= end or (may_go_on is not None and not may_go_on()):
                return need
            before = now
