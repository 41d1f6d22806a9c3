"""What queues have besides handing over (test_sync.py): join, shutdown as asyncio 3.13's, the order of the others."""

from __future__ import annotations

import asyncio
import sys

import pytest

import dari


class Odd:
    """Cannot be compared."""


def putter(queue, item):
    yield queue.put(item)


def getter(queue, got):
    got.append((yield queue.get()))


def joiner(queue, log):
    yield queue.join()
    log.append("joined")


def contents(queue):
    return [queue.get_nowait() for _ in range(queue.qsize())]


# ---- join ------------------------------------------------------------------------------------------------------------


def test_join_waits_until_all_is_done(hand):
    """Every item that was put, also one that went straight to a getter, or in from a putter that waited."""
    queue, log, got = dari.Queue(1), [], []
    hand.create(getter, queue, got)
    hand.settle()
    for number in range(3):
        hand.create(putter, queue, number)
    hand.settle()
    hand.create(joiner, queue, log)
    hand.settle()
    assert repr(queue._joiners.pop()[0].what) == "join of <Queue 1 of 1 items>, 2 unfinished"
    hand.create(joiner, queue, log)
    hand.settle()
    assert contents(queue) == [1]
    assert contents(queue) == [2]
    queue.task_done()
    queue.task_done()
    hand.settle()
    assert log == []
    queue.task_done()
    hand.settle()
    hand.create(joiner, queue, log)
    hand.settle()

    assert log == ["joined", "joined"]


def test_a_cancelled_join_ends_at_once(hand):
    """And is in nobody's way."""
    queue, log = dari.Queue(), []
    queue.put_nowait(1)
    task = hand.create(joiner, queue, log)
    hand.settle()
    task.cancel()
    queue.task_done()
    hand.run()

    assert (task.cancelled(), log) == (True, [])


def test_task_done_too_often():
    """ValueError, as in asyncio."""
    with pytest.raises(ValueError, match=r"<Queue 0 items>: task_done\(\) was called more often"):
        dari.Queue().task_done()


# ---- shutdown --------------------------------------------------------------------------------------------------------


def history(queue, moves):
    """What each move gave, by name: the same for asyncio's queue and ours."""
    seen = []
    for name, *arguments in moves:
        try:
            seen.append(getattr(queue, name)(*arguments))
        except Exception as error:  # noqa: BLE001 - told by its name
            seen.append(type(error).__name__)
    return seen


@pytest.mark.skipif(sys.version_info < (3, 13), reason="asyncio's queue has no shutdown before 3.13")
@pytest.mark.parametrize("kind", ["Queue", "PriorityQueue", "LifoQueue"])
@pytest.mark.parametrize("immediate", [False, True])
def test_shutdown_is_asyncios(kind, immediate):
    """Move by move."""
    moves = [("put_nowait", 2), ("put_nowait", 1), ("put_nowait", 3), ("put_nowait", 4), ("get_nowait",)]
    moves += [("shutdown", immediate), ("put_nowait", 5), ("qsize",), ("get_nowait",), ("full",)]
    moves += [("task_done",)] * 4 + [("shutdown",), ("get_nowait",), ("get_nowait",), ("shutdown", True), ("empty",)]

    assert history(getattr(dari, kind)(3), moves) == history(getattr(asyncio, kind)(3), moves)


def test_immediate_shutdown_counts_what_it_throws_away_as_done(hand):
    """What was taken before is still to be done."""
    queue, log = dari.Queue(), []
    for number in range(3):
        queue.put_nowait(number)
    assert queue.get_nowait() == 0
    hand.create(joiner, queue, log)
    hand.settle()
    queue.shutdown(immediate=True)
    hand.settle()
    assert log == []
    queue.task_done()
    hand.settle()

    assert log == ["joined"]


def test_shutdown_leaves_joiners_waiting(hand):
    """Until what is in was taken and done."""
    queue, log = dari.Queue(), []
    queue.put_nowait(1)
    hand.create(joiner, queue, log)
    hand.settle()
    queue.shutdown()
    hand.settle()
    assert log == []
    assert contents(queue) == [1]
    queue.task_done()
    hand.settle()

    assert log == ["joined"]


# ---- the others ------------------------------------------------------------------------------------------------------


def test_the_smallest_first(hand):
    """Also from putters that waited."""
    queue, got = dari.PriorityQueue(3), []
    for number in (3, 1, 2, 0):
        hand.create(putter, queue, number)
    hand.settle()
    assert repr(queue) == "<PriorityQueue 3 of 3 items>"
    for _ in range(4):
        hand.create(getter, queue, got)
    hand.run()

    assert got == [1, 0, 2, 3]


def test_the_last_first(hand):
    """A stack."""
    queue, got = dari.LifoQueue(), []
    for number in range(3):
        queue.put_nowait(number)
    for _ in range(3):
        hand.create(getter, queue, got)
    hand.run()

    assert got == [2, 1, 0]


def test_an_item_that_cannot_be_compared_is_its_putters_mistake(hand):
    """The queue stays in order, and neither the getter nor the next putter is harmed."""
    queue = dari.PriorityQueue(2)
    for number in (1, 2):
        queue.put_nowait(number)
    odd = hand.create(putter, queue, Odd())
    odd.add_done_callback(lambda _: None)
    good = hand.create(putter, queue, 0)
    hand.settle()

    assert queue.get_nowait() == 1
    hand.run()

    assert isinstance(odd.exception(), TypeError)
    assert (good.state, contents(queue)) == (dari.TaskState.COMPLETED, [0, 2])


class Picky:
    """Compares with some only."""

    def __init__(self, number, peer=True):
        self.number, self.peer = number, peer

    def __lt__(self, other):
        if not (self.peer and other.peer) and 1 in (self.number, other.number):
            raise TypeError("not with 1")
        return self.number < other.number


def test_a_put_that_fails_half_way_up_leaves_the_heap_in_order():
    """`heappush` itself leaves the item where it got to."""
    queue = dari.PriorityQueue()
    for number in (1, 5, 6, 9, 8, 7):
        queue.put_nowait(Picky(number))
    before = [item.number for item in queue._items]

    with pytest.raises(TypeError, match="not with 1"):
        queue.put_nowait(Picky(2, peer=False))

    assert [item.number for item in queue._items] == before
    assert queue._unfinished == 6


# ---- taking back (what the host's late cancel asks for) --------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "left"), [(dari.Queue, [1, 2, 3]), (dari.LifoQueue, [3, 2, 1]), (dari.PriorityQueue, [1, 2, 3])]
)
def test_an_item_that_is_taken_back_is_the_next_to_go(kind, left):
    """As if it had never been taken, even if the queue is full by now."""
    queue = kind(3)
    for number in (1, 2, 3):
        queue.put_nowait(number)
    item = queue.get_nowait()
    queue.get().take_back(item)

    assert contents(queue) == left


def test_an_item_that_is_taken_back_goes_to_who_waits(hand):
    """At once."""
    queue, got = dari.Queue(), []
    hand.create(getter, queue, got)
    hand.settle()
    queue.get().take_back("item")
    hand.run()

    assert (got, queue.qsize()) == (["item"], 0)


def test_an_item_that_is_taken_back_after_all_was_thrown_away(hand):
    """Is thrown away too, and counts as done."""
    queue, log = dari.Queue(), []
    queue.put_nowait("item")
    item = queue.get_nowait()
    queue.shutdown(immediate=True)
    queue.get().take_back(item)
    hand.create(joiner, queue, log)
    hand.run()

    assert (log, queue.qsize()) == (["joined"], 0)


@pytest.mark.parametrize("kind", [dari.Queue, dari.LifoQueue, dari.PriorityQueue])
def test_a_put_that_is_taken_back(hand, kind):
    """The item is out, and the next putter's in; if it was taken meanwhile, that stands."""
    queue = kind(2)
    put = queue.put(300)
    for number in (100, 300):
        queue.put_nowait(number)
    hand.create(putter, queue, 200)
    hand.settle()
    put.take_back(None)
    put.take_back(None)
    hand.run()

    assert (sorted(contents(queue)), queue._unfinished) == ([100, 200], 2)
