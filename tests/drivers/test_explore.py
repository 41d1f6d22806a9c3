"""Programs with something to lose, under sixteen thousand schedules in each run of the tests: nothing is lost in any.

A schedule is the order in which ready tasks run. Whom a program cancels, and when, is drawn from the schedule too
(`luck`), so that the seed that `explore` names repeats all of it.
"""

from __future__ import annotations

import random
import re
import sys

import pytest

import dari
from dari import testing

SEEDS = range(2000)  # for each of the eight programs


def luck():
    """Random numbers that belong to the schedule: the order in which seven tasks ran is what seeds them."""
    order = []

    def runs(number):
        order.append(number)
        yield

    yield [runs(number) for number in range(7)]
    return random.Random(str(order))


def end_of(tasks):
    """Wait for all, and raise what one failed with; being cancelled is no failure."""
    yield dari.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.result()


def cancel_some(chance, tasks, most):
    """Cancel up to so many of them, at moments that chance finds."""
    for task in chance.sample(tasks, chance.randint(0, most)):
        yield dari.sleep(chance.choice([0, 0, 1]))
        task.cancel()


def explore(main):
    testing.explore(main, seeds=SEEDS, timeout=1000)


def test_a_bank_keeps_its_money():
    """Two locks for each transfer: what each account holds is what the transfers that were not stopped have left it."""

    def main():
        chance = yield from luck()
        accounts = [100, 100, 100]
        locks = [dari.Lock() for _ in accounts]
        orders = [(*chance.sample(range(3), 2), chance.randint(1, 50)) for _ in range(6)]

        def transfer(source, target, amount):
            first, second = sorted((source, target))
            with (yield locks[first].acquire()), (yield locks[second].acquire()):
                left, right = accounts[source], accounts[target]
                yield dari.sleep(chance.choice([0, 0, 1]))
                accounts[source] = left - amount
                accounts[target] = right + amount

        tasks = [dari.create_task(transfer, *order) for order in orders]
        yield from cancel_some(chance, tasks, most=3)
        yield from end_of(tasks)

        expected = [100, 100, 100]
        for task, (source, target, amount) in zip(tasks, orders, strict=True):
            if not task.cancelled():
                expected[source] -= amount
                expected[target] += amount
        assert (accounts, [lock.locked() for lock in locks]) == (expected, [False] * 3)

    explore(main)


def test_a_queue_loses_nothing():
    """What was put is got once, whoever is cancelled; it never holds more than it may, and `join` sees the end."""

    def main():
        chance = yield from luck()
        queue = dari.Queue(maxsize=2)
        put, got = [], []

        def produce(name):
            for number in range(4):
                yield queue.put((name, number))
                put.append((name, number))
                if chance.random() < 0.3:
                    yield dari.sleep(chance.choice([0, 1]))

        def consume():
            try:
                while True:
                    got.append((yield queue.get()))
                    queue.task_done()
                    assert queue.qsize() <= 2
                    yield dari.sleep(chance.choice([0, 0, 1]))
            except dari.QueueShutDown:
                pass

        producers = [dari.create_task(produce, name) for name in "abc"]
        consumers = [dari.create_task(consume) for _ in range(3)]
        yield from cancel_some(chance, [*producers, *consumers[1:]], most=3)
        yield from end_of(producers)
        yield queue.join()
        queue.shutdown()
        yield from end_of(consumers)

        assert (sorted(got), queue.qsize()) == (sorted(put), 0)

    explore(main)


def test_no_notification_is_lost():
    """A store of two conditions under one lock, each change notifying one: everybody who is not cancelled is served."""

    def main():
        chance = yield from luck()
        lock = dari.Lock()
        room, goods = dari.Condition(lock), dari.Condition(lock)
        stock = made = sold = inside = 0

        def has_room():
            return stock < 2

        def has_goods():
            return stock > 0

        def visit(condition, holds):
            """With the lock: wait until it `holds`, and be the only one to use that."""
            nonlocal inside
            if chance.random() < 0.5:
                yield condition.wait_for(holds)
            while not holds():
                yield condition.wait()
            inside += 1
            try:
                assert inside == 1
                yield dari.sleep(chance.choice([0, 0, 1]))
                assert holds()
            finally:
                inside -= 1
                if sys.exception() is not None:
                    condition.notify()  # it may have been the only one who knew

        def make():
            nonlocal stock, made
            for _ in range(3):
                with (yield lock.acquire()):
                    yield from visit(room, has_room)
                    stock, made = stock + 1, made + 1
                    goods.notify()

        def sell():
            nonlocal stock, sold
            while True:
                with (yield lock.acquire()):
                    yield from visit(goods, has_goods)
                    stock, sold = stock - 1, sold + 1
                    room.notify()

        makers = [dari.create_task(make) for _ in range(3)]
        sellers = [dari.create_task(sell) for _ in range(3)]
        yield from cancel_some(chance, [*makers[1:], *sellers[1:]], most=3)
        yield from end_of(makers)
        with (yield lock.acquire()):
            while stock:
                yield room.wait()
                room.notify()
        for seller in sellers:
            seller.cancel()
        yield from end_of(sellers)

        assert (stock, sold, lock.locked()) == (0, made, False)

    explore(main)


def test_a_notification_is_for_one_who_is_not_cancelled():
    """Two of four who wait are cancelled while two are notified: two are served, whoever they are."""

    def main():
        chance = yield from luck()
        condition = dari.Condition()
        served = []

        def wait(number):
            with (yield condition.acquire()):
                yield condition.wait()
                served.append(number)

        def notify():
            with (yield condition.acquire()):
                yield
                for _ in range(2):
                    condition.notify()
                    yield

        def cancel(task):
            for _ in range(chance.randrange(4)):
                yield
            task.cancel()

        tasks = [dari.create_task(wait, number) for number in range(4)]
        yield testing.wait_all_blocked()
        yield [notify(), *map(cancel, chance.sample(tasks, 2))]
        yield testing.wait_all_blocked()
        for task in tasks:
            task.cancel()
        yield from end_of(tasks)

        assert (len(served), condition.locked()) == (2, False)

    explore(main)


def test_a_barrier_keeps_its_parties_together():
    """Three rounds of three, with waits that run out and begin anew: none goes on before all came or counts twice."""

    def main():
        chance = yield from luck()
        barrier = dari.Barrier(3)
        came, numbers = [0, 0, 0], [[], [], []]

        def party():
            for turn in range(3):
                came[turn] += 1
                number = None
                while number is None:
                    with dari.move_on_after(chance.choice([0, 1, 1, 2])):
                        number = yield barrier.wait()
                assert came[turn] == 3
                numbers[turn].append(number)
                yield dari.sleep(chance.choice([0, 1, 2]))

        yield [party() for _ in range(3)]

        assert [sorted(turn) for turn in numbers] == [[0, 1, 2]] * 3
        assert (barrier.n_waiting, barrier.broken) == (0, False)

    explore(main)


class BrokenError(Exception):
    pass


def test_groups_lose_no_failure_and_leave_nobody_behind():
    """Groups in groups, whose members fail by chance, also in their cleanup: every failure is told, and all end."""

    def main():
        chance = yield from luck()
        alive = 0
        raised, told = [], set()

        def breaks():
            raised.append(BrokenError(len(raised)))
            raise raised[-1]

        def child(depth):
            nonlocal alive
            alive += 1
            try:
                yield from work(depth)
            finally:
                alive -= 1

        def work(depth):
            try:
                for _ in range(chance.randrange(3)):
                    yield dari.sleep(chance.choice([0, 0, 1]))
                    if chance.random() < 0.1:
                        breaks()
                if depth:
                    yield from family(depth)
            finally:
                if chance.random() < 0.3:
                    with dari.CancelScope(shield=True):
                        yield dari.sleep(chance.choice([0, 1]))
                if not isinstance(sys.exception(), Exception) and chance.random() < 0.1:
                    breaks()

        def family(depth):
            with dari.TaskGroup() as group:
                for _ in range(2):
                    group.create_task(child, depth - 1)
                yield dari.sleep(chance.choice([0, 0, 1]))
                yield group.join()

        def neighbour():
            for _ in range(5):
                yield dari.sleep(1)
            return "undisturbed"

        def tell(error):
            if isinstance(error, BaseExceptionGroup):
                for each in error.exceptions:
                    tell(each)
                if error.__context__ is not None:  # it came in the cleanup after that one
                    tell(error.__context__)
            elif isinstance(error, BrokenError):
                told.add(error)

        outside = dari.create_task(neighbour)
        try:
            yield from family(2)
        except BaseExceptionGroup as errors:
            tell(errors)
        try:
            yield  # where those are told of who ended after the block was left
        except BaseExceptionGroup as errors:
            tell(errors)

        assert alive == 0
        assert told == set(raised)
        assert (yield outside) == "undisturbed"

    explore(main)


def test_no_permit_is_lost_or_doubled():
    """Waits for a semaphore that run out, or are cancelled, in the very moment in which they are granted."""

    def main():
        chance = yield from luck()
        semaphore = dari.BoundedSemaphore(2)
        inside = 0

        def visit():
            nonlocal inside
            with dari.move_on_after(chance.choice([1, 1, 2, None])), (yield semaphore.acquire()):
                inside += 1
                assert inside <= 2
                try:
                    yield dari.sleep(chance.choice([0, 1, 1]))
                finally:
                    inside -= 1

        tasks = [dari.create_task(visit, priority=chance.choice([-1, 0])) for _ in range(8)]
        yield from cancel_some(chance, tasks, most=3)
        yield from end_of(tasks)

        guards = []
        with dari.move_on_after(1):
            for _ in range(3):
                guards.append((yield semaphore.acquire()))
        assert (inside, len(guards)) == (0, 2)

    explore(main)


def test_a_pipeline_gives_what_it_can_and_ends_whole():
    """In order, or in any; stopped by a failing stage or by who takes: what came is right, and no stage runs on."""

    def main():
        chance = yield from luck()
        ordered, fails, patience = chance.random() < 0.5, chance.choice([None, 3, 7]), chance.choice([None, None, 2])
        working = 0
        got = []

        def square(number):
            nonlocal working
            working += 1
            try:
                yield dari.sleep(chance.choice([0, 0, 1]))
                if number == fails:
                    raise BrokenError(number)
                return number * number
            finally:
                working -= 1

        def take():
            line = dari.Pipeline(range(10), buffer=chance.randint(1, 3))
            line = line.map(square, concurrency=3, ordered=ordered).filter(lambda square: square % 2)
            while (item := (yield line.get(default=None))) is not None:
                got.append(item)
                if chance.random() < 0.3:
                    yield dari.sleep(1)
            return "all"

        outcome = "stopped"
        try:
            with dari.move_on_after(patience):
                outcome = yield dari.create_task(take)  # the line is its, and ends with it
        except BrokenError:
            outcome = "broken"

        squares = [1, 9, 25, 49, 81]
        assert working == 0
        assert got == squares[: len(got)] if ordered else len(set(got)) == len(got) and set(got) <= set(squares)
        assert outcome != "all" or len(got) == 5
        assert outcome in ({"all", "stopped"} if fails is None else {"broken", "stopped"})
        assert outcome != "stopped" or patience is not None

    explore(main)


# ---- explore itself


def lost_update():
    """Two tasks add to a number across a yield; in first in, first out the second always comes after the first."""
    total = 0

    def add():
        nonlocal total
        seen = total
        yield
        total = seen + 1

    def later():
        for _ in range(2):
            yield
        yield from add()

    yield [add(), later()]
    assert total == 2, f"an update was lost: {total}"


def test_a_planted_race_is_found_and_its_seed_repeats_it():
    """Not by the order of every day; by some seed, which fails in the same way each time."""
    testing.run(lost_update)

    with pytest.raises(AssertionError, match="an update was lost: 1") as caught:
        testing.explore(lost_update)
    (note,) = caught.value.__notes__
    seed = int(re.search(r"dari\.testing\.run\(main, seed=(\d+)\)", note)[1])

    for _ in range(3):
        with pytest.raises(AssertionError, match="an update was lost: 1"):
            testing.run(lost_update, seed=seed)


def test_seeds_give_different_schedules():
    """The thousand of a default `explore` are nearly all different ones, and so is the luck of the programs here."""
    schedules, draws = set(), set()

    def main():
        order = []

        def work(name):
            for _ in range(3):
                order.append(name)
                yield dari.sleep(0)

        chance = yield from luck()
        yield [work(name) for name in "abcde"]
        schedules.add("".join(order))
        draws.add(chance.random())

    testing.explore(main)

    assert (len(schedules) > 950, len(draws) > 800) == (True, True)


def test_a_deadlock_that_only_some_schedules_meet_is_found():
    """Two locks taken in two orders."""

    def main():
        one, two = dari.Lock(), dari.Lock()

        def take(first, second):
            with (yield first.acquire()), (yield second.acquire()):
                yield

        def take_later(first, second):
            for _ in range(4):
                yield
            yield from take(first, second)

        yield [take(one, two), take_later(two, one)]

    testing.run(main)

    with pytest.raises(dari.DeadlockError, match=r"acquire of <Lock held by task \d+ '.*', 1 waiting>") as caught:
        testing.explore(main)
    assert "dari.testing.run(main, seed=" in caught.value.__notes__[0]
