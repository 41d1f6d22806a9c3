"""A generator belongs to one task, from its beginning to its end."""

from __future__ import annotations

import pytest

import dari
from dari import TaskState


def generator():
    for _ in range(3):
        yield dari.sleep(1)
    return "whole"


async def coroutine():
    return await dari.create_task(generator)


@pytest.mark.parametrize("make", [generator, coroutine])
def test_one_that_is_given_to_two_tasks(hand, make):
    """The first has it, whole; the second fails before it touches it, and says what to give instead."""
    source = make()
    first, second = hand.create(source), hand.create(source)
    hand.run()

    assert (first.result(), hand.now) == ("whole", 3.0)
    with pytest.raises(RuntimeError, match="has begun already: give each task one of its own"):
        second.result()


def test_one_whose_other_task_has_ended_meanwhile(hand):
    """It is not taken for one that ends at once with None."""

    def at_once():
        return "value"
        yield

    source = at_once()
    first, second = hand.create(source), hand.create(source)
    hand.run()

    assert (first.result(), second.state) == ("value", TaskState.FAILED)
    assert "has ended already" in str(second.exception())


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("make", [generator, coroutine])
def test_one_that_has_begun_or_ended_is_refused(hand, make, steps):
    """Where it is given, with its state; nothing of it is touched."""
    source = make()
    if steps == 4:
        source.close()
    elif make is coroutine:
        hand.create(source)
        hand.step()
    else:
        next(source)

    with pytest.raises(RuntimeError, match="has ended already" if steps == 4 else "has begun already"):
        hand.create(source)
    assert len(hand.kernel.tasks) == hand.kernel.created
    hand.kernel.cancel()
    hand.run()


def test_one_that_is_cancelled_before_its_first_step(hand):
    """Both tasks of it end as cancelled; no step of it runs."""
    ran = []

    def main():
        ran.append(1)
        yield

    source = main()
    tasks = [hand.create(source), hand.create(source)]
    for task in tasks:
        task.cancel()
    hand.run()

    assert ([task.state for task in tasks], ran) == ([TaskState.CANCELLED] * 2, [])


def test_what_only_looks_like_a_generator_is_stepped_all_the_same(hand):
    """`send`, `throw` and `close` are enough: a generator of Cython has no frame to look at."""

    class Compiled:
        def __init__(self):
            self.left = 2

        def __next__(self):
            return self.send(None)

        def send(self, value):
            if not self.left:
                raise StopIteration("done")
            self.left -= 1

        def throw(self, error):
            raise error

        def close(self):
            pass

    task = hand.create(Compiled())
    hand.run()

    assert (task.result(), task.steps) == ("done", 3)
