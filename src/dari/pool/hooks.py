"""What users hang in beside the jobs: logs, metrics, traces. Nothing that they raise harms a job or a worker."""

from __future__ import annotations

from contextvars import copy_context
from threading import current_thread, main_thread
from typing import TYPE_CHECKING, Any, Final, NamedTuple, final

from dari.drivers.wakeup import way_home

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Callback", "Hooks", "call_hook"]


class Hooks(NamedTuple):
    """One pool's. (The jobs are `Any` here, for they know this module.)"""

    on_start: Callable[[Any], object] | None
    on_retry: Callable[[Any, BaseException, float], object] | None
    on_end: Callable[[Any], object] | None


def call_hook(what: str, hook: Callable[..., object], job: Any, *more: object) -> None:
    try:
        hook(job, *more)
    except BaseException as error:  # it must not harm the worker, nor the job: SystemExit neither
        if isinstance(error, RecursionError) and (error.__traceback__ is None or error.__traceback__.tb_next is None):
            raise  # the stack has ended, and it was not begun: see `make`
        if not isinstance(error, Exception) and current_thread() is main_thread():
            raise  # Ctrl-C, in the middle of it
        from dari.drivers.reporting import report  # loads logging

        report(f"{what} {hook!r} of {job!r} failed", error)


@final
class Callback:
    """A done callback of one job: made where it was added, if a loop or a scheduler runs there, and in that context."""

    __slots__ = ("_context", "_post", "callback")

    def __init__(self, callback: Callable[[Any], object]) -> None:
        self.callback: Final = callback
        self._post: Final = way_home()
        self._context: Final = None if self._post is None else copy_context()

    def __call__(self, job: Any) -> None:
        context = self._context
        if self._post is None or context is None:
            call_hook("done callback", self.callback, job)
        else:
            self._post(lambda: context.run(call_hook, "done callback", self.callback, job))
