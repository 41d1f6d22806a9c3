"""Condition and Barrier: waiting under a lock, and for each other."""

from __future__ import annotations

import pytest

import dari


def waiter(condition, log, name):
    with (yield condition.acquire()):
        log.append((name, (yield condition.wait())))


def notifier(condition, n=1, steps=0):
    with (yield condition.acquire()):
        condition.notify(n)
        for _ in range(steps):
            yield


# ---- Condition: notify -----------------------------------------------------------------------------------------------


def test_wait_releases_the_lock_and_has_it_again(hand):
    """Others hold it meanwhile; who was notified goes on when the notifier is out."""
    condition, log = dari.Condition(), []

    def notify():
        with (yield condition.acquire()):
            log.append("notifier in")
            condition.notify()
            yield
            log.append("notifier out")

    def wait():
        with (yield condition.acquire()):
            log.append("waits")
            value = yield condition.wait()
            log.append((value, condition.locked()))

    hand.create(wait)
    hand.create(notify)
    hand.run()

    assert log == ["waits", "notifier in", "notifier out", (True, True)]
    assert repr(condition) == "<Condition unlocked, 0 waiting>"


def test_every_spelling_of_wait(hand):
    """Bare, typed, awaited."""
    condition, log = dari.Condition(), []

    def typed():
        with (yield from condition.acquire()):
            log.append((yield from condition.wait()))

    async def awaited():
        async with condition:
            log.append(await condition.wait())

    async def notify():
        async with condition:
            condition.notify_all()

    for main in (typed, awaited):
        hand.create(main)
    hand.create(waiter, condition, log, "bare")
    hand.create(notify)
    hand.run()

    assert (log, hand.counts()["alive"]) == ([True, True, ("bare", True)], 0)


def test_notify_wakes_as_many_as_it_says(hand):
    """The most urgent first, FIFO inside; the others wait on."""
    condition, log = dari.Condition(), []
    for priority, name in ((1, "low"), (0, "a"), (-1, "high"), (0, "b")):
        hand.create(waiter, condition, log, name, priority=priority)
        hand.settle()
    hand.create(notifier, condition, 0)
    hand.settle()
    assert log == []
    hand.create(notifier, condition, 2)
    hand.settle()
    assert [name for name, _ in log] == ["high", "a"]
    hand.create(notifier, condition, 99)
    hand.settle()

    assert [name for name, _ in log] == ["high", "a", "b", "low"]


def test_a_notification_is_not_kept(hand):
    """Who comes after it waits for the next."""
    condition, log = dari.Condition(), []
    hand.create(notifier, condition)
    hand.settle()
    task = hand.create(waiter, condition, log, "late")
    hand.settle()

    assert (task.state, log) == (dari.TaskState.WAITING, [])
    assert repr(task).endswith("waiting on wait of <Condition unlocked, 1 waiting>>")


def test_after_a_wait_it_is_the_same_guard_that_holds(hand):
    """Released by hand, it is not released again: the lock stays with the next one."""
    condition, log = dari.Condition(), []

    def wait():
        with (yield condition.acquire()):
            yield condition.wait()
            hand.create(keep)
            yield dari.sleep(1)
            condition.release()

    def keep():
        log.append((yield condition.acquire()))

    task = hand.create(wait)
    hand.create(notifier, condition)
    hand.run()

    assert "was released already" in str(task.exception())
    assert (len(log), condition.locked()) == (1, True)


def test_two_conditions_under_one_lock(hand):
    """As in a bounded buffer."""
    lock = dari.Lock()
    one, two, log = dari.Condition(lock), dari.Condition(lock), []
    hand.create(waiter, one, log, "one")
    hand.create(waiter, two, log, "two")
    hand.settle()
    hand.create(notifier, two)
    hand.settle()

    assert (log, one.locked()) == ([("two", True)], False)


# ---- Condition: wait_for ---------------------------------------------------------------------------------------------


def test_wait_for_goes_on_when_it_is_true(hand):
    """And gives what the predicate gave; while it is false, the lock is free for others."""
    condition, stock, log = dari.Condition(), [], []

    def consumer(name):
        with (yield condition.acquire()):
            log.append((name, (yield condition.wait_for(lambda: stock and stock.pop()))))

    def producer(item):
        with (yield condition.acquire()):
            if item is not None:
                stock.append(item)
            condition.notify_all()
            yield

    for name in "ab":
        hand.create(consumer, name)
    hand.settle()
    hand.create(producer, None)
    hand.settle()
    assert repr(condition) == "<Condition unlocked, 2 waiting>"
    for item in (1, 2):
        hand.create(producer, item)
        hand.settle()

    assert (log, condition.locked()) == ([("a", 1), ("b", 2)], False)


def test_wait_for_what_is_true_already(hand):
    """Does not wait, and keeps the lock."""
    condition, log = dari.Condition(), []

    async def main():
        async with condition:
            log.append(await condition.wait_for(lambda: "yes"))
            log.append(condition.locked())

    hand.create(main)
    hand.run()

    assert log == ["yes", True]


@pytest.mark.parametrize("later", [False, True])
def test_an_error_of_the_predicate_is_of_the_one_that_waits(hand, later):
    """Not of the one that notifies or releases; the lock is free afterwards."""
    condition, calls = dari.Condition(), []

    def predicate():
        calls.append(condition.locked())
        if len(calls) > later:
            raise KeyError("predicate")
        return False

    def wait():
        with (yield condition.acquire()):
            yield condition.wait_for(predicate)

    task = hand.create(wait)
    task.add_done_callback(lambda _: None)
    other = hand.create(notifier, condition)
    hand.run()

    assert repr(task.exception()) == "KeyError('predicate')"
    assert (other.state, condition.locked(), set(calls)) == (dari.TaskState.COMPLETED, False, {True})


def test_the_predicate_sees_the_context_of_its_task(hand):
    """Also when another task's release calls it."""
    condition, seen = dari.Condition(), []

    def wait():
        with dari.priority(1), (yield condition.acquire()):
            yield condition.wait_for(lambda: seen.append(dari._kernel.world.chain_priority.get()) or len(seen) > 1)

    hand.create(wait)
    hand.create(notifier, condition)
    hand.run()

    assert seen == [1, 1]


# ---- Condition: cancelling -------------------------------------------------------------------------------------------


def test_a_wait_that_is_cancelled_has_the_lock_again_first(hand):
    """However long that takes; then Cancelled comes, inside the block that releases it."""
    condition, log = dari.Condition(), []

    def wait():
        with (yield condition.acquire()):
            try:
                yield condition.wait()
            except dari.Cancelled:
                log.append(("cancelled", hand.now, condition.locked()))
                raise

    def keep():
        with (yield condition.acquire()):
            yield dari.sleep(5)
            log.append(("kept", hand.now, True))

    task = hand.create(wait)
    hand.create(keep)
    hand.settle()
    task.cancel()
    hand.at(1)
    assert not task.done()
    hand.run()

    assert log == [("kept", 5.0, True), ("cancelled", 5.0, True)]
    assert (task.cancelled(), condition.locked()) == (True, False)


def test_a_wait_that_is_cancelled_while_the_lock_is_free(hand):
    """Has it at once."""
    condition, log = dari.Condition(), []
    task = hand.create(waiter, condition, log, "a")
    hand.settle()
    task.cancel()
    assert condition.locked()
    late = hand.create(notifier, condition)
    hand.run()

    assert (task.cancelled(), late.state, condition.locked()) == (True, dari.TaskState.COMPLETED, False)


def test_a_notification_for_one_that_is_cancelled_goes_to_the_next(hand):
    """While it stands in the line for the lock."""
    condition, log = dari.Condition(), []
    first = hand.create(waiter, condition, log, "first")
    hand.create(waiter, condition, log, "second")
    hand.settle()
    holder = hand.create(notifier, condition, 1, 3)
    hand.step(2)
    assert repr(condition) == f"<Condition held by {holder.label}, 1 waiting>"
    first.cancel()
    hand.run()

    assert (first.cancelled(), log, condition.locked()) == (True, [("second", True)], False)


def test_one_that_has_the_lock_again_goes_on_before_a_cancel(hand):
    """It was notified, and may have been the only one."""
    condition, log = dari.Condition(), []

    def wait():
        with (yield condition.acquire()):
            log.append((yield condition.wait()))
            yield
            log.append("never")

    task = hand.create(wait)
    hand.settle()
    hand.create(notifier, condition)
    hand.step(2)  # notified, released: the lock is handed over
    assert repr(condition) == f"<Condition held by {task.label}, 0 waiting>"
    task.cancel()
    hand.run()

    assert (log, task.cancelled(), condition.locked()) == ([True], True, False)


def test_a_timeout_around_wait(hand):
    """TimeoutError, with the lock held as everywhere in the block."""
    condition, log = dari.Condition(), []

    async def main():
        async with condition:
            try:
                with dari.timeout(3):
                    await condition.wait()
            except TimeoutError:
                log.append((hand.now, condition.locked()))

    hand.create(main)
    hand.run()

    assert (log, condition.locked()) == ([(3.0, True)], False)


def test_a_generator_that_is_closed_while_it_waits(by_hand):
    """It does not hold the lock then, and so does not release it: not even that of somebody else."""
    condition, log = dari.Condition(), []
    hand, other = by_hand(), by_hand()
    task = hand.create(waiter, condition, log, "a")
    hand.settle()
    other.create(notifier, condition, 0, 5)
    other.step()

    task._source.close()

    assert (condition.locked(), log) == (True, [])
    other.settle()
    assert not condition.locked()


def test_a_generator_that_is_closed_while_it_holds(hand):
    """Releases: it may be a source of data that nobody wants more of."""
    lock = dari.Lock()

    def source():
        with (yield lock.acquire()):
            yield "item"

    steps = source()
    hand.create(lambda: (yield next(steps)))
    hand.run()
    steps.send(lock._held)
    assert lock.locked()
    steps.close()

    assert not lock.locked()


# ---- Condition: misuse -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("notify", ["notify", "notify_all"])
def test_notify_without_the_lock(notify):
    """RuntimeError, as in asyncio."""
    with pytest.raises(RuntimeError, match="<Condition unlocked, 0 waiting> was notified, but its lock is not held"):
        getattr(dari.Condition(), notify)()


@pytest.mark.parametrize("wait", [lambda c: c.wait(), lambda c: c.wait_for(lambda: True)])
def test_wait_without_the_lock(hand, wait):
    """RuntimeError at that yield."""

    def main():
        yield wait(dari.Condition())

    task = hand.create(main)
    hand.run()

    with pytest.raises(RuntimeError, match=r"wait inside `with \(yield condition.acquire\(\)\):`"):
        task.result()


def test_a_condition_wants_a_lock_of_ours():
    """A semaphore or a thread's lock is refused when the condition is made."""
    with pytest.raises(TypeError, match=r"works under a dari\.Lock, not <Semaphore"):
        dari.Condition(dari.Semaphore())


def test_release_of_a_condition_that_is_free():
    """Says what its lock says."""
    with pytest.raises(RuntimeError, match="nobody holds it"):
        dari.Condition().release()


# ---- Barrier ---------------------------------------------------------------------------------------------------------


def party(barrier, log, name=None):
    log.append((name, (yield barrier.wait())))


def test_the_last_one_lets_all_go(hand):
    """Each gets another number; and again with the next lot."""
    barrier, log = dari.Barrier(3), []
    for name in "ab":
        hand.create(party, barrier, log, name)
    hand.settle()
    assert (log, barrier.n_waiting, repr(barrier)) == ([], 2, "<Barrier 2 of 3 waiting>")
    for name in "cdef":
        hand.create(party, barrier, log, name)
    hand.run()

    assert sorted(log) == [("a", 0), ("b", 1), ("c", 2), ("d", 0), ("e", 1), ("f", 2)]
    assert (barrier.n_waiting, barrier.parties, barrier.broken) == (0, 3, False)


def test_one_party_does_not_wait(hand):
    """But steps aside, as every yield does."""
    log = []
    hand.create(party, dari.Barrier(1), log)
    hand.run()

    assert log == [(None, 0)]


def test_async_with_a_barrier(hand):
    """Gives the number."""
    barrier, log = dari.Barrier(2), []

    async def main():
        async with barrier as number:
            log.append(number)

    hand.create(main)
    hand.create(main)
    hand.run()

    assert sorted(log) == [0, 1]


def test_a_party_that_is_cancelled_is_not_counted(hand):
    """The barrier stays whole, and no number comes twice."""
    barrier, log = dari.Barrier(3), []
    tasks = [hand.create(party, barrier, log, name) for name in "ab"]
    hand.settle()
    tasks[0].cancel()
    for name in "cd":
        hand.create(party, barrier, log, name)
    hand.run()

    assert (tasks[0].cancelled(), sorted(log)) == (True, [("b", 0), ("c", 1), ("d", 2)])


def test_one_that_is_cancelled_when_all_have_come_has_come(hand):
    """It gets its number, and the cancel at the next yield."""
    barrier, log = dari.Barrier(2), []

    def main():
        log.append((yield barrier.wait()))
        yield

    task = hand.create(main)
    hand.settle()
    hand.create(main)
    hand.step()
    task.cancel()
    hand.run()

    assert (sorted(log), task.cancelled()) == ([0, 1], True)


def test_reset_sends_away_who_waits(hand):
    """They get BrokenBarrierError; the barrier is empty and whole."""
    barrier, log = dari.Barrier(2), []
    task = hand.create(party, barrier, log)
    hand.settle()
    barrier.reset()
    for _ in range(2):
        hand.create(party, barrier, log)
    hand.run()

    with pytest.raises(dari.BrokenBarrierError, match="<Barrier 1 of 2 waiting> was reset while they waited"):
        task.result()
    assert (len(log), barrier.broken) == (2, False)


def test_abort_breaks_it_until_reset(hand):
    """For those who wait and those who come later."""
    barrier, log = dari.Barrier(2), []
    tasks = [hand.create(party, barrier, log)]
    hand.settle()
    barrier.abort()
    tasks.append(hand.create(party, barrier, log))
    hand.run()
    assert [type(task.exception()) for task in tasks] == [dari.BrokenBarrierError] * 2
    assert (barrier.broken, repr(barrier)) == (True, "<Barrier 0 of 2 waiting, broken>")
    barrier.reset()
    for _ in range(2):
        hand.create(party, barrier, log)
    hand.run()

    assert (len(log), barrier.broken) == (2, False)


@pytest.mark.parametrize("parties", [0, -1])
def test_a_barrier_for_nobody_is_refused(parties):
    """When it is made."""
    with pytest.raises(ValueError, match=f"parties of a Barrier is an int, 1 or more, not {parties}"):
        dari.Barrier(parties)
