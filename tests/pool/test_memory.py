"""What has ended, or was cancelled, is nowhere any more. (`benchmarks/pool_memory.py` looks at a million each.)"""

from __future__ import annotations

import gc
import tracemalloc
from collections import deque
from weakref import WeakSet

import pytest

from dari.pool import Job

MANY = 20_000
WINDOW = 100
NOISE = 100_000  # bytes: five for each of the many


class Payload:
    def __init__(self, alive):
        alive.add(self)


def growth(run):
    """How many bytes more are in use after `run(MANY)`, and how many were at the worst; statistics are there before."""
    run(MANY // 10)
    tracemalloc.start()
    try:
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()
        run(MANY)
        gc.collect()
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return after - before, peak - before


def jobs_alive():
    gc.collect()
    return sum(isinstance(each, Job) for each in gc.get_objects())


def test_many_jobs_through_a_narrow_queue_need_the_memory_of_the_few_that_fit(make_pool):
    """Whoever hands in waits, and what has run is gone."""
    pool, alive, others = make_pool(2, max_queue=WINDOW), WeakSet(), jobs_alive()
    most = 0

    def run(jobs):
        nonlocal most
        for _ in range(jobs):
            pool.submit(id, Payload(alive))
            most = max(most, len(alive))
        assert pool.join(timeout=10)

    more, peak = growth(run)
    assert most <= WINDOW + 2 + 2  # queued, running, and just handed in or just put down
    assert more < NOISE
    assert peak < NOISE + WINDOW * 2000
    assert jobs_alive() - others <= 2  # that a worker may still hold


@pytest.mark.parametrize("delay", [0.0, 10_000.0], ids=["queued", "scheduled"])
def test_many_that_are_cancelled_leave_nothing_while_the_workers_are_held(make_pool, gate, delay):
    """Behind one that stays, so that they are not at the head of the queue; the payload is free at once."""
    pool, alive, others = make_pool(1, max_queue=None), WeakSet(), jobs_alive()
    view = pool.options(delay=delay)
    held = gate.hold(pool)
    stays = view.submit(int)

    def run(jobs):
        window = deque()
        for _ in range(jobs):
            window.append(view.submit(id, Payload(alive)))
            if len(window) == WINDOW:
                assert window.popleft().cancel()
                assert len(alive) == WINDOW - 1
        while window:
            assert window.popleft().cancel()

    more, peak = growth(run)
    assert len(alive) == 0
    assert more < NOISE
    assert peak < NOISE + WINDOW * 5000
    assert jobs_alive() - others <= 2 + 2 * WINDOW  # two that stay, and marks in the queue
    assert not stays.done()
    assert not held[0].done()
