"""Trying again what failed: which failures, how often, and how much later. Jobs wait by their pool's clock, tasks here.

**The wait** before retry *n* (from 1) is `min(wait_max, wait_initial * 2 ** (n - 1) + random(0, wait_jitter))` seconds:
the formula, and the names, of stamina (github.com/hynek/stamina, `stamina.retry`). The jitter is added because clients
that failed together would otherwise come back together ("Exponential Backoff And Jitter", AWS Architecture Blog, 2015).

**A cancel is a decision**, not a failure: `JobCancelled` and `TaskCancelledError`, by which one hears that what one
waited for was cancelled, are never tried again; and `Cancelled` is no Exception anyway.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeVar, TypeVarTuple, final

from dari._kernel.contract import Operation
from dari._kernel.numbers import finite, limit, whole
from dari._kernel.operations import Sleep, current_task
from dari.exceptions import JobCancelled, TaskCancelledError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator

    from dari._kernel.task import Task

__all__ = ["Attempts", "Retry"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
T_co = TypeVar("T_co", covariant=True)

_HIGHEST_POWER = 1000  # 2.0 ** 1024 is an OverflowError
_NOTES = 10  # earlier errors that are told; of more than that, the last


@final
class Retry:
    """A policy: `pool.options(retry=Retry(...))` for jobs, `yield retry.run(main, *args)` for a task.

    `max_retries`   how often it is tried again, after the first time
    `on`            an exception type, a tuple of them, or a function of the error that tells whether to try again
    `wait_initial`, `wait_max`, `wait_jitter`
                    seconds to wait before retry n: min(wait_max, wait_initial * 2 ** (n - 1) + random(0, wait_jitter))
    `timeout`       seconds from the first start after which no retry may begin; None: no limit
    """

    __slots__ = ("_asks", "max_retries", "on", "timeout", "wait_initial", "wait_jitter", "wait_max")

    def __init__(
        self,
        max_retries: int = 3,
        on: type[Exception] | tuple[type[Exception], ...] | Callable[[Exception], bool] = Exception,
        wait_initial: float = 0.1,
        wait_max: float = 5.0,
        wait_jitter: float = 1.0,
        timeout: float | None = None,
    ) -> None:
        self.max_retries: Final = whole("max_retries", max_retries, 0)
        self.on: Final = on
        self.wait_initial: Final = finite("wait_initial", wait_initial)
        self.wait_max: Final = finite("wait_max", wait_max)
        self.wait_jitter: Final = finite("wait_jitter", wait_jitter)
        self.timeout: Final = limit("a timeout", timeout)
        self._asks: Final = not _are_exceptions(on)
        if self._asks and (isinstance(on, (type, tuple)) or not callable(on)):
            raise TypeError(f"`on` is an Exception type, a tuple of them, or a function of the error, not {on!r}")

    def __repr__(self) -> str:
        return (
            f"Retry(max_retries={self.max_retries}, on={self.on!r}, wait_initial={self.wait_initial},"
            f" wait_max={self.wait_max}, wait_jitter={self.wait_jitter}, timeout={self.timeout})"
        )

    def run(
        self, main: Callable[[*Ts], Generator[Any, Any, T] | Coroutine[Any, Any, T]], /, *args: *Ts
    ) -> Operation[T]:
        """`await` or `yield` it: the result of `main(*args)`, a generator or coroutine function, tried by this policy.

        Each attempt is a task of its own. Cancelled, it cancels the present one, and awaits its end.
        """
        if not callable(main):
            raise TypeError(f"retry.run takes a function, which makes a generator or coroutine each time, not {main!r}")
        return _Run(self, main, args)

    def wait_after(self, attempt: int, error: BaseException, elapsed: float) -> float | None:
        """Seconds until it is tried again, when `attempt` (from 1) failed, `elapsed` seconds after the first began.

        None: it is not.
        """
        if attempt > self.max_retries or not isinstance(error, Exception) or not self._covers(error):
            return None
        from random import uniform  # loads hashlib; only failures pay for it

        wait = self.wait_initial * 2.0 ** min(attempt - 1, _HIGHEST_POWER) + uniform(0.0, self.wait_jitter)
        wait = min(self.wait_max, wait)
        return None if self.timeout is not None and elapsed + wait > self.timeout else wait

    def _covers(self, error: Exception) -> bool:
        if isinstance(error, (JobCancelled, TaskCancelledError)):
            return False
        if not self._asks:
            return isinstance(error, self.on)  # type: ignore[arg-type]
        return bool(self.on(error))  # type: ignore[operator]


@final
class Attempts:
    """One thing that is tried by a policy: how often it was, and what it failed with."""

    __slots__ = ("_earlier", "began", "number", "policy", "wait")

    def __init__(self, policy: Retry) -> None:
        self.policy: Final = policy
        self.number = 1
        self.began = 0.0  # when the first started
        self.wait = 0.0  # until the next, where one is wanted
        self._earlier: list[str] = []

    def failed(self, error: BaseException, now: float) -> bool:
        """The present attempt failed: is another one wanted, after `wait`? Earlier failures become notes on `error`."""
        self.tell_earlier(error)
        try:
            wait = self.policy.wait_after(self.number, error, now - self.began)
        except BaseException as broken:  # noqa: BLE001 - `on` is a function of users, and must not harm the worker
            _note(error, f"it was not tried again, for asking that failed: {_told(broken)}")
            return False
        if wait is None:
            return False
        self._earlier = [*self._earlier[1 - _NOTES :], f"attempt {self.number} failed: {_told(error)}"]
        self.wait = wait
        return True

    def tell_earlier(self, error: BaseException) -> None:
        for note in self._earlier:
            _note(error, note)


def _are_exceptions(on: Any) -> bool:
    kinds: list[Any] = [*on] if isinstance(on, tuple) else [on]
    return all(isinstance(kind, type) and issubclass(kind, Exception) for kind in kinds)


def _note(error: BaseException, note: str) -> None:
    try:
        if note not in getattr(error, "__notes__", ()):  # the same exception may be raised each time
            error.add_note(note)
    except Exception:  # noqa: BLE001 - `__notes__` is whatever users make of it
        pass


def _told(error: BaseException) -> str:
    try:
        return repr(error)
    except BaseException:  # noqa: BLE001 - a `__repr__` of users
        return f"<{type(error).__name__}, which has no repr>"


@final
class _Run(Operation[T_co]):
    __slots__ = ("_args", "_main", "_policy")

    def __init__(self, policy: Retry, main: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self._policy: Final = policy
        self._main: Final = main
        self._args: Final = args

    def __repr__(self) -> str:
        return f"retry.run({self._main!r})"

    def begin(self, task: Any) -> None:
        # In the context of the task, as all that it starts.
        tries: Task[Any] = task._context.run(
            task.kernel.create_task, _tries, (self._policy, self._main, self._args), None, repr(self)
        )
        tries.begin(task)


def _tries(policy: Retry, main: Callable[..., Any], args: tuple[Any, ...]) -> Generator[Any, Any, Any]:
    kernel = current_task().kernel
    attempts = Attempts(policy)
    attempts.began = kernel.clock()
    while True:
        task: Task[Any] = kernel.create_task(main, args)
        try:
            return (yield task)
        except Exception as error:
            if not attempts.failed(error, kernel.clock()):
                raise
        finally:
            del task  # error → frame → task → error would be a cycle
        attempts.number += 1
        yield Sleep(attempts.wait)
