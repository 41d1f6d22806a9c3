"""A task's life: what it is called, what can be asked of it, how it ends, who hears of it."""

from __future__ import annotations

import gc
import weakref
from contextvars import ContextVar

import pytest

import dari
from dari import TaskState
from dari._kernel.contract import FINISHED, MORE, Idle


def nothing():
    return
    yield


def spin(steps):
    for _ in range(steps):
        yield


def give(value):
    yield
    return value


def fail(error):
    yield
    raise error


def test_a_kernel_without_tasks_is_finished(hand):
    """The first advance says so."""
    assert hand.step() is FINISHED


def test_advance_says_what_is_needed_next(hand):
    """More to do, or the next deadline, or finished."""

    def main():
        yield
        yield dari.sleep(2)

    hand.create(main)

    assert hand.step() is MORE
    need = hand.settle()
    assert isinstance(need, Idle)
    assert (need.deadline, dict(need.watching)) == (2.0, {})
    assert hand.at(2.0) is FINISHED


def test_advance_takes_no_more_steps_than_allowed(hand):
    """None at all with 0, so that a driver can only deliver events."""
    task = hand.create(spin, 10)
    hand.kernel.advance((), (), 0)
    assert task.steps == 0

    hand.kernel.advance((), (), 3)

    assert (task.steps, hand.kernel.switches) == (3, 3)


def test_states(hand):
    """READY, RUNNING, WAITING, and how it ended; derived, so they cannot contradict what the kernel does."""
    seen = []

    def main():
        seen.append(dari.current_task().state)
        yield
        yield dari.sleep(1)

    def ends(how):
        yield
        if how is not None:
            raise how

    task = hand.create(main)
    seen.append(task.state)
    hand.step()
    seen.append(task.state)
    hand.settle()
    seen.append(task.state)
    hand.run()
    failed = hand.create(ends, OSError())
    cancelled = hand.create(ends, None)
    cancelled.cancel()
    hand.run()

    assert seen == [TaskState.READY, TaskState.RUNNING, TaskState.READY, TaskState.WAITING]
    assert [each.state for each in (task, failed, cancelled)] == [
        TaskState.COMPLETED,
        TaskState.FAILED,
        TaskState.CANCELLED,
    ]


def test_timestamps(hand):
    """Created, started at the first step, ended; on the kernel's clock, and None until then."""

    def main():
        yield dari.sleep(2)

    hand.now = 1.0
    task = hand.create(main)
    before = (task.created_at, task.started_at, task.ended_at)
    hand.at(3.0)
    between = (task.created_at, task.started_at, task.ended_at)
    hand.run()

    assert [
        before,
        between,
        (task.created_at, task.started_at, task.ended_at),
    ] == [(1.0, None, None), (1.0, 3.0, None), (1.0, 3.0, 5.0)]


def test_cancelled_before_the_first_step_no_code_of_it_runs(hand):
    """Not even its `finally`, as in asyncio; and it never started."""
    ran = []

    def main():
        try:
            ran.append("body")
            yield
        finally:
            ran.append("finally")

    async def amain():
        ran.append("coroutine")

    tasks = [hand.create(main), hand.create(amain)]
    for task in tasks:
        task.cancel()
    hand.run()

    assert (ran, [t.cancelled() for t in tasks], [t.started_at for t in tasks]) == ([], [True, True], [None, None])


def test_what_a_task_can_be_made_of(hand):
    """Generator, generator function, coroutine, coroutine function, anything that looks like one."""

    async def coroutine(value):
        return value

    class LooksLikeOne:
        def __iter__(self):
            return self

        def __next__(self):
            return self.send(None)

        def send(self, value):
            raise StopIteration("e")

        def throw(self, error):
            raise error

        def close(self):
            pass

    tasks = [
        hand.create(give("a")),
        hand.create(give, "b"),
        hand.create(coroutine("c")),
        hand.create(coroutine, "d"),
        hand.create(LooksLikeOne()),
    ]
    hand.run()

    assert [task.result() for task in tasks] == ["a", "b", "c", "d", "e"]


def test_what_a_task_cannot_be_made_of(hand):
    """The error names what was given and asks for the missing yield."""
    with pytest.raises(TypeError, match=r"is there a `yield` in it"):
        hand.create(lambda: 1)
    with pytest.raises(TypeError, match="takes no arguments"):
        hand.create(give(1), 2)
    with pytest.raises(TypeError, match="a task is a generator"):
        hand.create([1, 2])

    assert hand.counts() == {"created": 0, "completed": 0, "failed": 0, "cancelled": 0, "alive": 0}


def test_names(hand):
    """The one that was given, else the function's qualified name; the repr shows it with the state."""
    named = hand.create(spin, 1, name="spinner")
    unnamed = hand.create(spin, 1)

    assert (named.name, unnamed.name) == ("spinner", "spin")
    assert f"<Task {named.id} 'spinner' ready>" == repr(named)
    assert named.id < unnamed.id


def test_the_repr_tells_what_a_task_waits_for(hand):
    """Also for two that wait for each other, which must not recurse."""
    tasks = {}

    def waiter(other):
        yield tasks[other]

    def looker(other):
        yield dari.wait([tasks[other], tasks["c"]], return_when="FIRST_COMPLETED")

    tasks["a"] = hand.create(waiter, "b", name="a")
    tasks["b"] = hand.create(looker, "a", name="b")
    tasks["c"] = hand.create(lambda: (yield dari.sleep(3)) or None, name="c")
    hand.settle()
    ids = {name: task.id for name, task in tasks.items()}

    assert f"<Task {ids['a']} 'a' waiting on task {ids['b']} 'b'>" == repr(tasks["a"])
    assert f"<Task {ids['b']} 'b' waiting on wait for FIRST_COMPLETED of 2>" == repr(tasks["b"])
    assert f"shield(task {ids['a']} 'a')" == repr(dari.shield(tasks["a"]))
    assert f"<Task {ids['c']} 'c' waiting on sleep(3)>" == repr(tasks["c"])


def test_the_kernel_holds_tasks_until_they_end(hand):
    """Fire and forget is safe; afterwards nothing of it stays."""
    done = []

    def main():
        yield dari.sleep(1)
        done.append("ran")

    gone = weakref.ref(hand.create(main))
    gc.collect()
    hand.run()
    gc.collect()

    assert (done, gone(), hand.kernel.tasks) == (["ran"], None, {})


def test_the_parent_link_is_weak(hand):
    """A child knows who created it, and does not keep that alive."""
    children = []

    def child():
        yield dari.sleep(1)

    def main():
        children.append(hand.create(child))
        yield

    root = hand.create(main)
    hand.settle()
    assert (root, None) == (children[0].parent, root.parent)

    del root
    gc.collect()

    assert children[0].parent is None


def test_cancelling_what_has_ended(hand):
    """Gives False and changes nothing."""
    task = hand.create(give, 1)
    hand.run()

    assert (task.cancel(), task.result()) == (False, 1)


def test_one_context_per_task_for_life(hand):
    """What it sets it finds again after every wait; a child inherits a copy; nobody else sees it."""
    var = ContextVar("var", default="outside")
    seen = []

    def child():
        seen.append(("child", var.get()))
        var.set("child")
        yield

    def main(name):
        token = var.set(name)
        hand.create(child)
        yield dari.sleep(1)
        seen.append((name, var.get()))
        var.reset(token)
        yield
        seen.append((name, var.get()))

    hand.create(main, "a")
    hand.create(main, "b")
    hand.run()

    assert seen == [("child", "a"), ("child", "b"), ("a", "a"), ("b", "b"), ("a", "outside"), ("b", "outside")]
    assert var.get() == "outside"


def test_coroutines_are_stepped_by_the_kernel(hand):
    """They await dari's operations, and are cancelled there."""
    seen = []

    async def main():
        try:
            await dari.sleep(1)
            await dari.checkpoint()
            await dari.sleep(100)
        finally:
            seen.append(hand.now)

    task = hand.create(main)
    hand.at(1.0)
    task.cancel()
    hand.run()

    assert (seen, task.cancelled()) == ([1.0], True)


def test_counters(hand):
    """Created is what completed, failed, was cancelled, and is alive."""
    hand.create(give, 1)
    hand.create(fail, OSError())
    hand.create(spin, 5).cancel()
    hand.create(lambda: (yield dari.sleep(9)) or None)
    hand.settle()

    assert hand.counts() == {"created": 4, "completed": 1, "failed": 1, "cancelled": 1, "alive": 1}


def test_max_tasks(hand, by_hand):
    """The bound is on tasks alive; when one has ended there is room again."""
    hand = by_hand(max_tasks=2)
    hand.create(give, 1)
    hand.create(give, 2)
    with pytest.raises(dari.SchedulerFull, match="holds 2 tasks"):
        hand.create(give, 3)
    hand.run()
    hand.create(give, 4)

    assert hand.counts() == {"created": 3, "completed": 2, "failed": 0, "cancelled": 0, "alive": 1}


def test_a_wake_goes_through_the_woken_task_s_own_kernel(by_hand):
    """An event set in one kernel wakes a task of another, and tells that one's driver."""
    here, there = by_hand(), by_hand()
    event = dari.Event()

    def waiter():
        yield event.wait()
        return "woken"

    def setter():
        event.set()
        yield

    task = here.create(waiter)
    here.settle()
    here.notified = 0
    there.create(setter)
    there.run()

    assert (here.notified, MORE if here.kernel._lanes else None) == (1, MORE)
    here.run()
    assert task.result() == "woken"


def test_descriptors(hand):
    """One waiter per descriptor and direction; a second one is told; cancelling takes it off the list."""

    def reader(fd):
        yield dari.wait_readable(fd)
        return "read"

    first, second, third = hand.create(reader, 5), hand.create(reader, 5), hand.create(reader, 6)
    need = hand.settle()
    assert {(5, "read"), (6, "read")} == set(need.watching)
    assert "already" in str(second.exception())

    third.cancel()
    hand.settle()
    assert {(5, "read")} == set(need.watching)
    hand.step(10, ready=[(5, "read"), (6, "read"), (7, "write")])

    assert (first.result(), dict(need.watching)) == ("read", {})
