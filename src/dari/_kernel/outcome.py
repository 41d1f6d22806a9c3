"""What a task is resumed with, and what it ends with: a value or an error.

Nothing but these two lives here. A task that is ready carries at most one of them in its `_pending` slot; None there
means "plain `next`", which is by far the commonest case and costs the stepping loop one test.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, Final, Generic, NoReturn, Protocol, TypeVar, final

__all__ = ["Error", "Outcome", "Steppable", "Value", "strip_frames"]

T = TypeVar("T")


class Steppable(Protocol):
    """What the kernel steps: a generator, or the iterator that a coroutine's `__await__` gives."""

    def send(self, value: Any, /) -> Any: ...
    def throw(self, error: BaseException, /) -> Any: ...
    def close(self) -> None: ...
    def __next__(self) -> Any: ...


@final
class Value(Generic[T]):
    """It went well."""

    __slots__ = ("value",)

    def __init__(self, value: T) -> None:
        self.value: Final[T] = value

    def into(self, steps: Steppable) -> Any:
        """Resume `steps` with the value; gives what they yield next."""
        return steps.send(self.value)

    def unwrap(self) -> T:
        return self.value


@final
class Error:
    """It failed, or was cancelled. Raised any number of times, its traceback does not grow.

    `raise` prepends a frame to the traceback that the exception *object* carries, so an error shared by
    many waiters would collect the frames of them all (facts/pool.md, "tb grows 5, 8, 11"). So the
    traceback is kept beside it and put back before each use.
    """

    __slots__ = ("_traceback", "error")

    def __init__(self, error: BaseException) -> None:
        self.error: Final = error
        self._traceback = error.__traceback__

    def into(self, steps: Steppable) -> Any:
        """Throw the error into `steps`; gives what they yield next."""
        try:
            return steps.throw(self.error.with_traceback(self._traceback))
        finally:
            del self  # as in `unwrap`: since 3.12 the frame is kept as a `f_back`

    def unwrap(self) -> NoReturn:
        try:
            raise self.error.with_traceback(self._traceback)
        finally:
            del self  # the frame is in the traceback: without this, error → frame → self → error is a cycle


Outcome = Value[T] | Error


def strip_frames(traceback: TracebackType | None) -> TracebackType | None:
    """`traceback` without the scheduler's own frames: users see their code only."""
    while traceback is not None and _ours(traceback):
        traceback = traceback.tb_next
    last = traceback
    while last is not None and (following := last.tb_next) is not None:
        if _ours(following):  # `yield from operation`, say
            last.tb_next = following.tb_next
        else:
            last = following
    return traceback


def _ours(traceback: TracebackType) -> bool:
    name: str = traceback.tb_frame.f_globals.get("__name__", "")
    return name.startswith("dari._kernel.")
