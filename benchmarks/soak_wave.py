"""A wave of `soak.py`: what the random programs of one time share, and the account that is kept of them.

The account: what began and was left, what was put and got, who holds what, and weak references to all that was made.
"""

from __future__ import annotations

import concurrent.futures
import traceback
from collections import Counter
from contextlib import contextmanager
from random import Random
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from weakref import WeakSet, ref

import dari

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Coroutine, Generator
    from contextlib import AbstractContextManager

    Visit = Coroutine[Any, Any, object]

T = TypeVar("T")

DEEPEST = 3  # programs inside of programs
LIVELIEST = 60  # programs alive at once that may still start others


class Provoked(Exception):  # noqa: N818 - on purpose, so it is no error
    """What the programs raise on purpose."""


class Payload:
    """An item, a result, an argument: something that somebody might keep."""

    def __init__(self, number: int) -> None:
        self.number = number


EXPECTED = (
    Provoked,
    TimeoutError,
    concurrent.futures.CancelledError,
    dari.JobCancelled,
    dari.QueueShutDown,
    dari.SchedulerClosed,
    dari.TaskCancelledError,
)


def expected(error: BaseException, *more: type[BaseException]) -> bool:
    """Is it, or is all that is in it, what the programs provoke?"""
    if isinstance(error, BaseExceptionGroup):
        return all(expected(each, *more) for each in error.exceptions)  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType, reportUnknownArgumentType]
    return isinstance(error, (*EXPECTED, *more)) or type(error).__name__ == "TooSlowError"  # trio's TimeoutError


class World(Protocol):
    """What the programs need of the host."""

    cancelled: type[BaseException]

    async def sleep(self, seconds: float) -> None: ...
    def spawn(self, visit: Visit) -> object: ...
    def cuttable(self) -> AbstractContextManager[Callable[[], object]]:
        """A block of the running coroutine that the call which it gives cancels."""
        ...

    def future(self, wave: Wave) -> object:
        """A future that ends soon, somehow."""
        ...

    async def bounded(self, wave: Wave, make: Callable[[], Visit]) -> object:
        """By the host's own means: await what `make` makes, for some time, or more than one of it at once."""
        ...


class Wave:
    """What the programs of one wave share, and what is known of them."""

    def __init__(self, world: World, pool: dari.Pool, executor: concurrent.futures.Executor, seed: str) -> None:
        self.world, self.pool, self.executor = world, pool, executor
        self.dice = Random(seed)
        self.over = dari.Event()
        self.queue: dari.Queue[Payload] = dari.Queue(3)
        self.lock, self.permits = dari.Lock(), dari.BoundedSemaphore(2)
        self.counts: Counter[str] = Counter()
        self.living = 0  # programs that began and were not left
        self.running = 0  # coroutines of the host that the wave itself has started
        self.inside = 0  # of the lock
        self.opened = 0  # resources
        self.cleaning = 0  # cleanups that began and did not end
        self.wrongs: list[str] = []
        self.put: set[int] = set()
        self.got: list[int] = []
        self.given_up = 0  # gets of the host's that were cancelled
        self.refs: list[tuple[str, ref[Any]]] = [("wave", ref(self))]
        self.tasks: WeakSet[dari.Task[Any]] = WeakSet()
        self.schedulers: WeakSet[dari.Scheduler] = WeakSet()
        self.futures: list[concurrent.futures.Future[Any]] = []
        self.threads: list[threading.Thread] = []
        self.cuts: dict[object, Callable[[], object]] = {}

    # ---- chances -------------------------------------------------------------------------------------------------

    def chance(self, probability: float) -> bool:
        return self.dice.random() < probability

    def blink(self) -> float:
        """Seconds: how long something takes."""
        return self.dice.choice((0.0, 0.0, 0.0005, 0.002, 0.006))

    def patience(self) -> float:
        """Seconds: how long somebody waits. The last is far beyond the end of the wave: its timer has to go."""
        return self.dice.choice((0.0, 0.001, 0.004, 0.01, 60.0, 60.0))

    def may_start(self, depth: int) -> bool:
        return depth < DEEPEST and self.living < LIVELIEST and not self.over.is_set()

    # ---- the account ---------------------------------------------------------------------------------------------

    def watch(self, what: str, thing: T) -> T:
        """It must be gone when the wave is over."""
        self.refs.append((what, ref(thing)))
        return thing

    def payload(self) -> Payload:
        self.counts["payloads"] += 1
        return self.watch("payload", Payload(self.counts["payloads"]))

    def task(self, task: dari.Task[T]) -> dari.Task[T]:
        self.counts["tasks"] += 1
        self.tasks.add(task)
        return self.watch("task", task)

    def wrong(self, what: str) -> None:
        self.wrongs.append(what)

    @contextmanager
    def life(self) -> Generator[None]:
        """One program, from its first step to its last."""
        self.counts["programs"] += 1
        self.living += 1
        try:
            yield
        except GeneratorExit:
            self.wrong("a program was collected, or closed, where it stood")
            raise
        finally:
            self.living -= 1

    def met(self, error: BaseException) -> bool:
        """A program met an error; shall it let it out?"""
        self.counts["errors"] += 1
        return not expected(error) or self.chance(0.3)

    def cut(self) -> None:
        """Cancel somebody: a task of ours, or a coroutine of the host. On the loop's thread."""
        tasks, cuts = list(self.tasks), list(self.cuts.values())
        if tasks and self.chance(0.6):
            self.counts["cancels"] += self.dice.choice(tasks).cancel("cut")
        elif cuts:
            self.dice.choice(cuts)()
            self.counts["cancels"] += 1

    # ---- beginning and end ---------------------------------------------------------------------------------------

    def start(self, visit: Visit) -> None:
        async def run() -> None:
            try:
                await visit
            except self.world.cancelled:
                pass
            except BaseException as error:  # noqa: BLE001 - what was not provoked is told at the end
                if not expected(error, self.world.cancelled):
                    self.wrong("a program of the host ended with " + "".join(traceback.format_exception(error)))
            finally:
                self.running -= 1

        self.running += 1
        self.world.spawn(run())

    def finish(self) -> None:
        """Let every wait end that has not ended yet."""
        self.over.set()
        self.queue.shutdown()

    def busy(self) -> bool:
        stats = self.pool.stats()
        threads = any(thread.is_alive() for thread in self.threads)
        return bool(self.running or threads or dari.all_tasks() or stats.queued or stats.running)

    def audit(self) -> list[str]:
        """What does not add up, now that all has ended."""
        wrongs = list(self.wrongs)
        left: list[int] = []
        while not self.queue.empty():
            left.append(self.queue.get_nowait().number)
        outs = Counter(self.got + left)
        self.counts["items"] += len(outs)
        facts = {
            f"items got twice: {[item for item, times in outs.items() if times > 1]}": max(outs.values(), default=0)
            > 1,
            f"items put and lost: {self.put - set(outs)}": self.put - set(outs),
            # A put that is cancelled takes its item back, unless a getter has it; and that may give it back, cancelled.
            f"items left whose put was cancelled: {set(left) - self.put}": len(set(left) - self.put) > self.given_up,
            f"{self.living} programs began and were not left": self.living,
            f"{self.cleaning} cleanups began and did not end": self.cleaning,
            f"{self.opened} resources are open": self.opened,
            f"{self.cuts} can still be cut": self.cuts,
            f"{self.lock!r} is held": self.lock.locked() or self.inside,
            f"{self.permits!r} has not all its permits": repr(self.permits) != "<BoundedSemaphore 2 free, 0 waiting>",
            "futures of threads have not ended": not all(future.done() for future in self.futures),
        }
        for scheduler in self.schedulers:
            facts[f"{scheduler!r} holds {scheduler.tasks}"] = bool(scheduler.tasks)
        for task in self.tasks:
            if not task.done():
                wrongs.append(f"{task!r} has not ended")
            elif not task.cancelled():
                task.exception()  # the implicit scheduler keeps the failures that nobody has looked at
        return wrongs + [what for what, wrong in facts.items() if wrong]
