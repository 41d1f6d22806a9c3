"""What other schedulers learnt the hard way, tried on real loops: see docs/explanation/lessons.md for where it was."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import socket
import sys
import threading
import time
import weakref
from concurrent.futures import Future

import pytest

import dari

PATIENCE = 10.0  # seconds; reached only by what would else never end


def run_in(loop_factory, main):
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        return runner.run(main())


# ---- b.2 and b.4: what spins does not keep events out ----------------------------------------------------------------


def ping_pong(shared):
    with (yield shared["lock"].acquire()):
        yield


def bare(shared):
    yield


def sleep_of_nothing(shared):
    yield dari.sleep(0)


def queue_that_is_never_empty(shared):
    yield shared["queue"].put("item")
    yield shared["queue"].get()


def a_deadline():
    yield dari.sleep(0.002)


def a_descriptor():
    left, right = socket.socketpair()
    with left, right:
        right.send(b"!")
        yield dari.wait_readable(left)


def a_thread():
    future = Future()
    me = dari.current_task()

    def ends_it():
        while me.state is not dari.TaskState.WAITING:
            time.sleep(0)
        future.set_result(None)

    thread = threading.Thread(target=ends_it)
    thread.start()
    yield future
    thread.join()


@pytest.fixture
def switching():
    """Threads are switched as often as the interpreter can.

    Else one may wait long beside a loop that polls every few milliseconds: it is woken by each release of the
    interpreter lock, finds that taken again, and waits anew without ever asking for it.
    """
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("switching")
@pytest.mark.parametrize("event", [a_deadline, a_descriptor, a_thread])
@pytest.mark.parametrize("spins", [bare, sleep_of_nothing, ping_pong, queue_that_is_never_empty])
def test_what_spins_keeps_no_event_out(run_really, spins, event):
    """Two tasks that hand each other the processor for ever: deadlines and threads are heard all the same."""

    def spinner(shared):
        while not shared["heard"] and time.monotonic() < shared["end"]:
            yield from spins(shared)

    def main():
        shared = {"heard": False, "end": time.monotonic() + PATIENCE, "lock": dari.Lock(), "queue": dari.Queue()}
        spinners = [dari.create_task(spinner, shared) for _ in range(2)]
        yield
        yield from event()
        heard_in_time = time.monotonic() < shared["end"]
        shared["heard"] = True
        yield spinners
        return heard_in_time

    assert run_really(main) is True


# ---- b.8: other threads touch nothing but the mailbox ----------------------------------------------------------------


@pytest.mark.usefixtures("switching")
def test_threads_create_tasks_at_every_priority_while_others_spin(loop_factory):
    """Four threads post into a scheduler that is busy: every task is made once, on the thread of its loop."""
    threads, each = 4, 250
    ran = []
    made_on = set()

    def created(number):
        yield
        ran.append(number)

    def create(scheduler, number):
        made_on.add(threading.current_thread())
        scheduler.create_task(created, number, priority=number % 3)

    def posts(scheduler, first):
        for number in range(first, first + each):
            scheduler.call_soon_threadsafe(create, scheduler, number)

    def spinner(end):
        while len(ran) < threads * each and time.monotonic() < end:
            yield

    async def main():
        async with dari.Scheduler() as scheduler:
            for priority in range(3):
                scheduler.create_task(spinner, time.monotonic() + PATIENCE, priority=priority)
            posting = [threading.Thread(target=posts, args=(scheduler, n * each)) for n in range(threads)]
            for thread in posting:
                thread.start()
        for thread in posting:
            thread.join()
        return scheduler.stats()

    stats = run_in(loop_factory, main)

    assert (sorted(ran), made_on) == (list(range(threads * each)), {threading.current_thread()})
    assert (stats.created, stats.completed) == (threads * each + 3, threads * each + 3)


# ---- b.9 and b.32: nothing of a loop but what is public --------------------------------------------------------------


class BareHandle:
    """A timer that can be cancelled, and nothing else: no `when`, no `cancelled`."""

    def __init__(self, handle):
        self.cancel = handle.cancel


class Suspicious(asyncio.SelectorEventLoop):
    """Notes who touches its privates; its clock began long after ours, and stands still for 20 ms at a time."""

    def __init__(self):
        self.noted = []
        super().__init__()

    def __getattribute__(self, name):
        if name.startswith("_") and not name.startswith("__"):
            caller = sys._getframe(1).f_globals.get("__name__", "")
            if caller.startswith("dari."):
                self.noted.append((caller, name))
        return super().__getattribute__(name)

    def time(self):
        return super().time() // 0.02 * 0.02 - 1e6

    def call_at(self, when, callback, *args, context=None):
        handle = super().call_at(when, callback, *args, context=context)
        owner = type(getattr(callback, "__self__", None)).__module__
        return BareHandle(handle) if owner.startswith("dari.") else handle


def test_only_what_is_public_of_a_loop_is_used(caplog):
    """Sleeps, timeouts, descriptors, threads, coroutines and an idle wait: no private name is touched."""

    async def coroutine():
        await dari.sleep(0.001)
        return "coroutine"

    def main():
        yield from a_deadline()
        yield from a_descriptor()
        yield from a_thread()
        with dari.move_on_after(0.002):
            yield dari.sleep(60)
        queue = dari.Queue()
        putter = dari.create_task(queue.put("item").__iter__())
        got = yield [coroutine(), queue.get()]
        yield putter
        return got

    async def host():
        got = await dari.arun(main)
        async with dari.Scheduler() as scheduler:
            waiting = scheduler.create_task(dari.sleep(60).__iter__())
            await asyncio.sleep(0.001)
            waiting.cancel()
        return got, asyncio.get_running_loop().noted

    assert run_in(Suspicious, host) == (["coroutine", "item"], [])
    assert caplog.records == []


def test_no_sleep_ends_early_on_a_loop_whose_clock_lags():
    """Idle or busy, what is due is asked of the monotonic clock; the loop's is asked for distances only."""

    def main():
        early = []
        for slow in (0, 1, 2, 3, 4, 1, 2, 3, 4):
            before = time.monotonic()
            while time.monotonic() < before + slow * 0.004:
                pass  # a slow step: the sleep begins somewhere between two ticks of the loop's clock
            before = time.monotonic()
            yield dari.sleep(0.015)
            early.append(time.monotonic() - before < 0.015)
        return early

    def spins(ended):
        while not ended:
            yield

    async def host():
        ended = []
        idle = await asyncio.wait_for(dari.arun(main), PATIENCE)
        spinner = asyncio.ensure_future(dari.arun(spins, ended))
        busy = await asyncio.wait_for(dari.arun(main), PATIENCE)
        ended.append(True)
        await spinner
        return idle, busy

    assert run_in(Suspicious, host) == ([False] * 9, [False] * 9)


# ---- b.10: what nobody keeps, lives ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["a coroutine", "a generator that awaits one"])
def test_what_is_started_and_forgotten_is_not_collected(loop_factory, kind):
    """Only the scheduler refers to a coroutine of the host that waits, and the collector leaves it alone."""
    done = []
    futures = []

    async def coroutine():
        future = asyncio.get_running_loop().create_future()
        futures.append(weakref.ref(future))
        await future
        done.append("ran")

    def generator():
        yield coroutine()

    async def main():
        async with dari.Scheduler() as scheduler:
            scheduler.create_task(coroutine if kind == "a coroutine" else generator)
            while not futures:
                await asyncio.sleep(0)
            gc.collect()
            alive = futures[0]()
            if alive is None:
                scheduler.cancel()
            else:
                alive.set_result(None)

    run_in(loop_factory, main)

    assert done == ["ran"]


# ---- b.20: whatever the host does, an idle guest hears of it ---------------------------------------------------------


class Idle:
    """A guest in which one task waits, with a deadline far away."""

    def __init__(self, scheduler):
        self.scheduler = scheduler
        self.event = dari.Event()
        self.queue = dari.Queue()
        self.full = dari.Queue(maxsize=1)
        self.full.put_nowait("item")
        self.lock = dari.Lock()
        self.scope = dari.CancelScope(deadline=time.monotonic() + 3600)
        self.task = None

    def holds(self):
        yield self.lock.acquire()

    def waits(self, operation):
        with self.scope:
            yield operation


HOST_DOES = {
    "event.set": (lambda idle: idle.event.wait(), lambda idle: idle.event.set()),
    "put_nowait": (lambda idle: idle.queue.get(), lambda idle: idle.queue.put_nowait("item")),
    "get_nowait": (lambda idle: idle.full.put("second"), lambda idle: idle.full.get_nowait()),
    "shutdown": (lambda idle: idle.queue.get(), lambda idle: idle.queue.shutdown()),
    "release": (lambda idle: idle.lock.acquire(), lambda idle: idle.lock.release()),
    "task.cancel": (lambda idle: dari.sleep(3600), lambda idle: idle.task.cancel()),
    "scope.cancel": (lambda idle: dari.sleep(3600), lambda idle: idle.scope.cancel()),
    "scheduler.cancel": (lambda idle: dari.sleep(3600), lambda idle: idle.scheduler.cancel()),
    "a nearer deadline": (
        lambda idle: dari.sleep(3600),
        lambda idle: setattr(idle.scope, "deadline", time.monotonic() + 0.002),
    ),
    "a deadline that has passed": (
        lambda idle: dari.sleep(3600),
        lambda idle: setattr(idle.scope, "deadline", time.monotonic() - 1),
    ),
    "create_task": (
        lambda idle: idle.event.wait(),
        lambda idle: idle.scheduler.create_task(sleeps_and_sets, idle.event),
    ),
}


def sleeps_and_sets(event):
    yield dari.sleep(0.002)
    event.set()


@pytest.mark.parametrize("what", HOST_DOES)
def test_an_idle_guest_hears_what_its_host_does(loop_factory, what):
    """Its only timer is an hour away; what a coroutine of the host does wakes it, a nearer deadline moves the timer."""
    operation, deed = HOST_DOES[what]

    async def main():
        async with dari.Scheduler() as scheduler:
            idle = Idle(scheduler)
            await scheduler.create_task(idle.holds)
            idle.task = scheduler.create_task(idle.waits(operation(idle)))
            while idle.task.state is not dari.TaskState.WAITING:
                await asyncio.sleep(0.001)
            deed(idle)
            end = time.monotonic() + PATIENCE
            while not idle.task.done() and time.monotonic() < end:
                await asyncio.sleep(0.001)
            woken = idle.task.done()
            scheduler.cancel()
            idle.task.exception() if woken and not idle.task.cancelled() else None
        return woken

    assert run_in(loop_factory, main) is True


# ---- b.23: what always ticks hides no circle -------------------------------------------------------------------------


def test_a_task_that_always_ticks_hides_no_circle(run):
    """With one about that never stops waking, two that wait for each other are told all the same."""

    def ticks():
        while True:
            yield dari.sleep(0.001)

    def waits(box, other):
        try:
            yield box[other]
        except dari.DeadlockError as error:
            return str(error)
        return None

    def main():
        keepalive = dari.create_task(ticks)
        box = {}
        box["a"] = dari.create_task(waits, box, "b", name="a")
        box["b"] = dari.create_task(waits, box, "a", name="b")
        told = yield [dari.create_task(dari.shield(box[name]).__iter__()) for name in "ab"]
        keepalive.cancel()
        return told

    told = run(main)

    assert [text is None for text in told] == [True, False]
    assert "'a'" in told[1]
    assert "'b'" in told[1]


# ---- b.25: one context for life --------------------------------------------------------------------------------------


def test_a_token_is_good_after_any_wait(run):
    """What a variable was set to can be reset after every kind of wait; the current task stays the same."""
    variable = contextvars.ContextVar("variable", default="outside")

    def main():
        me = dari.current_task()
        for event in (a_deadline, a_descriptor, a_thread, lambda: bare(None)):
            token = variable.set("inside")
            yield from event()
            variable.reset(token)
            with dari.priority(-1):
                yield from event()
            if dari.current_task() is not me:
                return "another task"
        return variable.get()

    assert run(main) == "outside"
