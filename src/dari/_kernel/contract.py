"""What the kernel, its driver, and the operations say to each other.

Nothing here does anything: these are the doors. A **driver** gives the kernel a clock and three ways to reach the
outside (`Driver`), calls `Kernel.advance` and obeys what it gets back (`Need`). An **operation** is what a task yields:
the kernel calls its `begin` with the task, and `begin` either ends it at once (`Waiter.resume`, `Waiter.fail`) or makes
the task wait (`Waiter.block`) and keeps the `Wait` that it got for whoever will wake it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Generator
from enum import Enum
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Final,
    Generic,
    Literal,
    Protocol,
    TypeAlias,
    TypeVar,
    TypeVarTuple,
    final,
)

from dari._kernel.world import world

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from dari._kernel.deadlines import Alarm
    from dari._kernel.outcome import Outcome, Steppable

__all__ = [
    "FINISHED",
    "MORE",
    "Driver",
    "Idle",
    "Main",
    "Need",
    "Operation",
    "Steps",
    "Tracer",
    "Verdict",
    "Wait",
    "Waiter",
]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
T_co = TypeVar("T_co", covariant=True)

Main: TypeAlias = (
    Generator[Any, Any, T] | Coroutine[Any, Any, T] | Callable[[*Ts], Generator[Any, Any, T] | Coroutine[Any, Any, T]]
)
"""What is given to be a task: a generator or a coroutine, or a function that makes one and is given its arguments."""

Steps = Generator[Any, Any, T]
"""What a generator task is: `def fetch(url: str) -> dari.Steps[bytes]`."""

Direction = Literal["read", "write"]


@final
class Verdict(Enum):
    """What `advance` gives when there is nothing to wait for."""

    MORE = "more to do"
    FINISHED = "every task has ended"


MORE: Final = Verdict.MORE
FINISHED: Final = Verdict.FINISHED


UNCHANGED: Final[Any] = object()
"""The default of `Waiter.resume`."""


@final
class Idle:
    """Nothing can run: wait until `deadline` (None: for ever), or one of the descriptors in `watching` is ready."""

    __slots__ = ("deadline", "watching")

    def __init__(self, deadline: float | None, watching: Mapping[tuple[int, Direction], Wait]) -> None:
        self.deadline = deadline
        self.watching = watching


Need = Verdict | Idle


class Driver(Protocol):
    """What the kernel asks of whoever drives it."""

    def clock(self) -> float:
        """Seconds, monotonic."""
        ...

    def notify(self) -> None:
        """Something became ready between two advances: call `advance` soon. Called on the driver's thread, often."""
        ...

    def post(self, call: Callable[[], object]) -> None:
        """From any thread: let `call` be in the `posted` of the next advance, and let that be soon."""
        ...

    def steps_of(self, coroutine: Any) -> Steppable:
        """How a coroutine that was given as a task is stepped: by the kernel itself, or as a task of the host."""
        ...

    def adapt(self, foreign: object) -> Operation[Any] | None:
        """The operation that waits for something that is not dari's (a future, a coroutine); None: not known here."""
        ...

    def home(self) -> object:
        """Where it runs: drivers with equal homes run on one thread, by turns."""
        ...

    def outside(self, task: Any) -> Generator[Any, Any, Any]:
        """`await task` happened outside of `advance`, in a coroutine that somebody else steps."""
        ...

    def report(self, what: str, error: BaseException | None) -> None:
        """Something went wrong that nobody else will hear of."""
        ...


class Tracer:
    """Is told what happens to tasks: override what you want to hear of. Installed by `Scheduler(tracer=…)`.

    Called on the scheduler's thread, in the middle of its work: be quick, and use nothing of dari but the task that is
    told. What it raises is logged, and it is told nothing any more.
    """

    def task_created(self, task: Any) -> None:
        """It is ready to take its first step."""

    def task_woken(self, task: Any) -> None:
        """What it waited for has come: it is ready."""

    def step_started(self, task: Any) -> None:
        """It is resumed."""

    def step_ended(self, task: Any) -> None:
        """It yielded, or ended. If neither `task_blocked` nor `task_ended` follows, it stepped aside: it is ready."""

    def task_blocked(self, task: Any, what: object) -> None:
        """It waits, for `what`: an object whose repr says so."""

    def task_ended(self, task: Any) -> None:
        """It has ended; `task.state` says how."""


class Wait(Protocol):
    """One wait of one task. Whoever wakes it first wins; all later wakes are dropped."""

    @property
    def open(self) -> bool:
        """Is the task still waiting in this very wait?"""
        ...

    @property
    def priority(self) -> int: ...

    def wake(self, outcome: Outcome[Any] | None = None) -> bool:
        """Let the task go on with `outcome`. False: too late, it was woken already.

        None: with the value None, but nothing has changed hands, and a cancel that comes before the task runs may take
        its place. A `Value`, even of None, reaches the task whatever comes.
        """
        ...


class Doors(Protocol):
    """The kernel, as operations and scopes see it."""

    driver: Driver

    @property
    def current(self) -> Any: ...

    def set_deadline(self, alarm: Alarm, when: float) -> None: ...
    def clear_deadline(self, alarm: Alarm) -> None: ...


class Waiter(Protocol):
    """The task that yielded, as its operation sees it. `begin` calls exactly one of these three, once."""

    @property
    def priority(self) -> int: ...

    @property
    def kernel(self) -> Doors: ...

    def resume(self, value: Any = UNCHANGED) -> None:
        """It was done at once; the task steps aside before it goes on, so that a loop over one cannot overtake.

        `resume(value)`: something has changed hands, and a cancel that comes meanwhile waits for the `yield` after this
        one, even if `value` is None. `resume()`: nothing has, and the cancel may take its place.
        """
        ...

    def fail(self, error: BaseException) -> None:
        """The operation makes no sense: throw `error` into the task, at that very `yield`."""
        ...

    def block(self, what: object, undo: Callable[[Wait], bool]) -> Wait:
        """Make the task wait, for `what` (an object whose repr says so).

        `undo(wait)` is called when the task is cancelled meanwhile: it gives True when the wait is undone (the
        task then gets `Cancelled`), or False when its end must be awaited: it asked for that end, and will `wake`.
        """
        ...


class Operation(ABC, Generic[T_co]):
    """Something a task can wait for: `yield it`, `x = yield from it`, or `await it` in a coroutine."""

    __slots__ = ()

    may_be_dropped: ClassVar[bool] = False
    """Does it live without being waited for? Else dropping it unused is a mistake, which debug mode warns of."""

    @abstractmethod
    def begin(self, task: Any) -> None:
        """Do it for `task` (a `Waiter`), or arrange for its wake. Called by the kernel only."""

    def take_back(self, value: Any) -> None:
        """`value` was won, but who awaited it was cancelled before it could be told: undo it.

        Happens to `await operation` in a coroutine of the host, and inside of a `gather` that fails. A task of ours
        that waits for the operation itself gets what it has won, and then the cancel.
        """

    def dropped(self) -> None:
        """It was yielded in a scope that is cancelled already, and will not be begun."""
        return

    def waits_for(self) -> Iterable[Any]:
        """The tasks that must all end before this does. If they wait for the one that yields it, it is not begun.

        Whoever has such links listens for those ends by methods whose object names the `_waiter`: see `waiting`.
        """
        return ()

    def __iter__(self) -> Generator[Operation[T_co], Any, T_co]:
        value: T_co = yield self
        return value

    def __await__(self) -> Generator[Any, Any, T_co]:
        if world.kernel is None:
            return self._outside()
        return self.__iter__()

    def _outside(self) -> Generator[Any, Any, T_co]:
        """How a coroutine that somebody else steps waits for this: by whatever bridge that thread has."""
        if world.host is None:
            raise RuntimeError(
                f"{self!r} was awaited where no dari scheduler can run it: start the program by dari.run(main),"
                " or, where asyncio or trio runs already, by `await dari.arun(main)`"
            )
        bridge: Generator[Any, Any, T_co] = world.host(self)
        return bridge
