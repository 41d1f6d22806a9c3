"""Lock and semaphores: what becomes free goes to the next waiter in the same act, whatever is cancelled when."""

from __future__ import annotations

import gc
import weakref

import pytest

import dari
from dari._kernel.waiting import dump

MAKE = {"Lock": dari.Lock, "Semaphore": dari.Semaphore, "BoundedSemaphore": dari.BoundedSemaphore}


@pytest.fixture(params=MAKE)
def lock(request):
    """Whatever one at a time may hold."""
    return MAKE[request.param]()


def holder(lock, log, name, steps=1):
    with (yield lock.acquire()):
        log.append(f"{name} in")
        for _ in range(steps):
            yield
        log.append(f"{name} out")


def taker(lock, log, name):
    """Takes it and keeps it."""
    yield lock.acquire()
    log.append(name)


# ---- holding and handing over ----------------------------------------------------------------------------------------


def test_one_at_a_time_in_the_order_of_coming(hand, lock):
    """Nobody comes in before the one before is out."""
    log = []
    for name in "abc":
        hand.create(holder, lock, log, name, 3)
    hand.run()

    assert log == ["a in", "a out", "b in", "b out", "c in", "c out"]
    assert not lock.locked()


def test_every_spelling(hand, lock):
    """Bare, typed, and in a coroutine; as `with` and as `async with`."""
    log = []

    def bare():
        with (yield lock.acquire()):
            log.append("bare")
            yield

    def typed():
        with (yield from lock.acquire()):
            log.append("typed")
            yield

    async def awaited():
        with await lock.acquire():
            log.append("awaited")
            await dari.checkpoint()

    async def block():
        async with lock:
            log.append("block")
            await dari.checkpoint()

    for main in (bare, typed, awaited, block):
        hand.create(main)
    hand.run()

    assert (log, lock.locked()) == (["bare", "typed", "awaited", "block"], False)


def test_waiters_are_served_by_priority_then_in_order(hand, lock):
    """By the priority that they had when they began to wait: a later change does not move them."""
    log = []
    hand.create(holder, lock, log, "first")
    hand.step()
    tasks = {}
    for priority, name in ((1, "low"), (0, "a"), (-1, "high"), (0, "b")):
        tasks[name] = hand.create(holder, lock, log, name, priority=priority)
        hand.step()
    assert not tasks["b"].done()
    tasks["b"].priority = -2
    hand.run()

    assert [line for line in log if line.endswith("in")] == ["first in", "high in", "a in", "b in", "low in"]


def test_who_comes_later_cannot_take_what_was_handed_over(hand, lock):
    """Between the release and the step of the one that it went to, it is not free."""
    log = []

    def main():
        guard = yield lock.acquire()
        hand.create(taker, lock, log, "waiter", priority=1)
        while "0 waiting" in repr(lock):
            yield dari.sleep(1)
        guard.release()
        hand.create(taker, lock, log, "later", priority=-1)

    hand.create(main)
    hand.run()

    assert (log, lock.locked()) == (["waiter"], True)


def test_the_guard_is_true(hand, lock):
    """As what asyncio's `acquire` gives."""
    guards = []

    def main():
        guards.append((yield lock.acquire()))

    hand.create(main)
    hand.run()

    assert guards[0]
    assert repr(guards[0]) == f"<Guard of {lock!r}>"


def test_an_error_in_the_block_releases(hand, lock):
    """And comes out."""

    def main():
        with (yield lock.acquire()):
            raise KeyError

    task = hand.create(main)
    hand.run()

    assert isinstance(task.exception(), KeyError)
    assert not lock.locked()


# ---- cancelling ------------------------------------------------------------------------------------------------------


def test_a_waiter_that_is_cancelled_leaves_the_line(hand, lock):
    """It was never given anything; the next one is served."""
    log = []
    hand.create(holder, lock, log, "a", 5)
    hand.step()
    second = hand.create(holder, lock, log, "b")
    hand.create(holder, lock, log, "c")
    hand.step(3)
    second.cancel()
    hand.run()

    assert (second.cancelled(), lock.locked()) == (True, False)
    assert log == ["a in", "a out", "c in", "c out"]


@pytest.mark.parametrize("waits", [True, False])
def test_one_that_is_cancelled_when_it_was_given_it_has_it(hand, lock, waits):
    """It goes into its block, meets the cancel at the first yield in there, and the end of the block releases."""
    log = []
    if waits:
        hand.create(taker, lock, log, "first")
        hand.settle()
    task = hand.create(holder, lock, log, "b")
    third = hand.create(holder, lock, log, "c")
    hand.step(2 if waits else 1)
    if waits:
        lock.release()
    assert task.cancel()
    hand.run()

    assert (task.cancelled(), third.state, lock.locked()) == (True, dari.TaskState.COMPLETED, False)
    assert log[-3:] == ["b in", "c in", "c out"]


def test_a_timeout_around_acquire(hand, lock):
    """Ends the wait, and nothing is held."""
    log = []

    def main():
        with dari.move_on_after(2) as scope:
            yield lock.acquire()
        log.append((scope.cancelled_caught, hand.now))

    hand.create(taker, lock, log, "first")
    hand.create(main)
    hand.run()
    lock.release()

    assert (log, lock.locked()) == (["first", (True, 2.0)], False)


# ---- Semaphore -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [dari.Semaphore, dari.BoundedSemaphore])
def test_as_many_as_there_are_permits(hand, kind):
    """Come in together; the others wait."""
    semaphore = kind(2)
    inside, most = set(), []

    def main(name):
        with (yield semaphore.acquire()):
            inside.add(name)
            most.append(len(inside))
            yield dari.sleep(1)
            inside.remove(name)

    for name in range(5):
        hand.create(main, name)
    hand.settle()
    assert repr(semaphore) == f"<{kind.__name__} 0 free, 3 waiting>"
    assert semaphore.locked()
    hand.run()

    assert (max(most), hand.now, repr(semaphore)) == (2, 3.0, f"<{kind.__name__} 2 free, 0 waiting>")


def test_a_semaphore_of_none_lets_in_who_is_let_in(hand):
    """`Semaphore(0)`: each release is a permit more."""
    semaphore, log = dari.Semaphore(0), []
    hand.create(taker, semaphore, log, "a")
    hand.settle()
    assert log == []
    semaphore.release()
    semaphore.release()
    hand.run()

    assert (log, repr(semaphore)) == (["a"], "<Semaphore 1 free, 0 waiting>")


def test_a_bounded_semaphore_is_not_released_too_often():
    """ValueError, as in asyncio; and it stays as it was."""
    semaphore = dari.BoundedSemaphore(2)
    with pytest.raises(ValueError, match="all of its 2 permits are free: one release"):
        semaphore.release()

    assert repr(semaphore) == "<BoundedSemaphore 2 free, 0 waiting>"


@pytest.mark.parametrize("kind", [dari.Semaphore, dari.BoundedSemaphore])
def test_a_negative_semaphore_is_refused(kind):
    """By name and value."""
    with pytest.raises(ValueError, match=f"the value of a {kind.__name__} is an int, 0 or more, not -1"):
        kind(-1)


# ---- who holds it ----------------------------------------------------------------------------------------------------


def test_a_lock_names_who_holds_it(hand):
    """From when it is handed over until it is released; a task that has ended is not kept alive for its name."""
    lock = dari.Lock()

    def holds(releases):
        guard = yield lock.acquire()
        yield dari.sleep(1)
        if releases:
            guard.release()

    first, second = hand.create(holds, True), hand.create(holds, False)
    shown = [repr(lock)]
    for now in (0, 1, 2):
        hand.at(now)
        shown.append(repr(lock))
    expected = ["unlocked, 0", f"held by {first.label}, 1", f"held by {second.label}, 0", "locked, 0"]
    gone = weakref.ref(second)
    del first, second
    gc.collect()

    assert shown == [f"<Lock {state} waiting>" for state in expected]
    assert (gone(), repr(lock)) == (None, "<Lock locked, 0 waiting>")


def test_two_locks_in_two_orders_are_no_circle_that_is_told(hand):
    """Any task may release a lock, so a third one may end it; until then the dump tells who waits for whom."""
    one, two = dari.Lock(), dari.Lock()

    def takes(first, second):
        yield first.acquire()
        yield
        yield second.acquire()

    a, b = hand.create(takes, one, two, name="a"), hand.create(takes, two, one, name="b")
    hand.settle()
    lines = [line for line in dump(hand.kernel.tasks).splitlines() if "<Task" in line]
    one.release()
    hand.run()

    assert lines == [
        f"<T{a.label[1:]} waiting on acquire of <Lock held by {b.label}, 1 waiting>>",
        f"<T{b.label[1:]} waiting on acquire of <Lock held by {a.label}, 1 waiting>>",
    ]
    assert b.done()


# ---- misuse ----------------------------------------------------------------------------------------------------------


def test_releasing_a_free_lock():
    """RuntimeError, as in asyncio."""
    with pytest.raises(RuntimeError, match="<Lock unlocked, 0 waiting> was released, but nobody holds it"):
        dari.Lock().release()


@pytest.mark.parametrize("first", ["guard", "lock"])
def test_what_was_released_by_hand_is_not_released_again(hand, first):
    """The end of the block says so; the lock that somebody else holds by now stays his."""
    lock, log = dari.Lock(), []

    def main():
        with (yield lock.acquire()) as nothing:
            assert nothing is None
            hand.create(taker, lock, log, "next")
            yield dari.sleep(1)
            lock.release() if first == "lock" else lock._held.release()

    task = hand.create(main)
    hand.run()

    assert "was released already" in str(task.exception())
    assert (log, lock.locked()) == (["next"], True)


def test_a_guard_is_for_one_block(hand, lock):
    """Entered again after the release, it says so."""

    def main():
        guard = yield lock.acquire()
        with guard:
            pass
        with guard:
            pass

    task = hand.create(main)
    hand.run()

    with pytest.raises(RuntimeError, match="released>: it was released already"):
        task.result()
    assert not lock.locked()


def test_with_that_cannot_wait_names_what_can(lock):
    """`with lock:` is asyncio's old trap."""
    name = type(lock).__name__.lower()
    with (
        pytest.raises(TypeError, match=rf"write `with \(yield {name}.acquire\(\)\):` in a generator, `async with"),
        lock,
    ):
        pass


def test_a_task_that_waits_says_for_what(hand, lock):
    """In its repr."""
    hand.create(taker, lock, [], "first")
    task = hand.create(taker, lock, [], "second")
    hand.settle()

    assert repr(task).endswith(f"waiting on acquire of {lock!r}>")


def test_one_lock_for_two_schedulers(by_hand, lock):
    """A wake goes through the waiter's own kernel, and tells its driver."""
    one, two, log = by_hand(), by_hand(), []
    one.create(holder, lock, log, "one", 3)
    two.create(holder, lock, log, "two")
    one.step()
    two.settle()
    notified = two.notified
    one.settle()
    assert log == ["one in", "one out"]
    assert two.notified == notified + 1
    two.settle()

    assert (log, lock.locked()) == (["one in", "one out", "two in", "two out"], False)
