"""Who looks on sees every task and every step, costs nothing while absent, and harms nobody."""

from __future__ import annotations

import dari
from dari._kernel.bursts import Bursts
from dari._kernel.kernel import Kernel
from dari._kernel.tracing import install


class Notes(dari.Tracer):
    def __init__(self):
        self.seen = []

    def task_created(self, task):
        self.seen.append(("created", task.name))

    def task_woken(self, task):
        self.seen.append(("woken", task.name))

    def step_started(self, task):
        self.seen.append(("step", task.name))

    def step_ended(self, task):
        self.seen.append(("step ended", task.name))

    def task_blocked(self, task, what):
        self.seen.append(("blocked", task.name, repr(what)))

    def task_ended(self, task):
        self.seen.append(("ended", task.name, task.state))


def sleeper():
    yield
    yield dari.sleep(1)


def test_everything_is_told_in_order(hand):
    """Created, stepped, blocked, woken, ended: in the order in which it happens."""
    notes = Notes()
    install(hand.kernel, notes)
    hand.create(sleeper)
    hand.run()

    name = "sleeper"
    assert notes.seen == [
        ("created", name),
        ("step", name),
        ("step ended", name),
        ("step", name),
        ("step ended", name),
        ("blocked", name, "sleep(1)"),
        ("woken", name),
        ("step", name),
        ("step ended", name),
        ("ended", name, dari.TaskState.COMPLETED),
    ]


def test_how_tasks_end(hand):
    """A failure and a cancel end the step before they end the task; a task cancelled before its first step has one."""
    notes = Notes()
    install(hand.kernel, notes)

    def fails():
        raise ValueError
        yield

    hand.create(fails, name="fails")
    hand.create(sleeper).cancel()
    hand.run()

    ends = [("ended", "fails", dari.TaskState.FAILED), ("ended", "sleeper", dari.TaskState.CANCELLED)]
    assert [note for note in notes.seen if note[0] == "ended"] == ends
    for name in ("fails", "sleeper"):
        assert [note[0] for note in notes.seen if note[1] == name][-3:] == ["step", "step ended", "ended"]


def test_a_wait_that_is_over_at_once_is_no_wait(hand):
    """An operation that need not wait makes its task step aside: nobody is told of a block, or of a wake."""
    notes = Notes()
    install(hand.kernel, notes)
    queue = dari.Queue()

    def puts():
        yield queue.put(1)
        yield queue.get()

    hand.create(puts)
    hand.run()

    assert {note[0] for note in notes.seen} == {"created", "step", "step ended", "ended"}


def test_what_the_same_steps_do_is_the_same(by_hand):
    """With a tracer the order of steps, the counts and the numbers are those without one."""

    def program(tracer):
        hand = by_hand(starvation_limit=3)
        order = []
        if tracer:
            install(hand.kernel, Notes())

        def spins(number):
            for _ in range(number + 3):
                order.append(number)
                yield

        def waits(number):
            order.append(number)
            yield dari.sleep(number)
            hand.create(spins, number, priority=number % 3)
            order.append(number)

        tasks = [hand.create(spins, number, priority=number % 3) for number in range(6)]
        tasks += [hand.create(waits, number) for number in range(6)]
        hand.run()
        return order, [task.steps for task in tasks], hand.kernel.switches

    assert program(tracer=True) == program(tracer=False)


def test_it_comes_and_goes_in_the_middle(hand):
    """Set from inside a step it sees those after it; taken away it sees no more, and nothing of it is left."""
    notes = Notes()

    def main():
        yield
        install(hand.kernel, notes)
        yield
        yield
        install(hand.kernel, None)
        yield
        yield

    hand.create(main, name="main")
    hand.create(sleeper)
    hand.run()

    assert [note for note in notes.seen if note[1] == "main"] == [
        ("step", "main"),
        ("step ended", "main"),
        ("step", "main"),
    ]
    assert (type(hand.kernel), type(hand.kernel._lanes)) == (Kernel, Bursts)
    assert hand.kernel.completed == 2


def test_a_tracer_that_fails_harms_nobody(hand):
    """Its error is reported, with what it was told; it is told nothing any more, and all tasks go on."""

    class Fails(dari.Tracer):
        told = 0

        def step_started(self, task):
            self.told += 1
            raise ValueError("no")

    tracer = Fails()
    install(hand.kernel, tracer)
    tasks = [hand.create(sleeper) for _ in range(3)]
    hand.run()

    assert [task.done() for task in tasks] == [True] * 3
    assert (tracer.told, hand.kernel.tracer) == (1, None)
    ((what, error),) = hand.reports
    assert "failed in step_started" in what
    assert isinstance(error, ValueError)


def test_times(by_hand):
    """Steps, run time, longest step and ready delays, per task and per priority."""
    hand = by_hand()
    times = dari.TaskTimes(clock=hand.clock)
    install(hand.kernel, times)

    def works(*durations):
        for duration in durations:
            hand.now += duration
            yield
        yield dari.sleep(1)

    first = hand.create(works, 1.0, 2.0, name="first")
    second = hand.create(works, 0.5, name="second", priority=dari.Priority.LOW)
    hand.run()

    of_first, of_second = times.tasks
    assert (of_first.name, of_first.steps, of_first.run_time, of_first.longest_step) == (
        f"{first.id} first",
        first.steps,
        3.0,
        2.0,
    )
    assert of_first.ready_delay == (0.0, 0.0, 0.0)
    assert (of_second.name, of_second.steps, of_second.run_time) == (f"{second.id} second", second.steps, 0.5)
    assert of_second.ready_delay == (0.0, 3.0, 3.0)
    assert {priority: each.run_time for priority, each in times.priorities.items()} == {0: 3.0, 1: 0.5}
    assert "LOW 1" in str(times)
    assert f"{first.id} first" in str(times)


def test_times_keep_a_bounded_number_of_tasks(by_hand):
    """Whatever ends drops out after a thousand others; those alive stay."""
    hand = by_hand()
    times = dari.TaskTimes(clock=hand.clock)
    install(hand.kernel, times)
    hand.create(lambda: (yield dari.sleep(5)), name="stays")
    for _ in range(3000):
        hand.create(lambda: (yield))
    hand.settle()

    assert len(times.tasks) == 1001
    assert any("stays" in each.name for each in times.tasks)
    assert "and 981 more" in str(times)
