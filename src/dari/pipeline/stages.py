"""What the tasks of a line do: one function for each kind of stage. Nothing here knows who takes from the line.

**Order with concurrency.** Items are dealt out in order, each with a slot; the slots stand in a bounded queue in that
order, and one task passes on what is in them. A slow item stops the others only when `concurrency + buffer` are on
their way.

**Data or task.** A generator given as a source, or made by `flat_map`, is iterated here. One that leaves a cancel scope
open while it yields (PEP 789) would have its consumer cancelled: it is an error at that very item.
"""

from __future__ import annotations

from collections.abc import Generator
from types import CoroutineType, GeneratorType
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar, cast, final

from dari._kernel.contract import Operation, Steps
from dari._kernel.operations import current_task
from dari._kernel.scope import CancelScope, move_on_after
from dari._kernel.world import world
from dari.exceptions import QueueFull, QueueShutDown
from dari.queues import Queue
from dari.sync import Event

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Iterable, Iterator

__all__ = ["END", "Pool", "Stage", "batches", "call", "each", "filtered", "flat_mapped", "mapped", "poured"]

T = TypeVar("T")

END: Final[Any] = object()
"""What stands for "no more items"."""


class Pool(Protocol):
    """What a pool must have."""

    def run_sync(self, fn: Callable[..., T], /, *args: Any) -> Operation[T]: ...


class Line(Protocol):
    """The line at work, as its stages see it."""

    @property
    def buffer(self) -> int: ...

    def start_task(self, steps: Steps[None], name: str) -> None: ...


class Stage(Protocol):
    """Starts a stage: the tasks that take from `inbox` until it is shut down, fill `outbox`, and shut that down."""

    def __call__(self, line: Line, inbox: Queue[Any], outbox: Queue[Any], /) -> None: ...


def _items(inbox: Queue[Any]) -> Steps[Any]:
    """The next item, or `END`."""
    try:
        return (yield inbox.get())
    except QueueShutDown:
        return END


def call(fn: Callable[[Any], Any], item: Any, pool: Pool | None = None) -> Steps[Any]:
    """`fn(item)`; what it makes is waited for, if it is a generator or a coroutine."""
    if pool is not None:
        return (yield pool.run_sync(fn, item))
    made = fn(item)
    if isinstance(made, GeneratorType):
        return (yield from cast("Generator[Any, Any, Any]", made))
    if isinstance(made, CoroutineType):
        return (yield from _coroutine(cast("Coroutine[Any, Any, Any]", made)))
    return made


def _coroutine(coroutine: Coroutine[Any, Any, T]) -> Steps[T]:
    """Run it as the host's, where there is one; else here."""
    if current_task().kernel.driver.adapt(coroutine) is None:
        return (yield from coroutine.__await__())
    return cast("T", (yield coroutine))


def _next_of(iterator: Iterator[Any]) -> Any:
    """The next item of a data iterator, or `END`; an error if it leaves a scope open around its consumer."""
    task = current_task()
    around = task._scope
    item = next(iterator, END)
    if task._scope is not around:
        raise _left_open(iterator)
    return item


def _left_open(iterator: object) -> RuntimeError:
    return RuntimeError(
        f"{iterator!r} left {current_task()._scope!r} open when it gave an item: it is data for a Pipeline, and its"
        " scope would cancel who takes from it. Leave the scope before each `yield`, or make the function a task of its"
        " own that puts into a Queue"
    )


def _pour(source: Iterable[Any], outbox: Queue[Any]) -> Steps[None]:
    """Everything of a plain iterable."""
    iterator = iter(source)
    try:
        while (item := _next_of(iterator)) is not END:
            yield outbox.put(item)
    finally:
        if isinstance(iterator, Generator):  # what the user opened (a file, say) is the user's to close
            iterator.close()


def _pour_blocking(source: Iterable[Any], pool: Pool, outbox: Queue[Any]) -> Steps[None]:
    """Everything of an iterable whose `next` blocks."""
    iterator = yield pool.run_sync(iter, source)
    try:
        while (item := (yield pool.run_sync(next, iterator, END))) is not END:
            yield outbox.put(item)
    except GeneratorExit:  # collected with its scheduler: nothing can be waited for
        iterator = None
        raise
    finally:
        if isinstance(iterator, Generator):
            with CancelScope(shield=True):
                yield pool.run_sync(iterator.close)


async def _pour_async(source: AsyncIterable[Any], outbox: Queue[Any]) -> None:
    """Everything of an async iterable, by one coroutine: what it opens, it closes in the same task of the host."""
    iterator = aiter(source)
    collected = False
    try:
        while True:
            around = None if world.kernel is None else current_task()._scope
            try:
                item = await anext(iterator)
            except StopAsyncIteration:
                return
            if world.kernel is not None and current_task()._scope is not around:
                error = _left_open(iterator)
                await iterator.aclose()  # type: ignore[attr-defined] # only a generator comes here; it leaves its scope
                raise error
            try:
                outbox.put_nowait(item)
            except QueueFull:
                await outbox.put(item)
    except GeneratorExit:  # with its scheduler: nothing can be waited for, and who runs now is somebody else
        collected = True
        raise
    finally:
        if not collected:
            await _aclose(iterator)


async def _aclose(iterator: AsyncIterator[Any]) -> None:
    aclose: Callable[[], Coroutine[Any, Any, None]] | None = getattr(iterator, "aclose", None)
    if aclose is None:
        return
    if world.kernel is None:  # a host cancels once
        await aclose()
    else:
        with CancelScope(shield=True):
            await aclose()


def _pour_queue(source: Queue[Any], outbox: Queue[Any]) -> Steps[None]:
    while (item := (yield from _items(source))) is not END:
        yield outbox.put(item)


def poured(source: Any, pool: Pool | None) -> Stage:
    """The first stage: everything of the source."""

    def start(line: Line, _: Queue[Any], outbox: Queue[Any]) -> None:
        def feed() -> Steps[None]:
            if isinstance(source, Queue):
                yield from _pour_queue(cast("Any", source), outbox)
            elif pool is not None:
                yield from _pour_blocking(source, pool, outbox)
            elif hasattr(source, "__aiter__"):
                yield from _coroutine(_pour_async(source, outbox))
            else:
                yield from _pour(source, outbox)
            outbox.shutdown()

        line.start_task(feed(), "source")

    return start


def each(name: str, use: Callable[[Any, Queue[Any]], Steps[None]]) -> Stage:
    """A stage that is one task, and does `use(item, outbox)` with each item."""

    def start(line: Line, inbox: Queue[Any], outbox: Queue[Any]) -> None:
        def work() -> Steps[None]:
            while (item := (yield from _items(inbox))) is not END:
                yield from use(item, outbox)
            outbox.shutdown()

        line.start_task(work(), name)

    return start


def mapped(name: str, fn: Callable[[Any], Any], concurrency: int, ordered: bool, pool: Pool | None) -> Stage:
    def use(item: Any, outbox: Queue[Any]) -> Steps[None]:
        yield outbox.put((yield from call(fn, item, pool)))

    if concurrency == 1:
        return each(name, use)
    return (_ordered if ordered else _unordered)(name, fn, concurrency, pool)


def _unordered(name: str, fn: Callable[[Any], Any], concurrency: int, pool: Pool | None) -> Stage:
    def start(line: Line, inbox: Queue[Any], outbox: Queue[Any]) -> None:
        working = concurrency

        def work() -> Steps[None]:
            nonlocal working
            while (item := (yield from _items(inbox))) is not END:
                yield outbox.put((yield from call(fn, item, pool)))
            working -= 1
            if not working:
                outbox.shutdown()

        for number in range(concurrency):
            line.start_task(work(), f"{name} {number}")

    return start


@final
class _Slot:
    """An item's place in the order: the item, then what was made of it."""

    __slots__ = ("content", "filled")

    def __init__(self, item: Any) -> None:
        self.content = item
        self.filled: Final = Event()


def _ordered(name: str, fn: Callable[[Any], Any], concurrency: int, pool: Pool | None) -> Stage:
    def start(line: Line, inbox: Queue[Any], outbox: Queue[Any]) -> None:
        # One more slot is in the dealer's hands, and one in the passer's: concurrency + buffer together.
        order: Queue[_Slot] = Queue(concurrency + line.buffer - 2)
        jobs: Queue[_Slot] = Queue()  # bounded by `order`, into which each slot goes first

        def deal() -> Steps[None]:
            # The workers could not take from the inbox themselves: who is woken first need not run first (seeds).
            while (item := (yield from _items(inbox))) is not END:
                slot = _Slot(item)
                yield order.put(slot)
                jobs.put_nowait(slot)
            order.shutdown()
            jobs.shutdown()

        def work() -> Steps[None]:
            while (slot := (yield from _items(jobs))) is not END:
                slot.content = yield from call(fn, slot.content, pool)
                slot.filled.set()

        def pass_on() -> Steps[None]:
            while (slot := (yield from _items(order))) is not END:
                yield slot.filled.wait()
                yield outbox.put(slot.content)
            outbox.shutdown()

        line.start_task(deal(), f"{name} in")
        for number in range(concurrency):
            line.start_task(work(), f"{name} {number}")
        line.start_task(pass_on(), f"{name} out")

    return start


def filtered(name: str, fn: Callable[[Any], Any]) -> Stage:
    def use(item: Any, outbox: Queue[Any]) -> Steps[None]:
        if (yield from call(fn, item)):
            yield outbox.put(item)

    return each(name, use)


def flat_mapped(name: str, fn: Callable[[Any], Any]) -> Stage:
    def use(item: Any, outbox: Queue[Any]) -> Steps[None]:
        made = fn(item)
        if isinstance(made, CoroutineType):
            made = yield from _coroutine(cast("Coroutine[Any, Any, Any]", made))
        if hasattr(made, "__aiter__"):
            yield from _coroutine(_pour_async(made, outbox))
        elif hasattr(made, "__iter__"):
            yield from _pour(made, outbox)
        else:
            raise TypeError(f"flat_map: {fn!r} gave {made!r}, which is no iterable (for one item each, use map)")

    return each(name, use)


def batches(size: int, timeout: float | None) -> Stage:
    def start(line: Line, inbox: Queue[Any], outbox: Queue[Any]) -> None:
        def work() -> Steps[None]:
            item = None
            while item is not END and (item := (yield from _items(inbox))) is not END:
                batch = [item]
                with move_on_after(timeout):
                    # An item that is given out is delivered before any cancel, and here nothing stands between its
                    # delivery and the batch: so none is lost when the timeout comes in the same moment.
                    while len(batch) < size and (item := (yield from _items(inbox))) is not END:
                        batch.append(item)
                yield outbox.put(batch)
            outbox.shutdown()

        line.start_task(work(), "batch")

    return start
