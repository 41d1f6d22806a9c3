"""A driver with a clock that is set by hand: tests feed `advance` and look at what it needs. Nothing here waits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import dari
from dari._kernel.contract import MORE, Idle, Need, Operation
from dari._kernel.kernel import Kernel

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

    from dari._kernel.task import Task


class ByHand:
    """Steps a kernel when told, in a time that moves when told."""

    def __init__(self, **options: Any) -> None:
        self.now = 0.0
        self.notified = 0
        self.reports: list[tuple[str, BaseException | None]] = []
        self.posted: list[Callable[[], object]] = []
        self.kernel = Kernel(self, **options)

    # ---- what the kernel asks ----------------------------------------------------------------------------------

    def clock(self) -> float:
        return self.now

    def notify(self) -> None:
        self.notified += 1

    def post(self, call: Callable[[], object]) -> None:
        self.posted.append(call)

    def steps_of(self, coroutine: Any) -> Any:
        return coroutine.__await__()

    def adapt(self, foreign: object) -> Operation[Any] | None:
        return None

    def outside(self, task: Any) -> Generator[Any, Any, Any]:
        raise RuntimeError("nothing is outside")

    def report(self, what: str, error: BaseException | None) -> None:
        self.reports.append((what, error))

    # ---- what a test asks --------------------------------------------------------------------------------------

    def create(self, main: Any, *args: Any, priority: int | None = None, name: str | None = None) -> Task[Any]:
        return self.kernel.create_task(main, args, priority, name)

    def step(self, steps: int = 1, ready: Iterable[Any] = ()) -> Need:
        posted, self.posted = self.posted, []
        return self.kernel.advance(ready, posted, steps)

    def settle(self) -> Need:
        """Run until nothing is ready, at the present time."""
        while (need := self.step(1000)) is MORE:
            pass
        return need

    def at(self, now: float) -> Need:
        """Let it be `now`, and run until nothing is ready."""
        self.now = now
        return self.settle()

    def run(self) -> Need:
        """Run until every task has ended, or nothing but the outside could wake one; time jumps."""
        while isinstance(need := self.settle(), Idle) and need.deadline is not None:
            self.now = need.deadline
        return need

    def counts(self) -> dict[str, int]:
        kernel = self.kernel
        return {
            "created": kernel.created,
            "completed": kernel.completed,
            "failed": kernel.failed,
            "cancelled": kernel.cancelled,
            "alive": len(kernel.tasks),
        }


@pytest.fixture
def hand() -> ByHand:
    """A kernel, stepped by hand."""
    return ByHand()


@pytest.fixture(scope="session")  # a class has nothing to reset between the examples of Hypothesis
def by_hand() -> type[ByHand]:
    """For tests that want options, or two of them, or a new one for each example."""
    return ByHand


class Log(list[tuple[str, float]]):
    """What happened, and when."""

    def __init__(self, hand: ByHand) -> None:
        super().__init__()
        self.hand = hand

    def note(self, what: str) -> None:
        self.append((what, self.hand.now))

    def sleeper(self, name: str = "child", cleanup: float = 0.0) -> Generator[Any, Any, None]:
        """Sleeps for long; when cancelled, cleans up for a while."""
        try:
            yield dari.sleep(100)
            self.note(f"{name} slept")
        finally:
            if cleanup:
                with dari.CancelScope(shield=True):
                    yield dari.sleep(cleanup)
            self.note(f"{name} ended")


@pytest.fixture
def log(hand: ByHand) -> Log:
    return Log(hand)
