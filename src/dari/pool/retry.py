"""Trying again what failed: which failures, how often, and how much later. Jobs wait by their pool's clock, tasks here.

**The wait** before retry *n* (from 1) is `min(wait_max, wait_initial * 2 ** (n - 1) + random(0, wait_jitter))` seconds:
the formula, and the names, of stamina (github.com/hynek/stamina, `stamina.retry`). The jitter is added because clients
that failed together would otherwise come back together ("Exponential Backoff And Jitter", AWS Architecture Blog, 2015).
It comes from the system: the stream of `random` belongs to users, who may have seeded it, and a generator of our own
would be copied by a fork, whose children would then come back together.

**Other waits and ends** are functions of a state that has the names of tenacity's (github.com/jd/tenacity, its
`RetryCallState`), so its `wait_…` and `stop_…` can be given as they are. They only decide, in tenacity's order: `on`,
`wait`, `stop`; the waiting is ours. Between two attempts the state holds neither error nor call: a cancel frees them.

**A cancel is a decision**, not a failure: `JobCancelled` and `TaskCancelledError`, by which one hears that what one
waited for was cancelled, are never tried again; and `Cancelled` is no Exception anyway.
"""

from __future__ import annotations

from os import urandom
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar, TypeVarTuple, final

from dari._kernel.contract import Operation
from dari._kernel.numbers import finite, limit, whole
from dari._kernel.operations import Sleep, current_task
from dari._kernel.outcome import Error
from dari.exceptions import JobCancelled, TaskCancelledError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator

    from dari._kernel.task import Task

__all__ = ["Attempts", "Retry", "RetryState"]

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
    `wait`          instead of that formula: a function of the `RetryState` that gives seconds, as tenacity's `wait_…`
    `stop`          instead of `max_retries`: one that tells whether to give up, as tenacity's `stop_…`
    """

    __slots__ = ("_asks", "max_retries", "on", "stop", "timeout", "wait", "wait_initial", "wait_jitter", "wait_max")

    def __init__(
        self,
        max_retries: int = 3,
        on: type[Exception] | tuple[type[Exception], ...] | Callable[[Exception], bool] = Exception,
        wait_initial: float = 0.1,
        wait_max: float = 5.0,
        wait_jitter: float = 1.0,
        timeout: float | None = None,
        *,
        wait: Callable[[Any], float] | None = None,  # of the RetryState; tenacity's name another class
        stop: Callable[[Any], bool] | None = None,
    ) -> None:
        self.max_retries: Final = whole("max_retries", max_retries, 0)
        self.on: Final = on
        self.wait_initial: Final = finite("wait_initial", wait_initial)
        self.wait_max: Final = finite("wait_max", wait_max)
        self.wait_jitter: Final = finite("wait_jitter", wait_jitter)
        self.timeout: Final = limit("a timeout", timeout)
        self.wait: Final = _strategy("wait", wait)
        self.stop: Final = _strategy("stop", stop)
        self._asks: Final = not _are_exceptions(on)
        if self._asks and (isinstance(on, (type, tuple)) or not callable(on)):
            raise TypeError(f"`on` is an Exception type, a tuple of them, or a function of the error, not {on!r}")

    def __repr__(self) -> str:
        return (
            f"Retry(max_retries={self.max_retries}, on={self.on!r}, wait_initial={self.wait_initial},"
            f" wait_max={self.wait_max}, wait_jitter={self.wait_jitter}, timeout={self.timeout},"
            f" wait={self.wait!r}, stop={self.stop!r})"
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
        return self._wait(error, RetryState(self, 0.0)._failed(attempt, error, elapsed))

    def _wait(self, error: BaseException, state: RetryState) -> float | None:
        attempt = state.attempt_number
        if self.stop is None and attempt > self.max_retries:
            return None
        if not isinstance(error, Exception) or not self._covers(error):
            return None
        if self.wait is None:
            wait = self.wait_initial * 2.0 ** min(attempt - 1, _HIGHEST_POWER) + self.wait_jitter * _random()
            wait = min(self.wait_max, wait)
        else:
            wait = finite("what `wait` gives", self.wait(state))
        state.upcoming_sleep = wait
        if self.stop is not None and _answer(self.stop(state)):
            return None
        elapsed = state.seconds_since_start or 0.0
        return None if self.timeout is not None and elapsed + wait > self.timeout else wait

    def _covers(self, error: Exception) -> bool:
        if isinstance(error, (JobCancelled, TaskCancelledError)):
            return False
        if not self._asks:
            return isinstance(error, self.on)  # type: ignore[arg-type]
        return bool(self.on(error))  # type: ignore[operator]


class RetryState:
    """What `wait` and `stop` are asked about: attempts of one job or task. Its names are those of tenacity's.

    One for all attempts, in which they may keep things; to be read while they are asked. Times are seconds on the clock
    that the attempts wait by.
    """

    next_action = None
    """tenacity sets it when all is decided."""

    def __init__(self, policy: Retry, began: float) -> None:
        self.retry_object: Final = policy
        self.start_time: Final = began
        self.attempt_number = 1
        self.idle_for = 0.0
        """Seconds waited so far."""
        self.upcoming_sleep = 0.0
        """For `stop`: what `wait` gave just now. For `wait`: what it gave before."""
        self.outcome: AttemptOutcome | None = None
        self.outcome_timestamp: float | None = None
        self.fn: Callable[..., Any] | None = None
        self.args: tuple[Any, ...] = ()
        self.kwargs: dict[str, Any] = {}

    def __repr__(self) -> str:
        return f"<RetryState: attempt {self.attempt_number}, waited {self.idle_for:.3g} s, {self.outcome!r}>"

    @property
    def seconds_since_start(self) -> float | None:
        return None if self.outcome_timestamp is None else self.outcome_timestamp - self.start_time

    def get_fn_name(self) -> str:
        return str(getattr(self.fn, "__qualname__", self.fn or self.retry_object))

    def _failed(
        self,
        attempt: int,
        error: BaseException,
        now: float,
        fn: Callable[..., Any] | None = None,
        args: tuple[Any, ...] = (),
    ) -> RetryState:
        self.attempt_number = attempt
        self.outcome = AttemptOutcome(attempt, error)
        self.outcome_timestamp = now
        self.fn, self.args = fn, args
        return self

    def _forget(self) -> None:
        """It is decided: nothing is kept alive from here."""
        self.outcome = self.outcome_timestamp = self.fn = None
        self.args = ()


@final
class AttemptOutcome:
    """How an attempt failed, with the names of a `concurrent.futures.Future`. (That class would have to be loaded.)"""

    __slots__ = ("_error", "attempt_number")

    failed = True

    def __init__(self, attempt: int, error: BaseException) -> None:
        self.attempt_number: Final = attempt
        self._error: Final = Error(error)

    def __repr__(self) -> str:
        return f"failed: {_told(self._error.error)}"

    def exception(self, timeout: float | None = None) -> BaseException:
        return self._error.error

    def result(self, timeout: float | None = None) -> NoReturn:
        self._error.unwrap()

    def done(self) -> bool:
        return True

    def running(self) -> bool:
        return False

    def cancelled(self) -> bool:
        return False


@final
class Attempts:
    """One thing that is tried by a policy: how often it was, and what it failed with."""

    __slots__ = ("_earlier", "_state", "began", "number", "policy", "wait")

    def __init__(self, policy: Retry) -> None:
        self.policy: Final = policy
        self.number = 1
        self.began = 0.0  # when the first started
        self.wait = 0.0  # until the next, where one is wanted
        self._earlier: list[str] = []
        self._state: RetryState | None = None  # since the first failure

    def failed(
        self, error: BaseException, now: float, fn: Callable[..., Any] | None = None, args: tuple[Any, ...] = ()
    ) -> bool:
        """The present attempt, at `fn(*args)`, failed: is another one wanted, after `wait`?

        Earlier failures become notes on `error`.
        """
        self.tell_earlier(error)
        self._state = state = self._state or RetryState(self.policy, self.began)
        try:
            wait = self.policy._wait(error, state._failed(self.number, error, now, fn, args))
        except BaseException as broken:  # noqa: BLE001 - functions of users, which must not harm the worker
            _note(error, f"it was not tried again, for asking that failed: {_told(broken)}")
            return False
        finally:
            state._forget()
        if wait is None:
            return False
        self._earlier = [*self._earlier[1 - _NOTES :], f"attempt {self.number} failed: {_told(error)}"]
        self.wait = wait
        state.idle_for += wait
        return True

    def tell_earlier(self, error: BaseException) -> None:
        for note in self._earlier:
            _note(error, note)


def _are_exceptions(on: Any) -> bool:
    kinds: list[Any] = [*on] if isinstance(on, tuple) else [on]
    return all(isinstance(kind, type) and issubclass(kind, Exception) for kind in kinds)


def _strategy(what: str, given: Any) -> Callable[[Any], Any] | None:
    if given is not None and (isinstance(given, type) or not callable(given)):
        raise TypeError(f"`{what}` is a function of the attempts' state, as tenacity's {what}_…() is, not {given!r}")
    return given


def _answer(given: Any) -> bool:
    """A function that forgot its answer would otherwise mean: try for ever."""
    if given not in (True, False):  # NumPy's are equal to them
        raise TypeError(f"what `stop` gives is True or False, not {given!r}")
    return bool(given)


def _random() -> float:
    """From 0 to 1. In 0.5 µs, where `random` has to be loaded, seeded, and seeded again after a fork."""
    return int.from_bytes(urandom(6), "big") / 2.0**48


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
            if not attempts.failed(error, kernel.clock(), main, args):
                raise
        finally:
            del task  # error → frame → task → error would be a cycle
        attempts.number += 1
        yield Sleep(attempts.wait)
