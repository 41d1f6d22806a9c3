"""A job: its life, its result, its errors."""

from __future__ import annotations

import contextvars
import functools
import gc
import threading
import time
import traceback
import weakref

import pytest

from dari._kernel.world import chain_priority
from dari.exceptions import Cancelled, JobCancelled
from dari.pool import Job, JobState, current_job


def fails(error):
    raise error


def raises_a_new(kind):
    raise kind  # no frame holds it in a local


def frames(error):
    return [frame.name for frame in traceback.extract_tb(error.__traceback__)]


def test_a_job_lives_from_queued_over_running_to_completed(one, gate):
    """Each transition sets the state and its time; a time that has not come is None."""
    gate.hold(one)
    job = one.submit(lambda: (current_job().state, current_job().running(), current_job().ended_at))

    assert (job.state, job.started_at, job.done()) == (JobState.QUEUED, None, False)
    gate.open()

    assert job.result() == (JobState.RUNNING, True, None)
    assert JobState.COMPLETED is job.state
    assert job.submitted_at <= job.started_at <= job.ended_at <= time.monotonic()
    assert (job.attempt, job.done(), job.cancelled(), job.running()) == (1, True, False, False)


def test_arguments_and_every_keyword_belong_to_the_function(one):
    """No keyword is reserved: priority, name and fn reach the function."""
    assert one.submit(lambda *args, **kwargs: (args, kwargs), 1, 2, fn=3, priority=4, name=5, self=6).result() == (
        (1, 2),
        {"fn": 3, "priority": 4, "name": 5, "self": 6},
    )


def test_a_failed_job_raises_its_own_error_for_whoever_asks(one):
    """`result` raises it, `exception` gives it, the state says so."""
    error = ValueError("no")
    job = one.submit(fails, error)

    with pytest.raises(ValueError, match="no") as caught:
        job.result()

    assert error is caught.value is job.exception()
    assert JobState.FAILED is job.state


def test_a_traceback_shows_the_users_frames_and_does_not_grow(one):
    """Raised ten times, it is as long as when raised once; the worker's frames are not in it."""
    job = one.submit(fails, ValueError())
    lengths = set()
    for _ in range(10):
        with pytest.raises(ValueError) as caught:
            job.result()
        lengths.add(len(frames(caught.value)))

    assert len(lengths) == 1
    assert frames(caught.value)[-1] == "fails"
    assert "run" not in frames(caught.value)


def test_an_error_that_was_raised_is_free_without_the_collector(one):
    """No cycle between error, frame and job survives the except block."""

    class TroubleError(Exception):
        pass

    gc.disable()
    try:
        job = one.submit(raises_a_new, TroubleError)
        try:
            job.result()
        except TroubleError as error:
            gone = weakref.ref(error)
        del job
        one.join()
        one.submit(int).result()

        assert gone() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
def test_what_would_end_a_program_fails_that_job_alone(one, error):
    """The worker that ran it runs the next job, too."""
    job, thread = one.submit(fails, error), one.submit(threading.current_thread)

    with pytest.raises(type(error)):
        job.result()
    assert thread.result() is one.submit(threading.current_thread).result()


def test_stop_iteration_reaches_the_waiter_wrapped(one):
    """Unwrapped it would mean "return" to a coroutine that waits."""
    job = one.submit(next, iter(()))

    with pytest.raises(RuntimeError, match="StopIteration") as caught:
        job.result()
    assert isinstance(caught.value.__cause__, StopIteration)


def test_a_function_that_cannot_be_called_fails_its_job(one):
    """Also when no Python frame was ever entered."""
    with pytest.raises(TypeError):
        one.submit(int, "x", "y", "z").result()


def test_result_gives_up_after_its_timeout_and_the_job_goes_on(one, gate):
    """A thread's `result(timeout)` only looks; polling leaves nothing behind."""
    (job,) = gate.hold(one)
    for _ in range(3):
        with pytest.raises(TimeoutError, match="running"):
            job.result(timeout=0.001)
    with pytest.raises(TimeoutError):
        job.exception(timeout=0)
    assert job._waiters is None
    gate.open()

    assert job.result(timeout=10) == "through"


def test_many_threads_may_wait_for_one_job(one, gate):
    """Each gets the result."""
    (job,) = gate.hold(one)
    results = []
    threads = [threading.Thread(target=lambda: results.append(job.result())) for _ in range(5)]
    for thread in threads:
        thread.start()
    gate.open()
    for thread in threads:
        thread.join(10)

    assert results == ["through"] * 5


def test_who_is_told_of_the_end_finds_it_settled(one, gate):
    """State, result and time are there, and the pool's lock is free."""
    (job,) = gate.hold(one)
    seen = []
    told = threading.Event()

    def tell():
        seen.append((job.done(), job.state, job.ended_at is not None, one.stats().completed))
        told.set()

    job.call_when_ended(tell)
    gate.open()

    assert told.wait(10)
    assert seen == [(True, JobState.COMPLETED, True, 1)]


def test_callbacks_are_called_once_in_order_and_may_fail(one, gate, caplog):
    """One that raises is logged and harms neither the others nor the worker; after the end, it is called at once."""
    (job,) = gate.hold(one)
    called = []
    job.add_done_callback(lambda job: called.append((1, job.done())))
    job.add_done_callback(lambda job: fails(ValueError("in a callback")))
    job.add_done_callback(lambda job: called.append((2, job.state)))
    gate.open()
    one.join()
    one.submit(int).result()  # the callbacks run before the worker takes another job
    job.add_done_callback(lambda job: called.append(3))

    assert called == [(1, True), (2, JobState.COMPLETED), 3]
    assert "in a callback" in caplog.text


def test_a_callback_may_wait_for_the_next_job(one, gate):
    """The worker takes no job that it would have to keep waiting."""
    (job,) = gate.hold(one)
    following = one.submit(pow, 2, 3)
    seen = []
    done = threading.Event()

    def callback(_):
        seen.append(following.result(timeout=10))
        done.set()

    job.add_done_callback(callback)
    gate.open()

    assert done.wait(10)
    assert seen == [8]


def test_a_job_has_the_name_of_its_function_or_the_one_given(one):
    """Before and after it ran."""

    class Callable:
        def __call__(self):
            pass

    given = one.options(name="mine").submit(int)
    names = [one.submit(pow, 1, 1), one.submit(functools.partial(pow, 1), 1), one.submit(Callable()), given]
    one.join()

    assert [job.name for job in names] == ["pow", "pow", "Callable", "mine"]
    assert repr(given) == f"<Job {given.id} 'mine' completed>"


def test_each_job_runs_in_a_copy_of_the_context_of_who_handed_it_in(one):
    """It sees the submitter's variables, and what it sets stays with it."""
    variable = contextvars.ContextVar("variable", default="unset")

    def look_and_set():
        seen = variable.get()
        variable.set("by the job")
        return seen

    variable.set("by the submitter")

    assert [one.submit(look_and_set).result() for _ in range(2)] == ["by the submitter"] * 2
    assert variable.get() == "by the submitter"


def test_a_priority_is_inherited_by_what_a_job_hands_in(one):
    """From the chain of who submits, or from the options of the job."""
    nested = lambda: one.submit(lambda: current_job().priority).result()
    token = chain_priority.set(7)
    try:
        assert (one.submit(int).priority, one.submit(nested).result()) == (7, 7)
    finally:
        chain_priority.reset(token)
    assert one.options(priority=-2).submit(nested).result() == -2
    assert one.submit(nested).result() == 0


def test_current_job_is_an_error_outside_of_one():
    """It names what it needs."""
    with pytest.raises(RuntimeError, match="outside of a job"):
        current_job()


def test_jobs_are_not_made_by_hand():
    """The error names what makes them."""
    with pytest.raises(TypeError, match=r"pool\.submit"):
        Job()


def test_what_a_job_held_and_gave_is_free_when_it_is(one):
    """An idle worker keeps neither arguments nor result alive."""

    class Thing:
        pass

    thing, result = Thing(), Thing()
    argument, given = weakref.ref(thing), weakref.ref(result)
    job = one.submit(lambda _, results: results.pop(), thing, [result])
    del thing, result
    assert job.result() is given()
    one.submit(int).result()

    assert argument() is None
    del job
    assert given() is None


def test_a_job_that_lets_cancelled_out_is_cancelled(one):
    """Whoever waits gets JobCancelled, which is an error of its own."""
    job = one.submit(fails, Cancelled())

    with pytest.raises(JobCancelled, match="fails"):
        job.result()
    with pytest.raises(JobCancelled):
        job.exception()
    assert job.cancelled()
