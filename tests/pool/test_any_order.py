"""Whatever is done to a pool in whatever order: every job ends once, in one state, and ran at most once."""

from __future__ import annotations

import threading
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from dari.exceptions import JobCancelled, PoolClosed, QueueFull
from dari.pool import JobState, Pool

deeds = st.lists(
    st.one_of(
        st.tuples(st.just("submit"), st.integers(-2, 2)),
        st.tuples(st.just("nest"), st.integers(-2, 2)),
        st.tuples(st.just("fail"), st.integers(-2, 2)),
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
    """Submitting, nesting, failing, cancelling, closing; with few workers, few places, impatient threads."""
    pool = Pool(workers, max_queue=max_queue, on_full="raise", idle_timeout=idle_timeout)
    gate = threading.Event()
    runs, ends, jobs = Counter(), Counter(), {}
    wishes = {}

    def work(number, fail):
        runs[number] += 1
        assert gate.wait(10)
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
        if deed in ("submit", "fail", "nest"):
            number, view = len(jobs), pool.options(priority=detail)
            try:
                job = view.submit(nest, number, view) if deed == "nest" else view.submit(work, number, deed == "fail")
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
        expected = 0 if job.cancelled() else 1
        assert expected == runs[number]
        if not job.cancelled():
            assert (JobState.FAILED if wishes[number] == "fail" else JobState.COMPLETED) is job.state
    stats = pool.stats()
    assert (stats.queued, stats.running, stats.workers) == (0, 0, 0)
    if max_queue is not None:
        assert max_queue == pool._desk.room
