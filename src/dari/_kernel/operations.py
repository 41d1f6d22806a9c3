"""What a task can yield that needs no object of its own: sleeping, stepping aside, looking at a task, watching a
descriptor.

And the tuple spelling: `yield ("sleep", 0.5)` is looked up in `commands`, which makes the same operation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar, final

from dari._kernel.contract import Direction, Operation
from dari._kernel.joining import join
from dari._kernel.numbers import moment, seconds
from dari._kernel.outcome import Value
from dari._kernel.scope import current_member
from dari._kernel.sources import close_unbegun
from dari._kernel.task import Task

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Generator

    from dari._kernel.task import TaskWait

__all__ = [
    "anext",
    "checkpoint",
    "command",
    "commands",
    "current_task",
    "every",
    "host",
    "register_command",
    "shield",
    "sleep",
    "sleep_until",
    "wait_readable",
    "wait_writable",
]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class HasFileno(Protocol):
    def fileno(self) -> int: ...


class Ownable(Protocol[T_co]):
    """What ends elsewhere, and is asked to end when its waiter is cancelled; unless that only looks."""

    def only_look(self) -> Operation[T_co]: ...


def undone(_wait: object) -> bool:
    """The undo of a wait that left nothing anywhere but its deadline (which every wake clears)."""
    return True


@final
class Sleep(Operation[None]):
    __slots__ = ("_delay",)

    def __init__(self, delay: float) -> None:
        # The commonest case without a call: 50 ns of 3 µs a sleep takes (benchmarks/tasks.py).
        self._delay: Final = delay if type(delay) is float and delay > 0 else seconds("a delay", delay)

    def __repr__(self) -> str:
        return f"sleep({self._delay})"

    def begin(self, task: Any) -> None:
        if self._delay == 0:
            task.resume()
        else:
            kernel = task.kernel
            # The clock is read here, not taken from the turn: a sleep after a slow step must not end early.
            kernel.deadlines.set(task.block(self, undone), kernel.clock() + self._delay)


@final
class SleepUntil(Operation[None]):
    __slots__ = ("_deadline",)

    def __init__(self, deadline: float) -> None:
        self._deadline: Final = moment("a deadline", deadline)

    def __repr__(self) -> str:
        return f"sleep_until({self._deadline})"

    def begin(self, task: Any) -> None:
        kernel = task.kernel
        if self._deadline <= kernel.clock():
            task.resume()
        else:
            kernel.set_deadline(task.block(self, undone), self._deadline)


@final
class Every(Operation[int]):
    """Ticks at the multiples of a period, counted from the first wait."""

    __slots__ = ("_first", "_period", "_ticks")

    def __init__(self, period: float) -> None:
        self._period: Final = seconds("a period", period, above=True)
        if period == float("inf"):
            raise ValueError("a period is a finite number of seconds, not inf")
        self._first: float | None = None
        self._ticks = 0  # the number of the tick that was given last

    def __repr__(self) -> str:
        return f"every({self._period})"

    def begin(self, task: Any) -> None:
        kernel = task.kernel
        now: float = kernel.clock()
        if self._first is None:
            self._first = now
        first = self._first
        # A product, not a sum of periods: no drift, however long it runs. A wait that ended a little early, or exactly
        # on time, must not be given the same tick again.
        tick = max(int((now - first) / self._period), self._ticks) + 1
        missed = tick - self._ticks - 1
        self._ticks = tick

        def undo(_: object) -> bool:
            kernel.clear_deadline(alarm)
            return True

        alarm = _Tick(task.block(self, undo), missed)
        kernel.set_deadline(alarm, first + tick * self._period)


@final
class _Tick:
    __slots__ = ("_missed", "_wait", "alarm")

    def __init__(self, wait: TaskWait, missed: int) -> None:
        self._wait: Final = wait
        self._missed: Final = missed
        self.alarm: Any = 0

    def expire(self) -> None:
        self._wait.wake(Value(self._missed))


@final
class Checkpoint(Operation[T_co]):
    __slots__ = ("_value",)

    def __init__(self, value: T_co) -> None:
        self._value = value

    def __repr__(self) -> str:
        return "checkpoint()"

    def begin(self, task: Any) -> None:
        if self._value is None:
            task.resume()
        else:
            task.resume(self._value)


@final
class Shield(Operation[T_co]):
    """Waits for a task without owning it."""

    __slots__ = ("_task",)

    def __init__(self, task: Task[T_co]) -> None:
        self._task: Final = task

    def __repr__(self) -> str:
        return f"shield({self._task.label})"

    def waits_for(self) -> tuple[Task[Any]]:
        return (self._task,)

    def begin(self, task: Any) -> None:
        join(self._task, task, owns=False)


@final
class Host(Operation[T_co]):
    """Waits for something of the host's: what it is waited for with, the driver knows."""

    __slots__ = ("_awaitable",)

    def __init__(self, awaitable: Awaitable[T_co]) -> None:
        self._awaitable: Final = awaitable

    def __repr__(self) -> str:
        return f"host({self._awaitable!r})"

    def begin(self, task: Any) -> None:
        operation = task.kernel.driver.adapt(self._awaitable)
        if operation is None:
            raise TypeError(
                f"{self!r} cannot be waited for here: it needs a running asyncio or trio loop (`await dari.arun(…)`,"
                " `async with dari.Scheduler()`)"
            )
        operation.begin(task)

    def dropped(self) -> None:
        close_unbegun(self._awaitable)

    def _outside(self) -> Generator[Any, Any, T_co]:
        if hasattr(self._awaitable, "__await__"):
            return self._awaitable.__await__()
        return super()._outside()  # a future of concurrent.futures has none


@final
class WaitDescriptor(Operation[None]):
    __slots__ = ("_direction", "_fd")

    def __init__(self, fd: int, direction: Direction) -> None:
        self._fd: Final = fd
        self._direction: Final[Direction] = direction

    def __repr__(self) -> str:
        return f"wait for descriptor {self._fd} to {self._direction}"

    def begin(self, task: Any) -> None:
        if self._fd < 0:
            task.fail(ValueError(f"{self!r}: a descriptor is 0 or more; the file that it is from is closed"))
            return
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


def every(period: float) -> Operation[int]:
    """Periodic work: `ticks = dari.every(1)`, then each `yield ticks` ends at the next multiple of `period` seconds.

    Gives how many ticks were missed because the task was late. Counted from the first `yield`, without drift.
    """
    return Every(period)


def checkpoint() -> Operation[None]:
    """Let others run, and meet a cancel if there is one: `await dari.checkpoint()` is a coroutine's bare `yield`."""
    return Checkpoint(None)


def shield(task: Task[T] | Ownable[T]) -> Operation[T]:
    """Wait for a task, or for a pool's job, without owning it: if the waiter is cancelled, it runs on."""
    if isinstance(task, Task):
        return Shield(task)
    if isinstance(task, Operation):
        only_look: Callable[[], Operation[T]] | None = getattr(task, "only_look", None)
        if only_look is not None:
            return only_look()
    raise TypeError(f"shield takes a task or a job, not {task!r}: make a task of it by dari.create_task")


def _descriptor(file: int | HasFileno) -> int:
    if isinstance(file, int):
        return file
    if not hasattr(file, "fileno"):
        raise TypeError(f"what is waited for is a descriptor, or has fileno(), not {file!r}")
    return file.fileno()


def wait_readable(file: int | HasFileno) -> Operation[None]:
    """Wait until reading `file` (a descriptor, or what has `fileno()`) would not block. One waiter per direction."""
    return WaitDescriptor(_descriptor(file), "read")


def wait_writable(file: int | HasFileno) -> Operation[None]:
    """Wait until writing `file` (a descriptor, or what has `fileno()`) would not block. One waiter per direction."""
    return WaitDescriptor(_descriptor(file), "write")


def host(awaitable: Awaitable[T]) -> Operation[T]:
    """Wait for a coroutine, future or other awaitable of the loop that is the host: `x = yield from
    dari.host(get(url))`.

    The same as yielding it as it is, and typed. A coroutine runs as a task of the host; cancelling the waiter cancels
    it, and waits for its end. TypeError in a scheduler that runs by itself.
    """
    return Host(awaitable)


def anext(iterator: AsyncIterator[T]) -> Operation[T]:  # noqa: A001 - its name everywhere
    """Wait for the next item of an async iterator: `x = yield from dari.anext(rows)`. StopAsyncIteration at its end.

    Each item is waited for in a task of the host of its own, as `host` does it. An async generator that keeps a scope
    or a timeout of the host open between two items needs one task for all: take its items in a coroutine. What must
    be closed is entered: `rows = yield from dari.enter(contextlib.aclosing(generate()))`.
    """
    if not hasattr(type(iterator), "__anext__"):
        way = "did you mean dari.anext(aiter(…))?" if hasattr(type(iterator), "__aiter__") else "it has no __anext__"
        raise TypeError(f"anext takes an async iterator, not {iterator!r}: {way}")
    return Host(_Item(iterator))


@final
class _Item(Generic[T]):
    """The next item, not asked for yet."""

    def __init__(self, iterator: AsyncIterator[T]) -> None:
        self._iterator: Final = iterator

    def __repr__(self) -> str:
        return f"anext of {self._iterator!r}"

    def __await__(self) -> Generator[Any, Any, T]:
        return self._iterator.__anext__().__await__()


def current_task() -> Task[Any]:
    """The task that calls this. RuntimeError outside of one."""
    task: Task[Any] = current_member("current_task()")
    return task


commands: dict[str, Callable[..., Operation[Any]]] = {
    "yield": Checkpoint,
    "sleep": Sleep,
    "sleep_until": SleepUntil,
    "shield": shield,
}


def register_command(name: str, make: Callable[..., Operation[Any]]) -> None:
    """Let `yield (name, *arguments)` mean `yield make(*arguments)`, for all tasks. ValueError if the name is taken."""
    if name in commands:
        raise ValueError(f"there is a command {name!r} already: {commands[name]!r}")
    commands[name] = make


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
        raise TypeError(f"a task yielded {spelled!r}: {_misspelt(spelled, make) or error}") from None


def _misspelt(spelled: tuple[Any, ...], make: Callable[..., object]) -> str | None:
    """How the command is spelled, if what came has not as many arguments as it takes; None: it has, or who knows."""
    from inspect import signature  # heavy, and only mistakes need it

    try:
        takes = signature(make)
    except (TypeError, ValueError):  # a built-in that does not tell
        return None
    try:
        takes.bind(*spelled[1:])
    except TypeError:
        arguments = [
            str(argument.replace(annotation=argument.empty))
            for argument in takes.parameters.values()
            if argument.kind not in (argument.KEYWORD_ONLY, argument.VAR_KEYWORD)
        ]
        return f"it is spelled ({', '.join([repr(spelled[0]), *arguments])}{'' if arguments else ','})"
    return None
