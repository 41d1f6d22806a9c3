"""Main, and the program's other functions: what may be one, and one call of it in whatever way it is written."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any, Final


class MainCancelled(Exception):  # noqa: N818 - an end, no error
    """Main ended because `Host.cancel` asked for it."""


class MainCall:
    """One call of main: the two moments in it that the daemon wants to know, and what is done between its end and
    that of its loop.
    """

    def __init__(
        self,
        main: Callable[..., Any],
        ctx: object,
        *,
        ready: Callable[[], None],
        ended: Callable[[], None],
        wind_up: Callable[[], Coroutine[Any, Any, None]],
    ) -> None:
        self.wind_up: Final = wind_up
        self._main = main
        self._ready = ready
        self._report_end = ended
        self._arguments: tuple[object, ...] = (ctx,) if _parameters(main) else ()
        self.over = False

    @property
    def is_generator(self) -> bool:
        return inspect.isgeneratorfunction(self._main)

    def as_coroutine(self) -> Awaitable[object]:
        coroutine: Awaitable[object] = self._main(*self._arguments)
        return coroutine

    def as_steps(self) -> Generator[Any, Any, object]:
        """Main as a task of dari's, whichever way it is written."""
        from dari.scheduler import create_task

        def announce() -> Generator[None, None, None]:
            self.after_first_step()
            yield from ()

        try:
            if not self._arguments:
                create_task(announce)  # queued behind us: it runs when main has come to its first wait
            if self.is_generator:
                steps: Generator[Any, Any, object] = self._main(*self._arguments)
                return (yield from steps)
            return (yield from self.as_coroutine().__await__())
        finally:
            self.over = True

    def after_first_step(self) -> None:
        """A main that has no context cannot say "ready": it is, when it has come to its first wait."""
        if not self._arguments and not self.over:
            self._ready()

    def ended(self) -> None:
        self.over = True
        self._report_end()


def check_main(main: object) -> str | None:
    """Return what is wrong with a main, or None."""
    if not callable(main):
        return f"main must be a function, not {main!r}"
    call = getattr(main, "__call__", None)  # noqa: B004 - an object with `async def __call__` is a main too
    if not any(map(inspect.iscoroutinefunction, (main, call))) and not inspect.isgeneratorfunction(main):
        return f"main must be an `async def` or a generator function, not the plain function {main!r}"
    required = [p for p in _parameters(main) if p.default is p.empty]
    if len(required) > 1:
        return f"main takes the context and nothing else, not {len(required)} arguments"
    return None


def _parameters(main: Callable[..., Any]) -> list[inspect.Parameter]:
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [p for p in inspect.signature(main).parameters.values() if p.kind in positional]
