"""An engine: what runs jobs, as the desk sees it. Nothing but that protocol lives here.

An engine is told by `call` that there is something to take; when it can start a job it takes one (`Desk.take_next`),
and when that has ended it says so (`Desk.finish`). Order, bounds and counts stay with the desk. Threads (`workers`) are
the first engine; tests/pool/test_engine.py has another, of thirty lines.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dari.pool.job import Job, JobState, Seat

__all__ = ["Crew"]


class Crew(Protocol):
    """An engine, as the desk sees it. Every call comes with the desk's lock held, but where it says otherwise."""

    max_workers: int
    shrinking: bool
    """Some may have to leave: each is to look before it takes a job."""

    def call(self) -> None:
        """A job was queued: let somebody come for it."""
        ...

    def compensate(self, most: int) -> bool:
        """Jobs may wait for others that nobody is left to run: let one more come for these, over `max_workers`.

        Does it? Not if there are `most` of these already.
        """
        ...

    def run_on_a_new_stack(self, job: Job[Any], seat: Seat, /) -> JobState:
        """Without the lock: what `run(job)` does here, in `seat`, but where the stack has room."""
        ...

    def resize(self, max_workers: int) -> None: ...

    def dismiss(self) -> None:
        """The pool closes: let those go who have nothing to do."""
        ...

    def at_work(self) -> Iterator[Seat]: ...

    def count(self) -> tuple[int, int]:
        """Workers, and how many of them are idle."""
        ...
