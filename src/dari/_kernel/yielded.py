"""What a task may yield, and how each kind of it is begun. Nothing else lives here.

The exact type is looked up in a table; a type that is new is learnt once. (A chain of `isinstance` tests would cost
each yield as much as the kinds that stand before it.) What makes no sense is thrown into the task at that very `yield`,
and so is what would close a circle of waiters.
"""

from __future__ import annotations

from types import CoroutineType, GeneratorType
from typing import TYPE_CHECKING, Any, Final, final

from dari._kernel.combine import gather
from dari._kernel.contract import Operation
from dari._kernel.operations import command
from dari._kernel.outcome import strip_frames
from dari._kernel.waiting import cycle, deadlock

if TYPE_CHECKING:
    from collections.abc import Callable

    from dari._kernel.task import Task

__all__ = ["NOTHING", "Beginnings"]


@final
class _Nothing(Operation[None]):
    """Given by `_resume` when it has seen to the task itself."""

    __slots__ = ()

    def begin(self, task: Any) -> None:
        pass


NOTHING: Final = _Nothing()

_NO_LINKS: Final[Any] = Operation[Any].waits_for


class Beginnings:
    """Begins what tasks yield."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[type, Callable[[Any, Any], object]] = {}

    def begin(self, task: Task[Any], yielded: object) -> None:
        """Begin it for `task`. Whatever is wrong with it, the task gets to know."""
        kind = type(yielded)
        begin = self._known.get(kind)
        try:
            if begin is None:
                begin = self._learn(kind, yielded, task)
            begin(yielded, task)
        except BaseException as error:  # noqa: BLE001 - the task's own mistake, or an operation's: the task gets it
            error.__traceback__ = strip_frames(error.__traceback__)
            task._wait = None
            task.fail(error)

    def _learn(self, kind: type[Any], yielded: object, task: Task[Any]) -> Callable[[Any, Any], object]:
        begin: Callable[[Any, Any], object]
        if issubclass(kind, Operation):
            operation: type[Operation[Any]] = kind  # pyright: ignore[reportUnknownVariableType] - narrowed from object
            linked = operation.waits_for is not _NO_LINKS
            begin = _begin_linked if linked else operation.begin
        elif issubclass(kind, tuple):
            begin = _begin_command
        elif issubclass(kind, list):
            begin = _begin_list
        elif task.kernel.driver.adapt(yielded) is not None:
            begin = _begin_foreign
        else:
            return _refuse
        self._known[kind] = begin
        return begin


def _begin_linked(operation: Operation[Any], task: Task[Any]) -> None:
    """What waits for the ends of tasks begins, unless those wait for this one: then nothing would ever end."""
    circle = cycle(task, operation)
    if circle is None:
        operation.begin(task)
    else:
        task.fail(deadlock(circle))


def _begin_command(spelled: tuple[Any, ...], task: Task[Any]) -> None:
    _begin_linked(command(spelled), task)


def _begin_list(things: list[Any], task: Task[Any]) -> None:
    _begin_linked(gather(*things), task)


def _begin_foreign(foreign: object, task: Task[Any]) -> None:
    operation = task.kernel.driver.adapt(foreign)  # asked anew: the driver may have been replaced since
    if operation is None:
        _refuse(foreign, task)
    else:
        operation.begin(task)


def _refuse(yielded: object, task: Task[Any]) -> None:
    if isinstance(yielded, GeneratorType):
        way_out = "did you mean `yield from`? (or create_task, to run it beside this one)"
    elif isinstance(yielded, CoroutineType):
        way_out = (
            "a coroutine is waited for where asyncio or trio runs (await dari.arun(…), async with dari.Scheduler());"
            " here, give it to create_task if it awaits dari's operations only"
        )
    else:
        way_out = (
            "a task yields nothing, an operation such as dari.sleep(1), a tuple such as ('sleep', 1), a task, a job"
            " or a future"
        )
    task.fail(TypeError(f"{task.name} yielded {yielded!r}: {way_out}"))
