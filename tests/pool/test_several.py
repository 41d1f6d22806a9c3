"""Several jobs at once: `gather`, `as_completed`, `wait`; in tasks, in asyncio, in plain threads."""

from __future__ import annotations

import asyncio

import pytest

import dari
from dari.exceptions import BlockingCallError
from dari.pool import JobState, current_job


def test_gather_takes_jobs(make_pool):
    """Beside tasks and operations; the first error cancels the jobs that have not ended."""
    pool = make_pool(2)

    def main():
        results = yield dari.gather(pool.submit(pow, 2, 3), pool.run_sync(pow, 2, 4), dari.to_thread(pow, 2, 5))
        return results, (yield [pool.submit(pow, 2, n) for n in range(3)])

    assert dari.run(main) == ([8, 16, 32], [1, 2, 4])


def test_an_error_in_a_gather_cancels_the_other_jobs(one):
    """What is queued never runs; what runs is asked to end, and waited for."""

    def until_asked():
        while not current_job().cancel_requested:
            pass

    def main():
        failing, running, queued = one.submit(divmod, 1, 0), one.submit(until_asked), one.submit(int)
        with pytest.raises(ZeroDivisionError):
            yield dari.gather(failing, queued, running)
        return running.done(), queued.state

    assert dari.run(main) == (True, JobState.CANCELLED)


def test_as_completed_gives_results_in_tasks(make_pool, gate):
    """In the order in which the jobs end."""
    pool = make_pool(2)

    def main():
        slow = pool.submit(gate.wait)
        results = []
        for next_one in dari.as_completed([slow, pool.submit(pow, 2, 3)]):
            results.append((yield next_one))
            gate.open()
        return results

    assert dari.run(main) == [8, "through"]


def test_as_completed_gives_the_jobs_themselves_in_a_thread(make_pool, gate):
    """As concurrent.futures' does; each once, those that have ended first, failed ones too."""
    pool = make_pool(2)
    slow, ended, failed = pool.submit(gate.wait), pool.submit(int), pool.submit(divmod, 1, 0)
    assert isinstance(failed.exception(timeout=10), ZeroDivisionError)
    assert ended.result(timeout=10) == 0

    given = []
    for job in dari.as_completed([slow, ended, failed, ended]):
        given.append(job)
        if len(given) == 2:
            gate.open()

    assert given == [ended, failed, slow]
    assert list(dari.as_completed([])) == []


def test_as_completed_in_a_job_of_the_same_pool_does_not_deadlock(one):
    """It runs the jobs that nobody has begun with, on the spot."""

    def tree(depth):
        if not depth:
            return 1
        return sum(job.result() for job in dari.as_completed([one.submit(tree, depth - 1) for _ in range(3)]))

    assert one.submit(tree, 4).result(timeout=20) == 81


def test_a_job_that_waits_for_itself_among_others_is_told(one):
    """That would never end."""

    def work():
        with pytest.raises(BlockingCallError, match="itself"):
            list(dari.as_completed([current_job()]))
        return "told"

    assert one.submit(work).result(timeout=10) == "told"


def test_where_a_loop_runs_as_completed_of_jobs_is_asyncios(one):
    """dari's would block; asyncio's takes jobs, for they are awaitable."""

    async def main():
        jobs = [one.submit(pow, 2, n) for n in range(3)]
        with pytest.raises(RuntimeError, match="outside of a task"):
            dari.as_completed(jobs)
        return sorted([await next_one for next_one in asyncio.as_completed(jobs)])

    assert asyncio.run(main()) == [1, 2, 4]


def test_wait_takes_tasks_and_says_so(one):
    """A job is waited for by a task of its own: `dari.wait` gives tasks back."""

    def work(job):
        return (yield job)

    def main():
        job = one.submit(int)
        with pytest.raises(TypeError, match="wait takes tasks"):
            dari.wait([job])
        done, pending = yield dari.wait([dari.create_task(work, job)])
        return len(done), len(pending)

    assert dari.run(main) == (1, 0)


def test_in_a_thread_other_things_are_refused_as_ever():
    """A generator needs a scheduler."""
    with pytest.raises(RuntimeError, match="outside of a task"):
        dari.as_completed([(n for n in ())])
