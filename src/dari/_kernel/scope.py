"""Cancel scopes: who may end what, and how the end is told.

**Why scopes.** asyncio's cancel is an event: one exception, counted per task; swallowed once it is gone, and two
timeouts that fire together must guess whose it was (facts/scheduler.md b.12 to b.14). Here cancelling is a *state of a
place in the program*: a scope that is cancelled makes every `yield` inside it raise `Cancelled`, again and again, until
it is left; and the exception names its scope, so that only that one catches it.

**The tree.** A task's open scopes form a chain, innermost first (`task._scope`, then `_parent`). Below a task group's
scope hang its children: their chains end in it. Cancelling walks down the tree and tells every task that it finds;
whether the task really is cancelled is then asked upwards (`cancelled_by`), because a shield in between may hide it.
Outer beats inner: the outermost cancelled scope that is visible gives the `Cancelled` its name.

**Leaving.** Scopes are left last in, first out. A generator that is collected is closed by `GeneratorExit` in any
thread at any time, so then a scope takes itself out of the tree and does nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn, Protocol, Self

from dari._kernel.numbers import moment, seconds
from dari._kernel.sites import calling, shown
from dari._kernel.world import world

if TYPE_CHECKING:
    from types import TracebackType

    from dari._kernel.contract import Doors
    from dari._kernel.sites import Site

__all__ = [
    "CancelScope",
    "Timeout",
    "cancelled_by",
    "current_effective_deadline",
    "current_member",
    "fail_after",
    "move_on_after",
    "timeout",
    "timeout_at",
]


class Member(Protocol):
    """A task, as scopes see it; or what stands for it in a coroutine that the host steps (`World.outsider`)."""

    _scope: CancelScope | None

    @property
    def kernel(self) -> Doors: ...

    def _interrupt(self) -> None:
        """A scope around the task may have been cancelled: if it waits, end the wait."""
        ...

    def _remark(self) -> None:
        """The running task entered or left a scope: what its next `yield` meets may have changed."""
        ...

    def _released(self) -> None:
        """The running task left a scope that was cancelled."""
        ...

    def _runs(self) -> bool:
        """Is it the one that runs here and now?"""
        ...

    def _shielded(self, hides: bool) -> None:
        """Its scope began, or ceased, to hide what comes from outside."""
        ...

    def _catches(self, scope: CancelScope, error: BaseException | None) -> bool:
        """Its `scope` was left, by `error`: is that its own cancel, which ends here?"""
        ...


def current_member(what: str) -> Any:
    """The task that runs now, or an error that names `what` needs one and how to get it."""
    kernel = world.kernel
    if kernel is None or kernel.current is None:
        raise RuntimeError(
            f"{what} was used outside of a task that dari steps: use it in a generator task, or in a coroutine that"
            " dari.run(main) steps"
        )
    return kernel.current


def _who_enters(scope: CancelScope) -> Any:
    """The task that runs now; in a coroutine that the host steps, what stands for it."""
    if world.kernel is None and world.outsider is not None:
        outsider = world.outsider(scope)
        if outsider is not None:
            return outsider
    return current_member(f"`with {type(scope).__name__}`")


def cancelled_by(scope: CancelScope | None) -> CancelScope | None:
    """The outermost cancelled scope that code inside `scope` can see, or None."""
    found = None
    while scope is not None:
        if scope.cancel_called and not scope._closed:
            found = scope
        if scope._hides:
            break
        scope = scope._parent
    return found


class CancelScope:
    """A block of code that can be cancelled as a whole: `with dari.CancelScope() as scope: …`, or `async with`.

    `deadline` (a time on the scheduler's clock, in seconds) cancels it by itself; `shield=True` hides cancellation that
    comes from outside of it, `grace` hides it for so many seconds: time to finish what has begun. After the block
    `cancelled_caught` tells whether it was stopped.
    """

    __slots__ = (
        "_children",
        "_closed",
        "_deadline",
        "_delay",
        "_entered_at",
        "_expired",
        "_grace",
        "_grace_alarm",
        "_hides",
        "_members",
        "_owner",
        "_parent",
        "_shield",
        "alarm",
        "cancel_called",
        "cancelled_caught",
        "reason",
    )

    def __init__(self, *, deadline: float | None = None, shield: bool = False, grace: float | None = None) -> None:
        self._deadline = _checked_deadline(deadline)
        self._grace = _checked_delay(grace)
        self.alarm: Any = 0
        self.cancel_called = False
        self.cancelled_caught = False
        self.reason: object = None
        self._delay: float | None = None  # counted from the moment the block is entered
        self._shield = shield
        self._hides = shield or grace is not None  # what is outside of it is not seen from inside
        self._grace_alarm: _GraceOver | None = None
        self._closed = False
        self._entered_at: Site | None = None
        self._expired = False
        self._owner: Member | None = None
        self._parent: CancelScope | None = None
        self._children: dict[CancelScope, None] | None = None
        self._members: dict[Any, None] | None = None  # tasks whose chain of scopes ends here

    def __repr__(self) -> str:
        state = "cancelled" if self.cancel_called else "left" if self._closed else "open" if self._owner else "new"
        return f"<{type(self).__name__} {state}{f' deadline={self._deadline}' if self._deadline is not None else ''}>"

    @property
    def deadline(self) -> float | None:
        """When the scope cancels itself, on the scheduler's clock; None: never. None too before a delay is counted."""
        return self._deadline

    @deadline.setter
    def deadline(self, deadline: float | None) -> None:
        self._deadline = _checked_deadline(deadline)
        if self._owner is not None and not self._closed:
            self._owner.kernel.clear_deadline(self)
            self._watch_deadline(self._owner.kernel)

    @property
    def shield(self) -> bool:
        """Does it hide cancellation that comes from outside of it? Can be changed while the block runs."""
        return self._shield

    @shield.setter
    def shield(self, shield: bool) -> None:
        self._shield = shield
        self._hide(shield or (self._grace is not None and self._grace_alarm is None))

    @property
    def grace(self) -> float | None:
        """How many seconds the block may go on after a scope around it was cancelled; None: it may not."""
        return self._grace

    def cancel(self, reason: object = None) -> None:
        """Make every `yield` inside raise `Cancelled`, until the block is left. `reason` travels along."""
        if not self.cancel_called:
            told = cancelled_by(self) is not None  # a scope around it was cancelled: then all inside know already
            self.cancel_called = True
            self.reason = reason
            if not told:
                self._tell()

    def expire(self) -> None:
        """The deadline has come."""
        self._expired = not self.cancel_called
        self.cancel("deadline")

    def _tell(self) -> None:
        below: list[CancelScope] = [self]
        while below:
            scope = below.pop()
            if scope._owner is not None:
                scope._owner._interrupt()
            for member in scope._members or ():
                member._interrupt()
            for child in tuple(scope._children or ()):
                if not child._hides:
                    below.append(child)
                elif not child._shield:
                    child._begin_grace()

    def _begin_grace(self) -> None:
        """A scope around this one was cancelled: the block has `grace` seconds from when it is told first."""
        if self._grace_alarm is None:
            assert self._grace is not None
            assert self._owner is not None
            kernel = self._owner.kernel
            self._grace_alarm = _GraceOver(self)
            kernel.set_deadline(self._grace_alarm, kernel.driver.clock() + self._grace)

    def _hide(self, hides: bool) -> None:
        self._hides = hides
        if self._owner is not None:
            self._owner._shielded(hides)
        if not hides and self._owner is not None and not self._closed and cancelled_by(self._parent) is not None:
            self._tell()

    def _watch_deadline(self, kernel: Doors) -> None:
        if self._deadline is not None and not self.cancel_called:
            if self._deadline <= kernel.driver.clock():
                self.expire()
            else:
                kernel.set_deadline(self, self._deadline)

    def _link(self, owner: Member, parent: CancelScope | None) -> None:
        self._owner = owner
        self._parent = parent
        if parent is not None:
            if parent._children is None:
                parent._children = {}
            parent._children[self] = None

    def _unlink(self) -> None:
        self._closed = True
        if self._parent is not None and self._parent._children is not None:
            self._parent._children.pop(self, None)

    def __enter__(self) -> Self:
        if self._owner is not None or self._closed:
            raise RuntimeError(f"{self!r} was entered already: a scope is for one block, make a new one")
        task = _who_enters(self)
        kernel: Doors = task.kernel
        self._entered_at = calling()
        self._link(task, task._scope)
        task._scope = self
        if self._delay is not None:
            self._deadline = kernel.driver.clock() + self._delay
        self._watch_deadline(kernel)
        if self._grace is not None and not self._shield and cancelled_by(self._parent) is not None:
            self._begin_grace()
        task._remark()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        task = self._owner
        if task is None:
            raise RuntimeError(f"{self!r} was left without having been entered")
        if not task._runs():
            if isinstance(error, GeneratorExit):
                if self.alarm:  # any thread: even the heap is left alone, it will find the entry stale
                    self.alarm[2], self.alarm = None, 0
                self._unlink()
                return False
            self._refuse("in another task than the one that entered it")
        if task._scope is not self:
            task.kernel.clear_deadline(self)
            self._unlink()  # what runs on inside of the others shall not be cancelled by this one
            self._refuse("before a scope that was entered inside it (or after one around it)")
        task.kernel.clear_deadline(self)
        if self._grace_alarm is not None:
            task.kernel.clear_deadline(self._grace_alarm)
        self._unlink()
        task._scope = self._parent
        caught = task._catches(self, error)
        self.cancelled_caught = caught
        task._remark()
        if self.cancel_called:
            task._released()
        return caught

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        return self.__exit__(kind, error, traceback)

    def _refuse(self, how: str) -> NoReturn:
        raise RuntimeError(
            f"{self!r}, entered at {shown(self._entered_at)}, was left {how}: scopes are left last in, first"
            " out, by the task that entered them. Was it opened in a generator that yields to its consumer, not to"
            " dari?"
        )


class Timeout(CancelScope):
    """A scope that turns its own expiry into `TimeoutError`. Cancelled by hand, it is left silently, as any scope.

    (That is rare: so for checkers it swallows nothing, and what its block assigns is bound behind it.)
    """

    __slots__ = ()

    def __exit__(  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride] - see above
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        caught = super().__exit__(kind, error, traceback)
        if caught and self._expired:
            how = "passed its deadline" if self._delay is None else f"took longer than {self._delay} seconds"
            raise TimeoutError(how) from error
        return caught

    async def __aexit__(  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride] - see above
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        return self.__exit__(kind, error, traceback)


class _GraceOver:
    """The alarm that ends a scope's grace."""

    __slots__ = ("_scope", "alarm")

    def __init__(self, scope: CancelScope) -> None:
        self._scope = scope
        self.alarm: Any = 0

    def expire(self) -> None:
        self._scope._hide(self._scope._shield)


def _checked_deadline(deadline: float | None) -> float | None:
    return None if deadline is None else moment("a deadline", deadline)


def _checked_delay(delay: float | None) -> float | None:
    return None if delay is None else seconds("a delay", delay)


def timeout(delay: float | None) -> Timeout:
    """`with timeout(5):` cancels the block after `delay` seconds and then raises `TimeoutError`. None: never.

    The delay counts from entering the block. What is cancelled inside runs its cleanup first.
    """
    scope = Timeout()
    scope._delay = _checked_delay(delay)
    return scope


fail_after = timeout  # trio's and anyio's name for it


def timeout_at(deadline: float | None) -> Timeout:
    """Like `timeout`, until a time on the scheduler's clock (`time.monotonic` in real programs). None: never."""
    scope = Timeout()
    scope._deadline = _checked_deadline(deadline)
    return scope


def current_effective_deadline() -> float:
    """When the running task will be cancelled at the latest: the earliest deadline around it, up to the first shield.

    A time on the scheduler's clock; infinity if there is none, minus infinity if it is cancelled already.
    """
    scope: CancelScope | None = current_member("current_effective_deadline()")._scope
    if cancelled_by(scope) is not None:
        return float("-inf")
    earliest = float("inf")
    while scope is not None:
        if scope._deadline is not None and not scope._closed:
            earliest = min(earliest, scope._deadline)
        if scope._hides:
            break
        scope = scope._parent
    return earliest


def move_on_after(delay: float | None) -> CancelScope:
    """`with move_on_after(5) as scope:` leaves the block after 5 seconds; `cancelled_caught` tells. None: never."""
    scope = CancelScope()
    scope._delay = _checked_delay(delay)
    return scope
