"""What a task can yield that needs no object of its own: sleeping, stepping aside, looking at a task, watching a descriptor.

And the tuple spelling: `yield ("sleep", 0.5)` is looked up in `commands`, which makes the same operation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeVar, final

from dari._kernel.contract import Direction, Operation
from dari._kernel.scope import current_member
from dari._kernel.task import Task, join

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["checkpoint", "command", "commands", "current_task", "shield", "sleep", "sleep_until", "undone"]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


def undone(_wait: object) -> bool:
    """The undo of a wait that left nothing anywhere but its deadline (which every wake clears)."""
    return True


@final
class Sleep(Operation[None]):
    __slots__ = ("_delay",)

    def __init__(self, delay: float) -> None:
        if not delay >= 0:  # NaN is not, either
            raise ValueError(f"sleep takes a number of seconds, 0 or more, not {delay!r}")
        self._delay: Final = delay

    def __repr__(self) -> str:
        return f"sleep({self._delay})"

    def begin(self, task: Any) -> None:
        if self._delay == 0:
            task.resume()
        else:
            kernel = task.kernel
            # The clock is read here, not taken from the turn: a sleep after a slow step must not end early.
            kernel.set_deadline(task.block(self, undone), kernel.clock() + self._delay)


@final
class SleepUntil(Operation[None]):
    __slots__ = ("_deadline",)

    def __init__(self, deadline: float) -> None:
        if deadline != deadline:
            raise ValueError("sleep_until takes a time on the scheduler's clock, not NaN")
        self._deadline: Final = deadline

    def __repr__(self) -> str:
        return f"sleep_until({self._deadline})"

    def begin(self, task: Any) -> None:
        kernel = task.kernel
        if self._deadline <= kernel.clock():
            task.resume()
        else:
            kernel.set_deadline(task.block(self, undone), self._deadline)


@final
class Checkpoint(Operation[T_co]):
    __slots__ = ("_value",)

    def __init__(self, value: T_co) -> None:
        self._value = value

    def __repr__(self) -> str:
        return "checkpoint()"

    def begin(self, task: Any) -> None:
        task.resume(self._value)


@final
class Shield(Operation[T_co]):
    """Waits for a task without owning it."""

    __slots__ = ("_task",)

    def __init__(self, task: Task[T_co]) -> None:
        self._task: Final = task

    def __repr__(self) -> str:
        return f"shield({self._task!r})"

    def begin(self, task: Any) -> None:
        join(self._task, task, owns=False)


@final
class WaitDescriptor(Operation[None]):
    __slots__ = ("_direction", "_fd")

    def __init__(self, fd: int, direction: Direction) -> None:
        self._fd: Final = fd
        self._direction: Final[Direction] = direction

    def __repr__(self) -> str:
        return f"wait for descriptor {self._fd} to {self._direction}"

    def begin(self, task: Any) -> None:
        watching: dict[tuple[int, Direction], Any] = task.kernel.watching
        key = (self._fd, self._direction)
        if key in watching:
            task.fail(
                RuntimeError(f"{watching[key].task!r} waits for descriptor {self._fd} to {self._direction} already")
            )
            return

        def undo(_: object) -> bool:
            del watching[key]
            return True

        watching[key] = task.block(self, undo)


def sleep(delay: float) -> Operation[None]:
    """Wait for `delay` seconds (0: just step aside). Woken by the clock; cancelling ends it at once."""
    return Sleep(delay)


def sleep_until(deadline: float) -> Operation[None]:
    """Wait until the scheduler's clock (seconds, `time.monotonic` in real programs) shows `deadline`."""
    return SleepUntil(deadline)


def checkpoint() -> Operation[None]:
    """Let others run, and meet a cancel if there is one: `await dari.checkpoint()` is a coroutine's bare `yield`."""
    return Checkpoint(None)


def shield(task: Task[T]) -> Operation[T]:
    """Wait for `task` without owning it: if the waiter is cancelled, the task runs on."""
    return Shield(task)


def current_task() -> Task[Any]:
    """The task that calls this. RuntimeError outside of one."""
    task: Task[Any] = current_member("current_task()")
    return task


commands: dict[str, Callable[..., Operation[Any]]] = {
    "yield": Checkpoint,
    "sleep": Sleep,
    "sleep_until": SleepUntil,
    "shield": Shield,
}


def command(spelled: tuple[Any, ...]) -> Operation[Any]:
    """The operation that a tuple spells. Errors name what was yielded and what is known."""
    if not spelled or not isinstance(spelled[0], str):
        raise TypeError(f"a task yielded {spelled!r}: a tuple must be (name, *arguments), as in ('sleep', 0.5)")
    make = commands.get(spelled[0])
    if make is None:
        raise TypeError(f"a task yielded {spelled!r}: there is no command {spelled[0]!r}; known: {', '.join(commands)}")
    try:
        return make(*spelled[1:])
    except TypeError as error:
        raise TypeError(f"a task yielded {spelled!r}: {error}") from None
