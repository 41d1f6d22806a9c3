"""A driver with a clock that is set by hand. Kernel tests feed `advance` and look at what it needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dari._kernel.contract import MORE, Idle, Need, Operation
from dari._kernel.kernel import Kernel

if TYPE_CHECKING:
    from collections.abc import Callable, Generator


class ByHand:
    """Steps a kernel when told, in a time that moves when told."""

    def __init__(self, **options: Any) -> None:
        self.now = 0.0
        self.notified = 0
        self.reports: list[tuple[str, BaseException | None]] = []
        self.posted: list[Callable[[], object]] = []
        self.kernel = Kernel(self, **options)

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

    def step(self, steps: int = 1) -> Need:
        posted, self.posted = self.posted, []
        return self.kernel.advance((), posted, steps)

    def settle(self) -> Need:
        """Run until nothing is ready, at the present time."""
        while (need := self.step(1000)) is MORE:
            pass
        return need

    def run(self) -> Need:
        """Run until every task has ended, or nothing but the outside could wake one; time jumps."""
        while isinstance(need := self.settle(), Idle) and need.deadline is not None:
            self.now = need.deadline
        return need
