"""Values and errors, and what their tracebacks hold."""

from __future__ import annotations

import traceback

import pytest

import dari
from dari._kernel.outcome import Error, Value, strip_frames


def frames(error):
    return [frame.name for frame in traceback.extract_tb(error.__traceback__)]


def boom():
    raise ValueError("boom")


def test_a_value_resumes_and_unwraps():
    """It is sent into what is resumed, and given to who asks for the result."""

    def echo():
        got = yield "ready"
        yield got

    steps = echo()
    next(steps)

    assert (Value("hello").into(steps), Value("hello").unwrap()) == ("hello", "hello")


def test_an_error_is_thrown_and_raised():
    """The very same object, in both ways."""
    error = KeyError("k")

    def catcher():
        try:
            yield
        except KeyError as caught:
            yield caught

    steps = catcher()
    next(steps)

    assert error is Error(error).into(steps)
    with pytest.raises(KeyError) as raised:
        Error(error).unwrap()
    assert error is raised.value


def test_the_traceback_does_not_grow_when_raised_again():
    """Each raise starts from the traceback that the error came with."""
    with pytest.raises(ValueError, match="boom") as caught:
        boom()
    outcome = Error(caught.value)
    lengths = set()
    for _ in range(5):
        with pytest.raises(ValueError, match="boom") as raised:
            outcome.unwrap()
        lengths.add(len(frames(raised.value)))

    assert len(lengths) == 1


def test_strip_frames_of_nothing():
    """No traceback stays none."""
    assert strip_frames(None) is None


def failing():
    yield dari.sleep(1)
    boom()


def waiting(task):
    return (yield from task)


async def awaiting(task):
    return await task


def just_yielding(task):
    return (yield task)


def test_an_error_shows_the_task_s_own_frames_only(hand):
    """None of the scheduler's frames, at whatever depth the task waited."""
    task = hand.create(failing)
    hand.run()

    assert frames(task.exception()) == ["failing", "boom"]


@pytest.mark.parametrize("waiter", [waiting, just_yielding, awaiting])
def test_an_error_that_passes_through_a_waiter_has_no_scheduler_frames(hand, waiter):
    """The waiter's frame, then the task's; not that of `yield from` between them."""
    task = hand.create(failing)
    second = hand.create(waiter, task)
    hand.run()

    assert [waiter.__name__, "failing", "boom"] == frames(second.exception())


def test_the_traceback_does_not_grow_with_every_waiter(hand):
    """Twenty tasks wait for one that fails: each sees itself and the task, and asking again changes nothing."""
    task = hand.create(failing)
    waiters = [hand.create(waiting, task) for _ in range(20)]
    hand.run()

    for waiter in waiters:
        with pytest.raises(ValueError, match="boom") as raised:
            waiter.result()
        assert list(frames(raised.value))[-3:] == ["waiting", "failing", "boom"]
        assert len(frames(raised.value)) <= 7
    with pytest.raises(ValueError, match="boom") as raised:
        task.result()
    assert list(frames(raised.value))[-2:] == ["failing", "boom"]
    assert len(frames(raised.value)) <= 6


def test_an_error_thrown_at_a_wrong_yield_has_no_scheduler_frames(hand):
    """The traceback ends at the yield that was wrong."""

    def wrong():
        yield 1

    task = hand.create(wrong)
    hand.run()

    assert frames(task.exception()) == ["wrong"]


def test_an_error_leaves_no_cycle(hand):
    """A failed task is gone with its last reference, without the garbage collector."""
    import gc
    import weakref

    def main():
        raise ValueError("boom")
        yield

    gc.disable()
    try:
        task = hand.create(main)
        hand.run()
        hand.kernel.observed(task)
        hand.reports.clear()
        with pytest.raises(ValueError, match="boom") as raised:
            task.result()
        del raised
        gone = weakref.ref(task)
        del task
        assert gone() is None
    finally:
        gc.enable()
