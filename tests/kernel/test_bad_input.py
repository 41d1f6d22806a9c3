"""What makes no sense is told to who wrote it, with the way out; everybody else goes on as if nothing had happened.

Beside each mistake here runs a neighbour, who must not notice. Mistakes that have a page of their own are elsewhere:
wrong yields in test_yields, groups in test_groups_*, scopes in test_scopes and test_leaving, locks in test_locks.
"""

from __future__ import annotations

import gc
import math

import pytest

import dari
from dari._kernel.contract import FINISHED

NAN = math.nan


def neighbour(hand):
    """Ten naps of a tenth of a second, which must take one second."""
    started = hand.now
    for _ in range(10):
        yield dari.sleep(0.1)
    return round(hand.now - started, 6)


@pytest.fixture
def beside(hand):
    """Runs a main task and the neighbour to their ends, and gives what main returned."""

    def run(main, *args):
        undisturbed = hand.create(neighbour(hand))
        task = hand.create(main, *args)
        assert hand.run() is FINISHED
        assert undisturbed.result() == 1.0
        return task.result()

    return run


def told(yielded):
    """What a task is told that yields this: kind and text of the error."""
    try:
        yield yielded
    except Exception as error:  # noqa: BLE001 - it is the result
        return type(error), str(error)
    return None


# ---- numbers


@pytest.mark.parametrize("delay", [-1, -0.001, NAN])
@pytest.mark.parametrize(
    "make",
    [
        dari.sleep,
        dari.timeout,
        dari.fail_after,
        dari.move_on_after,
        lambda delay: dari.CancelScope(grace=delay),
    ],
    ids=["sleep", "timeout", "fail_after", "move_on_after", "grace"],
)
def test_a_delay_is_zero_or_more(make, delay):
    """Refused where it is written, with the value."""
    with pytest.raises(ValueError, match=rf"a number of seconds, 0 or more, not {delay}"):
        make(delay)


@pytest.mark.parametrize(
    "make",
    [
        dari.sleep_until,
        dari.timeout_at,
        lambda deadline: dari.CancelScope(deadline=deadline),
        lambda deadline: setattr(dari.CancelScope(), "deadline", deadline),
    ],
    ids=["sleep_until", "timeout_at", "scope", "setter"],
)
def test_a_time_is_not_nan(make):
    """It would stand anywhere among the deadlines of everybody."""
    with pytest.raises(ValueError, match="a time on the scheduler's clock, not NaN"):
        make(NAN)


def test_a_deadline_that_is_set_to_nan_stays_what_it_was(beside, hand):
    """Also where the scope is in use: it strikes when it would have."""

    def main():
        started = hand.now
        with dari.move_on_after(0.25) as scope:
            with pytest.raises(ValueError, match="not NaN"):
                scope.deadline = NAN
            yield dari.sleep(10)
        return hand.now - started

    assert beside(main) == 0.25


def test_times_in_the_past_are_over(beside, hand):
    """Minus one is a time like any other, and has been: `sleep_until` steps aside, a scope with it is cancelled."""

    def main():
        yield dari.sleep_until(-1)
        with dari.move_on_after(None) as scope:
            scope.deadline = -1
            yield dari.sleep(10)
        return scope.cancelled_caught, hand.now

    assert beside(main) == (True, 0.0)


@pytest.mark.parametrize("maxsize", [0, -1])
def test_a_queue_of_no_size_is_unbounded(maxsize):
    """As asyncio's."""
    queue = dari.Queue(maxsize)
    for item in range(10_000):
        queue.put_nowait(item)

    assert (queue.qsize(), queue.full()) == (10_000, False)


# ---- the tuple spelling


@pytest.mark.parametrize(
    "spelled",
    [("sleep",), ("sleep", 1, 2), ("sleep_until",), ("sleep_until", 1, 2), ("shield",), ("yield",), ("yield", 1, 2)],
    ids=repr,
)
def test_a_command_of_the_wrong_arity(beside, spelled):
    """The task is told what it yielded, and how many arguments it takes."""
    kind, text = beside(told, spelled)

    assert kind is TypeError
    assert text.startswith(f"a task yielded {spelled!r}: ")
    assert "positional argument" in text


def test_a_command_with_an_argument_that_makes_no_sense(beside):
    """The same errors as of the operation that it spells."""
    assert beside(told, ("sleep", -1)) == (ValueError, "sleep takes a number of seconds, 0 or more, not -1")
    assert beside(told, ("sleep_until", NAN))[0] is ValueError


def test_what_is_yielded_in_place_of_its_operation(beside):
    """The queue and not its `get`, the function and not its call: named, with what could have been yielded."""
    for wrong in (dari.Queue(), dari.Lock(), dari.Event(), dari.TaskGroup(), dari.timeout(1), dari.sleep):
        kind, text = beside(told, wrong)

        assert kind is TypeError
        assert text.startswith(f"told yielded {wrong!r}: a task yields nothing, an operation")


def test_an_object_whose_repr_fails(beside):
    """Its error is the task's, not the scheduler's."""

    class Shy:
        def __repr__(self):
            raise ValueError("no name")

    assert beside(told, Shy()) == (ValueError, "no name")
    assert beside(told, ("unknown", Shy())) == (ValueError, "no name")


# ---- waiting in a circle


@pytest.mark.parametrize(
    ("spell", "verb"),
    [
        (lambda task: task, "waits for"),
        (dari.shield, "waits for"),
        (lambda task: ("shield", task), "waits for"),
        (dari.gather, "gathers"),
        (lambda task: [dari.sleep(100), task], "gathers"),
    ],
    ids=["task", "shield", "tuple", "gather", "list"],
)
def test_a_task_that_waits_for_itself(beside, hand, spell, verb):
    """Told at that yield, in every spelling; what else was in the list does not run on."""

    def main():
        task = dari.current_task()
        return repr(task), (yield from told(spell(task)))

    shown, (kind, text) = beside(main)

    assert (kind, text) == (RuntimeError, f"{shown} {verb} itself: that would never end")
    assert round(hand.now, 6) == 1.0


@pytest.mark.parametrize("spell", [lambda task: task, dari.shield], ids=["task", "shield"])
def test_three_who_wait_in_a_circle(beside, spell):
    """Who closes it is told, by names; then it goes on, and so do the others and whoever waits for them."""
    tasks = []

    def waits(number):
        yield dari.sleep(0.1 * number)
        try:
            yield spell(tasks[(number + 1) % 3])
        except dari.DeadlockError as error:
            return str(error)
        return "went on"

    def main():
        tasks.extend(dari.create_task(waits, number, name="abc"[number]) for number in range(3))
        return (yield [dari.shield(task) for task in tasks])

    first, second, third = beside(main)

    assert (first, second) == ("went on", "went on")
    assert third.startswith("this would never end: 'c' waits for ")
    assert third.endswith(" waits for 'c'")


# ---- releasing too often


def test_a_condition_that_is_released_twice(beside):
    """The end of the block says so; who waited for the lock has it by then, and keeps it."""
    condition = dari.Condition()
    log = []

    def next_one():
        with (yield condition.acquire()):
            yield dari.sleep(0.3)
            log.append(condition.locked())

    def main():
        guard = yield condition.acquire()
        waiting = dari.create_task(next_one)
        yield
        with pytest.raises(RuntimeError, match="was released already, and is released once only"), guard:
            condition.release()
        yield waiting
        return log, condition.locked()

    assert beside(main) == ([True], False)


@pytest.mark.parametrize("kind", [dari.Lock, dari.Semaphore, dari.BoundedSemaphore])
def test_a_guard_that_is_released_twice(beside, kind):
    """Whatever it guards: there is no permit more than before."""
    guarded = kind()

    def main():
        guard = yield guarded.acquire()
        guard.release()
        with pytest.raises(RuntimeError, match=f"<Guard of <{kind.__name__} .*, released>: it was released already"):
            guard.release()
        yield guarded.acquire()
        return guarded.locked()

    assert beside(main) is True


def test_a_bounded_semaphore_that_is_released_too_often_beside_its_users(beside):
    """Who did it is told; those who hold it and those who wait are as before."""
    places = dari.BoundedSemaphore(1)
    log = []

    def user(name):
        with (yield places.acquire()):
            log.append(f"{name} in")
            yield dari.sleep(0.1)
            log.append(f"{name} out")

    def main():
        with pytest.raises(ValueError, match="all of its 1 permits are free: one release"):
            places.release()
        yield [user("a"), user("b")]
        with pytest.raises(ValueError, match="all of its 1 permits are free: one release"):
            places.release()

    beside(main)

    assert log == ["a in", "a out", "b in", "b out"]


# ---- what tasks are made of


@pytest.mark.parametrize(
    ("main", "args", "message"),
    [
        (lambda: None, (), r"gave None: a task is a generator or a coroutine, .*is there a `yield` in it\?"),
        (5, (), "5 gave 5: a task is a generator or a coroutine"),
        (neighbour, (1, 2), r"neighbour\(\) takes 1 positional argument but 2 were given"),
        ((number for number in ()), (1,), r"has begun already, so it takes no arguments: \(1,\)"),
    ],
    ids=["no yield", "no function", "wrong arguments", "a generator and arguments"],
)
def test_what_no_task_is_made_of(beside, main, args, message):
    """Who creates it is told at once."""

    def creator():
        with pytest.raises(TypeError, match=message):
            dari.create_task(main, *args)
        yield

    beside(creator)


def test_one_scope_for_two_tasks(beside):
    """The second is told; the first one's timeout goes on counting."""
    scope = dari.move_on_after(0.3)

    def main():
        first = dari.create_task(uses)
        yield
        with pytest.raises(RuntimeError, match="was entered already: a scope is for one block, make a new one"):
            yield dari.create_task(uses)
        return (yield first)

    def uses():
        with scope:
            yield dari.sleep(10)
        return scope.cancelled_caught

    assert beside(main) is True


# ---- scopes in generators that are data


def test_a_data_generator_that_holds_a_scope(beside):
    """Its consumer fails, by name, with the reason and the way out; who waits for the consumer hears it."""

    def data():
        with dari.timeout(0.2):
            yield "first"
            yield "second"

    def consumer():
        for _ in data():
            yield dari.sleep(0.5)

    def main():
        return (yield from told(dari.create_task(consumer, name="consumer")))

    kind, text = beside(main)

    assert kind is RuntimeError
    assert "'consumer' running> was stopped by <Timeout cancelled" in text
    assert "a scope is opened in a task, not in a generator that yields to its consumer" in text


# ---- who does not want to end


def ignores_its_end():
    while True:
        try:
            yield dari.sleep(0.1)
        except GeneratorExit:
            pass


def test_a_helper_that_ignores_generatorexit(beside, monkeypatch):
    """Python's own error, in the task that closed it."""
    monkeypatch.setattr("sys.unraisablehook", lambda _: None)  # what Python says when the helper is collected

    def main():
        helper = ignores_its_end()
        yield next(helper)
        with pytest.raises(RuntimeError, match="generator ignored GeneratorExit"):
            helper.close()
        del helper
        yield dari.sleep(0.1)
        return "went on"

    assert beside(main) == "went on"


def test_a_task_that_ignores_generatorexit_is_collected_with_its_scheduler(beside, by_hand, monkeypatch):
    """Python tells who it was; nobody else is concerned, not even in the middle of a step of another scheduler."""
    heard = []
    monkeypatch.setattr("sys.unraisablehook", lambda unraisable: heard.append(str(unraisable.exc_value)))

    other = [by_hand()]
    other[0].create(ignores_its_end)
    other[0].settle()

    def main():
        other.clear()
        gc.collect()
        yield
        return "went on"

    assert (beside(main), set(heard)) == ("went on", {"generator ignored GeneratorExit"})


def test_a_task_that_raises_generatorexit(beside):
    """It has failed with it, like with any other error."""

    def raises():
        yield
        raise GeneratorExit("mine")

    def main():
        with pytest.raises(GeneratorExit, match="mine"):
            yield dari.create_task(raises)
        return "went on"

    assert beside(main) == "went on"


@pytest.mark.parametrize("how", ["yield", "sleep", "scope", "coroutine"])
def test_a_task_that_swallows_cancellation_for_ever(beside, hand, how):
    """Others run as if it were not there; it is reported by name, and gets a step now and then."""
    swallowed = 0

    def waits():
        match how:
            case "yield":
                yield
            case "sleep":
                yield dari.sleep(5)
            case "scope":
                with dari.timeout(5):
                    yield dari.sleep(5)

    def stubborn():
        nonlocal swallowed
        while hand.now < 2:
            try:
                yield from waits()
            except dari.Cancelled:
                swallowed += 1

    async def stubborn_coroutine():
        nonlocal swallowed
        while hand.now < 2:
            try:
                await dari.sleep(5)
            except dari.Cancelled:
                swallowed += 1

    def main():
        task = dari.create_task(stubborn_coroutine if how == "coroutine" else stubborn, name="stubborn")
        yield
        task.cancel()
        yield dari.wait([task])
        return swallowed < 50

    assert beside(main) is True
    ((report, error),) = hand.reports
    assert "'stubborn' running> has swallowed Cancelled 32 times and is made to wait: let it out of the task" in report
    assert error is None
