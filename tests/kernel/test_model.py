"""A model of the kernel: random programs in random company, and what must hold after every move (DESIGN §4).

The machine creates actors (see `actors.py`), steps, cancels, lets time pass, and reaches in from outside. The actors
say what a task may not see; the invariants of the machine, what the kernel may look like in between.
"""

from __future__ import annotations

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import dari
from dari import TaskState
from dari._kernel.contract import FINISHED, MORE
from dari._kernel.outcome import Value

from .actors import Actor, dense, unexpected
from .conftest import ByHand

DELAYS = st.sampled_from([0, 0.25, 0.5, 1, 2, 4])  # dyadic: sums are exact
SMALL = st.integers(0, 7)


class World(RuleBasedStateMachine):
    @initialize(
        limit=st.sampled_from([1, 2, 64, None]), seed=st.sampled_from([None, None, 1]), crowd=st.integers(0, 1_000_000)
    )
    def begin(self, limit, seed, crowd):
        self.hand = ByHand(starvation_limit=limit, seed=seed)
        self.queues = [dari.Queue(0), dari.Queue(1), dari.Queue(2)]
        self.put = [Counter() for _ in self.queues]
        self.got = [Counter() for _ in self.queues]
        self.events = [dari.Event(), dari.Event()]
        self.sets = [0, 0]
        self.actors = []
        self.families = []
        self.problems = []
        self.items = 0
        self.create(Actor(self, [("yield",)]), 0)
        self.a_crowd_comes(crowd)

    # ---- what programs and rules use -----------------------------------------------------------------------------

    def check(self, holds, what):
        if not holds:
            self.problems.append(what)

    def new_item(self):
        """Every fourth one is None, the item that is easiest to lose; they are told apart by their number alone."""
        self.items += 1
        return None if self.items % 4 == 0 else self.items

    def create(self, actor, priority):
        actor.task = self.hand.create(actor.main, priority=priority)
        self.actors.append(actor)

    def set_event(self, number):
        self.sets[number] += 1
        self.events[number].set()

    # ---- moves -----------------------------------------------------------------------------------------------------

    @rule(seed=st.integers(0, 1_000_000))
    def a_crowd_comes(self, seed):
        if len(self.hand.kernel.tasks) < 60:
            for number in range(4):
                self.create(Actor(self, dense(4 * seed + number)), number % 3 - 1)

    @rule(steps=st.integers(1, 40))
    def steps(self, steps):
        self.hand.step(steps)

    @rule()
    def settles(self):
        self.hand.settle()

    @rule(delay=DELAYS)
    def time_passes(self, delay):
        self.hand.now += delay

    @rule()
    def time_jumps(self):
        deadline = self.hand.kernel.deadlines.next()
        if deadline is not None:
            self.hand.now = max(self.hand.now, deadline)
            self.hand.step(0)

    @rule(number=SMALL)
    def cancels(self, number):
        self.actors[-1 - number % len(self.actors)].task.cancel("from outside")

    @rule(number=st.integers(0, 2))
    def puts(self, number):
        if not self.queues[number].full():
            item = self.new_item()
            self.queues[number].put_nowait(item)
            self.put[number][item] += 1

    @rule(number=st.integers(0, 2))
    def gets(self, number):
        if not self.queues[number].empty():
            self.got[number][self.queues[number].get_nowait()] += 1

    @rule(number=st.integers(0, 1))
    def sets_event(self, number):
        self.set_event(number)

    @rule(number=SMALL, priority=st.integers(-2, 2))
    def sets_priority(self, number, priority):
        self.actors[-1 - number % len(self.actors)].task.priority = priority

    @precondition(lambda self: len(self.hand.kernel.tasks) > 5)
    @rule()
    def cancels_all(self):
        self.hand.kernel.cancel("all")

    # ---- what must hold --------------------------------------------------------------------------------------------

    @invariant()
    def nothing_was_seen_that_must_not_be(self):
        if hasattr(self, "hand"):
            assert not self.problems, self.problems

    @invariant()
    def every_task_stands_where_its_state_says(self):
        if not hasattr(self, "hand"):
            return
        kernel = self.hand.kernel
        standing = Counter(task for lane in kernel._lanes._lanes.values() for task in lane.waiting())
        assert kernel.current is None
        assert standing == Counter({task: 1 for task in kernel.tasks if task.state is TaskState.READY})
        for task in kernel.tasks:
            assert task.state in (TaskState.READY, TaskState.WAITING)
            assert (task.state is TaskState.WAITING) == (task._wait is not None)
            assert task._wait is None or (task._wait.open and task._wait.task is task)
        for lane in kernel._lanes._lanes.values():
            assert lane._listed == bool(lane.waiting())

    @invariant()
    def who_is_waited_for_by_lists_waits(self):
        """Nobody stands in a list of waiters who does not wait there any more."""
        if not hasattr(self, "hand"):
            return
        lists = [event._waiters for event in self.events]
        lists += [waiters for queue in self.queues for waiters in (queue._getters, queue._putters)]
        waits = [wait for waiters in lists for waiting in waiters._by_priority.values() for wait in waiting]
        assert all(wait.open for wait in waits)
        assert len({wait.task for wait in waits}) == len(waits)
        for queue in self.queues:
            assert not (queue._getters and queue._items)
            assert not queue._putters or queue.full()
        for event in self.events:
            assert not (event.is_set() and event._waiters)

    @invariant()
    def the_heap_is_small(self):
        if not hasattr(self, "hand"):
            return
        deadlines = self.hand.kernel.deadlines
        heaps = deadlines._heap if deadlines._into is deadlines._heap else deadlines._heap + deadlines._into
        live = [entry for entry in heaps if entry[2] is not None]
        assert len(deadlines) - len(live) == deadlines._stale
        assert len(deadlines) <= 2 * len(live) + 64

    @invariant()
    def counters_add_up(self):
        if not hasattr(self, "hand"):
            return
        kernel = self.hand.kernel
        counts = self.hand.counts()
        states = Counter(actor.task.state for actor in self.actors)
        assert counts["created"] == len(self.actors)
        assert counts["created"] == sum(counts.values()) - counts["created"]
        assert counts["completed"] == states[TaskState.COMPLETED]
        assert counts["failed"] == states[TaskState.FAILED]
        assert counts["cancelled"] == states[TaskState.CANCELLED]
        assert kernel.switches == sum(actor.task.steps for actor in self.actors)

    @invariant()
    def no_item_is_lost_or_doubled(self):
        """What was put was got, is in, or was won by a task that has not run since."""
        if not hasattr(self, "hand"):
            return
        on_the_way = Counter()
        for task in self.hand.kernel.tasks:
            if isinstance(task._pending, Value) and (task._pending.value is None or type(task._pending.value) is int):
                on_the_way[task._pending.value] += 1
        put = sum(map(Counter.total, self.put))
        got = sum(map(Counter.total, self.got))
        inside = sum(queue.qsize() for queue in self.queues)
        # Values that are on the way may be items of getters, or the None of putters and joins.
        assert abs(put - got - inside) <= on_the_way.total()

    @invariant()
    def children_do_not_outlive_their_parent(self):
        if hasattr(self, "hand"):
            assert not [
                parent for parent, children in self.families if parent.done() and not all(c.done() for c in children)
            ]

    def teardown(self):
        """Cancelled and let go, everything ends; what was put was got or is in; nothing is left anywhere."""
        if not hasattr(self, "hand"):
            return
        hand, kernel = self.hand, self.hand.kernel
        kernel.cancel("the end")
        for _ in range(2000):
            while (need := hand.step(50)) is MORE:
                pass
            if need is FINISHED:
                break
            if need.deadline is not None:
                hand.now = max(hand.now, need.deadline)
            self.let_go()
        self.nothing_was_seen_that_must_not_be()
        assert kernel.tasks == {}, [*kernel.tasks]
        self.every_task_stands_where_its_state_says()
        self.who_is_waited_for_by_lists_waits()
        self.counters_add_up()
        self.children_do_not_outlive_their_parent()
        assert not kernel._lanes
        assert kernel.deadlines.next() is None
        for number, queue in enumerate(self.queues):
            assert self.put[number] == self.got[number] + Counter(queue._items)
            assert not queue._getters
            assert not queue._putters
        assert [error for _, error in hand.reports if error is not None and unexpected(error)] == []

    def let_go(self):
        """Whoever waits behind a shield for something from outside gets it."""
        for number in range(len(self.events)):
            self.set_event(number)
        for number, queue in enumerate(self.queues):
            while queue._getters:
                item = self.new_item()
                queue.put_nowait(item)
                self.put[number][item] += 1
            while queue._putters:
                self.got[number][queue.get_nowait()] += 1


World.TestCase.settings = settings(max_examples=400, stateful_step_count=40, deadline=None)
TestWorld = World.TestCase
