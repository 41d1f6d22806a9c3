"""What may be yielded, and what becomes of everything else: an error at that very `yield`."""

from __future__ import annotations

import pytest

import dari


def attempt(*yielded):
    """Yields each thing and gives what it got or the errors' texts."""
    got = []
    for each in yielded:
        try:
            got.append((yield each))
        except Exception as error:  # noqa: BLE001 - it is the result
            got.append(f"{type(error).__name__}: {error}")
    return got


def run(hand, main, *args):
    task = hand.create(main, *args)
    hand.run()
    return task.result()


def test_the_spellings_of_an_operation(hand):
    """By yield, by yield from, by tuple, by await: the same object does the same."""

    def generator():
        started = hand.now
        yield dari.sleep(1)
        yield from dari.sleep(1)
        yield ("sleep", 1)
        return hand.now - started

    async def coroutine():
        started = hand.now
        await dari.sleep(1)
        return hand.now - started

    assert (run(hand, generator), run(hand, coroutine)) == (3.0, 1.0)


def test_what_a_yield_gives(hand):
    """None for a bare one; a tuple's own value; an operation's result."""
    queue = dari.Queue()
    queue.put_nowait("item")

    assert run(
        hand,
        attempt,
        None,
        ("yield", "value"),
        ("sleep", 0),
        queue.get(),
        dari.sleep(0),
        ("yield", None),
        dari.checkpoint(),
    ) == [None, "value", None, "item", None, None, None]


def test_a_generator_is_refused_with_the_way_out(hand):
    """The commonest mistake."""

    def helper():
        yield

    (text,) = run(hand, attempt, helper())

    assert "helper" in text
    assert "did you mean `yield from`?" in text


def test_a_coroutine_is_refused_where_no_loop_runs(hand):
    """And told where it could be waited for."""

    async def helper():
        pass

    coroutine = helper()
    (text,) = run(hand, attempt, coroutine)
    coroutine.close()

    assert "helper" in text
    assert "await dari.arun" in text


@pytest.mark.parametrize("wrong", [1, "sleep", object(), {}, 0.5, True, iter([1])], ids=str)
def test_anything_else_is_refused_and_named(hand, wrong):
    """The text names the task, the object and what could have been yielded."""
    (text,) = run(hand, attempt, wrong)

    assert text.startswith(f"TypeError: attempt yielded {wrong!r}: a task yields nothing, an operation")


def test_wrong_tuples(hand):
    """An unknown name, a wrong arity, a wrong argument, no name at all."""
    texts = run(hand, attempt, ("slep", 1), ("sleep",), ("sleep", 1, 2), ("sleep", -1), (), (1, 2))

    assert "there is no command 'slep'; known: yield, sleep, sleep_until, shield" in texts[0]
    assert "('sleep',)" in texts[1]
    assert "('sleep', 1, 2)" in texts[2]
    assert "0 or more" in texts[3]
    assert texts[4].startswith("TypeError: a task yielded (): a tuple must be (name, *arguments)")
    assert texts[5].startswith("TypeError: a task yielded (1, 2)")


def test_a_named_tuple_is_a_tuple(hand):
    """Any tuple whose head is a name."""
    from typing import NamedTuple

    class Command(NamedTuple):
        name: str
        delay: float

    assert run(hand, attempt, Command("sleep", 2)) == [None]
    assert hand.now == 2.0


def test_a_bad_task_harms_nobody(hand):
    """It fails by itself if it does not catch; others go on."""

    def bad():
        yield 1

    def good():
        yield dari.sleep(1)
        return "fine"

    failed, fine = hand.create(bad), hand.create(good)
    hand.run()

    assert ("fine", TypeError) == (fine.result(), type(failed.exception()))


def test_an_operation_whose_begin_raises(hand):
    """The task that yielded it gets the error, whatever it had begun."""

    class Broken(dari.Operation):
        def __init__(self, blocks):
            self.blocks = blocks

        def begin(self, task):
            if self.blocks:
                task.block(self, lambda wait: True)
            raise OSError("broken")

    assert run(hand, attempt, Broken(False), Broken(True), dari.sleep(1)) == [
        "OSError: broken",
        "OSError: broken",
        None,
    ]


@pytest.mark.parametrize("delay", [-1, -0.001, float("nan")])
def test_delays_that_make_no_sense(hand, delay):
    """Refused where they are written, before anything waits."""
    for make in (dari.sleep, dari.timeout, dari.move_on_after):
        with pytest.raises(ValueError, match="0 or more"):
            make(delay)
    assert "0 or more" in run(hand, attempt, ("sleep", delay))[0]


def test_times_that_are_no_times():
    """NaN would stand anywhere in the heap."""
    nan = float("nan")
    for make in (dari.sleep_until, lambda when: dari.CancelScope(deadline=when)):
        with pytest.raises(ValueError, match="not nan"):
            make(nan)


def test_a_subclass_of_an_operation_is_one(hand):
    """Users write their own: `begin` ends it at once, or blocks and wakes later."""
    waits = []

    class Twice(dari.Operation):
        def __init__(self, value):
            self.value = value

        def begin(self, task):
            task.resume(self.value * 2)

    class Later(dari.Operation):
        def begin(self, task):
            waits.append(task.block(self, lambda wait: True))

    task = hand.create(attempt, Twice(21), Later())
    hand.settle()
    assert waits[0].open
    waits[0].wake()
    waits[0].wake()
    hand.run()

    assert task.result() == [42, None]


def test_a_late_wake_is_dropped(hand):
    """A wait is its own id: once it is over, waking it does nothing to the waits that follow."""
    from dari._kernel.outcome import Value

    waits = []

    class Later(dari.Operation):
        def begin(self, task):
            waits.append(task.block(self, lambda wait: True))

    task = hand.create(attempt, Later(), Later(), Later())
    hand.settle()
    results = [waits[0].wake(Value(1)), waits[0].wake(Value("again"))]
    hand.settle()
    results += [waits[0].wake(Value("late")), waits[1].wake(Value(2)), waits[0].wake(Value("later"))]
    hand.settle()
    results += [waits[1].wake(Value("late")), waits[2].wake(Value(3))]
    hand.run()

    assert (results, task.result()) == ([True, False, False, True, False, False, True], [1, 2, 3])


def test_host_needs_a_host(hand):
    """Standalone, `host(…)` says what it needs."""

    async def helper():
        pass

    coroutine = helper()
    (text,) = run(hand, attempt, dari.host(coroutine))
    coroutine.close()

    assert "needs a running asyncio or trio loop" in text


def test_what_the_driver_can_adapt(by_hand):
    """A foreign object is waited for by what the driver has for it; another of the same type may be refused."""

    class Foreign:
        def __init__(self, known):
            self.known = known

    class Adapting(by_hand):
        def adapt(self, foreign):
            return dari.sleep(2) if isinstance(foreign, Foreign) and foreign.known else None

    hand = Adapting()
    got = run(hand, attempt, Foreign(True), Foreign(True), Foreign(False), dari.host(Foreign(True)))

    assert got[:2] + got[3:] == [None, None, None]
    assert "Foreign object" in got[2]
    assert hand.now == 6.0


def test_operations_say_what_they_are():
    """Their reprs stand in the errors and in the dumps."""
    operations = [
        dari.sleep(1),
        dari.sleep_until(3),
        dari.checkpoint(),
        dari.wait_readable(4),
        dari.wait_writable(4),
        dari.Event().wait(),
        dari.Queue(3).get(),
        dari.Queue().put(1),
    ]

    assert [repr(operation) for operation in operations] == [
        "sleep(1)",
        "sleep_until(3)",
        "checkpoint()",
        "wait for descriptor 4 to read",
        "wait for descriptor 4 to write",
        "wait of <Event not set, 0 waiting>",
        "get from <Queue 0 of 3 items>",
        "put into <Queue 0 items>",
    ]
