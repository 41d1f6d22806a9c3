"""Whatever is done to a pool in whatever order: every job ends once, in one state, and ran at most once."""

from __future__ import annotations

import threading
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from dari.exceptions import JobCancelled, PoolClosed, QueueFull
from dari.pool import JobState, Pool, Retry

SUBMITTING = {
    "submit": {},
    "nest": {},
    "fail": {},
    "again": {"retry": Retry(2, wait_initial=0.0005, wait_jitter=0.001)},
    "later": {"delay": 0.001},
    "hasty": {"queue_timeout": 0.001},
}
FAILING = ("fail", "again")

deeds = st.lists(
    st.one_of(
        st.tuples(st.just("submit"), st.integers(-2, 2)),
        st.tuples(st.just("nest"), st.integers(-2, 2)),
        st.tuples(st.just("fail"), st.integers(-2, 2)),
        st.tuples(st.just("again"), st.integers(-2, 2)),
        st.tuples(st.just("later"), st.integers(-2, 2)),
        st.tuples(st.just("hasty"), st.integers(-2, 2)),
        st.tuples(st.just("cancel"), st.integers(0, 50)),
        st.tuples(st.just("open"), st.just(0)),
        st.tuples(st.just("join"), st.just(0)),
        st.tuples(st.just("shutdown"), st.booleans()),
    ),
    max_size=60,
)


@settings(max_examples=150, deadline=None)
@given(deeds, st.integers(1, 3), st.sampled_from([None, 1, 4]), st.sampled_from([0, 10.0]))
def test_every_job_ends_once_and_runs_at_most_once(deeds, workers, max_queue, idle_timeout):
    """Submitting, nesting, failing, retrying, cancelling, closing; with few workers, few places, impatient threads."""
    pool = Pool(workers, max_queue=max_queue, on_full="raise", idle_timeout=idle_timeout)
    gate = threading.Event()
    runs, at_once, ends, jobs = Counter(), Counter(), Counter(), {}
    wishes = {}

    def work(number, fail):
        at_once[number] += 1
        assert at_once[number] == 1
        runs[number] += 1
        assert gate.wait(10)
        at_once[number] -= 1
        if fail:
            raise ValueError(number)
        return number

    def nest(number, view):
        runs[number] += 1
        try:
            inner = view.submit(pow, number, 2)
            return inner.result()
        except (PoolClosed, JobCancelled):
            return None

    for deed, detail in [*deeds, ("open", 0)]:
        if deed in SUBMITTING:
            number, view = len(jobs), pool.options(priority=detail, **SUBMITTING[deed])
            try:
                nests = deed == "nest"
                job = view.submit(nest, number, view) if nests else view.submit(work, number, deed in FAILING)
            except (QueueFull, PoolClosed):
                continue
            jobs[number] = job
            wishes[number] = deed
            job.add_done_callback(lambda _, number=number: ends.update([number]))
        elif deed == "cancel" and jobs:
            jobs[detail % len(jobs)].cancel()
        elif deed == "open":
            gate.set()
        elif deed == "join":
            pool.join(timeout=0)
        elif deed == "shutdown":
            pool.shutdown(wait=False, cancel_futures=detail)

    assert pool.join(timeout=10)
    assert pool.shutdown(timeout=10)  # the threads have left, and so all callbacks were made
    for number, job in jobs.items():
        assert job.done()
        assert ends[number] == 1
        assert at_once[number] == 0
        if job.state is JobState.FAILED:
            assert wishes[number] in FAILING
            assert job.attempt == runs[number] <= (3 if wishes[number] == "again" else 1)
        elif job.state is JobState.COMPLETED:
            assert wishes[number] not in FAILING
            assert runs[number] == 1
        elif job.state is JobState.TIMED_OUT:
            assert (wishes[number], runs[number]) == ("hasty", 0)
        else:
            assert job.cancelled()
            assert runs[number] == job.attempt - 1
    stats = pool.stats()
    assert (stats.scheduled, stats.queued, stats.running, stats.workers, stats.abandoned) == (0, 0, 0, 0, 0)
    assert len(jobs) <= stats.completed + stats.failed + stats.cancelled + stats.timed_out
    if max_queue is not None:
        assert max_queue == pool._desk.room
