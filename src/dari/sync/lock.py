"""Lock and the semaphores: what is acquired and released, and the guard that sees to the second."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, Final, NoReturn, final
from weakref import ref

from dari._kernel.contract import Operation
from dari._kernel.numbers import whole
from dari._kernel.outcome import Value
from dari.sync.waiters import Waiters

if TYPE_CHECKING:
    from dari._kernel.task import TaskWait

__all__ = ["Acquirable", "BoundedSemaphore", "Guard", "Lock", "Semaphore"]


class Acquirable:
    """What `with (yield it.acquire()):` holds in a generator, and `async with it:` in a coroutine."""

    __slots__ = ()

    @abstractmethod
    def acquire(self) -> Operation[Guard]: ...

    @abstractmethod
    def release(self) -> None: ...

    async def __aenter__(self) -> None:
        await self.acquire()

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self.release()
        except RuntimeError:
            if kind is not GeneratorExit:  # else it was closed in a wait of its condition: it does not hold the lock
                raise

    def _holds(self, guard: Guard) -> bool:
        return True

    if not TYPE_CHECKING:  # the checkers shall refuse it, too

        def __enter__(self) -> NoReturn:
            name = type(self).__name__.lower()
            raise TypeError(
                f"`with {name}:` cannot wait for {self!r}: write `with (yield {name}.acquire()):` in a generator,"
                f" `async with {name}:` in a coroutine"
            )

        def __exit__(self, *_: object) -> None: ...


@final
class Guard:
    """What `acquire` gives: `with` it, and the end of the block releases, once. (It is true, as asyncio's `True`.)"""

    __slots__ = ("_by", "_of", "_over")

    def __init__(self, of: Acquirable, by: Any) -> None:
        self._of: Final = of
        self._by: Final = ref(by)  # the task that acquires; weakly: a lock that is never released keeps nobody alive
        self._over = False

    def __repr__(self) -> str:
        return f"<Guard of {self._of!r}{', released' if self._over else ''}>"

    def __enter__(self) -> None:
        if self._over:
            self._refuse()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not GeneratorExit or (not self._over and self._of._holds(self)):
            self.release()  # else it was closed in a wait of its condition: it does not hold the lock

    def release(self) -> None:
        """RuntimeError if it was released already: what is held now belongs to somebody else."""
        if self._over:
            self._refuse()
        self._over = True
        self._of.release()

    @property
    def holder(self) -> Any:
        """The task that acquired it, unless that has ended (as the small one has that an asyncio coroutine awaits)."""
        task = self._by()
        return None if task is None or task.done() else task

    def _refuse(self) -> NoReturn:
        raise RuntimeError(
            f"{self!r}: it was released already, and is released once only: by the end of its `with` block or by"
            " release(), not by both"
        )

    def granted(self, wait: TaskWait) -> None:
        """Its lock has come free for `wait`."""
        lock = self._of
        assert isinstance(lock, Lock)
        lock._held = self
        wait.wake(Value(self))


@final
class _Acquire(Operation[Guard]):
    __slots__ = ("_of",)

    def __init__(self, of: Lock | Semaphore) -> None:
        self._of: Final = of

    def __repr__(self) -> str:
        return f"acquire of {self._of!r}"

    def begin(self, task: Any) -> None:
        guard = Guard(self._of, task)
        if self._of._take(guard):
            task.resume(guard)
        else:
            self._of._waiters.block(task, self, guard)

    def take_back(self, value: Guard) -> None:
        value.release()


@final
class Lock(Acquirable):
    """Held by one at a time. It belongs to whoever acquired it, but any task may release it, as in asyncio.

    It is not reentrant: a task that acquires it twice waits for itself. That is not refused, nor are two tasks that
    wait for each other's locks: a third could release them. Its repr, and so a dump, names who holds it.
    """

    __slots__ = ("_held", "_waiters")

    def __init__(self) -> None:
        self._held: Guard | None = None
        self._waiters: Final = Waiters()  # each with a Guard, or the _Turn of a condition: what it is granted to

    def __repr__(self) -> str:
        return f"<Lock {self._state()}, {len(self._waiters)} waiting>"

    def _state(self) -> str:
        if self._held is None:
            return "unlocked"
        holder = self._held.holder
        return "locked" if holder is None else f"held by {holder.label}"

    def locked(self) -> bool:
        return self._held is not None

    def acquire(self) -> Operation[Guard]:
        """Wait for the lock, and hold it. Woken by `release`; cancelled before, it was never held."""
        return _Acquire(self)

    def release(self) -> None:
        """Hand it to the next waiter, now; without one it is free. RuntimeError if it is free already."""
        if self._held is None:
            raise RuntimeError(f"{self!r} was released, but nobody holds it: one release() for each acquire()")
        self._held._over = True
        self._hand_over()

    def _take(self, guard: Guard) -> bool:
        if self._held is not None:
            return False
        self._held = guard
        return True

    def _holds(self, guard: Guard) -> bool:
        return self._held is guard

    def _hand_over(self) -> None:
        self._held = None
        while self._waiters and self._held is None:  # the turn of a condition may decline
            wait, turn = self._waiters.pop()
            turn.granted(wait)


class Semaphore(Acquirable):
    """At most `value` hold it at a time."""

    __slots__ = ("_value", "_waiters")

    def __init__(self, value: int = 1) -> None:
        self._value = whole(f"the value of a {type(self).__name__}", value, 0)
        self._waiters: Final = Waiters()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._value} free, {len(self._waiters)} waiting>"

    def locked(self) -> bool:
        """Would `acquire` have to wait?"""
        return self._value == 0

    def acquire(self) -> Operation[Guard]:
        """Wait for a permit, and hold it. Woken by `release`; cancelled before, it was never held."""
        return _Acquire(self)

    def release(self) -> None:
        """Hand a permit to the next waiter, now; without one there is one more that is free."""
        if self._waiters:
            wait, guard = self._waiters.pop()
            wait.wake(Value(guard))
        else:
            self._value += 1

    def _take(self, _: Guard) -> bool:
        if self._value == 0:
            return False
        self._value -= 1
        return True


@final
class BoundedSemaphore(Semaphore):
    """A semaphore that is never released more often than acquired: ValueError."""

    __slots__ = ("_bound",)

    def __init__(self, value: int = 1) -> None:
        super().__init__(value)
        self._bound: Final = self._value

    def release(self) -> None:
        """As a semaphore's; ValueError if all permits are free already."""
        if self._value >= self._bound:
            raise ValueError(
                f"{self!r} was released, but all of its {self._bound} permits are free: one release() for each"
                " acquire()"
            )
        super().release()
