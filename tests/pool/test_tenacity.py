"""tenacity's `wait_…` and `stop_…` in `dari.Retry`: they wait as long, and as often, as in tenacity itself."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import threading
import time
import weakref
from datetime import timedelta
from types import SimpleNamespace

import pytest

import dari
from dari import testing
from dari.pool.retry import Attempts, Retry, RetryState

tenacity = pytest.importorskip("tenacity", reason="`dev` has it")

NO = ValueError("no")


class Clock:
    """A time that passes when it is told to."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


def waits_of_tenacity(monkeypatch, run_time, wait, stop):
    """How long tenacity waits after each attempt, when every one takes `run_time` seconds and fails."""
    clock = Clock()
    waits = []

    def fail():
        clock.sleep(run_time)
        raise NO

    def sleep(seconds):
        waits.append(float(seconds))
        clock.sleep(seconds)

    monkeypatch.setattr(tenacity, "time", SimpleNamespace(monotonic=clock.monotonic))
    random.seed(1)  # tenacity's jitter comes from there
    with pytest.raises(tenacity.RetryError):
        tenacity.Retrying(sleep=sleep, wait=wait, stop=stop)(fail)
    return waits


def waits_of_attempts(run_time, wait, stop):
    """The same, by what jobs and tasks of dari ask."""
    clock = Clock()
    attempts = Attempts(Retry(wait=wait, stop=stop))
    attempts.began = clock.monotonic()
    waits = []
    random.seed(1)
    clock.sleep(run_time)
    while attempts.failed(ValueError("no"), clock.monotonic()):
        waits.append(attempts.wait)
        clock.sleep(attempts.wait + run_time)
        attempts.number += 1
    return waits


def run_by(policy, main, *args):
    """A task in virtual time."""

    def waiter():
        return (yield policy.run(main, *args))

    return testing.run(waiter)


def waits_of_a_task(run_time, wait, stop):
    """The same, by a task in virtual time."""
    began, ended = [], []

    def fail():
        clock = dari.current_task().kernel.clock
        began.append(clock())
        yield dari.sleep(run_time)
        ended.append(clock())
        raise NO

    random.seed(1)
    with pytest.raises(ValueError, match="no"):
        run_by(Retry(wait=wait, stop=stop), fail)
    return [later - earlier for earlier, later in zip(ended, began[1:], strict=False)]


def retry_after(error):
    return len(str(error)) / 4


def growing(state):
    """A function of users: half again as long as before."""
    return 1.5 * (state.upcoming_sleep or 2)


WAITS = {
    "fixed": tenacity.wait_fixed(1.5),
    "fixed timedelta": tenacity.wait_fixed(timedelta(minutes=1)),
    "none": tenacity.wait_none(),
    "random": tenacity.wait_random(1, 3),
    "incrementing": tenacity.wait_incrementing(1, 2, max=6),
    "exponential": tenacity.wait_exponential(multiplier=0.5, max=9, min=1),
    "exponential unbounded": tenacity.wait_exponential(),
    "random exponential": tenacity.wait_random_exponential(multiplier=0.5, max=20),
    "exponential jitter": tenacity.wait_exponential_jitter(max=20, jitter=3),
    "combine": tenacity.wait_fixed(1) + tenacity.wait_random(0, 2),
    "combine function": tenacity.wait_combine(tenacity.wait_fixed(1), growing),
    "sum": sum([tenacity.wait_fixed(1), tenacity.wait_incrementing(0, 1)]),
    "chain": tenacity.wait_chain(*[tenacity.wait_fixed(n) for n in (1, 1, 5)], tenacity.wait_random(7, 8)),
    "exception": tenacity.wait_exception(retry_after),
    "function": growing,
    "idle": lambda state: state.idle_for + state.attempt_number,
}
STOPS = {
    "attempt": tenacity.stop_after_attempt(6),
    "first attempt": tenacity.stop_after_attempt(1),
    "delay": tenacity.stop_after_delay(20),
    "before delay": tenacity.stop_before_delay(20),
    "any": tenacity.stop_after_attempt(30) | tenacity.stop_after_delay(10),
    "all": tenacity.stop_after_attempt(3) & tenacity.stop_after_delay(5),
    "never, but": tenacity.stop_any(tenacity.stop_never, tenacity.stop_after_attempt(4)),
    "function": lambda state: len(state.outcome.exception().args) + state.attempt_number > 5,
}


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
@pytest.mark.parametrize("stop", STOPS.values(), ids=STOPS)
def test_the_waits_are_those_of_tenacity(monkeypatch, wait, stop):
    """Each strategy with each: the same seconds after the same attempts, in what is decided and in what is waited."""
    stop = stop | tenacity.stop_after_attempt(50) if isinstance(stop, tenacity.stop.stop_base) else stop
    expected = waits_of_tenacity(monkeypatch, 0.25, wait, stop)

    assert waits_of_attempts(0.25, wait, stop) == expected
    assert waits_of_a_task(0.25, wait, stop) == pytest.approx(expected, abs=1e-9)


def test_stop_when_event_set(one):
    """Whoever sets the event ends the attempts of a job."""
    enough = threading.Event()
    calls = []

    def fail():
        calls.append(1)
        if len(calls) == 4:
            enough.set()
        raise NO

    policy = Retry(wait=tenacity.wait_none(), stop=tenacity.stop_when_event_set(enough))

    assert one.options(retry=policy).submit(fail).exception(timeout=10) is NO
    assert len(calls) == 4


@pytest.mark.parametrize(
    ("wait", "least"),
    [(tenacity.wait_none(), 0), (tenacity.wait_fixed(0.002), 0.01), (tenacity.wait_random(0.001, 0.002), 0.005)],
)
def test_a_job_is_tried_by_them(one, wait, least):
    """The pool's clock waits, in real time; `max_retries` (3) does not count then."""
    calls = []

    def fail():
        calls.append(time.monotonic())
        raise ValueError(len(calls))

    job = one.options(retry=Retry(wait=wait, stop=tenacity.stop_after_attempt(6))).submit(fail)

    assert job.exception(timeout=10).args == (6,)
    assert job.attempt == len(calls) == 6
    assert calls[-1] - calls[0] >= least


def test_each_counts_alone():
    """`wait` leaves `max_retries` as it is, `stop` the formula; `on` and `timeout` count with both."""
    only_wait = Retry(2, wait=tenacity.wait_fixed(60))
    only_stop = Retry(0, wait_initial=1, wait_jitter=0, stop=tenacity.stop_after_attempt(4))
    limited = Retry(on=ValueError, timeout=10, wait=tenacity.wait_fixed(6), stop=tenacity.stop_never)

    assert [only_wait.wait_after(n, NO, 0) for n in (1, 2, 3)] == [60, 60, None]
    assert [only_stop.wait_after(n, NO, 0) for n in (1, 2, 3, 4)] == [1, 2, 4, None]
    assert [limited.wait_after(100, NO, elapsed) for elapsed in (0, 4, 4.1)] == [6, 6, None]
    assert limited.wait_after(1, OSError(), 0) is None


def test_no_worker_waits_for_them(make_pool):
    """A job between two attempts is SCHEDULED by the strategy's seconds, and cancelled at once."""
    pool = make_pool(1)

    def fail():
        raise NO

    job = pool.options(retry=Retry(wait=tenacity.wait_fixed(3600))).submit(fail)
    while job.state is not dari.JobState.SCHEDULED:
        assert pool.submit(int).result(timeout=10) == 0

    assert pool.submit(pow, 2, 3).result(timeout=10) == 8
    assert job.cancel()


@pytest.mark.parametrize(
    ("strategies", "told"),
    [
        ({"wait": lambda _: float("nan")}, "what `wait` gives is a number of seconds, 0 or more, not nan"),
        ({"wait": lambda _: -1}, "0 or more, not -1"),
        ({"wait": lambda _: float("inf")}, "finite number of seconds, not inf"),
        ({"wait": lambda _: None}, "TypeError('what `wait` gives is a number of seconds, 0 or more, not None')"),
        ({"wait": lambda _: "1"}, "not '1'"),
        ({"wait": lambda _: timedelta(1)}, "not datetime.timedelta(days=1)"),
        ({"wait": lambda _: 1 / 0}, "ZeroDivisionError"),
        ({"wait": lambda _: sys.exit()}, "SystemExit"),
        ({"wait": lambda: 1}, "TypeError"),
        (
            {"wait": lambda state: state.outcome.result()},
            "it was not tried again, for asking that failed: ValueError('no')",
        ),
        ({"stop": lambda _: None}, "TypeError('what `stop` gives is True or False, not None')"),
        ({"stop": lambda _: "yes"}, "not 'yes'"),
        ({"stop": lambda _: float("nan")}, "not nan"),
        ({"stop": lambda state: state.nothing}, "AttributeError"),
        ({"stop": lambda _: sys.exit()}, "SystemExit"),
    ],
)
def test_a_strategy_that_makes_no_sense_harms_nobody(one, strategies, told):
    """The job fails with its own error, which tells; the worker goes on."""
    calls = []

    def fail():
        calls.append(1)
        raise ValueError("no")

    error = one.options(retry=Retry(**strategies)).submit(fail).exception(timeout=10)

    assert (repr(error), len(calls), len(error.__notes__)) == ("ValueError('no')", 1, 1)
    assert told in error.__notes__[0]
    assert (one.submit(pow, 2, 3).result(timeout=10), one.stats().workers) == (8, 1)


def test_a_strategy_that_fails_ends_the_attempts_of_a_task():
    """With the error of the attempt, as for a job."""

    def fail():
        yield
        raise ValueError("no")

    with pytest.raises(ValueError, match="no") as caught:
        run_by(Retry(wait=lambda _: -1), fail)

    (note,) = caught.value.__notes__
    assert note.startswith("it was not tried again, for asking that failed: ValueError('what `wait` gives")


def test_every_name_of_tenacitys_state_is_there():
    """But for those by which tenacity itself changes it."""
    theirs = tenacity.RetryCallState(tenacity.Retrying(), None, (), {})
    names = {name for name in dir(theirs) if not name.startswith("_")}

    assert names - set(dir(RetryState(Retry(), 0))) == {"prepare_for_next_attempt", "set_result", "set_exception"}


def test_what_the_state_tells():
    """In an attempt of a task: who, how often, how long, and how it failed; the same state each time."""
    seen = []

    def wait(state):
        outcome = state.outcome
        state.own = getattr(state, "own", 0) + 1
        with pytest.raises(OSError, match="no") as raised:
            outcome.result()
        seen.append(
            {
                "attempt": (state.attempt_number, outcome.attempt_number, state.own),
                "ended": (outcome.failed, outcome.done(), outcome.running(), outcome.cancelled()),
                "error": (repr(outcome.exception()), outcome.exception(timeout=1) is raised.value),
                "times": (state.seconds_since_start, state.idle_for, state.upcoming_sleep),
                "call": (state.fn, state.args, state.kwargs, state.get_fn_name().rpartition(".")[2]),
                "policy": (state.retry_object, state.next_action),
            }
        )
        return 2 * state.attempt_number

    def fail(url):
        yield dari.sleep(1)
        raise OSError(f"no {url}")

    policy = Retry(2, wait=wait)
    with pytest.raises(OSError, match="no"):
        run_by(policy, fail, "x")

    first = {
        "attempt": (1, 1, 1),
        "ended": (True, True, False, False),
        "error": ("OSError('no x')", True),
        "times": (1, 0, 0),
        "call": (fail, ("x",), {}, "fail"),
        "policy": (policy, None),
    }
    assert seen == [first, first | {"attempt": (2, 2, 2), "times": (4, 2, 2)}]


def test_a_strategy_knows_the_job(one):
    """It is asked where the job ran, so `current_job` tells which one that is."""
    seen = []

    def wait(state):
        seen.append((dari.current_job(), state.attempt_number))
        return 0

    job = one.options(retry=Retry(1, wait=wait)).submit(int, "x")

    assert isinstance(job.exception(timeout=10), ValueError)
    assert seen == [(job, 1)]


def test_between_attempts_the_state_holds_nothing():
    """Not the error, whose frames hold what a cancel is to free; even if somebody keeps the state."""

    class OddError(ValueError):
        pass

    kept = []
    attempts = Attempts(Retry(wait=lambda state: kept.append(state) or 1))
    error = OddError()
    gone = weakref.ref(error)
    assert attempts.failed(error, 1.0, print, (1,))
    assert repr(kept[0]) == "<RetryState: attempt 1, waited 1 s, None>"
    del error

    assert gone() is None
    assert (kept[0].outcome, kept[0].seconds_since_start, kept[0].fn, kept[0].args) == (None, None, None, ())


def test_a_coroutine_of_asyncio_is_tried_by_them():
    """`retry.run` under asyncio, as everywhere."""
    calls = []

    async def fetch():
        calls.append(1)
        await asyncio.sleep(0)
        if len(calls) < 5:
            raise OSError
        return "yes"

    policy = Retry(wait=tenacity.wait_none(), stop=tenacity.stop_after_attempt(5))

    async def main():
        return await policy.run(fetch)

    assert asyncio.run(main()) == "yes"


@pytest.mark.parametrize("name", ["wait", "stop"])
@pytest.mark.parametrize("given", [1, 0, "1", timedelta(1), tenacity.wait_none, tenacity.stop_after_attempt, Retry()])
def test_what_is_no_strategy_is_refused(name, given):
    """Where it is made, by name: numbers, and classes that nobody called."""
    with pytest.raises(TypeError, match=f"`{name}` is a function of the attempts' state, as tenacity's {name}_"):
        Retry(**{name: given})
    with pytest.raises(TypeError):
        Retry(3, Exception, 0.1, 5, 1, None, None)


def test_dari_loads_neither_tenacity_nor_futures():
    """A strategy is asked with what is there."""
    code = (
        "import sys, dari; from dari.pool.retry import Attempts, Retry\n"
        "attempts = Attempts(Retry(wait=lambda state: state.idle_for + 1, stop=lambda state: state.outcome.failed))\n"
        "print(attempts.failed(ValueError(), 1.0), {'tenacity', 'concurrent', 'random'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)

    assert done.stdout == "False set()\n"
