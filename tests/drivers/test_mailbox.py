"""No wake-up is lost, wherever a thread that posts is interrupted. By hand: a box that holds its poster up."""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque

import pytest

import dari
from dari.drivers.asyncio_wait import mailbox_of
from dari.drivers.mailbox import Mailbox

PATIENCE = 10


class HoldsUp(deque):
    """The first who appends is held up just then, before it looks whether it has to wake somebody."""

    def __init__(self):
        super().__init__()
        self.appended = threading.Event()
        self.go_on = threading.Event()

    def append(self, call):
        super().append(call)
        if not self.appended.is_set():
            self.appended.set()
            self.go_on.wait(PATIENCE)


class Postman:
    """Posts from other threads: once by one that is held up, then by one who is not."""

    def __init__(self, mailbox):
        self.mailbox = mailbox
        self.box = mailbox._calls = HoldsUp()
        self.taken = threading.Event()

    def post_and_be_held_up(self):
        self.first = threading.Thread(target=self.mailbox.put, args=(self.taken.set,))
        self.first.start()
        assert self.box.appended.wait(PATIENCE)

    def let_it_set_the_flag(self):
        self.box.go_on.set()
        self.first.join()


def post_when_it_waits(driver, call, lost):
    """From another thread, when the driver has looked into its box for the last time. `lost` tells if nobody heard."""
    heard = threading.Event()
    posted = threading.Event()

    def call_and_tell():
        call()
        heard.set()

    def post():
        driver.post(call_and_tell)
        posted.set()
        lost.append(not heard.wait(PATIENCE))
        if lost[0]:
            driver.mailbox._wake()

    thread = threading.Thread(target=post)
    poll = getattr(driver, "_poll", None)
    if poll is None:  # a guest does not look again before it rests: now is late enough
        thread.start()
        assert posted.wait(PATIENCE)
        return

    def poll_and_post(kernel, timeout):
        if timeout is None and thread.ident is None:
            thread.start()
            assert posted.wait(PATIENCE)
        return poll(kernel, timeout)

    driver._poll = poll_and_post


def wait_and_be_woken(driver, silent):
    """Wait for an event that another thread sets, by a post while the driver waits. Was the wake lost?"""
    lost, event = [], dari.Event()
    # Virtual time really waits as long as a descriptor might become ready.
    onlooker = dari.create_task(lambda: (yield dari.wait_readable(silent)))
    yield
    post_when_it_waits(driver, event.set, lost)
    yield event.wait()
    onlooker.cancel()
    while not lost:
        yield
    return lost[0]


@pytest.fixture
def pipe():
    reading, writing = os.pipe()
    yield reading, writing
    os.close(reading)
    os.close(writing)


def test_a_poster_that_was_interrupted_leaves_nothing_armed(run, pipe):
    """Its call is taken before it sets the flag; the next poster wakes the owner all the same."""

    def main():
        driver = dari.current_task().kernel.driver
        postman = Postman(driver.mailbox)
        postman.post_and_be_held_up()
        while not postman.taken.is_set():
            yield
        postman.let_it_set_the_flag()
        os.write(pipe[1], b"!")
        for _ in range(3):  # real waits, in which the wake is heard, and finds an empty box
            yield dari.wait_readable(pipe[0])
        os.read(pipe[0], 1)
        return (yield from wait_and_be_woken(driver, pipe[0]))

    assert run(main) is False


def test_a_wake_that_nobody_could_hear_yet(run, pipe):
    """It comes before the first wait of all: the flag is not left set, either."""

    def main():
        driver = dari.current_task().kernel.driver
        postman = Postman(driver.mailbox)
        postman.post_and_be_held_up()
        while not postman.taken.is_set():
            yield
        postman.let_it_set_the_flag()
        return (yield from wait_and_be_woken(driver, pipe[0]))

    assert run(main) is False


def test_the_mailbox_of_a_loop(loop_factory):
    """The same where coroutines wait for what ends in a thread."""

    async def main():
        mailbox = mailbox_of(asyncio.get_running_loop())
        postman = Postman(mailbox)
        postman.post_and_be_held_up()
        mailbox.put(bool)  # another post, by which the first one's call is taken
        while not postman.taken.is_set():
            await asyncio.sleep(0)
        postman.let_it_set_the_flag()
        for _ in range(3):
            await asyncio.sleep(0)
        heard = asyncio.Event()
        mailbox.put(heard.set)
        async with asyncio.timeout(PATIENCE):
            await heard.wait()

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main())


def test_a_wake_that_ctrl_c_broke_off_is_made_again():
    """Others have seen the flag meanwhile, and rely on it."""
    wakes = []

    def wake():
        wakes.append("wake")
        if len(wakes) == 1:
            raise KeyboardInterrupt

    mailbox = Mailbox(wake)

    with pytest.raises(KeyboardInterrupt):
        mailbox.put(bool)
    assert wakes == ["wake", "wake"]


def test_one_wake_for_many_calls():
    """The flag saves all others, until the owner has taken; from an empty box, too."""
    wakes, made = [], []
    mailbox = Mailbox(lambda: wakes.append("wake"))

    for number in range(3):
        mailbox.put(lambda number=number: made.append(number))
    for call in mailbox.take():
        call()
    mailbox.put(bool)

    assert wakes == ["wake", "wake"]
    assert made == [0, 1, 2]
    assert [*mailbox.take()] == [bool]
    assert [*mailbox.take()] == []
