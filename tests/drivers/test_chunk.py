"""How many steps one advance takes: as many as its time allows at the speed of the last one."""

from __future__ import annotations

import time

import dari
from dari.drivers.chunk import Chunk


def after(*advances):
    """The steps that are allowed after advances that took so many seconds a step, each of a whole chunk."""
    chunk = Chunk(0.001)
    for seconds_a_step in advances:
        chunk.took(seconds_a_step * chunk.steps, whole=True)
    return chunk.steps


def test_trivial_steps_are_many():
    """The number doubles at most each time, and has an end."""
    assert [after(*[1e-7] * times) for times in (0, 1, 2, 6, 20)] == [32, 64, 128, 2048, 2048]


def test_slow_steps_are_few():
    """They follow the speed at once, down to a single one."""
    assert (after(1e-7, 1e-7, 0.0001), after(1e-7, 1e-7, 1.0), after(1.0, 1e-7)) == (10, 1, 2)


def test_an_advance_that_ran_out_of_tasks_says_nothing_of_speed():
    """Unless it took long."""
    chunk = Chunk(0.001)
    chunk.took(1e-6, whole=False)
    quick = chunk.steps
    chunk.took(0.002, whole=False)

    assert (quick, chunk.steps) == (32, 16)


def test_a_clock_that_stands_still():
    """As in virtual time: no division by nothing."""
    assert after(0.0, 0.0) == 128


def test_slow_steps_do_not_hold_up_a_deadline():
    """Beside a hundred tasks of a millisecond a step a sleep ends after a few of them, not after a round of all."""
    steps = 0
    running = True

    def slow():
        nonlocal steps
        while running:
            until = time.thread_time() + 0.001
            while time.thread_time() < until:
                pass
            steps += 1
            yield

    def main():
        nonlocal running
        for _ in range(100):
            dari.create_task(slow)
        yield dari.sleep(0.05)
        before = steps
        yield dari.sleep(0.0001)
        running = False
        return steps - before

    assert dari.run(main) < 20
