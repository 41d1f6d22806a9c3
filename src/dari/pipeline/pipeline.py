"""The face: what a line is made of, and the ways to take from it. `line` and `stages` do the work."""

from __future__ import annotations

from collections.abc import AsyncIterable, Generator
from typing import TYPE_CHECKING, Any, Final, Generic, Self, TypeVar, final, overload

from dari._kernel.contract import Operation, Steps
from dari._kernel.joining import join
from dari._kernel.numbers import seconds, whole
from dari._kernel.outcome import Error, Value
from dari._kernel.scope import CancelScope
from dari.exceptions import DariError, QueueShutDown
from dari.pipeline.line import Close, Line, Next, Owner, Taker
from dari.pipeline.stages import END, Pool, Stage, batches, call, filtered, flat_mapped, mapped, poured
from dari.queues import Queue

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable

    from dari._kernel.outcome import Outcome

__all__ = ["Pipeline"]

T = TypeVar("T")
U = TypeVar("U")
D = TypeVar("D")

_NONE: Final[Any] = object()  # no default was given
_WAITING_CODE = 0x20 | 0x80 | 0x200  # of a generator, coroutine or async generator function (inspect.CO_…)


@final
class Pipeline(Generic[T]):
    """Items from `source`, through stages that run beside each other: `Pipeline(urls).map(fetch).batch(100)`.

    `source` is an iterable, a Queue (until it is shut down), an async iterable, or, with `pool`, an iterable that
    blocks. Between neighbours stand at most `buffer` items. Nothing runs before the first take; the line then belongs
    to the task that took, and ends with it. An error in a stage closes the whole line, and is raised at the take.
    """

    def __init__(
        self, source: Iterable[T] | AsyncIterable[T] | Queue[T], buffer: int = 8, *, pool: Pool | None = None
    ) -> None:
        kinds = (AsyncIterable, Queue)
        if not (isinstance(source, kinds) or hasattr(source, "__iter__") or hasattr(source, "__getitem__")):
            called = " (was it meant to be called?)" if callable(source) else ""
            raise TypeError(f"a Pipeline's source is an iterable, async iterable or Queue, not {source!r}{called}")
        if pool is not None and isinstance(source, kinds):
            raise TypeError(f"pool= is for a source whose next() blocks; {source!r} is waited for without one")
        self._buffer: Final = whole("buffer", buffer, 1)
        self._source: Final[Any] = source
        self._stages: list[Stage] = [poured(source, pool)]
        self._names: list[str] = [f"<Pipeline of {type(source).__name__}"]
        self._line: Line | None = None
        self._spent: str | None = None

    def __repr__(self) -> str:
        return " | ".join(self._names) + ">"

    # ---- stages --------------------------------------------------------------------------------------------------

    @overload
    def map(
        self,
        fn: Callable[[T], Generator[Any, Any, U]],
        *,
        concurrency: int = 1,
        ordered: bool = True,
        pool: None = None,
    ) -> Pipeline[U]: ...
    @overload
    def map(
        self,
        fn: Callable[[T], Coroutine[Any, Any, U]],
        *,
        concurrency: int = 1,
        ordered: bool = True,
        pool: None = None,
    ) -> Pipeline[U]: ...
    @overload
    def map(
        self, fn: Callable[[T], U], *, concurrency: int = 1, ordered: bool = True, pool: Pool | None = None
    ) -> Pipeline[U]: ...
    def map(
        self, fn: Callable[[T], Any], *, concurrency: int = 1, ordered: bool = True, pool: Pool | None = None
    ) -> Pipeline[Any]:
        """`fn(item)` for each item: a plain, generator or coroutine function, or, with `pool`, a blocking one.

        At most `concurrency` at a time. `ordered`: results come in the order of the items, and a slow one stops the
        others when `concurrency + buffer` are on their way; else each comes when it is there.
        """
        if pool is not None and getattr(getattr(fn, "__code__", None), "co_flags", 0) & _WAITING_CODE:
            raise TypeError(f"{fn!r} waits, so it is a task and needs no pool: pool= is for functions that block")
        concurrency = whole("concurrency", concurrency, 1)
        name = _named("map", fn)
        return self._extended(name, mapped(name, fn, concurrency, ordered, pool))

    def filter(
        self, fn: Callable[[T], Generator[Any, Any, object] | Coroutine[Any, Any, object] | object]
    ) -> Pipeline[T]:
        """Only the items for which `fn(item)` (a plain, generator or coroutine function) is true."""
        name = _named("filter", fn)
        return self._extended(name, filtered(name, fn))

    @overload
    def flat_map(self, fn: Callable[[T], Coroutine[Any, Any, Iterable[U]]]) -> Pipeline[U]: ...
    @overload
    def flat_map(self, fn: Callable[[T], Iterable[U] | AsyncIterable[U]]) -> Pipeline[U]: ...
    def flat_map(self, fn: Callable[[T], Any]) -> Pipeline[Any]:
        """Each of the items in `fn(item)`, an iterable. A generator is data here: what it yields are items."""
        name = _named("flat_map", fn)
        return self._extended(name, flat_mapped(name, fn))

    def batch(self, size: int, timeout: float | None = None) -> Pipeline[list[T]]:
        """Lists of `size` items; the last may be shorter, and one whose first item is `timeout` seconds old."""
        if timeout is not None:
            seconds("the timeout of a batch", timeout, above=True)
        return self._extended(f"batch({size})", batches(whole("size", size, 1), timeout))

    def _extended(self, name: str, stage: Stage) -> Pipeline[Any]:
        self._check_whole()
        if self._line is not None:
            raise RuntimeError(f"{self!r} has been started: add stages before the first item is taken")
        longer: Pipeline[Any] = Pipeline(self._source, self._buffer)
        longer._stages = [*self._stages, stage]
        longer._names = [*self._names, name]
        self._spent = f"was extended by {name}: take from the longer line"
        return longer

    def _check_whole(self) -> None:
        if self._spent is not None:
            raise RuntimeError(f"{self!r} {self._spent}")

    # ---- taking --------------------------------------------------------------------------------------------------

    @overload
    def get(self) -> Operation[T]: ...
    @overload
    def get(self, default: D) -> Operation[T | D]: ...
    def get(self, default: Any = _NONE) -> Operation[Any]:
        """Take the next item. After the last one: `default`, or QueueShutDown if there is none.

        Raises the error of a stage. Cancelled, it cancels the line, and waits for the real end of its stages.
        """
        return _Get(self, default)

    def collect(self) -> Operation[list[T]]:
        """Take all the items that are left, as a list."""
        items: list[T] = []
        return _Drain(self, items.append, items)

    def for_each(
        self, fn: Callable[[T], Generator[Any, Any, object] | Coroutine[Any, Any, object] | object]
    ) -> Operation[None]:
        """Take all the items that are left, and call `fn(item)` (plain, generator or coroutine function) with each."""
        return _Drain(self, fn, None)

    def aclose(self) -> Operation[None]:
        """End the line early, and wait until its stages have ended. `async with contextlib.aclosing(line)` does it."""
        return _AClose(self)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        item = await self.get(default=END)
        if item is END:
            raise StopAsyncIteration
        return item

    def __del__(self) -> None:
        line: Line | None = getattr(self, "_line", None)
        if line is not None and not line.over:
            try:  # any thread, at any moment: so it is posted, even from where it could be done at once
                line.kernel.driver.post(lambda: line.leave("nobody holds it any more"))
            except DariError:
                pass  # its scheduler has ended, and the stages with it

    def _taken_by(self, task: Any, foreign: bool) -> Line:
        """The line at work; the first that takes starts it. `foreign`: for a coroutine that dari does not step."""
        self._check_whole()
        line = self._line
        if line is None:
            line = self._line = Line(self._stages, self._buffer, task, repr(self))
            if not foreign:
                Owner.of(task).own(line)
        elif line.owner is not None and (foreign or line.owner.task is not task):
            raise RuntimeError(
                f"{self!r} belongs to {line.owner.task.label}, which took from it first: let that one hand on the items"
                " (by a Queue, say)"
            )
        return line


class _OfLine(Operation[T]):
    """An operation on a line, that knows whether a coroutine of another loop awaits it."""

    __slots__ = ("_foreign", "_pipeline")

    def __init__(self, pipeline: Pipeline[Any]) -> None:
        self._pipeline: Final = pipeline
        self._foreign = False

    def _outside(self) -> Generator[Any, Any, T]:
        self._foreign = True
        return super()._outside()


@final
class _Get(_OfLine[Any]):
    __slots__ = ("_default",)

    def __init__(self, pipeline: Pipeline[Any], default: Any) -> None:
        super().__init__(pipeline)
        self._default: Final = default

    def __repr__(self) -> str:
        return f"get from {self._pipeline!r}"

    def begin(self, task: Any) -> None:
        line = self._pipeline._taken_by(task, self._foreign)
        over: Outcome[Any] = Value(self._default)
        if self._default is _NONE:
            over = Error(QueueShutDown(f"{self._pipeline!r}: nothing is left"))
        Taker(self, line, task, over).begin()

    def take_back(self, value: Any) -> None:
        line = self._pipeline._line
        if line is not None and not (value is self._default and line.over):
            line.out._take_back(value)


@final
class _Drain(_OfLine[Any]):
    """Takes everything, in a task of its own."""

    __slots__ = ("_result", "_use")

    def __init__(self, pipeline: Pipeline[Any], use: Callable[[Any], Any], result: Any) -> None:
        super().__init__(pipeline)
        self._use: Final = use
        self._result: Final = result

    def __repr__(self) -> str:
        return f"the rest of {self._pipeline!r}"

    def begin(self, task: Any) -> None:
        line = self._pipeline._taken_by(task, self._foreign)
        join(task._context.run(task.kernel.create_task, self._steps(line), (), None, repr(self)), task, owns=True)

    def _steps(self, line: Line) -> Steps[Any]:
        try:
            while (item := (yield Next(line))) is not END:
                yield from call(self._use, item)
        except GeneratorExit:  # collected with its scheduler: nothing can be waited for
            raise
        except BaseException:
            if not line.supervisor.done():
                with CancelScope(shield=True):
                    yield Close(line)
            raise
        return self._result


@final
class _AClose(_OfLine[None]):
    __slots__ = ()

    def __repr__(self) -> str:
        return f"close of {self._pipeline!r}"

    def begin(self, task: Any) -> None:
        pipeline = self._pipeline
        if pipeline._line is not None:
            Close(pipeline._line).begin(task)
            return
        if pipeline._spent is None:
            pipeline._spent = "was closed"
            source = pipeline._source
            if isinstance(source, Generator):
                source.close()  # pyright: ignore[reportUnknownMemberType] - narrowed from Any
        task.resume()


def _named(stage: str, fn: Any) -> str:
    if not callable(fn):
        raise TypeError(f"{stage} takes a function, not {fn!r}")
    return f"{stage}({getattr(fn, '__name__', type(fn).__name__)})"
