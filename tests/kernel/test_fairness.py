"""Who runs when: priorities, FIFO, what was woken before what yielded, and a bound that can be counted."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dari


def test_tasks_take_turns(hand):
    """One step each, in the order of their creation, never by id."""
    order = []

    def main(name):
        for _ in range(3):
            order.append(name)
            yield

    for name in "cab":
        hand.create(main, name)
    hand.run()

    assert order == ["c", "a", "b"] * 3


def test_the_lower_number_runs_first(hand):
    """All of it, as long as nobody waits longer than the bound."""
    order = []

    def main(name):
        for _ in range(3):
            order.append(name)
            yield

    for priority in (1, -2, 0):
        hand.create(main, priority, priority=priority)
    hand.run()

    assert order == [-2] * 3 + [0] * 3 + [1] * 3


def test_woken_before_yielded(hand):
    """Who waited for something goes before those that spin, as soon as it comes."""
    order = []
    event = dari.Event()

    def spinner(name):
        for _ in range(3):
            order.append(name)
            yield
            if order == ["a", "b"]:
                event.set()

    def waiter():
        yield event.wait()
        order.append("woken")

    hand.create(waiter)
    hand.create(spinner, "a")
    hand.create(spinner, "b")
    hand.run()

    assert order == ["a", "b", "a", "woken", "b", "a", "b"]


def test_a_new_task_goes_before_those_that_yielded(hand):
    """It counts as woken."""
    order = []

    def child():
        order.append("child")
        yield

    def main(name, creates):
        order.append(name)
        if creates:
            hand.create(child)
        yield
        order.append(name)

    hand.create(main, "a", True)
    hand.create(main, "b", False)
    hand.run()

    assert order == ["a", "b", "child", "a", "b"]


def test_a_higher_priority_that_becomes_ready_goes_next(hand):
    """The choice is made anew after every step: never a batch in between."""
    order = []
    event = dari.Event()

    def urgent():
        yield event.wait()
        order.append("urgent")

    def ordinary(number):
        order.append(number)
        if number == 2:
            event.set()
        yield

    hand.create(urgent, priority=-1)
    for number in range(6):
        hand.create(ordinary, number)
    hand.run()

    assert order == [0, 1, 2, "urgent", 3, 4, 5]


def test_strict_without_a_limit(by_hand):
    """`starvation_limit=None`: the lower one never runs while the higher one can."""
    hand = by_hand(starvation_limit=None)

    def spinner():
        while True:
            yield

    high, low = hand.create(spinner, priority=0), hand.create(spinner, priority=1)
    hand.step(10_000)

    assert (high.steps, low.steps) == (10_000, 0)


def test_the_share_of_the_lower_one(by_hand):
    """With a limit of 9 a spinning higher priority leaves one step in ten."""
    hand = by_hand(starvation_limit=9)

    def spinner():
        while True:
            yield

    high, low = hand.create(spinner, priority=0), hand.create(spinner, priority=1)
    hand.step(1000)

    assert low.steps == pytest.approx(100, abs=2)
    assert high.steps + low.steps == 1000


def test_priority_is_inherited(hand):
    """What a task starts has its priority, unless told otherwise; also through a chain."""
    seen = {}

    def child(name, depth):
        seen[name, depth] = dari.current_task().priority
        if depth:
            hand.create(child, name, depth - 1)
        yield

    hand.create(child, "inherits", 2, priority=7)
    hand.create(child, "default", 1)
    hand.run()

    assert seen == {("inherits", 2): 7, ("inherits", 1): 7, ("inherits", 0): 7, ("default", 1): 0, ("default", 0): 0}


@pytest.mark.parametrize("who", ["itself", "another"])
def test_a_priority_that_is_set(hand, who):
    """Takes effect at once, whoever sets it, while the task runs or is ready; children inherit it."""
    order = []
    tasks = {}

    def changing():
        yield
        if who == "itself":
            dari.current_task().priority = -1
        for _ in range(3):
            order.append("changed")
            yield
        hand.create(child)

    def child():
        order.append(dari.current_task().priority)
        yield

    def peer():
        yield
        if who == "another":
            tasks["changing"].priority = -1
        for _ in range(3):
            order.append("peer")
            yield

    if who == "another":
        hand.create(peer)
    tasks["changing"] = hand.create(changing)
    if who == "itself":
        hand.create(peer)
    hand.run()

    changed = ["changed", "changed", "changed", -1]
    assert tasks["changing"].priority == -1
    assert order == (["peer", *changed, "peer", "peer"] if who == "another" else [*changed, "peer", "peer", "peer"])


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("steps", [0, 1, 2])
def test_a_ready_task_that_is_moved_stands_last_at_its_new_priority(hand, inside, steps):
    """Woken, or stepped aside: it changes lanes, and those who stood there before it stay before it."""
    order = []

    def main(name):
        for _ in range(steps):
            yield
        order.append(name)
        yield

    def mover():
        tasks[1].priority = -1
        yield

    urgent = [hand.create(main, f"urgent {number}", priority=-1) for number in range(2)]
    tasks = [hand.create(main, f"normal {number}") for number in range(3)]
    if steps:
        hand.step(5)
    if inside:
        hand.create(mover, priority=-5)
    else:
        tasks[1].priority = -1
    hand.run()

    assert order == ["urgent 0", "urgent 1", "normal 1", "normal 0", "normal 2"]
    assert [task.steps for task in [*urgent, *tasks]] == [steps + 2] * 5


def test_steps_are_exact_at_any_time(hand):
    """Who looks in the middle of a burst sees every step that has been taken, its own included."""
    seen = []

    def spins(turns):
        for _ in range(turns):
            yield

    def looks():
        for _ in range(4):
            seen.append([task.steps for task in tasks] + [hand.kernel.stats(0).switches])
            yield

    tasks = [hand.create(spins, 2), hand.create(looks), hand.create(spins, 9)]
    hand.run()

    assert seen == [[1, 1, 0, 2], [2, 2, 1, 5], [3, 3, 2, 8], [3, 4, 3, 10]]
    assert [task.steps for task in tasks] == [3, 5, 10]


@pytest.mark.parametrize("priority", [-3, 0, 5])
@pytest.mark.parametrize("state", ["new", "ready", "waiting", "alone"])
def test_a_task_whose_priority_was_set_still_runs(hand, priority, state):
    """It is never lost between two lanes."""

    def main():
        yield
        yield dari.sleep(1)
        yield
        yield
        return "ran"

    def peer():
        for _ in range(20):
            yield

    task = hand.create(main)
    if state != "alone":
        hand.create(peer)
    if state == "ready":
        hand.step(2)
    if state == "waiting":
        hand.settle()
    task.priority = priority
    hand.run()
    task.priority = 9

    assert (task.result(), task.priority) == ("ran", priority)


def trace(by_hand, seed):
    hand = by_hand(seed=seed)
    order = []

    def main(name):
        for _ in range(4):
            order.append(name)
            yield
        yield dari.sleep(1)
        order.append(name)

    for name in range(8):
        hand.create(main, name)
    hand.run()
    return order


def test_seeds(by_hand):
    """The same seed gives the same trace, another another; none gives FIFO; nobody loses a step."""
    assert trace(by_hand, 1) == trace(by_hand, 1)
    assert trace(by_hand, 1) != trace(by_hand, 2)
    assert trace(by_hand, None) == list(range(8)) * 5
    assert sorted(trace(by_hand, 1)) == sorted(trace(by_hand, None))


@settings(max_examples=150, deadline=None)
@given(
    limit=st.integers(1, 8),
    programs=st.lists(
        st.tuples(
            st.integers(0, 2),  # priority
            st.integers(0, 40),  # created when so many steps have been taken
            st.lists(st.sampled_from(["yield", "get", "sleep"]), max_size=25),
        ),
        min_size=1,
        max_size=10,
    ),
)
def test_the_starvation_bound(by_hand, limit, programs):
    """A ready task with k others before it in its lane runs within (k + 1) * (limit + lanes - 1) steps."""
    hand = by_hand(starvation_limit=limit)
    queue = dari.Queue()
    for _ in range(1000):
        queue.put_nowait("item")
    waiting: dict[int, tuple[int, int]] = {}  # when it became ready, how many stood before it
    lanes = set()
    steps = 0
    worst = []

    def main(number, program):
        for what in program:
            note(number)
            if what == "yield":
                yield
            elif what == "get":
                yield queue.get()
            else:
                yield dari.sleep(1)
        note(number)

    def note(number):
        since, before = waiting.pop(number)
        worst.append((steps - since, (before + 1) * (limit + len(lanes) - 1)))

    def look():
        """Note who has become ready: right after each step, from the lanes themselves."""
        for rank, lane in hand.kernel._lanes._lanes.items():
            for before, task in enumerate(lane.waiting()):
                lanes.add(rank)
                waiting.setdefault(numbers[task], (steps, before))

    numbers = {}
    left = sorted(enumerate(programs), key=lambda pair: pair[1][1])
    while left or hand.kernel.tasks:
        while left and (left[0][1][1] <= steps or not hand.kernel.tasks):
            number, (priority, _, program) = left.pop(0)
            numbers[hand.create(main, number, program, priority=priority)] = number
        look()
        before = hand.kernel.switches
        hand.step()
        if hand.kernel.switches == before:
            hand.now += 1
            hand.step(0)
        steps = hand.kernel.switches
        look()

    assert [pair for pair in worst if pair[0] > pair[1]] == []


def test_fifo_is_never_broken_by_id(hand):
    """A thousand sleepers with one deadline wake in the order in which they fell asleep."""
    woken = []

    def sleeper(number):
        yield dari.sleep_until(5.0)
        woken.append(number)

    for number in range(1000):
        hand.create(sleeper, number)
    hand.run()

    assert woken == list(range(1000))
