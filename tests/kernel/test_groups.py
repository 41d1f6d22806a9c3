"""Task groups: what DESIGN §3 says of them, sentence by sentence, in both spellings."""

from __future__ import annotations

import pytest

import dari

from .families import fail, give, leaves, run


def test_join_waits_for_all(hand):
    """In a generator the join is written out; afterwards the results are there."""

    def main():
        with dari.TaskGroup() as group:
            a = group.create_task(give, "a", 2)
            b = group.create_task(give, "b", 1)
            yield group.join()
        return a.result() + b.result(), hand.now

    assert run(hand, main) == ("ab", 2.0)


def test_async_with_joins_by_itself(hand):
    """In a coroutine the end of the block waits."""

    async def child(value):
        await dari.sleep(1)
        return value

    async def main():
        async with dari.TaskGroup() as group:
            tasks = [group.create_task(child, "a"), group.create_task(child("b")), group.create_task(give, "c", 2)]
        return [task.result() for task in tasks], hand.now

    assert run(hand, main) == (["a", "b", "c"], 2.0)


def test_a_group_without_children(hand):
    """Joins at once; needs no join either."""

    def main():
        with dari.TaskGroup() as group:
            yield group.join()
        with dari.TaskGroup():
            pass
        return hand.now

    async def amain():
        async with dari.TaskGroup():
            pass
        return hand.now

    assert (run(hand, main), run(hand, amain)) == (0.0, 0.0)


def test_children_may_start_children_and_join_again(hand):
    """A join waits for those that were started meanwhile; after a join the group goes on."""

    def child(group, depth):
        yield dari.sleep(1)
        if depth:
            group.create_task(child, group, depth - 1)

    def main():
        with dari.TaskGroup() as group:
            group.create_task(child, group, 2)
            yield group.join()
            first = hand.now
            group.create_task(child, group, 0)
            yield group.join()
        return first, hand.now

    assert run(hand, main) == (3.0, 4.0)


def test_the_first_failure_cancels_the_others(hand, log):
    """And join raises an exception group of it, when all have ended."""

    def main():
        try:
            with dari.TaskGroup() as group:
                group.create_task(log.sleeper, "slow", 3)
                group.create_task(fail, OSError("first"), 1)
                yield group.join()
        except* OSError as errors:
            caught = leaves(errors)
        return caught, hand.now

    assert run(hand, main) == (["OSError(first)"], 4.0)
    assert log == [("slow ended", 4.0)]


def test_the_first_failure_cancels_the_body(hand):
    """The body's yield raises Cancelled, its block is left with the exception group."""
    seen = []

    def main():
        try:
            with dari.TaskGroup() as group:
                group.create_task(fail, OSError("child"), 1)
                try:
                    yield dari.sleep(100)
                except dari.Cancelled as error:
                    seen.append(error.reason)
                    raise
        except* OSError as errors:
            caught = leaves(errors)
        return caught, hand.now

    async def amain():
        try:
            async with dari.TaskGroup() as group:
                group.create_task(fail, OSError("child"), 1)
                await dari.sleep(100)
        except* OSError as errors:
            caught = leaves(errors)
        return caught, hand.now

    assert run(hand, main) == (["OSError(child)"], 1.0)
    assert run(hand, amain) == (["OSError(child)"], 2.0)
    assert seen == ["task 'fail' of its group failed"]


def test_all_failures_are_in_the_group(hand):
    """Those of cleanups after the first one, too."""

    def stubborn(text):
        try:
            yield dari.sleep(100)
        finally:
            raise ValueError(text)

    def main():
        with dari.TaskGroup() as group:
            group.create_task(fail, OSError("first"), 1)
            group.create_task(stubborn, "second")
            group.create_task(stubborn, "third")
            yield group.join()

    with pytest.raises(ExceptionGroup) as raised:
        run(hand, main)

    assert leaves(raised.value) == ["OSError(first)", "ValueError(second)", "ValueError(third)"]


def test_a_body_stopped_by_a_failure_leaves_with_the_failures_so_far(hand, log):
    """Those of children that end later come at the parent's next yield."""

    def late():
        try:
            yield dari.sleep(100)
        finally:
            with dari.CancelScope(shield=True):
                yield dari.sleep(5)
            raise ValueError("late")

    def main():
        got = []
        try:
            with dari.TaskGroup() as group:
                group.create_task(late)
                group.create_task(fail, OSError("first"), 1)
                yield dari.sleep(100)
        except* OSError as errors:
            got.append((leaves(errors), hand.now))
        try:
            yield
        except* ValueError as errors:
            got.append((leaves(errors), hand.now))
        yield dari.sleep(1)
        return got, hand.now

    assert run(hand, main) == ([(["OSError(first)"], 1.0), (["ValueError(late)"], 6.0)], 7.0)


def test_around_an_error_of_the_body_s_own(hand):
    """A body that fails leaves with an exception group of its error and the failures so far."""

    def main(with_child):
        with dari.TaskGroup() as group:
            if with_child:
                group.create_task(fail, OSError("child"), 1)
                try:
                    yield dari.sleep(5)
                finally:
                    raise ValueError("body")
            yield
            raise ValueError("body")

    async def amain():
        async with dari.TaskGroup() as group:
            group.create_task(fail, OSError("child"))
            try:
                await dari.sleep(5)
            finally:
                raise ValueError("body")

    for arguments, expected in (
        ((main, True), ["OSError(child)", "ValueError(body)"]),
        ((main, False), ["ValueError(body)"]),
        ((amain,), ["OSError(child)", "ValueError(body)"]),
    ):
        with pytest.raises(ExceptionGroup) as raised:
            run(hand, *arguments)
        assert leaves(raised.value) == expected


def test_a_failing_body_cancels_the_children(hand, log):
    """Which are awaited: by the block in a coroutine, by the next yield in a generator."""

    def main():
        try:
            with dari.TaskGroup() as group:
                group.create_task(log.sleeper, "a", 2)
                yield dari.sleep(1)
                raise ValueError("body")
        except* ValueError:
            log.note("caught")
        yield
        log.note("went on")

    async def amain():
        try:
            async with dari.TaskGroup() as group:
                group.create_task(log.sleeper, "b", 2)
                await dari.sleep(1)
                raise ValueError("body")
        except* ValueError:
            log.note("caught")

    run(hand, main)
    run(hand, amain)

    assert log == [("caught", 1.0), ("a ended", 3.0), ("went on", 3.0), ("b ended", 6.0), ("caught", 6.0)]


def test_after_a_join_that_raised_code_goes_on_normally(hand):
    """The group's scope is closed: who handles the error inside the block yields without a Cancelled."""

    def main():
        with dari.TaskGroup() as group:
            group.create_task(fail, OSError("child"))
            try:
                yield group.join()
            except* OSError:
                yield dari.sleep(1)
            yield dari.sleep(1)
            with pytest.raises(RuntimeError, match="has failed, and was joined"):
                group.create_task(give, 1)
        return hand.now

    assert run(hand, main) == 2.0


def test_the_joined_error_passes_through_the_block_as_it_is(hand):
    """Not wrapped in a second group."""

    def main():
        with dari.TaskGroup() as group:
            group.create_task(fail, OSError("child"))
            yield group.join()

    with pytest.raises(ExceptionGroup) as raised:
        run(hand, main)

    assert [type(error) for error in raised.value.exceptions] == [OSError]
