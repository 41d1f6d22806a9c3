"""Event and Queue: handing over is one act, so nothing is lost or doubled, whatever is cancelled when."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dari


def getter(queue, got, name=None):
    item = yield queue.get()
    got.append(item if name is None else (name, item))


def putter(queue, item, put=None):
    yield queue.put(item)
    if put is not None:
        put.append(item)


def contents(queue):
    return [queue.get_nowait() for _ in range(queue.qsize())]


# ---- Event -----------------------------------------------------------------------------------------------------------


def test_an_event_wakes_all_who_wait(hand):
    """In the order in which they came; whoever comes later does not wait."""
    event = dari.Event()
    woken = []

    def waiter(name):
        yield event.wait()
        woken.append(name)

    for name in "abc":
        hand.create(waiter, name)
    hand.settle()
    assert repr(event) == "<Event not set, 3 waiting>"

    event.set()
    hand.settle()
    hand.create(waiter, "late")
    hand.settle()

    assert (woken, event.is_set(), repr(event)) == (["a", "b", "c", "late"], True, "<Event set, 0 waiting>")


def test_a_cleared_event_makes_wait_again(hand):
    """Who was woken before the clear stays woken."""
    event = dari.Event()
    woken = []

    def waiter(name):
        yield event.wait()
        woken.append(name)

    hand.create(waiter, "first")
    hand.settle()
    event.set()
    event.clear()
    hand.settle()
    second = hand.create(waiter, "second")
    hand.settle()

    assert (woken, event.is_set(), second.state) == (["first"], False, dari.TaskState.WAITING)


def test_a_cancelled_waiter_leaves_the_event(hand):
    """At once; setting it afterwards is harmless."""
    event = dari.Event()

    def waiter():
        yield event.wait()

    task = hand.create(waiter)
    hand.settle()
    task.cancel()
    assert repr(event) == "<Event not set, 0 waiting>"
    event.set()
    hand.run()

    assert task.cancelled()


def test_waiters_are_woken_by_priority(hand):
    """The most urgent first, FIFO inside."""
    event = dari.Event()
    woken = []

    def waiter(name):
        yield event.wait()
        woken.append(name)

    for priority, name in ((1, "low"), (0, "a"), (-1, "high"), (0, "b")):
        hand.create(waiter, name, priority=priority)
        hand.settle()  # so that they begin to wait in this order
    event.set()
    event.clear()
    hand.create(waiter, "late", priority=-2)
    hand.settle()

    assert woken == ["high", "a", "b", "low"]


# ---- Queue -----------------------------------------------------------------------------------------------------------


def test_a_queue_without_waiting():
    """The nowait calls, and what they refuse."""
    queue = dari.Queue(2)
    assert (queue.qsize(), queue.empty(), queue.full()) == (0, True, False)
    with pytest.raises(dari.QueueEmpty, match=r"wait for an item by `yield queue.get\(\)`"):
        queue.get_nowait()
    queue.put_nowait("a")
    queue.put_nowait("b")
    with pytest.raises(dari.QueueFull, match="wait for a place"):
        queue.put_nowait("c")

    assert (repr(queue), queue.full()) == ("<Queue 2 of 2 items>", True)
    assert contents(queue) == ["a", "b"]


@pytest.mark.parametrize("maxsize", [0, -1])
def test_a_queue_without_bound(maxsize):
    """0, or less, as in asyncio."""
    queue = dari.Queue(maxsize)
    for number in range(1000):
        queue.put_nowait(number)

    assert (queue.full(), contents(queue)) == (False, list(range(1000)))


def test_first_in_first_out(hand):
    """For items, for getters and for putters."""
    queue = dari.Queue(1)
    got, put = [], []
    for number in range(4):
        hand.create(putter, queue, number, put)
    hand.settle()
    assert (put, queue.qsize()) == ([0], 1)
    for name in "abcdef":
        hand.create(getter, queue, got, name)
    hand.settle()
    for number in (4, 5):
        queue.put_nowait(number)
    hand.settle()

    assert got == [("a", 0), ("b", 1), ("c", 2), ("d", 3), ("e", 4), ("f", 5)]
    assert put == [0, 1, 2, 3]


def test_the_most_urgent_getter_is_served_first(hand):
    """By its priority when it began to wait; FIFO inside."""
    queue = dari.Queue()
    got = []
    for priority, name in ((1, "low"), (0, "a"), (-1, "high"), (0, "b")):
        hand.create(getter, queue, got, name, priority=priority)
        hand.settle()  # so that they begin to wait in this order
    for number in range(4):
        queue.put_nowait(number)
    hand.run()

    assert sorted(got, key=lambda pair: pair[1]) == [("high", 0), ("a", 1), ("b", 2), ("low", 3)]


def test_the_most_urgent_putter_is_served_first(hand):
    """It gets the next free place."""
    queue = dari.Queue(1)
    queue.put_nowait("first")
    for priority, item in ((1, "low"), (0, "a"), (-1, "high"), (0, "b")):
        hand.create(putter, queue, item, priority=priority)
        hand.settle()  # so that they begin to wait in this order

    assert [queue.get_nowait() for _ in range(5)] == ["first", "high", "a", "b", "low"]


def test_a_loop_over_a_full_queue_does_not_overtake(hand):
    """An operation that is done at once steps aside, so that others run between two of them."""
    queue = dari.Queue()
    for number in range(10):
        queue.put_nowait(number)
    order = []

    def eager():
        while not queue.empty():
            yield queue.get()
            order.append("eager")

    def peer():
        for _ in range(10):
            yield
            order.append("peer")

    hand.create(eager)
    hand.create(peer)
    hand.run()

    assert order == ["eager", "peer"] * 10


@pytest.mark.parametrize("item", ["item", None])
def test_a_getter_cancelled_while_it_waits(hand, item):
    """Was never given one: the item goes to the next, or stays."""
    queue = dari.Queue()
    got = []
    first, _second = hand.create(getter, queue, got), hand.create(getter, queue, got)
    hand.settle()
    first.cancel()
    queue.put_nowait(item)
    queue.put_nowait("next")
    hand.run()

    assert (first.cancelled(), got, contents(queue)) == (True, [item], ["next"])


@pytest.mark.parametrize("item", ["item", None])
@pytest.mark.parametrize("waits", [True, False])
def test_a_getter_cancelled_when_it_has_been_given_one(hand, item, waits):
    """Gets it, and the cancel at the next yield: nothing is lost, even if the item is None or was there at once."""
    queue = dari.Queue()
    got = []

    def main():
        got.append((yield queue.get()))
        yield
        got.append("never")

    task = hand.create(main)
    if waits:
        hand.settle()
        queue.put_nowait(item)
    else:
        queue.put_nowait(item)
        hand.step()
    task.cancel()
    hand.run()

    assert (got, task.cancelled(), queue.qsize()) == ([item], True, 0)


@pytest.mark.parametrize("waits", [True, False])
def test_a_putter_cancelled_when_its_item_is_in(hand, waits):
    """The put has happened, so it returns; a retry after the cancel would double the item."""
    queue = dari.Queue(1)
    put = []

    def main():
        yield queue.put("item")
        put.append("item")
        yield

    if waits:
        queue.put_nowait("first")
    task = hand.create(main)
    hand.step()
    if waits:
        assert queue.get_nowait() == "first"
    task.cancel()
    hand.run()

    assert (put, task.cancelled(), contents(queue)) == (["item"], True, ["item"])


def test_a_putter_cancelled_while_it_waits(hand):
    """Nothing was put, and the next putter gets the place."""
    queue = dari.Queue(1)
    queue.put_nowait("first")
    put = []
    cancelled = hand.create(putter, queue, "cancelled", put)
    hand.create(putter, queue, "second", put)
    hand.settle()
    cancelled.cancel()
    hand.settle()
    taken = [queue.get_nowait(), queue.get_nowait()]
    hand.run()

    assert (taken, put, queue.qsize()) == (["first", "second"], ["second"], 0)


def test_shutdown_lets_what_is_in_come_out(hand):
    """Then getters are told; putters at once, those that wait too."""
    queue = dari.Queue(2)
    queue.put_nowait(1)
    queue.put_nowait(2)
    blocked = hand.create(putter, queue, 3)
    hand.settle()
    queue.shutdown()
    hand.run()

    assert isinstance(blocked.exception(), dari.QueueShutDown)
    assert repr(queue) == "<Queue 2 of 2 items, shut down>"
    with pytest.raises(dari.QueueShutDown):
        queue.put_nowait(4)
    assert contents(queue) == [1, 2]
    with pytest.raises(dari.QueueShutDown):
        queue.get_nowait()


def test_shutdown_wakes_getters_that_wait(hand):
    """There will never be an item for them; later ones are told at their yield."""
    queue = dari.Queue()
    waiting = [hand.create(getter, queue, []) for _ in range(3)]
    hand.settle()
    queue.shutdown()
    queue.shutdown()
    waiting.append(hand.create(getter, queue, []))
    waiting.append(hand.create(putter, queue, 1))
    hand.run()

    assert {type(task.exception()) for task in waiting} == {dari.QueueShutDown}


def test_shutdown_at_once_throws_away_what_is_in(hand):
    """`immediate=True`, as in asyncio."""
    queue = dari.Queue(1)
    queue.put_nowait(1)
    blocked = hand.create(putter, queue, 2)
    hand.settle()
    queue.shutdown(immediate=True)
    hand.run()

    assert (queue.qsize(), type(blocked.exception())) == (0, dari.QueueShutDown)
    with pytest.raises(dari.QueueShutDown):
        queue.get_nowait()


def test_a_task_that_waits_on_a_queue_says_so(hand):
    """In its repr."""
    queue = dari.Queue(1)
    first, second = hand.create(getter, queue, []), hand.create(putter, queue, 1)
    third = hand.create(putter, queue, 1)
    hand.step()

    assert repr(first).endswith("waiting on get from <Queue 0 of 1 items>>")
    first.cancel()
    hand.settle()
    assert repr(third).endswith("waiting on put into <Queue 1 of 1 items>>")
    assert second.done()


moves = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(-1, 1)),
        st.tuples(st.just("get"), st.integers(-1, 1)),
        st.tuples(st.just("cancel"), st.integers(0, 30)),
        st.tuples(st.just("step"), st.integers(1, 4)),
    ),
    max_size=40,
)


@settings(max_examples=250, deadline=None)
@given(moves=moves, maxsize=st.integers(0, 3), nones=st.booleans())
def test_no_item_is_lost_or_doubled(by_hand, moves, maxsize, nones):
    """Whatever is put, taken and cancelled in whatever order: what was put was got, or is in."""
    hand = by_hand()
    queue = dari.Queue(maxsize)
    put, got, tasks = [], [], []
    serial = 0

    def put_one(item):
        yield queue.put(item)
        put.append(item)

    def get_one():
        got.append((yield queue.get()))

    for what, number in moves:
        if what == "put":
            serial += 1
            tasks.append(hand.create(put_one, None if nones and serial % 2 else serial, priority=number))
        elif what == "get":
            tasks.append(hand.create(get_one, priority=number))
        elif what == "cancel" and tasks:
            tasks[number % len(tasks)].cancel()
        else:
            hand.step(number)
    hand.settle()
    assert not (queue._getters and queue._items)
    assert not (queue._putters and not queue.full())
    hand.kernel.cancel()
    hand.settle()

    assert hand.kernel.tasks == {}
    assert sorted(map(str, put)) == sorted(map(str, got + contents(queue)))
    assert not queue._getters
    assert not queue._putters
