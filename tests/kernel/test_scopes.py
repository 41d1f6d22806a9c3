"""Cancellation is a state of a place in the program: who meets it, who catches it, and what it cannot take away."""

from __future__ import annotations

import pytest

import dari


def run(hand, main, *args):
    task = hand.create(main, *args)
    hand.run()
    return task.result()


def swallow(times):
    """Yields `times` times, whatever comes; gives what came."""
    got = []
    for _ in range(times):
        try:
            yield dari.sleep(0)
            got.append("passed")
        except dari.Cancelled as error:
            got.append(error.reason)
    return got


def test_every_yield_raises_until_the_scope_is_left(hand):
    """Level, not edge: swallowing it once is not the end of it; behind the block all is as before."""

    def main():
        with dari.CancelScope() as scope:
            scope.cancel("why")
            inside = yield from swallow(3)
        after = yield from swallow(2)
        return inside, after

    assert run(hand, main) == (["why"] * 3, ["passed"] * 2)


@pytest.mark.parametrize(
    "operation", [lambda: None, lambda: dari.sleep(5), lambda: dari.Queue().get(), lambda: ("sleep", 1)]
)
def test_in_a_cancelled_scope_nothing_is_begun(hand, operation):
    """Whatever is yielded raises at once, in no time."""

    def main():
        with dari.CancelScope() as scope:
            scope.cancel()
            yield operation()
        return scope.cancelled_caught, hand.now

    assert run(hand, main) == (True, 0.0)


def test_a_scope_that_nothing_met_caught_nothing(hand):
    """Cancelled, but left without a yield: the block was not stopped."""

    def main():
        yield
        with dari.CancelScope() as scope:
            scope.cancel()
        return scope.cancel_called, scope.cancelled_caught

    assert run(hand, main) == (True, False)


def test_a_scope_cancelled_before_it_is_entered(hand):
    """Its first yield raises."""

    def main():
        scope = dari.CancelScope()
        scope.cancel("early")
        with scope:
            yield
        return scope.cancelled_caught

    assert run(hand, main) is True


def test_a_scope_is_for_one_block(hand):
    """Entering it again is an error, inside and afterwards."""

    def main():
        with dari.CancelScope() as scope:
            with pytest.raises(RuntimeError, match="was entered already"):
                scope.__enter__()
            yield
        with pytest.raises(RuntimeError, match="was entered already"):
            scope.__enter__()

    run(hand, main)


def test_a_scope_needs_a_task():
    """Outside of one the error says so."""
    with pytest.raises(RuntimeError, match="outside of a task"):
        dari.CancelScope().__enter__()


def test_task_cancel(hand):
    """Cancels what it waits for, travels with its reason, and reaches every later yield."""

    def main():
        got = yield from swallow_wait()
        return got + (yield from swallow(2))

    def swallow_wait():
        try:
            yield dari.sleep(100)
        except dari.Cancelled as error:
            return [error.reason, hand.now]

    task = hand.create(main)
    hand.at(3.0)
    assert task.cancel("stop")
    assert task.cancel("again")
    hand.run()

    assert task.result() == ["stop", 3.0, "stop", "stop"]


def test_a_task_that_cancels_itself(hand):
    """Meets it at its next yield."""

    def main():
        dari.current_task().cancel("self")
        return (yield from swallow(1))

    assert run(hand, main) == ["self"]


def test_cancelling_all(hand):
    """The kernel's cancel reaches every task with its reason."""
    tasks = [hand.create(swallow, 2) for _ in range(3)]
    hand.step(3)
    hand.kernel.cancel("the end")
    hand.run()

    assert [task.result() for task in tasks] == [["the end"] * 2] * 3


def test_outer_beats_inner(hand):
    """When both are cancelled the exception belongs to the outer one, whichever came first."""

    def main(first, second):
        with dari.CancelScope() as outer, dari.CancelScope() as inner:
            scopes = {"outer": outer, "inner": inner}
            scopes[first].cancel(first)
            scopes[second].cancel(second)
            try:
                yield
            except dari.Cancelled as error:
                reason = error.reason
                raise
        return reason, outer.cancelled_caught, inner.cancelled_caught

    assert run(hand, main, "outer", "inner") == ("outer", True, False)
    assert run(hand, main, "inner", "outer") == ("outer", True, False)


def test_outer_beats_inner_on_the_way_out(hand):
    """An outer scope that is cancelled during the cleanup of the inner one takes over, with its reason."""

    def main():
        reasons = []
        try:
            with dari.CancelScope() as outer, dari.CancelScope() as inner:
                try:
                    inner.cancel("inner")
                    yield
                finally:
                    outer.cancel("outer")
        except dari.Cancelled as error:
            reasons.append(error.reason)
        return outer.cancelled_caught, inner.cancelled_caught

    assert run(hand, main) == (True, False)


def test_an_inner_scope_does_not_stop_the_outer_block(hand):
    """It catches its own, and the code behind it runs."""

    def main():
        with dari.CancelScope() as outer:
            with dari.CancelScope() as inner:
                inner.cancel()
                yield
            yield
            return outer.cancelled_caught, inner.cancelled_caught

    assert run(hand, main) == (False, True)


def test_a_task_s_cancel_beats_its_scopes(hand):
    """`Task.cancel` is the outermost of all, also when scopes were open before it was first used."""

    def main():
        with dari.move_on_after(5) as outer, dari.move_on_after(1) as inner:
            yield dari.sleep(100)
        return outer, inner

    task = hand.create(main)
    hand.settle()
    hand.now = 10.0
    task.cancel("whole task")
    hand.run()

    assert task.cancelled()


def test_a_shield_hides_what_comes_from_outside(hand):
    """Inside of it all goes on; the first yield behind it raises."""

    def main():
        with dari.CancelScope() as outer:
            outer.cancel()
            with dari.CancelScope(shield=True):
                inside = yield from swallow(2)
                yield dari.sleep(2)
            return inside, hand.now, (yield from swallow(1))

    assert run(hand, main) == (["passed"] * 2, 2.0, [None])


def test_a_shield_does_not_hide_its_own_cancel(hand):
    """Nor that of scopes inside of it."""

    def main():
        with dari.CancelScope(shield=True) as scope:
            with dari.move_on_after(1) as inner:
                yield dari.sleep(5)
            scope.cancel("own")
            yield
        return inner.cancelled_caught, scope.cancelled_caught

    assert run(hand, main) == (True, True)


def test_cleanup_in_a_shield_during_a_cancel(hand):
    """The usual use: a `finally` that must wait."""
    cleaned = []

    def main():
        try:
            yield dari.sleep(100)
        finally:
            with dari.CancelScope(shield=True):
                yield dari.sleep(1)
                cleaned.append(hand.now)

    task = hand.create(main)
    hand.at(2.0)
    task.cancel()
    hand.run()

    assert (cleaned, task.cancelled()) == ([3.0], True)


def test_cancelling_a_scope_that_was_left(hand):
    """Does nothing to the task that goes on."""

    def main():
        with dari.CancelScope() as scope:
            yield
        scope.cancel()
        return (yield from swallow(2))

    assert run(hand, main) == ["passed", "passed"]


def test_an_error_beats_the_cancel(hand):
    """What the block raises on its way out is what leaves it."""

    def main():
        with pytest.raises(OSError, match="cleanup"), dari.CancelScope() as scope:
            scope.cancel()
            try:
                yield
            finally:
                raise OSError("cleanup")
        return scope.cancelled_caught

    assert run(hand, main) is False


def test_reasons_travel(hand):
    """From the cancel to the exception, its text, and who waits for the task."""

    def main():
        try:
            yield dari.sleep(5)
        except dari.Cancelled as error:
            assert str(error) == "disk full"
            assert error.reason == "disk full"
            raise

    task = hand.create(main)
    hand.settle()
    task.cancel("disk full")
    hand.run()

    with pytest.raises(dari.TaskCancelledError, match="was cancelled: disk full"):
        task.result()


def test_async_with(hand):
    """The same objects, in coroutines."""

    async def main():
        async with dari.move_on_after(1) as scope:
            await dari.sleep(5)
        try:
            async with dari.timeout(1):
                await dari.sleep(5)
        except TimeoutError:
            return scope.cancelled_caught, hand.now

    assert run(hand, main) == (True, 2.0)


def test_a_cancel_before_a_wait_that_had_not_begun(hand):
    """A task that is ready when it is cancelled never begins its next wait."""
    queue = dari.Queue()

    def main():
        yield
        yield queue.get()

    task = hand.create(main)
    hand.step()
    task.cancel()
    hand.run()
    queue.put_nowait("item")

    assert (task.cancelled(), queue.qsize()) == (True, 1)
