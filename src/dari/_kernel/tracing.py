"""Looking on: a tracer is told of every task and every step.

Nothing in the kernel asks whether a tracer is there. Installing one gives the kernel and its lanes other classes: the
stepping loop then walks a burst that tells of each step, and the doors through which tasks are born, woken and ended
tell of that. Not installed, it costs nothing at all (`benchmarks/tracer.py` compares).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dari._kernel.bursts import Bursts
from dari._kernel.kernel import Kernel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dari._kernel.contract import Tracer
    from dari._kernel.outcome import Outcome
    from dari._kernel.task import Task

__all__ = ["install"]


def install(kernel: Kernel, tracer: Tracer | None) -> None:
    """From the next step on `tracer` is told what happens; None: nobody is."""
    kernel.tracer = tracer
    kernel._lanes.cut()  # the present burst is walked in the old way
    kernel.__class__ = Kernel if tracer is None else _TracedKernel
    kernel._lanes.__class__ = Bursts if tracer is None else _TracedBursts


def _tell(kernel: Kernel, event: str, *args: Any) -> None:
    tracer = kernel.tracer
    if tracer is not None:
        try:
            getattr(tracer, event)(*args)
        except Exception as error:  # noqa: BLE001 - whoever looks on harms nobody
            install(kernel, None)
            kernel.driver.report(f"{tracer!r} failed in {event}, and is told nothing any more", error)


class _TracedKernel(Kernel):
    __slots__ = ()

    def create_task(self, *args: Any, **kwargs: Any) -> Task[Any]:
        task = super().create_task(*args, **kwargs)
        _tell(self, "task_created", task)
        return task

    def ready(self, task: Task[Any]) -> None:
        super().ready(task)
        _tell(self, "task_woken", task)

    def _finish(self, task: Task[Any], outcome: Outcome[Any]) -> None:
        if task is self.current:
            _tell(self, "step_ended", task)
        super()._finish(task, outcome)
        _tell(self, "task_ended", task)


class _TracedBursts(Bursts[Any]):
    __slots__ = ()

    def take(self, most: int) -> Callable[[Task[Any]], object] | None:
        put_aside = super().take(most)
        if put_aside is not None:
            self.burst = _told(self.burst)
        return put_aside


def _told(burst: Iterator[Task[Any]]) -> Iterator[Task[Any]]:
    for task in burst:
        kernel = task.kernel
        _tell(kernel, "step_started", task)
        yield task
        if task._outcome is None:
            _tell(kernel, "step_ended", task)
            if task._wait is not None:
                _tell(kernel, "task_blocked", task, task._wait.what)
