"""Circles of waiters: whoever would close one is told at that `yield`; only certain ones are told; looking is cheap."""

from __future__ import annotations

import math
import re
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

import dari
from dari._kernel import group, waiting, yielded
from dari._kernel.contract import FINISHED


def told_by(error):
    """The first line of every DeadlockError in `error`."""
    if isinstance(error, BaseExceptionGroup):
        return [line for inner in error.exceptions for line in told_by(inner)]
    return [str(error).splitlines()[0]] if isinstance(error, dari.DeadlockError) else []


SPELLINGS = {
    "task": lambda task: task,
    "shield": dari.shield,
    "tuple": lambda task: ("shield", task),
    "list": lambda task: [task],
    "gather": lambda task: dari.gather(dari.sleep(0.1), task),
    "gather of a shield": lambda task: [dari.shield(task)],
    "gather of a generator": lambda task: [waits_for(task)],
    "wait": lambda task: dari.wait([task, dari.create_task(waits_for(dari.sleep(0.1)))]),
    "wait for the only one": lambda task: dari.wait([task], return_when="FIRST_COMPLETED"),
}


def waits_for(what):
    return (yield what)


@pytest.mark.parametrize("first", SPELLINGS)
@pytest.mark.parametrize("second", SPELLINGS)
def test_two_who_wait_for_each_other(hand, first, second):
    """However they spell it, one is told; the other hears what became of that one; both end."""
    tasks = []

    def waits(number, spelling):
        yield dari.sleep(number)
        try:
            yield SPELLINGS[spelling](tasks[1 - number])
        except dari.DeadlockError as error:
            return told_by(error)
        return []

    tasks.extend(
        hand.create(waits, number, spelling, name="ab"[number]) for number, spelling in enumerate((first, second))
    )

    assert hand.run() is FINISHED
    first_told, second_told = (task.result() for task in tasks)
    assert first_told == []
    assert len(second_told) == 1
    assert second_told[0].startswith("this would never end: ")


@pytest.mark.parametrize(
    "uncertain",
    [
        lambda task, other: dari.wait([task, other], return_when="FIRST_COMPLETED"),
        lambda task, other: dari.wait([task, other], return_when="FIRST_EXCEPTION"),
        lambda task, other: dari.wait([task], timeout=3),
        lambda task, other: next(iter(dari.as_completed([task, other]))),
    ],
    ids=["first completed", "first exception", "timeout", "as_completed"],
)
@pytest.mark.parametrize("closes", ["certain", "uncertain"])
def test_what_may_end_otherwise_is_no_circle(hand, uncertain, closes):
    """Who waits for any of several, or for a time, is not stuck: whichever of the two begins first."""
    tasks = {}

    def fails():
        yield dari.sleep(2)
        raise OSError

    def any_of():
        yield dari.sleep(closes == "uncertain")
        try:
            yield uncertain(tasks["certain"], dari.create_task(fails))
        except OSError:
            pass
        return "went on"

    def certain():
        yield dari.sleep(closes == "certain")
        return (yield tasks["uncertain"])

    tasks["uncertain"] = hand.create(any_of)
    tasks["certain"] = hand.create(certain)

    assert hand.run() is FINISHED
    assert tasks["certain"].result() == "went on"


def test_the_parent_closes_it_by_its_join(hand):
    """The child waits for it already: the error is the body's, so it comes grouped, and the child ends."""

    def child(parent):
        yield dari.shield(parent)

    def parent():
        with dari.TaskGroup() as group:
            group.create_task(child, dari.current_task(), name="child")
            yield
            yield group.join()

    def main():
        try:
            yield dari.create_task(parent, name="parent")
        except BaseExceptionGroup as error:
            return told_by(error)

    task = hand.create(main)

    assert hand.run() is FINISHED
    (told,) = task.result()
    assert re.sub(r"task \d+ ", "", told) == "this would never end: 'parent' waits for 'child' waits for 'parent'"


@pytest.mark.parametrize("wait", ["task", "list", "gather of a generator"])
@pytest.mark.parametrize("how", ["with", "with, and no more yield", "async with", "async with, failing"])
def test_a_child_that_owns_its_parent_when_the_group_is_left(hand, how, wait):
    """A parent cannot be kept from waiting for its children's end: the one who waits for it is told instead."""
    heard = []

    def child(parent):
        try:
            yield SPELLINGS[wait](parent)
        except dari.DeadlockError as error:
            heard.extend(told_by(error))
            raise

    def generator():
        try:
            with dari.TaskGroup() as group:
                group.create_task(child, dari.current_task())
                yield
        finally:
            if how == "with":
                yield

    async def coroutine():
        async with dari.TaskGroup() as group:
            group.create_task(child, dari.current_task())
            await dari.sleep(1)
            if how == "async with, failing":
                raise OSError

    parent = hand.create(generator if how.startswith("with") else coroutine, name="parent")

    assert hand.run() is FINISHED
    assert parent.done()
    assert len(heard) == 1
    assert heard[0].startswith("this would never end: ")
    assert "'parent'" in heard[0]


def random_wait(random, tasks, me):
    others = [task for task in tasks if task is not me]
    some = random.sample(others, random.randint(1, 3))
    match random.randrange(7):
        case 0 | 1:
            return some[0]
        case 2:
            return dari.shield(some[0])
        case 3:
            return some
        case 4:
            return [dari.shield(some[0]), waits_for(some[-1])]
        case 5:
            return dari.wait(some)
        case _:
            return dari.wait(some, timeout=random.random())


def random_task(random, tasks, depth=2):
    """Waits for whomever, swallows what it hears, opens groups, and is cancelled now and then."""
    me = dari.current_task()
    for _ in range(random.randint(1, 4)):
        try:
            match random.randrange(6):
                case 0:
                    yield dari.sleep(random.random())
                case 1:
                    random.choice(tasks).cancel()
                case 2 if depth:
                    with dari.TaskGroup() as group:
                        for _ in range(random.randint(1, 2)):
                            tasks.append(group.create_task(random_task, random, tasks, depth - 1))
                        if random.random() < 0.3:
                            yield random_wait(random, tasks, me)
                        if random.random() < 0.7:
                            yield group.join()
                case 3 if depth:
                    yield dari.create_task(random_task_in_a_coroutine, random, tasks, depth - 1)
                case _:
                    yield random_wait(random, tasks, me)
        except (Exception, dari.Cancelled) as error:
            if isinstance(error, dari.Cancelled) and random.random() < 0.5:
                raise


async def random_task_in_a_coroutine(random, tasks, depth):
    me = dari.current_task()
    async with dari.TaskGroup() as group:
        tasks.append(group.create_task(random_task, random, tasks, depth))
        await dari.sleep(random.random())
        if random.random() < 0.5:
            await dari.shield(random.choice([task for task in tasks if task is not me]))


@given(seed=st.integers(0, 1_000_000_000))
def test_random_waits(by_hand, seed):
    """Both ways of the search find what the way ahead alone would; each circle is one; and everything ends at last."""
    random, hand, tasks = Random(seed), by_hand(), []

    def compared(task, what):
        circle = waiting.cycle(task, what)
        reached, to_see = set(), list(what.waits_for())
        if task in to_see:
            assert circle is None
            return None
        while to_see:
            seen = to_see.pop()
            if seen not in reached:
                reached.add(seen)
                to_see.extend(waiting._awaited(seen))
        assert (circle is not None) == (task in reached)
        if circle is not None:
            assert circle[-1] is task
            assert circle[0] in list(what.waits_for())
            assert all(after in list(waiting._awaited(before)) for before, after in pairwise(circle))
        return circle

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(yielded, "cycle", compared)
        patch.setattr(group, "cycle", compared)
        tasks.extend(hand.create(random_task, random, tasks) for _ in range(6))
        need = hand.run()

    assert need is FINISHED, waiting.dump(hand.kernel.tasks)


@pytest.mark.parametrize("order", ["forwards", "backwards", "shuffled"])
@pytest.mark.parametrize("grouped", [False, True])
def test_a_long_line_of_waiters_costs_no_more_than_its_length(hand, monkeypatch, order, grouped):
    """Each behind the one before it, in whatever order they begin to wait, and also where all are waited for."""
    looks, walk = 0, waiting._walk

    def counting(*args):
        nonlocal looks
        for link in walk(*args):
            looks += 1
            yield link

    monkeypatch.setattr(waiting, "_walk", counting)
    length = 1000
    times = list(range(1, length + 1))
    if order == "shuffled":
        Random(7).shuffle(times)
    elif order == "backwards":
        times.reverse()
    line = []

    def waits(number):
        yield dari.sleep(times[number])
        if number:
            yield line[number - 1]
        else:
            yield dari.sleep(2 * length)

    def main():
        with dari.TaskGroup() as group:
            line.extend(
                group.create_task(waits, number) if grouped else hand.create(waits, number) for number in range(length)
            )
            yield group.join()

    hand.create(main)

    assert hand.run() is FINISHED
    assert all(task.done() for task in line)
    assert looks <= 4 * length * math.log2(length)
