"""How late a loop is, asked from outside of it."""

from __future__ import annotations

import threading

from dari.daemon.control.pulse import Pulse


def test_an_answer_ends_the_wait():
    """The lag is what it took, and is remembered."""
    pulse = Pulse(lambda fn: fn())

    beat = pulse.feel(60)

    assert beat.answered
    assert pulse.last == beat


def test_one_question_at_a_time():
    """While the loop owes an answer everybody waits for that one; it counts for all, and the next question is new."""
    posted = []
    pulse = Pulse(posted.append)
    first = pulse.feel(0)
    second = pulse.feel(0.001)

    assert len(posted) == 1
    assert (first.answered, second.answered) == (False, False)
    assert second.lag >= 0.001
    beats = []
    waiting = [threading.Thread(target=lambda: beats.append(pulse.feel(60))) for _ in range(3)]
    for each in waiting:
        each.start()
    posted.pop()()
    while posted or any(each.is_alive() for each in waiting):  # who came after the answer asked anew
        if posted:
            posted.pop()()
    assert [beat.answered for beat in beats] == [True] * 3
    assert not pulse.feel(0).answered
    assert len(posted) == 1


def test_a_loop_that_has_ended_never_answers():
    """What is posted to it is dropped: the question stays, and is older each time."""
    pulse = Pulse(lambda fn: None)

    assert pulse.feel(0.001).lag <= pulse.feel(0.001).lag
    assert pulse.last is not None
    assert not pulse.last.answered
