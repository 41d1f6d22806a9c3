"""`pool.map`: a function over many items on the pool's threads, with a bound on how much is begun and not yet taken.

**The bound.** So many items are in flight: handed in, and not taken yet. The next is drawn from the iterables when one
has been taken, so neither a slow consumer nor a slow first item lets results or items pile up (CPython gh-74028). A job
for which the pool's queue has no place stands in line for one, as `run_sync` does; nothing ever blocks to hand it in.

**Errors come where the item would have come**: the function's, the pool's, and those of the iterables. An error ends
the map, as it ends a generator.

**Dropped.** `close` cancels what has not begun. Who just drops a map (`break` out of its loop) has the same: but a
destructor may run anywhere, also where this thread holds the pool's lock. So it only says so in a flag that the jobs
look at when their turn comes.
"""

from __future__ import annotations

from _thread import allocate_lock
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, Self, TypeVar, final, overload

from dari._kernel.contract import Operation
from dari._kernel.numbers import whole
from dari._kernel.outcome import Error, Outcome, Value
from dari.drivers.wakeup import Remote
from dari.exceptions import Cancelled, JobCancelled, PoolClosed, QueueShutDown
from dari.pool.flight import Flight
from dari.pool.job import name_of
from dari.pool.places import Place

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

    from dari.pool.desk import Desk
    from dari.pool.job import Job

__all__ = ["Mapped"]

T = TypeVar("T")
D = TypeVar("D")

_END: Final[Any] = object()  # nothing is left
_NONE: Final[Any] = object()  # no default was given


class View(Protocol):
    """The pool, as a map sees it."""

    @property
    def _desk(self) -> Desk: ...
    def _job(self, fn: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any], /) -> Job[T]: ...


class _Call:
    """The function, for as long as the map is not dropped."""

    def __init__(self, fn: Callable[..., Any]) -> None:
        self.__qualname__ = name_of(fn)  # so its jobs are named
        self._fn: Final = fn
        self.dropped = False

    def __call__(self, *items: Any) -> Any:
        if self.dropped:
            raise Cancelled("nobody takes from the map any more")
        return self._fn(*items)


@final
class Mapped(Generic[T]):
    """The results of a function over many items: `for`, `async for`, `yield mapped.get()`, a Pipeline's source.

    Made by `pool.map(...)`. One taker at a time, on whatever thread.
    """

    def __init__(
        self,
        view: View,
        fn: Callable[..., T],
        iterables: tuple[Iterable[Any], ...],
        max_in_flight: int | None,
        ordered: bool,
    ) -> None:
        if not callable(fn):
            raise TypeError(f"map takes a function, not {fn!r}")
        if not iterables:
            raise TypeError("map needs at least one iterable")
        if max_in_flight is not None:
            whole("max_in_flight", max_in_flight, 1, " or None")
        self._call: Final = _Call(fn)
        self._view: Final = view
        self._rows: Iterator[tuple[Any, ...]] | None = zip(*iterables, strict=False)
        self._limit: Final = max_in_flight
        self._flight: Final = Flight(ordered)
        self._last: Error | None = None  # why no more items are drawn
        self._taking: Final = allocate_lock()
        self._top_up()

    def __repr__(self) -> str:
        return f"<map of {self._call.__qualname__} on pool {self._view._desk.name!r}, {len(self._flight)} in flight>"

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        if self._call.dropped:
            raise StopIteration
        self._begin_to_take()
        try:
            self._flight.wait(f"the next result of {self!r}")
            outcome = self._next()
        finally:
            self._taking.release()
        if outcome is None:
            raise StopIteration
        try:
            return outcome.unwrap()
        finally:
            del outcome  # the frame is in the error's traceback: without this, error → frame → error is a cycle

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        result = await self.get(default=_END)
        if result is _END:
            raise StopAsyncIteration
        return result

    @overload
    def get(self) -> Operation[T]: ...
    @overload
    def get(self, default: D) -> Operation[T | D]: ...
    def get(self, default: Any = _NONE) -> Operation[Any]:
        """`await` or `yield` it: the next result. After the last one `default`, or QueueShutDown if there is none.

        Cancelled, it closes the map, and waits for the real end of what runs.
        """
        return _Take(self, default)

    def close(self) -> None:
        """Cancel what has not begun, ask what runs to end; nothing more is drawn or given. Does not wait."""
        self._call.dropped = True
        self._rows = self._last = None
        self._flight.cancel()

    def aclose(self) -> Operation[None]:
        """`await` or `yield` it: close, and wait for the real end of what runs. `contextlib.aclosing` does it."""
        return _Close(self)

    def __del__(self) -> None:
        call: _Call | None = getattr(self, "_call", None)  # None: __init__ refused its arguments
        if call is not None:
            call.dropped = True

    # ---- inside --------------------------------------------------------------------------------------------------

    def _begin_to_take(self) -> None:
        if not self._taking.acquire(False):
            raise RuntimeError(f"{self!r} is being taken from already: one taker at a time (others share a Queue, say)")
        try:
            self._top_up()
        except BaseException:  # Ctrl-C in the iterables
            self._taking.release()
            raise

    def _top_up(self) -> None:
        desk = self._view._desk
        limit = 2 * desk.crew.max_workers if self._limit is None else self._limit
        while self._rows is not None and len(self._flight) < limit:
            try:
                row = next(self._rows)
            except StopIteration:
                self._rows = None
                return
            except Exception as error:  # noqa: BLE001 - it comes where the item would have come
                self._rows, self._last = None, Error(error)
                return
            place = Place(desk, self._view._job(self._call, row, {}))
            try:
                place.enter()
            except PoolClosed as error:
                self._rows, self._last = None, Error(error)
                return
            self._flight.add(place.job)

    def _next(self) -> Outcome[T] | None:
        """What `ready` told of; None: nothing is left."""
        if not len(self._flight):
            last, self._last = self._last, None
            return last
        outcome: Outcome[T] = self._flight.take()._settled()
        if isinstance(outcome, Error):
            self.close()
        return outcome


class _Of(Remote[T]):
    """Waits for a map."""

    __slots__ = ("_mapped",)

    def __init__(self, mapped: Mapped[Any]) -> None:
        self._mapped: Final = mapped

    def begin(self, task: Any) -> None:
        try:
            self._enter()
        except Exception as error:  # noqa: BLE001 - the task's own mistake
            task.fail(error)
        else:
            super().begin(task)

    def _outside(self) -> Generator[Any, Any, T]:
        waiting = super()._outside()
        try:
            self._enter()
        except BaseException:
            waiting.close()  # in trio a coroutine, which would complain that nobody awaited it
            raise
        return waiting

    def _enter(self) -> None:
        raise NotImplementedError

    def call_when_ended(self, call: Callable[[], object]) -> None:
        self._mapped._flight.when_ready(call)

    def ended(self) -> bool:
        return self._mapped._flight.ready()

    def cancelled_error(self) -> JobCancelled:
        return JobCancelled(f"{self._mapped!r} was closed by a taker that was cancelled")


@final
class _Take(_Of[Any]):
    __slots__ = ("_cancelled", "_default")

    def __init__(self, mapped: Mapped[Any], default: Any) -> None:
        super().__init__(mapped)
        self._default: Final = default
        self._cancelled = False

    def __repr__(self) -> str:
        return f"next of {self._mapped!r}"

    def _enter(self) -> None:
        self._mapped._begin_to_take()

    def request_end(self) -> object:
        self._cancelled = True
        self._mapped.close()
        return None

    def give_back(self) -> None:
        self._mapped.close()
        self._mapped._taking.release()

    def outcome(self) -> Outcome[Any] | None:
        mapped = self._mapped
        try:
            if self._cancelled:
                return None
            outcome: Outcome[Any] | None = mapped._next()
        finally:
            mapped._taking.release()
        if outcome is not None:
            return outcome
        if self._default is _NONE:
            return Error(QueueShutDown(f"{mapped!r}: nothing is left"))
        return Value(self._default)


@final
class _Close(_Of[None]):
    __slots__ = ()

    def __repr__(self) -> str:
        return f"close of {self._mapped!r}"

    def _enter(self) -> None:
        self._mapped.close()

    def request_end(self) -> object:
        return None

    def outcome(self) -> Value[None]:
        return Value(None)
