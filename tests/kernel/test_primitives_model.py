"""Every primitive under random use, cancels and timeouts: nothing lost, nothing granted twice, every task ends.

The tasks keep the books (who is inside, what was won); the machine compares them with what the primitives believe,
after each rule, and lets everybody out at the end.
"""

from __future__ import annotations

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import dari
from dari._kernel.contract import FINISHED, MORE
from dari._kernel.outcome import Value
from dari.sync import Guard

from .conftest import ByHand

HOLDS = st.sampled_from(["lock", "semaphore", "bounded"])
QUEUES = st.sampled_from(["fifo", "priority", "lifo"])
DELAYS = st.sampled_from([None, 0, 1, 2])
PRIORITIES = st.integers(-1, 1)


class Primitives(RuleBasedStateMachine):
    @initialize(seed=st.one_of(st.none(), st.integers(0, 9)))
    def begin(self, seed):
        self.hands = [ByHand(seed=seed), ByHand()]  # two schedulers that share everything
        self.tasks = []
        self.holds = {"lock": dari.Lock(), "semaphore": dari.Semaphore(2), "bounded": dari.BoundedSemaphore(3)}
        self.permits = {"lock": 1, "semaphore": 2, "bounded": 3}
        self.inside = Counter()
        self.condition = dari.Condition(self.holds["lock"])
        self.tickets = 0  # what wait_for waits for: each is taken once
        self.issued = self.taken = 0
        self.barrier = dari.Barrier(3)
        self.numbers = []
        self.queues = {"fifo": dari.Queue(2), "priority": dari.PriorityQueue(2), "lifo": dari.LifoQueue()}
        self.put, self.got = Counter(), Counter()
        self.serial = 0
        self.problems = []

    # ---- what tasks do ---------------------------------------------------------------------------------------------

    def within(self, delay, steps):
        with dari.move_on_after(delay):
            yield from steps

    def hold(self, name, pause):
        with (yield self.holds[name].acquire()):
            yield from self.be_inside(name, pause)

    def be_inside(self, name, pause):
        self.inside[name] += 1
        try:
            if self.inside[name] > self.permits[name]:
                self.problems.append(f"{self.inside[name]} are inside of {name}")
            yield dari.sleep(pause) if pause else None
        finally:
            self.inside[name] -= 1

    def wait(self, predicate):
        with (yield self.condition.acquire()):
            try:
                if predicate:
                    yield self.condition.wait_for(self.take_ticket)
                    self.taken += 1
                else:
                    yield self.condition.wait()
            finally:
                if not self.condition.locked():
                    self.problems.append("the lock is not held after a wait")
                self.inside["lock"] += 1
                if self.inside["lock"] > 1:
                    self.problems.append("two hold the lock after a wait")
                self.inside["lock"] -= 1

    def take_ticket(self):
        if self.tickets:
            self.tickets -= 1
            return True
        return False

    def notify(self, number, ticket):
        with (yield self.condition.acquire()):
            if ticket:
                self.tickets += 1
                self.issued += 1
            self.condition.notify(number)
            yield from self.be_inside("lock", 0)

    def meet(self):
        self.numbers.append((yield self.barrier.wait()))

    def puts(self, name, item):
        yield self.queues[name].put(item)
        self.put[name, item] += 1

    def gets(self, name):
        item = yield self.queues[name].get()
        self.got[name, item] += 1
        self.queues[name].task_done()

    # ---- what is done to them --------------------------------------------------------------------------------------

    def create(self, steps, delay, priority):
        hand = self.hands[len(self.tasks) % 2]
        self.tasks.append(hand.create(self.within(delay, steps), priority=priority))

    @rule(name=HOLDS, pause=st.integers(0, 2), delay=DELAYS, priority=PRIORITIES)
    def somebody_holds(self, name, pause, delay, priority):
        self.create(self.hold(name, pause), delay, priority)

    @rule(predicate=st.booleans(), delay=DELAYS, priority=PRIORITIES)
    def somebody_waits(self, predicate, delay, priority):
        self.create(self.wait(predicate), delay, priority)

    @rule(number=st.integers(0, 3), ticket=st.booleans(), delay=DELAYS, priority=PRIORITIES)
    def somebody_notifies(self, number, ticket, delay, priority):
        self.create(self.notify(number, ticket), delay, priority)

    @rule(delay=DELAYS, priority=PRIORITIES)
    def somebody_meets(self, delay, priority):
        self.create(self.meet(), delay, priority)

    @rule(name=QUEUES, delay=DELAYS, priority=PRIORITIES)
    def somebody_puts(self, name, delay, priority):
        self.serial += 1
        self.create(self.puts(name, self.serial), delay, priority)

    @rule(name=QUEUES, delay=DELAYS, priority=PRIORITIES)
    def somebody_gets(self, name, delay, priority):
        self.create(self.gets(name), delay, priority)

    @rule(name=QUEUES, delay=DELAYS)
    def somebody_joins(self, name, delay):
        self.create((lambda: (yield self.queues[name].join()))(), delay, 0)

    @rule(which=st.integers(0, 1), steps=st.integers(1, 4))
    def steps(self, which, steps):
        self.hands[which].step(steps)

    @rule(delay=st.sampled_from([0.5, 1]))
    def time_passes(self, delay):
        for hand in self.hands:
            hand.now += delay

    @rule(number=st.integers(0, 30))
    def cancels(self, number):
        if self.tasks:
            self.tasks[-1 - number % len(self.tasks)].cancel()

    @rule(number=st.integers(0, 30), priority=PRIORITIES)
    def sets_priority(self, number, priority):
        if self.tasks:
            self.tasks[-1 - number % len(self.tasks)].priority = priority

    # ---- what must hold --------------------------------------------------------------------------------------------

    def lines(self):
        yield self.condition._waiters
        yield self.barrier._waiters
        for hold in self.holds.values():
            yield hold._waiters
        for queue in self.queues.values():
            yield from (queue._getters, queue._putters, queue._joiners)

    @invariant()
    def it_is_as_it_must_be(self):
        if not hasattr(self, "hands"):
            return
        assert self.problems == []
        waits = [wait for line in self.lines() for waiting in line._by_priority.values() for wait in waiting]
        assert all(wait.open for wait in waits)
        assert len({wait.task for wait in waits}) == len(waits)  # nobody stands in two lines
        for name, hold in self.holds.items():
            assert hold.locked() or not hold._waiters
            on_the_way = sum(
                isinstance(task._pending, Value)
                and isinstance(task._pending.value, Guard)
                and task._pending.value._of is hold
                for task in self.tasks
            )
            held = hold.locked() if name == "lock" else self.permits[name] - hold._value
            if name != "lock":  # each permit is free, inside, or on the way
                assert held == self.inside[name] + on_the_way
            else:
                assert held or not self.inside[name] + on_the_way
        assert self.tickets >= 0
        assert self.barrier.n_waiting < 3
        for queue in self.queues.values():
            assert not (queue._getters and queue._items)
            assert not queue._putters or queue.full()
            assert queue._unfinished or not queue._joiners

    def settle(self):
        while any(hand.step(100) is MORE for hand in self.hands):
            pass

    def teardown(self):
        if not hasattr(self, "hands"):
            return
        self.settle()
        for hand in self.hands:
            hand.kernel.cancel("the end")
        for _ in range(100):
            self.settle()
            for hand in self.hands:
                hand.now += 1
        self.it_is_as_it_must_be()
        assert [hand.step() for hand in self.hands] == [FINISHED, FINISHED], [
            *filter(lambda t: not t.done(), self.tasks)
        ]
        assert all(task.exception() is None for task in self.tasks if not task.cancelled())
        assert not any(self.lines())
        assert {name: hold.locked() for name, hold in self.holds.items()} == dict.fromkeys(self.holds, False)
        assert (self.holds["semaphore"]._value, self.holds["bounded"]._value) == (2, 3)
        assert self.issued == self.taken + self.tickets
        left = Counter((name, item) for name, queue in self.queues.items() for item in queue._items)
        assert self.put == self.got + left
        for queue in self.queues.values():
            assert queue._unfinished == queue.qsize()
        for number in range(3):
            assert self.numbers.count(number) == self.numbers.count(0)


Primitives.TestCase.settings = settings(max_examples=300, stateful_step_count=50, deadline=None)
TestPrimitives = Primitives.TestCase
