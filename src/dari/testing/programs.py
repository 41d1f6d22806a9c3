"""Running whole programs: on each loop, in virtual time or real, once or under many schedules."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator, Iterable
from typing import TYPE_CHECKING, Any, Literal, TypeVar, TypeVarTuple

from dari._kernel.kernel import Kernel
from dari._kernel.numbers import seconds, whole
from dari._kernel.sources import check_fresh, check_kind, close_unbegun
from dari.drivers.hosts import in_trio, running_loop
from dari.drivers.main import run_main
from dari.testing.standalone import VirtualTime, Watched

if TYPE_CHECKING:
    from dari._kernel.contract import Main

__all__ = ["explore", "run"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

Clock = Literal["virtual", "real"]
Loop = Literal["standalone", "asyncio", "trio"]


def run(
    main: Main[T, *Ts],
    *args: *Ts,
    clock: Clock = "virtual",
    loop: Loop | None = None,
    seed: int | None = None,
    timeout: float | None = None,
) -> T:
    """Run a program and all that it starts, in virtual time that begins at 0; give its result, or raise its error.

    `loop`: a generator runs `"standalone"` by default, on dari's own scheduler; a coroutine is a program of
    `"asyncio"` by default (on `VirtualEventLoop`), or of `"trio"`. A generator on a loop is a task of its guest; a
    coroutine that runs standalone may await operations of dari only.

    `timeout` is in seconds of the program's time. DeadlockError when every task waits and nothing could wake one. With
    a `seed`, ready tasks of equal priority run in an order drawn from it: the same seed, the same order. What main
    leaves running is cancelled at its end, and waited for.
    """
    if clock not in ("virtual", "real"):
        raise ValueError(f"clock is 'virtual' or 'real', not {clock!r}")
    if loop not in (None, "standalone", "asyncio", "trio"):
        raise ValueError(f"loop is 'standalone', 'asyncio', 'trio' or None, not {loop!r}")
    if timeout is not None:
        seconds("a timeout", timeout)
    source: Any = main(*args) if callable(main) else main
    check_kind(main, source)
    if loop is None:
        loop = "asyncio" if hasattr(source, "__await__") else "standalone"
    virtual = clock == "virtual"
    result: T
    if loop == "standalone":
        driver = VirtualTime() if virtual else Watched()
        result = run_main(driver, Kernel(driver, seed=seed), source, args if source is main else (), timeout)
        return result
    if source is main:
        check_fresh(source)
    if running_loop() is not None:
        close_unbegun(source)
        host = "trio" if in_trio() else "asyncio"
        raise RuntimeError(f"dari.testing.run inside a running {host} program: it starts a loop of its own")
    if loop == "asyncio":
        from dari.testing.asyncio_program import run_in_asyncio

        result = run_in_asyncio(source, virtual, seed, timeout)
    else:
        from dari.testing.trio_program import run_in_trio

        result = run_in_trio(source, virtual, seed, timeout)
    return result


def explore(
    main: Callable[[], Generator[Any, Any, object] | Coroutine[Any, Any, object]],
    *,
    seeds: int | Iterable[int] = 1000,
    loop: Loop | None = None,
    timeout: float | None = None,
) -> None:
    """Run a program under many schedules, each in virtual time; a failure tells the seed that repeats it.

    `main` is a function, called anew for each seed. `seeds` are the seeds themselves, or how many: 100 is range(100).
    Repeat a failure by `dari.testing.run(main, seed=…)`.
    """
    program: object = main  # for users who check no types
    if not callable(program):
        close_unbegun(program)
        raise TypeError(f"explore calls its program anew for each seed: give it the function that makes {program!r}")
    if isinstance(seeds, int):
        seeds = range(whole("seeds", seeds, 1, " (or the seeds themselves)"))
    where = "" if loop is None else f", loop={loop!r}"
    for seed in seeds:
        try:
            run(main, loop=loop, seed=seed, timeout=timeout)
        except BaseException as error:
            error.add_note(f"dari.testing.explore: repeat this failure by dari.testing.run(main, seed={seed}{where})")
            raise
