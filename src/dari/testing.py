"""Testing programs of generator tasks: in virtual time, under many schedules.

In virtual time the clock stands still while tasks run; when nothing is ready it jumps to the next deadline. Hours of
sleeping take milliseconds, and the same program takes the same steps every time. It does not jump while something
outside could still wake a task: a job of a pool, a future of a thread, a descriptor.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator, Iterable
from typing import TYPE_CHECKING, Any, Literal, TypeVar, TypeVarTuple, final

from dari._kernel.contract import Idle, Operation
from dari._kernel.kernel import Kernel
from dari._kernel.waiting import dump
from dari.drivers.main import run_main
from dari.drivers.standalone import Standalone
from dari.exceptions import DeadlockError

if TYPE_CHECKING:
    from dari._kernel.contract import Main
    from dari._kernel.task import TaskWait

__all__ = ["explore", "run", "wait_all_blocked"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class _Watched(Standalone):
    """A driver that tells those who wait for everybody else to be blocked."""

    def __init__(self) -> None:
        super().__init__()
        self.onlookers: list[TaskWait] = []

    def _wait(self, kernel: Kernel, need: Idle, deadline: float | None) -> None:
        if self.onlookers:
            onlookers, self.onlookers = self.onlookers, []
            for wait in onlookers:
                wait.wake()
        else:
            self._rest(kernel, need, deadline)

    def _rest(self, kernel: Kernel, need: Idle, deadline: float | None) -> None:
        super()._wait(kernel, need, deadline)


@final
class _VirtualTime(_Watched):
    """Does not wait: sets its clock to the next deadline."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def clock(self) -> float:  # pyright: ignore[reportIncompatibleMethodOverride, reportIncompatibleVariableOverride]
        return self.now

    def _rest(self, kernel: Kernel, need: Idle, deadline: float | None) -> None:
        if kernel.outside or need.watching:
            super()._rest(kernel, Idle(None, need.watching), None)
        elif need.deadline is not None:
            self.now = max(self.now, need.deadline)
        elif not self.mailbox:
            raise DeadlockError(f"every task waits, and nothing is left that could wake one:\n{dump(kernel.tasks)}")


def run(
    main: Main[T, *Ts],
    *args: *Ts,
    clock: Literal["virtual", "real"] = "virtual",
    seed: int | None = None,
    timeout: float | None = None,
) -> T:
    """Like `dari.run`, in virtual time that begins at 0.

    `timeout` is in seconds of that time. DeadlockError when every task waits and nothing could wake one. With a `seed`
    ready tasks of equal priority run in an order drawn from it: the same seed, the same order.
    """
    driver = _VirtualTime() if clock == "virtual" else _Watched()
    result: T = run_main(driver, Kernel(driver, seed=seed), main, args, timeout)
    return result


def explore(
    main: Callable[[], Generator[Any, Any, object] | Coroutine[Any, Any, object]],
    *,
    seeds: Iterable[int] = range(1000),
    timeout: float | None = None,
) -> None:
    """Run a program under many schedules, each in virtual time; a failure tells the seed that repeats it.

    `main` is called anew for each seed. Repeat a failure by `dari.testing.run(main, seed=…)`.
    """
    for seed in seeds:
        try:
            run(main, seed=seed, timeout=timeout)
        except BaseException as error:
            error.add_note(f"dari.testing.explore: repeat this failure by dari.testing.run(main, seed={seed})")
            raise


@final
class _AllBlocked(Operation[None]):
    __slots__ = ()

    def __repr__(self) -> str:
        return "wait_all_blocked()"

    def begin(self, task: Any) -> None:
        driver = task.kernel.driver
        if not isinstance(driver, _Watched):
            task.fail(RuntimeError("wait_all_blocked works in programs that dari.testing.run runs"))
            return

        def undo(wait: TaskWait) -> bool:
            driver.onlookers.remove(wait)
            return True

        driver.onlookers.append(task.block(self, undo))


def wait_all_blocked() -> Operation[None]:
    """Wait until no other task can run: all wait, and no time has passed. Under `dari.testing.run` only."""
    return _AllBlocked()
