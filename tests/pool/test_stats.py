"""What a pool tells about itself."""

from __future__ import annotations

from dari._kernel.priority import Priority
from dari.pool.stats import Percentiles


def counts(each):
    return each.queued, each.running, each.completed, each.failed, each.cancelled


def test_stats_count_every_job_under_its_priority(make_pool, gate):
    """Queued, running, completed, failed, cancelled; workers and how many are idle."""
    pool = make_pool(2)
    held = gate.hold(pool, 2)
    high, low = pool.options(priority=Priority.HIGH), pool.options(priority=Priority.LOW)
    high.submit(divmod, 1, 0)
    low.submit(int).cancel()
    low.submit(int)

    before = pool.stats()
    gate.open()
    pool.join()
    after = pool.stats()

    assert [-1, 0, 1] == list(before.priorities) == list(after.priorities)
    assert [counts(each) for each in before.priorities.values()] == [(1, 0, 0, 0, 0), (0, 2, 0, 0, 0), (1, 0, 0, 0, 1)]
    assert [counts(each) for each in after.priorities.values()] == [(0, 0, 0, 1, 0), (0, 0, 2, 0, 0), (0, 0, 1, 0, 1)]
    assert (before.workers, before.idle, before.queued, before.running) == (2, 0, 2, 2)
    assert (
        after.idle, after.queued, after.running, after.completed, after.failed, after.cancelled
    ) == (2, 0, 0, 3, 1, 1)  # fmt: skip
    assert all(job.done() for job in held)


def test_waiting_and_running_are_measured(one, gate):
    """Each sample is of one job; the head of the queue counts as waiting now."""
    gate.hold(one)
    job = one.options(priority=3).submit(int)
    waiting = one.stats().priorities[3].longest_wait
    gate.open()
    job.result()
    stats = one.stats().priorities[3]

    assert 0 < waiting <= job.started_at - job.submitted_at == stats.longest_wait == stats.wait.p99
    assert 0 < stats.run.p50 <= stats.run.p95 <= stats.run.p99


def test_percentiles_are_samples():
    """Of a hundred, the 51st, 96th and 100th; of none, zeros."""
    assert Percentiles.of(range(1, 101)) == (51, 96, 100)
    assert Percentiles.of([]) == (0.0, 0.0, 0.0)
    assert Percentiles.of([3]) == (3, 3, 3)


def test_stats_print_as_a_table(one):
    """With a line per priority, by name where it has one."""
    one.options(priority=Priority.URGENT).submit(int).result()
    one.options(priority=33).submit(int).result()

    first, heads, urgent, other = str(one.stats()).splitlines()

    assert first.startswith("1 workers, ")
    assert "completed" in heads
    assert urgent.startswith("URGENT -2")
    assert other.split()[0] == "33"


def test_a_pool_shows_its_state(one):
    """In its repr."""
    one.submit(int).result()

    assert repr(one) == "<Pool 'dari' open, 1 workers, 1 idle, 0 jobs>"
