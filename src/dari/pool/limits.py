"""Limits by key: so many jobs of one key run at a time, whatever their priorities and however many workers there are.

A job whose turn comes while its key is full is set aside, and the worker looks for another. When one of the key ends,
the best of those set aside goes back to where it stood, for its turn had come already: so order holds among the jobs of
a key as in the whole queue, and the others never wait for a key that is not theirs.

**Who holds a place is who runs**: also a thread that was abandoned, until its function has returned. A job that waits
for one of its own key runs that one in its own place; else one place would be a deadlock. But only what runs on its own
stack: to wait for a job of another key, or of none, which waits for this key, can be a deadlock, as with any lock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, final

from dari.pool.line import Line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

__all__ = ["Limit", "Limits"]


@final
class Limit:
    """The places of one key. Used under the pool's lock only. (The jobs are `Any` here, for they know this module.)"""

    __slots__ = ("_places", "aside", "free", "helpers", "key")

    def __init__(self, key: str, places: int, new_line: Callable[[], Line[Any]]) -> None:
        self.key: Final = key
        self._places: Final = places
        self.aside = new_line()
        self.free = places
        self.helpers: list[Callable[[], object]] = []  # workers that would run one of the key if there were a place

    def take(self, rare: Any) -> bool:
        """Give it a place, if there is one."""
        if self.free <= 0:
            return False
        self.free -= 1
        rare.holds = True
        return True

    def recount(self, at_work: Iterable[Any], new_line: Callable[[], Line[Any]]) -> None:
        """Those that work are all that there is; nobody is set aside any more."""
        self.aside = new_line()
        self.free = self._places - sum(self._is_held_by(job) for job in at_work)

    def held_by(self, stack: Iterable[Any]) -> bool:
        """Is one of those that run here in a place of this key?"""
        return any(map(self._is_held_by, stack))

    def _is_held_by(self, job: Any) -> bool:
        return job._rare is not None and job._rare.limit is self and job._rare.holds


class Limits(dict[str, Limit]):
    """By key."""

    def __init__(self, places: Mapping[str, int], new_line: Callable[[], Line[Any]]) -> None:
        super().__init__((key, Limit(key, number, new_line)) for key, number in places.items())

    def of(self, key: str) -> Limit:
        try:
            return self[key]
        except KeyError:
            known = ", ".join(map(repr, self)) or "none"
            raise ValueError(f"the pool has no limit for the key {key!r}, but: {known}. See Pool(limits=...)") from None
