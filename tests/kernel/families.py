"""What the tests of task groups have in common: children, a way to run a parent, and a view of its errors."""

from __future__ import annotations

import dari


def give(value, delay=0.0):
    yield dari.sleep(delay)
    return value


def fail(error, delay=0.0):
    yield dari.sleep(delay)
    raise error


def run(hand, main, *args):
    task = hand.create(main, *args)
    hand.run()
    assert hand.kernel.tasks == {}
    return task.result()


def leaves(group):
    """The errors inside of an exception group, as text, sorted."""
    texts = []
    for error in group.exceptions:
        texts += leaves(error) if isinstance(error, BaseExceptionGroup) else [f"{type(error).__name__}({error})"]
    return sorted(texts)
