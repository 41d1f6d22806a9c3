"""Waiting for several things: gather (and lists), wait, as_completed."""

from __future__ import annotations

import pytest

import dari


def work(delay, result=None, error=None, log=None):
    try:
        yield dari.sleep(delay)
    except dari.Cancelled:
        if log is not None:
            with dari.CancelScope(shield=True):
                yield dari.sleep(1)
            log.append(result)
        raise
    if error is not None:
        raise error
    return result


def finish(hand, main, *args):
    task = hand.kernel.create_task(main, args)
    hand.run()
    return task.result(), hand.now


async def coroutine(result):
    await dari.sleep(1)
    return result


@pytest.mark.parametrize("spelling", [dari.gather, lambda *things: list(things)])
def test_gather_gives_results_in_order(hand, spelling):
    """Generators, coroutines, operations and tasks, all at once; a list is the same."""

    def main():
        queue = dari.Queue()
        queue.put_nowait("item")
        task = dari.create_task(work, 2, "task")
        return (yield spelling(work(3, "generator"), coroutine("coroutine"), queue.get(), task))

    assert finish(hand, main) == (["generator", "coroutine", "item", "task"], 3.0)


def test_gather_of_nothing(hand):
    """Nothing to wait for."""

    def main():
        return (yield dari.gather()), (yield [])

    assert finish(hand, main) == (([], []), 0.0)


def test_the_first_error_cancels_the_others_and_waits_for_their_end(hand):
    """Unlike asyncio's, what was gathered does not run on."""
    log = []

    def main():
        try:
            yield dari.gather(work(60, "slow", log=log), work(1, error=ValueError("first")), work(60, "other", log=log))
        except ValueError as error:
            return str(error), list(log)

    assert finish(hand, main) == (("first", ["slow", "other"]), 2.0)
    assert hand.reports == []


def test_return_exceptions(hand):
    """Errors are results, and cancel nobody."""

    def main():
        results = yield dari.gather(work(2, "fine"), work(1, error=ValueError("one")), return_exceptions=True)
        return [str(result) for result in results]

    assert finish(hand, main) == (["fine", "one"], 2.0)


def test_gather_of_ended_tasks(hand):
    """Ended ones count at once, also a failed one, which then cancels the others."""
    log = []

    def main():
        good = dari.create_task(work(1, "good"))
        failed = dari.create_task(work(1, error=KeyError("failed")))
        yield dari.wait([good, failed])
        with pytest.raises(KeyError):
            yield dari.gather(good, failed, work(60, "cancelled", log=log))
        return (yield dari.gather(good, good))

    assert finish(hand, main) == (["good", "good"], 1.0)
    assert log == []  # cancelled before its first step


def test_cancelling_gather_cancels_all_and_awaits_their_end(hand):
    """Who waits, owns: all of them have ended when the waiter goes on."""
    log = []

    def main():
        with dari.move_on_after(1):
            yield dari.gather(work(60, "a", log=log), work(60, "b", log=log))
        return list(log)

    assert finish(hand, main) == (["a", "b"], 2.0)


def test_an_error_while_being_cancelled_is_not_lost(hand):
    """A member that fails in its cleanup is heard, although the others were cancelled."""

    def fails_in_cleanup():
        try:
            yield dari.sleep(60)
        finally:
            raise ValueError("cleanup")

    def main():
        try:
            with dari.move_on_after(1):
                yield dari.gather(work(60), fails_in_cleanup())
        except ValueError as error:
            return str(error)

    assert finish(hand, main) == ("cleanup", 1.0)


def test_gathering_oneself_is_an_error(hand):
    """It would never end."""

    def main():
        with pytest.raises(RuntimeError, match="itself"):
            yield dari.gather(dari.current_task())

    finish(hand, main)


def test_a_wrong_thing_among_many_leaves_nothing_behind(hand):
    """What cannot be waited for is an error at that yield; the others are cancelled."""
    log = []

    def main():
        with pytest.raises(TypeError, match="42"):
            yield dari.gather(work(60, "started", log=log), 42)

    assert finish(hand, main) == (None, 1.0)
    assert log == ["started"]


@pytest.mark.parametrize(
    ("when", "done", "at"),
    [
        (dari.ALL_COMPLETED, {"a", "b", "c"}, 3.0),
        (dari.FIRST_COMPLETED, {"a"}, 1.0),
        (dari.FIRST_EXCEPTION, {"a", "b"}, 2.0),
    ],
)
def test_wait(hand, when, done, at):
    """`wait` looks until its condition holds; it raises nothing and cancels nobody."""

    def main():
        tasks = [
            dari.create_task(work(1, "a"), name="a"),
            dari.create_task(work(2, "b", ValueError("b")), name="b"),
            dari.create_task(work(3, "c"), name="c"),
        ]
        done, pending = yield dari.wait(tasks, return_when=when)
        now = hand.now
        yield dari.wait(tasks)
        return {task.name for task in done}, len(pending), now

    result, _ = finish(hand, main)

    assert result == (done, 3 - len(done), at)
    assert hand.reports == []


def test_wait_with_a_timeout(hand):
    """After the timeout it tells how things stand; the tasks run on."""

    def main():
        task = dari.create_task(work, 5, "late")
        seen = yield dari.wait([task], timeout=1)
        return seen == (set(), {task}), (yield dari.wait([task], timeout=0)) == seen, (yield task)

    assert finish(hand, main) == ((True, True, "late"), 5.0)


def test_cancelling_wait_leaves_the_tasks_alone(hand):
    """It only looks."""

    def main():
        task = dari.create_task(work, 5, "on")
        with dari.move_on_after(1):
            yield dari.wait([task])
        return (yield task)

    assert finish(hand, main) == ("on", 5.0)


def test_what_wait_refuses(hand):
    """No tasks, something else, a timeout that is none."""

    def main():
        task = dari.create_task(work, 1)
        for wrong in (lambda: dari.wait([]), lambda: dari.wait([1]), lambda: dari.wait([task], timeout=float("nan"))):
            with pytest.raises((TypeError, ValueError)):
                wrong()
        yield task

    finish(hand, main)


def test_as_completed(hand):
    """Results in the order in which they come; an error is raised where it is taken."""

    def main():
        seen = []
        for next_one in dari.as_completed([work(3, "c"), work(1, "a"), work(2, error=ValueError("b"))]):
            try:
                seen.append(((yield next_one), hand.now))
            except ValueError as error:
                seen.append((str(error), hand.now))
        return seen

    assert finish(hand, main)[0] == [("a", 1.0), ("b", 2.0), ("c", 3.0)]
    assert hand.reports == []


def test_as_completed_can_be_cancelled_and_taken_up_again(hand):
    """A result is not lost to a cancelled look."""

    def main():
        first, second = dari.as_completed([work(2, "a"), work(3, "b")])
        with dari.move_on_after(1):
            yield first
        yield dari.sleep(5)
        return (yield first), (yield second)

    assert finish(hand, main)[0] == ("a", "b")


def test_gather_gives_back_what_was_won_when_it_is_cancelled(hand):
    """An item that one operation took goes back to the head of its queue; a lock is released."""

    def main():
        full, empty, lock = dari.Queue(), dari.Queue(), dari.Lock()
        for item in (1, 2):
            full.put_nowait(item)
        with dari.move_on_after(1) as scope:
            yield [full.get(), empty.get(), lock.acquire()]
        return scope.cancelled_caught, full.get_nowait(), full.get_nowait(), lock.locked()

    assert finish(hand, main) == ((True, 1, 2, False), 1.0)


def test_gather_gives_back_what_was_won_when_another_fails(hand):
    """The same when one of them raises."""

    def main():
        queue = dari.Queue()
        queue.put_nowait("item")
        with pytest.raises(ValueError, match="other"):
            yield dari.gather(queue.get(), work(1, error=ValueError("other")))
        return queue.get_nowait()

    assert finish(hand, main) == ("item", 1.0)
