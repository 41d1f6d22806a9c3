"""What other schedulers learnt the hard way, tried on the kernel: see docs/explanation/lessons.md for where it was."""

from __future__ import annotations

import gc
import sys
import weakref

import pytest

import dari
from dari._kernel.contract import Idle, Operation
from dari._kernel.outcome import Value
from dari._kernel.waiting import dump

# ---- b.3: what is done at once counts as a step, and lets others run -------------------------------------------------


class Shop:
    """Everything that can be had at once."""

    def __init__(self, hand):
        def nothing():
            return
            yield

        self.ended = hand.create(nothing)
        self.event = dari.Event()
        self.event.set()
        self.full = dari.Queue()
        for item in range(100):
            self.full.put_nowait(item)
        self.empty = dari.Queue()
        self.lock = dari.Lock()
        self.permits = dari.Semaphore(100)
        self.alone = dari.Barrier(1)


AT_ONCE = {
    "sleep": lambda shop: dari.sleep(0),
    "sleep_until": lambda shop: dari.sleep_until(0),
    "checkpoint": lambda shop: dari.checkpoint(),
    "tuple": lambda shop: ("yield", 1),
    "event": lambda shop: shop.event.wait(),
    "get": lambda shop: shop.full.get(),
    "put": lambda shop: shop.empty.put("item"),
    "queue join": lambda shop: shop.empty.join(),
    "semaphore": lambda shop: shop.permits.acquire(),
    "barrier": lambda shop: shop.alone.wait(),
    "task": lambda shop: shop.ended,
    "shield": lambda shop: dari.shield(shop.ended),
    "gather of nothing": lambda shop: dari.gather(),
    "gather": lambda shop: dari.gather(shop.ended, shop.ended),
    "list": lambda shop: [shop.ended, shop.ended],
    "wait": lambda shop: dari.wait([shop.ended]),
    "as_completed": lambda shop: next(iter(dari.as_completed([shop.ended]))),
}


@pytest.mark.parametrize("what", AT_ONCE)
def test_what_is_done_at_once_lets_others_run(hand, what):
    """Whatever need not wait is a step as others are: a loop over it takes turns with its peers."""
    order = []
    shop = Shop(hand)
    hand.run()

    def greedy():
        for _ in range(4):
            order.append("greedy")
            yield AT_ONCE[what](shop)

    def peer():
        for _ in range(4):
            order.append("peer")
            yield

    hand.create(greedy)
    hand.create(peer)
    hand.settle()

    assert order == ["greedy", "peer"] * 4


def test_a_lock_that_is_free_lets_others_run(hand):
    """Taking and releasing it again and again takes turns, too."""
    order = []
    lock = dari.Lock()

    def greedy():
        for _ in range(4):
            with (yield lock.acquire()):
                order.append("greedy")

    def peer():
        for _ in range(4):
            yield
            order.append("peer")

    hand.create(greedy)
    hand.create(peer)
    hand.settle()

    assert order == ["greedy", "peer"] * 4


# ---- b.5 and b.7: timers among those that spin, locks among priorities -----------------------------------------------


def test_what_became_due_goes_before_a_thousand_that_yielded(hand):
    """Its time has come: it takes the very next step."""
    woken_after = []

    def spinner():
        while True:
            yield

    def sleeper():
        yield dari.sleep(1)
        woken_after.append(hand.kernel.switches)

    for _ in range(1000):
        hand.create(spinner)
    hand.create(sleeper)
    hand.step(2500)
    before = hand.kernel.switches
    hand.now = 1.0
    hand.step()

    assert woken_after == [before]


@pytest.mark.parametrize("limit", [1, 8, 64])
def test_a_lock_held_at_a_low_priority_comes_free_within_the_bound(by_hand, limit):
    """Nobody lends a priority: what spins in between delays the holder by the bound, for each of its steps."""
    hand = by_hand(starvation_limit=limit)
    lock = dari.Lock()
    steps_inside = 5
    waited = []

    def low():
        with (yield lock.acquire()):
            for _ in range(steps_inside):
                yield

    def middle():
        while True:
            yield

    def high():
        since = hand.kernel.switches
        with (yield lock.acquire()):
            waited.append(hand.kernel.switches - since)

    hand.create(low, priority=1)
    hand.step(2)
    hand.create(middle, priority=0)
    hand.create(high, priority=-1)
    hand.step(10_000)
    lanes = 4  # low yields; middle is new, and yields; high is new, and woken

    assert len(waited) == 1
    assert waited[0] <= (steps_inside + 1) * (limit + lanes)


# ---- b.14: the outer cancel outranks the inner one -------------------------------------------------------------------


@pytest.mark.parametrize("block", [dari.timeout, dari.move_on_after], ids=lambda block: block.__name__)
def test_a_block_of_no_time_does_not_hide_an_earlier_cancel(hand, block):
    """`timeout(0)` inside of what is cancelled already hands the cancel on: no TimeoutError, no silence."""
    passed = []

    def main():
        dari.current_task().cancel("earlier")
        with block(0):
            yield
        passed.append("the block")
        yield
        passed.append("the yield behind it")

    task = hand.create(main)
    hand.run()

    assert (task.cancelled(), passed) == (True, [])
    with pytest.raises(dari.TaskCancelledError, match="earlier"):
        task.result()


@pytest.mark.parametrize("first", ["inner", "outer"])
def test_inner_groups_hand_the_outer_cancel_on(hand, log, first):
    """Three nested groups, the inner and the outer one cancelled: all is left, up to the outer one."""

    def main():
        with dari.TaskGroup() as outer:
            outer.create_task(log.sleeper("a"))
            with dari.TaskGroup() as middle:
                middle.create_task(log.sleeper("b"))
                with dari.TaskGroup() as inner:
                    inner.create_task(log.sleeper("c", cleanup=1))
                    yield
                    (inner if first == "inner" else outer).cancel("first")
                    (outer if first == "inner" else inner).cancel("second")
                    yield inner.join()
                log.note("behind the inner one")
                yield middle.join()
            log.note("behind the middle one")
            yield outer.join()
        log.note("behind the outer one")

    task = hand.create(main)
    hand.run()

    assert task.done()
    assert not task.cancelled()
    assert {what for what, _ in log} == {"a ended", "b ended", "c ended", "behind the outer one"}


# ---- b.15: nothing runs before it has its place ----------------------------------------------------------------------


def test_a_child_has_its_place_before_its_first_step(hand):
    """`create_task` runs none of its code; when that runs, it is current, is in its group, and can end it."""
    order = []

    def child():
        task = dari.current_task()
        order.append(("child", task is children[0], task in hand.kernel.tasks, task.parent is parents[0]))
        raise ValueError("in its first step")
        yield

    def main():
        with dari.TaskGroup() as group:
            children.append(group.create_task(child))
            order.append("created")
            children.append(group.create_task(dari.sleep(1).__iter__()))
            yield group.join()

    children = []
    parents = [hand.create(main)]
    hand.run()

    assert order == ["created", ("child", True, True, True)]
    assert isinstance(parents[0].exception(), ExceptionGroup)
    assert [task.state.value for task in children] == ["failed", "cancelled"]


# ---- b.16: a cancel is a state, not a retry --------------------------------------------------------------------------


class Unbreakable(Operation[str]):
    """Its end is awaited, cancelled or not."""

    def begin(self, task):
        self.asked = 0
        self.wait = task.block(self, self.undo)

    def undo(self, wait):
        self.asked += 1
        return False


def test_a_cancel_that_must_wait_costs_nothing(hand):
    """What cannot be ended is asked once, and no step is taken until it has ended by itself."""
    unbreakable = Unbreakable()

    def main():
        with dari.CancelScope() as scope:
            scopes.append(scope)
            yield unbreakable
        yield

    scopes = []
    task = hand.create(main)
    hand.settle()
    scopes[0].cancel()
    task.cancel()
    task.cancel()
    hand.kernel.cancel()
    hand.settle()
    before = hand.kernel.switches
    needs = [hand.step(1000) for _ in range(10)]

    assert all(isinstance(need, Idle) and need.deadline is None for need in needs)
    assert (hand.kernel.switches, unbreakable.asked, task.done()) == (before, 1, False)

    unbreakable.wait.wake(Value("its end"))
    hand.run()

    assert task.cancelled()


# ---- b.24: a web of waiters is told of once --------------------------------------------------------------------------


def test_a_web_of_waiters_is_shown_and_cancelled_task_by_task(hand):
    """Forty layers, in which each waits for both of the next: 2**40 ways through, and 81 lines to tell it in."""
    below = [hand.create(dari.sleep(1000).__iter__(), name="the last") for _ in range(2)]
    layers = [below]

    def waits(both):
        yield both

    for number in range(39):
        layers.append([hand.create(waits, layers[-1], name=f"layer {number}") for _ in range(2)])
    hand.settle()
    shown = [line for line in dump(hand.kernel.tasks).splitlines() if line.startswith("<Task")]
    refused = []

    def closes_the_circle():  # the search for it must see each task once, too
        try:
            yield head
        except dari.DeadlockError as error:
            refused.append(str(error).count("layer"))

    def last():
        yield hand.create(closes_the_circle)

    head = hand.create(waits, [hand.create(last), *layers[-1]], name="head")
    hand.settle()
    assert (len(shown), len(refused)) == (80, 1)

    head.cancel()
    before = hand.kernel.switches
    hand.settle()

    assert hand.kernel.tasks == {}
    assert hand.kernel.switches - before <= 3 * 81


# ---- b.26: what was cleared holds little -----------------------------------------------------------------------------


class Payload:
    pass


@pytest.mark.parametrize("how", ["a timeout that did not fire", "a sleep that was cancelled"])
def test_cleared_deadlines_keep_few_tasks_in_memory(hand, how):
    """Of 2000 tasks with a deadline far away, which ended long before it, fewer than 100 are still held by the heap."""
    payloads = []

    def main():
        payload = Payload()
        payloads.append(weakref.ref(payload))
        if how == "a timeout that did not fire":
            with dari.timeout(1e6):
                yield dari.sleep(1)
        else:
            with dari.move_on_after(1):
                yield dari.sleep(1e6)
        return payload

    for _ in range(2000):
        hand.create(main)
    hand.settle()
    hand.at(1.0)
    gc.collect()

    assert (len(payloads), hand.kernel.tasks) == (2000, {})
    assert sum(payload() is not None for payload in payloads) < 100


# ---- b.31: errors that are thrown in ---------------------------------------------------------------------------------


def test_an_error_that_is_thrown_in_disturbs_no_other(hand):
    """Who waits inside of an `except` block has its own error back after it; no error gets a stranger's for context."""
    seen = []

    def fails():
        yield
        raise ValueError("the child's")

    def waits():
        try:
            yield hand.create(fails)
        except ValueError:
            pass
        raise KeyError("afterwards")

    def main():
        try:
            raise KeyError("its own")
        except KeyError:
            try:
                yield hand.create(fails)
            except ValueError as error:
                seen.append((error, error.__context__, error.__cause__))
            yield dari.sleep(1)
            seen.append(sys.exc_info()[0])
            raise

    task, other = hand.create(main), hand.create(waits)
    hand.run()

    errors = [task.exception(), other.exception()]
    assert [(repr(error), error.__context__) for error in errors] == [
        ("KeyError('its own')", None),
        ("KeyError('afterwards')", None),
    ]
    assert [repr(thing) for thing in seen] == [
        """(ValueError("the child's"), KeyError('its own'), None)""",
        "<class 'KeyError'>",
    ]
