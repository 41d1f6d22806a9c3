"""Condition: to wait, under a lock, for what others do under it.

A wait stands in two lines, one after the other: in the condition's until it is notified or cancelled, then in the
lock's until it is granted. It is the same wait of the task all along, so that the task is woken once, when it holds the
lock again, and no step lies between in which a notification or the lock could get lost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, final

from dari._kernel.contract import Operation
from dari._kernel.outcome import Error, Outcome, Value
from dari.sync.lock import Acquirable, Guard, Lock
from dari.sync.waiters import Waiters

if TYPE_CHECKING:
    from collections.abc import Callable

    from dari._kernel.task import TaskWait

__all__ = ["Condition"]

T = TypeVar("T")


@final
class Condition(Acquirable):
    """Wait, under a lock, for what others do under it: `yield condition.wait_for(lambda: stock > 0)`.

    A task that is notified goes straight from here into the line for the lock, and runs when it holds it again.
    """

    __slots__ = ("_lock", "_waiters")

    def __init__(self, lock: Lock | None = None) -> None:
        if lock is not None and not isinstance(lock, Lock):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"a Condition works under a dari.Lock, not {lock!r}")
        self._lock: Final = Lock() if lock is None else lock
        self._waiters: Final = Waiters()  # each with its _Turn

    def __repr__(self) -> str:
        return f"<Condition {self._lock._state()}, {len(self._waiters)} waiting>"

    def locked(self) -> bool:
        return self._lock.locked()

    def acquire(self) -> Operation[Guard]:
        """Acquire its lock."""
        return self._lock.acquire()

    def release(self) -> None:
        """Release its lock."""
        self._lock.release()

    def wait(self) -> Operation[bool]:
        """Release the lock, wait for `notify`, acquire the lock again; gives True. RuntimeError without the lock.

        Cancelled, it acquires the lock first, as long as that takes (it is the `with` around it that releases it), and
        hands on a notification that it had got.
        """
        return _ConditionWait(self, None)

    def wait_for(self, predicate: Callable[[], T]) -> Operation[T]:
        """`wait` until `predicate()` is true, and give what it gave. It is called while the lock is held for this task.

        What the predicate raises comes out at this `yield`.
        """
        return _ConditionWait(self, predicate)

    def notify(self, n: int = 1) -> None:
        """Let `n` of those who wait go on, each when it gets the lock. RuntimeError without the lock."""
        if not self.locked():
            raise RuntimeError(
                f"{self!r} was notified, but its lock is not held: notify inside `with (yield condition.acquire()):`"
                " or `async with condition:`"
            )
        self._notify(n)

    def notify_all(self) -> None:
        """Let all who wait go on, one after the other. RuntimeError without the lock."""
        self.notify(len(self._waiters))

    def _notify(self, n: int) -> None:
        while n > 0 and self._waiters:
            n -= 1
            wait, turn = self._waiters.pop()
            self._lock._waiters.add(wait, turn)
        if not self.locked():
            self._lock._hand_over()


@final
class _Turn:
    """One wait of a task in a condition: first in its line, then, notified or cancelled, in that of the lock."""

    __slots__ = ("_cancelled", "_condition", "_guard", "_predicate")

    def __init__(self, condition: Condition, guard: Guard, predicate: Callable[[], Any] | None) -> None:
        self._condition: Final = condition
        self._guard: Final = guard  # of the `with` around the wait: it holds the lock again afterwards
        self._predicate: Final = predicate
        self._cancelled = False

    def granted(self, wait: TaskWait) -> None:
        lock = self._condition._lock
        lock._held = self._guard
        if self._cancelled:
            wait.wake_done()
            return
        outcome = outcome_of(self._predicate, wait.task)
        if outcome is None:
            lock._held = None
            self._condition._waiters.add(wait, self)
        else:
            wait.wake(outcome)

    def undo(self, wait: TaskWait) -> bool:
        condition = self._condition
        self._cancelled = True
        if not condition._waiters.leave(wait):
            condition._notify(1)  # it stands in the lock's line, and somebody else shall have its notification
            return False
        if condition._lock._take(self._guard):
            return True
        condition._lock._waiters.add(wait, self)
        return False


def outcome_of(predicate: Callable[[], Any] | None, task: Any) -> Outcome[Any] | None:
    """What a wait for `predicate` gives now, or None: it is not over. Called in the context of the task that waits."""
    if predicate is None:
        return Value(True)
    try:
        value = task._context.run(predicate)
        return Value(value) if value else None
    except BaseException as error:  # noqa: BLE001 - who waits gets it, not who happens to release the lock
        return Error(error)


@final
class _ConditionWait(Operation[T], Generic[T]):
    __slots__ = ("_condition", "_predicate")

    def __init__(self, condition: Condition, predicate: Callable[[], T] | None) -> None:
        self._condition: Final = condition
        self._predicate: Final = predicate

    def __repr__(self) -> str:
        return f"wait of {self._condition!r}"

    def begin(self, task: Any) -> None:
        condition = self._condition
        guard = condition._lock._held
        if guard is None:
            task.fail(
                RuntimeError(
                    f"{self!r}, but its lock is not held: wait inside `with (yield condition.acquire()):` or"
                    " `async with condition:`"
                )
            )
            return
        outcome = None if self._predicate is None else outcome_of(self._predicate, task)
        if isinstance(outcome, Value):
            task.resume(outcome.value)
        elif outcome is not None:
            task.fail(outcome.error)
        else:
            turn = _Turn(condition, guard, self._predicate)
            condition._waiters.add(task.block(self, turn.undo), turn)
            condition._lock._hand_over()

    def take_back(self, value: object) -> None:
        """The lock stays with the `with` around the wait; the notification is for somebody else."""
        self._condition._notify(1)
