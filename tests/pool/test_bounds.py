"""The bounded queue, from threads."""

from __future__ import annotations

import threading

import pytest

from dari.exceptions import PoolClosed, QueueFull
from dari.pool import Pool

from .conftest import until


def blocked(call):
    """Start `call` on a thread; gives the thread and the list that will get its answer."""
    answers = []

    def run():
        try:
            answers.append(call())
        except Exception as error:  # noqa: BLE001 - it is the answer
            answers.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, answers


def standing(pool):
    """How many wait for a place."""
    return len(pool._desk._places)


def test_a_full_queue_raises_where_told_to(make_pool, gate):
    """on_full="raise"; the job that runs does not count, and a place that came free can be taken."""
    pool = make_pool(1, max_queue=2, on_full="raise")
    gate.hold(pool)
    first = pool.submit(int)
    pool.submit(int)

    with pytest.raises(QueueFull, match="holds 2 jobs"):
        pool.submit(int)
    assert first.cancel()
    assert pool.submit(int).result() == 0 if gate.open() else True


def test_a_full_queue_makes_a_thread_wait_until_there_is_a_place(make_pool, gate):
    """on_full="wait", the default: the place is given by whoever frees it."""
    pool = make_pool(1, max_queue=1)
    gate.hold(pool)
    queued = pool.submit(pow, 2, 1)
    thread, answers = blocked(lambda: pool.submit(pow, 2, 2))
    until(lambda: standing(pool) == 1)
    assert not answers
    assert queued.cancel()
    thread.join(10)
    gate.open()

    assert answers[0].result() == 4


def test_who_waits_for_a_place_is_served_by_priority_then_in_order(make_pool, gate):
    """As the jobs themselves."""
    pool = make_pool(1, max_queue=1)
    gate.hold(pool)
    order = []
    pool.submit(order.append, "queued")
    threads = []
    for number, (priority, name) in enumerate(
        [(1, "low 1"), (0, "normal 1"), (1, "low 2"), (-1, "high"), (0, "normal 2")]
    ):
        view = pool.options(priority=priority)
        threads.append(blocked(lambda view=view, name=name: view.submit(order.append, name))[0])
        until(lambda number=number: standing(pool) == number + 1)
    gate.open()
    for thread in threads:
        thread.join(10)
    pool.join()

    assert order == ["queued", "high", "normal 1", "normal 2", "low 1", "low 2"]


def test_a_job_may_hand_in_more_than_the_bound(make_pool):
    """Inside a worker there is always a place: nobody else might ever free one."""
    pool = make_pool(1, max_queue=1)

    jobs = pool.submit(lambda: [pool.submit(pow, 2, n) for n in range(10)]).result()

    assert [2**n for n in range(10)] == [job.result() for job in jobs]


def test_the_bound_holds_again_after_jobs_went_over_it(make_pool, gate):
    """Places are free again when so many have been taken as were over, not before."""
    pool = make_pool(2, max_queue=2, on_full="raise")
    gate.hold(pool, 1)

    pool.submit(lambda: [pool.submit(gate.wait) for _ in range(5)]).result()
    with pytest.raises(QueueFull):
        pool.submit(int)
    gate.open()
    pool.join()

    assert [pool.submit(int).result() for _ in range(2)] == [0, 0]


def test_closing_refuses_who_waits_for_a_place(make_pool, gate):
    """A waiter for a place is not a job yet; what is queued still runs."""
    pool = make_pool(1, max_queue=1)
    gate.hold(pool)
    queued = pool.submit(pow, 2, 1)
    thread, answers = blocked(lambda: pool.submit(pow, 2, 2))
    until(lambda: standing(pool) == 1)
    pool.shutdown(wait=False)
    thread.join(10)
    gate.open()

    assert isinstance(answers[0], PoolClosed)
    assert queued.result() == 2


def test_without_a_bound_nothing_waits(make_pool, gate):
    """max_queue=None."""
    pool = make_pool(1, max_queue=None)
    gate.hold(pool)
    jobs = [pool.submit(int) for _ in range(5000)]
    gate.open()

    assert sum(job.result() for job in jobs) == 0


def test_many_threads_through_a_narrow_queue_lose_nothing(make_pool):
    """Every job that was handed in ran once, whoever waited for whose place."""
    pool = make_pool(3, max_queue=2)
    ran = []
    threads = [threading.Thread(target=lambda: [pool.submit(ran.append, 1) for _ in range(300)]) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert pool.join(10)

    assert len(ran) == 1800
    assert pool._desk.room == 2


@pytest.mark.parametrize(
    "options",
    [
        {"max_workers": 0},
        {"min_workers": -1},
        {"max_workers": 2, "min_workers": 3},
        {"max_queue": 0},
        {"on_full": "block"},
        {"idle_timeout": -1},
        {"exit_timeout": float("nan")},
        {"starvation_limit": 0},
    ],
)
def test_options_that_make_no_sense_are_refused(options):
    """At once, by an error that names them."""
    with pytest.raises(ValueError, match=next(reversed(options))):
        Pool(**options)


@pytest.mark.parametrize("options", [{"exit_timeout": None}, {"exit_timeout": "x"}, {"idle_timeout": "x"}])
def test_durations_that_are_no_numbers_are_refused(options):
    """Where the pool is made, not at its end."""
    with pytest.raises(TypeError, match=f"{next(iter(options))} is a number of seconds, 0 or more, not"):
        Pool(**options)


def test_an_initializer_must_be_callable():
    """Told where the pool is made, not in a worker."""
    with pytest.raises(TypeError, match="initializer"):
        Pool(initializer=3)
