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
from dari._kernel.operations import commands

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
    with pytest.raises(ValueError, match="a time on the scheduler's clock, in seconds, not nan"):
        make(NAN)


def test_a_deadline_that_is_set_to_nan_stays_what_it_was(beside, hand):
    """Also where the scope is in use: it strikes when it would have."""

    def main():
        started = hand.now
        with dari.move_on_after(0.25) as scope:
            with pytest.raises(ValueError, match="not nan"):
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


@pytest.mark.parametrize("wrong", ["1", None, NAN, [1]], ids=repr)
@pytest.mark.parametrize("make", [dari.sleep, dari.sleep_until, dari.every], ids=["sleep", "sleep_until", "every"])
def test_what_is_no_number_of_seconds(beside, make, wrong):
    """The task is told at the call, also in the tuple spelling; not what Python says when it compares them."""

    def main():
        with pytest.raises((TypeError, ValueError)) as caught:
            yield make(wrong)
        if make is not dari.every:
            assert str(caught.value) in (yield from told((make.__name__, wrong)))[1]
        return str(caught.value)

    text = beside(main)

    assert text.startswith(("a delay is a ", "a deadline is a ", "a period is a "))
    assert text.endswith(
        f" seconds{', 0 or more' * text.startswith('a delay')}{' above 0' * text.startswith('a p')}, not {wrong!r}"
    )


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (dari.Queue, "the maxsize of a Queue is an int"),
        (dari.PriorityQueue, "the maxsize of a PriorityQueue is an int"),
        (dari.LifoQueue, "the maxsize of a LifoQueue is an int"),
        (dari.Semaphore, "the value of a Semaphore is an int, 0 or more"),
        (dari.BoundedSemaphore, "the value of a BoundedSemaphore is an int, 0 or more"),
        (dari.Barrier, "the number of parties of a Barrier is an int, 1 or more"),
        (dari.priority, "a priority is an int"),
    ],
)
@pytest.mark.parametrize("wrong", [1.5, NAN, "3", None], ids=repr)
def test_what_is_no_whole_number(make, name, wrong):
    """Refused where it is given, by name: half a permit more than none would let everybody in."""
    with pytest.raises(TypeError) as caught:
        make(wrong)

    assert str(caught.value) == f"{name}, not {wrong!r}"


@pytest.mark.parametrize("wrong", [1.5, NAN, "3"], ids=repr)
def test_a_priority_that_is_no_int(beside, wrong):
    """It would stand in the lane of another one. Refused at birth, and later: then the task keeps the one it has."""

    def main():
        with pytest.raises(TypeError, match="a priority is an int, not "):
            dari.create_task(told, None, priority=wrong)
        task = dari.create_task(told, None, priority=3)
        with pytest.raises(TypeError, match="a priority is an int, not "):
            task.priority = wrong
        yield task
        return task.priority

    assert beside(main) == 3


def test_ints_of_other_kinds_are_ints(beside):
    """What acts as one: an enum's member, a library's integer."""

    class Three:
        def __index__(self):
            return 3

    def main():
        task = dari.create_task(told, None, priority=Three())
        yield task
        task.priority = dari.Priority.LOW
        return type(task.priority), task.priority

    assert beside(main) == (int, 3)
    assert (dari.Queue(Three()).maxsize, dari.Barrier(Three()).parties) == (3, 3)


@pytest.mark.parametrize(
    "make",
    [dari.timeout_at, lambda when: dari.CancelScope(deadline=when)],
    ids=["timeout_at", "scope"],
)
def test_a_deadline_that_is_no_time(beside, make):
    """Refused where it is made: nothing has been entered yet."""

    def main():
        with (
            pytest.raises(TypeError, match="a deadline is a time on the scheduler's clock, in seconds, not '1'"),
            make("1"),
        ):
            yield
        with dari.move_on_after(1) as scope:
            with pytest.raises(TypeError, match="not '1'"):
                scope.deadline = "1"
            yield
        return scope.cancelled_caught

    assert beside(main) is False


@pytest.mark.parametrize("wrong", [5, None, "task", dari.sleep(1)], ids=repr)
def test_what_cannot_be_shielded(beside, wrong):
    """Only a task runs by itself."""
    with pytest.raises(TypeError) as caught:
        dari.shield(wrong)

    assert str(caught.value) == f"shield takes a task or a job, not {wrong!r}: make a task of it by dari.create_task"
    assert beside(told, ("shield", wrong)) == (TypeError, f"a task yielded {('shield', wrong)!r}: {caught.value}")


@pytest.mark.parametrize("maxsize", [0, -1])
def test_a_queue_of_no_size_is_unbounded(maxsize):
    """As asyncio's."""
    queue = dari.Queue(maxsize)
    for item in range(10_000):
        queue.put_nowait(item)

    assert (queue.qsize(), queue.full()) == (10_000, False)


# ---- descriptors


@pytest.mark.parametrize("wait", [dari.wait_readable, dari.wait_writable], ids=["read", "write"])
def test_a_descriptor_below_zero(beside, wait):
    """As a socket has that is closed. It is refused before anybody watches it."""
    kind, text = beside(told, wait(-1))

    assert kind is ValueError
    assert text == f"{wait(-1)!r}: a descriptor is 0 or more; the file that it is from is closed"


@pytest.mark.parametrize("wrong", [None, "file", 1.5], ids=repr)
def test_what_has_no_descriptor(wrong):
    """Refused at the call, with what would have been one."""
    with pytest.raises(TypeError, match=r"is a descriptor, or has fileno\(\), not "):
        dari.wait_readable(wrong)


# ---- the tuple spelling


@pytest.mark.parametrize(
    ("spelled", "right"),
    [
        (("sleep",), "('sleep', delay)"),
        (("sleep", 1, 2), "('sleep', delay)"),
        (("sleep_until",), "('sleep_until', deadline)"),
        (("sleep_until", 1, 2), "('sleep_until', deadline)"),
        (("shield",), "('shield', task)"),
        (("yield",), "('yield', value)"),
        (("yield", 1, 2), "('yield', value)"),
    ],
    ids=repr,
)
def test_a_command_of_the_wrong_arity(beside, spelled, right):
    """The task is told what it yielded, and how it is spelled."""
    assert beside(told, spelled) == (TypeError, f"a task yielded {spelled!r}: it is spelled {right}")


def silent(delay):
    """Does not tell what it takes, as some built-in functions."""
    return dari.sleep(delay)


silent.__signature__ = "none"


@pytest.mark.parametrize(
    ("make", "arguments", "text"),
    [
        (lambda: dari.sleep(1), (1,), "it is spelled ('mine',)"),
        (lambda delay, *, more=3: dari.sleep(delay + more), (), "it is spelled ('mine', delay)"),
        (lambda first, second=2, *more: dari.sleep(first), (), "it is spelled ('mine', first, second=2, *more)"),
        (lambda delay: dari.sleep(str(delay)), (1,), "a delay is a number of seconds, 0 or more, not '1'"),
        (silent, (), "silent() missing 1 required positional argument: 'delay'"),
    ],
    ids=["none", "some", "more", "another mistake", "silent"],
)
def test_a_registered_command_of_the_wrong_arity(beside, monkeypatch, make, arguments, text):
    """As one of dari's; what the function says by itself is told as it is."""
    monkeypatch.setitem(commands, "mine", make)

    assert beside(told, ("mine", *arguments)) == (TypeError, f"a task yielded {('mine', *arguments)!r}: {text}")


@pytest.mark.parametrize("spell", [dari.gather, lambda *things: list(things)], ids=["gather", "list"])
def test_one_of_several_that_cannot_be_yielded(beside, hand, spell):
    """Told at that yield; the others do not run on."""
    kind, text = beside(told, spell(dari.sleep(100), 5))

    assert kind is TypeError
    assert text.startswith("one of several yielded 5: a task yields nothing, an operation such as")
    assert round(hand.now, 6) == 1.0


def test_a_command_with_an_argument_that_makes_no_sense(beside):
    """The same errors as of the operation that it spells."""
    assert beside(told, ("sleep", -1)) == (ValueError, "a delay is a number of seconds, 0 or more, not -1")
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


# ---- operations that fail where they begin


class Broken(dari.Operation):
    def __init__(self, error, blocks):
        self.error, self.blocks = error, blocks

    def begin(self, task):
        if self.blocks:
            task.block(self, lambda _: True)
        raise self.error


class Stop(BaseException):
    """No Exception."""


@pytest.mark.parametrize("error", [OSError(), Stop(), GeneratorExit(), KeyboardInterrupt(), SystemExit()], ids=repr)
@pytest.mark.parametrize("blocks", [False, True])
def test_an_operation_whose_begin_raises(beside, blocks, error):
    """Whatever it raises, the task gets it at that yield, and can go on; if it began to wait, it does no more."""

    def main():
        try:
            yield Broken(error, blocks)
        except BaseException as caught:  # noqa: BLE001 - it is the result
            yield dari.sleep(0.1)
            return caught

    assert beside(main) is error


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_operation_whose_begin_ends_the_program(hand, error):
    """As if the task had raised it at that yield: it ends with it, and it comes out, once."""

    def main():
        yield Broken(error(), False)

    undisturbed, task = hand.create(neighbour(hand)), hand.create(main)
    with pytest.raises(error):
        hand.run()

    assert isinstance(task.exception(), error)
    assert hand.run() is FINISHED
    assert undisturbed.result() == 1.0


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


@pytest.mark.parametrize("options", [{}, {"return_when": dari.FIRST_COMPLETED}, {"timeout": 50}], ids=repr)
def test_a_task_that_waits_for_itself_and_others(beside, hand, options):
    """As alone. A look is not a wait."""

    def main():
        task, other = dari.current_task(), dari.create_task(sleeps)
        looked = yield dari.wait([task, other], timeout=0)
        assert looked == (set(), {task, other})
        shown = repr(task)
        with pytest.raises(RuntimeError) as next_one:
            dari.as_completed([other, task])
        kind, text = yield from told(dari.wait([other, task], **options))
        other.cancel()
        return shown, kind, {text, str(next_one.value)}

    def sleeps():
        yield dari.sleep(100)

    shown, kind, texts = beside(main)

    assert (kind, texts) == (RuntimeError, {f"{shown} waits for itself: that would never end"})
    assert round(hand.now, 6) == 1.0


@pytest.mark.parametrize("spell", [lambda task: task, dari.shield], ids=["task", "shield"])
def test_three_who_wait_in_a_circle(beside, spell):
    """Who closes it is told, by numbers and names; then it goes on, and so do the others and whoever waits for them."""
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
    told, *lines = third.splitlines()
    assert told == f"this would never end: {' waits for '.join(tasks[number].label for number in (2, 0, 1, 2))}"
    assert sum(f"{__file__}:" in line for line in lines) == 3


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
