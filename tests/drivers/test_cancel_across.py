"""Cancellation across the seam: from asyncio's tasks into generators and back, with the real end awaited every time."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
from functools import partial

import pytest

import dari


@pytest.fixture
def run_in(loop_factory):
    """Runs `main()` in a loop, which was told of no error, to the very end and after it."""

    def run(main):
        told = []

        async def host():
            asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
            return await main()

        with asyncio.Runner(loop_factory=loop_factory) as runner:
            result = runner.run(host())
        gc.collect()  # "Task was destroyed but it is pending!" is said by the collector
        assert told == []
        return result

    return run


async def turns(number=10):
    for _ in range(number):
        await asyncio.sleep(0)


def steps(number):
    for _ in range(number):
        yield


def resting(name, log, below=None, slow=3):
    """A generator: it waits for what `below` makes (None: for ever), and cleans up slowly."""
    log.append(f"{name} begins")
    try:
        return (yield dari.Event().wait() if below is None else below())
    finally:
        with dari.CancelScope(shield=True):
            yield from steps(slow)
        log.append(f"{name} ends")


async def coroutine_resting(name, log, below=None, slow=3):
    """The same as a coroutine."""
    log.append(f"{name} begins")
    try:
        return await (asyncio.Event().wait() if below is None else below())
    finally:
        try:
            await turns(slow)
        finally:  # asyncio.run cancels all tasks at its end, this one's waiter too: it may be told twice
            log.append(f"{name} ends")


# ---- from the host into a generator ----------------------------------------------------------------------------------


async def awaited(make):
    return await make()


async def waited_for(make):
    return await asyncio.wait_for(make(), 3600)


async def under_a_timeout(make):
    async with asyncio.timeout(3600):
        return await make()


HOW = [awaited, waited_for, under_a_timeout]


@pytest.mark.parametrize("how", HOW, ids=lambda how: how.__name__)
@pytest.mark.parametrize("made", ["task", "arun"])
def test_the_host_cancels_the_waiter_of_a_generator(run_in, how, made):
    """The generator's end comes first, then the waiter's; the cancel is counted once."""
    log = []

    async def main():
        async with dari.Scheduler() as scheduler:
            make = {
                "task": lambda: scheduler.create_task(resting, "generator", log),
                "arun": lambda: dari.arun(resting, "generator", log),
            }[made]
            waiter = asyncio.create_task(how(make))
            waiter.add_done_callback(lambda _: log.append("waiter ends"))
            await turns()
            waiter.cancel("message")
            await asyncio.wait([waiter])
        return waiter.cancelled(), waiter.cancelling()

    assert run_in(main) == (True, 1)
    assert log == ["generator begins", "generator ends", "waiter ends"]


@pytest.mark.parametrize("how", ["wait_for", "timeout"])
def test_a_timeout_of_the_host(run_in, how):
    """TimeoutError comes when the generator has ended, and the count of cancels is as it was."""
    log = []

    async def main():
        try:
            if how == "wait_for":
                await asyncio.wait_for(dari.arun(resting, "generator", log), 0.1)  # it has begun by then
            else:
                async with asyncio.timeout(0.1):
                    await dari.arun(resting, "generator", log)
        except TimeoutError:
            log.append("timeout")
        await turns(2)
        return asyncio.current_task().cancelling()

    assert run_in(main) == 0
    assert log == ["generator begins", "generator ends", "timeout"]


def test_a_generator_that_suppresses_the_host_s_cancel(run_in):
    """Its value is what the waiter gets; the cancel waits for it at its next `await`."""
    log = []

    def stubborn():
        try:
            yield dari.Event().wait()
        except dari.Cancelled:
            return "value"

    async def host():
        log.append(await dari.arun(stubborn))
        await asyncio.sleep(0)
        log.append("went on")

    async def main():
        waiter = asyncio.create_task(host())
        await turns()
        waiter.cancel()
        await asyncio.wait([waiter])
        return waiter.cancelled(), waiter.cancelling()

    assert run_in(main) == (True, 1)
    assert log == ["value"]


def test_a_generator_that_suppresses_and_goes_on_meets_it_again(run_in):
    """`Cancelled` comes at every `yield` until it ends: the waiter need not cancel again."""
    log = []

    def stubborn():
        for number in range(3):
            try:
                yield dari.Event().wait()
            except dari.Cancelled:
                log.append(number)
        yield

    async def main():
        waiter = asyncio.create_task(dari.arun(stubborn))
        await turns()
        waiter.cancel()
        await asyncio.wait([waiter])
        return waiter.cancelled()

    assert run_in(main) is True
    assert log == [0, 1, 2]


# ---- from a generator into the host ----------------------------------------------------------------------------------


class Awaitable:
    def __init__(self, coroutine):
        self._coroutine = coroutine

    def __await__(self):
        return self._coroutine.__await__()

    def __del__(self):
        self._coroutine.close()


YIELDS = {
    "a coroutine": lambda coroutine: coroutine,
    "host": dari.host,
    "an asyncio task": asyncio.ensure_future,
    "a gather": asyncio.gather,
    "an awaitable": Awaitable,
    "a list": lambda coroutine: [coroutine],
    "a task of the coroutine": dari.create_task,
}


@pytest.mark.parametrize("what", YIELDS)
@pytest.mark.parametrize("who", ["task.cancel", "a scope", "a deadline"])
def test_a_generator_cancels_the_coroutine_that_it_waits_for(run_in, what, who):
    """However that was yielded, and whoever cancels: the coroutine's cleanup has ended when the generator goes on."""
    log, scopes = [], []

    def plan():
        try:
            with dari.move_on_after(3600) as scope:
                scopes.append(scope)
                yield YIELDS[what](coroutine_resting("coroutine", log))
        finally:
            log.append("generator ends")

    async def main():
        async with dari.Scheduler() as scheduler:
            task = scheduler.create_task(plan)
            await turns()
            if who == "task.cancel":
                task.cancel()
            elif who == "a scope":
                scopes[0].cancel()
            else:
                scopes[0].deadline = 0
        return task.cancelled(), scopes[0].cancelled_caught

    assert run_in(main) == ((True, False) if who == "task.cancel" else (False, True))
    assert log == ["coroutine begins", "coroutine ends", "generator ends"]


@pytest.mark.parametrize("what", YIELDS)
def test_a_coroutine_that_suppresses_the_cancel(run_in, what):
    """Its value is delivered; `Cancelled` comes at the generator's next `yield`."""
    log = []

    async def stubborn():
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await turns(3)
            return "value"

    def plan():
        log.append((yield YIELDS[what](stubborn())))
        yield
        log.append("went on")

    async def main():
        async with dari.Scheduler() as scheduler:
            task = scheduler.create_task(plan)
            await turns()
            task.cancel()
        return task.cancelled()

    assert run_in(main) is True
    # A gather that is cancelled is cancelled, whatever its members say.
    assert log == {"a list": [["value"]], "a gather": []}.get(what, ["value"])


@pytest.mark.parametrize("what", YIELDS)
def test_a_coroutine_that_fails_when_it_is_cancelled(run_in, what):
    """Its error is delivered, and `Cancelled` comes at the next `yield`."""
    log = []

    async def fails():
        try:
            await asyncio.Event().wait()
        finally:
            raise KeyError("cleanup")

    def plan():
        try:
            yield YIELDS[what](fails())
        except (KeyError, ExceptionGroup) as error:
            log.append(type(error))
        yield
        log.append("went on")

    async def main():
        async with dari.Scheduler() as scheduler:
            task = scheduler.create_task(plan)
            await turns()
            task.cancel()
        return task.cancelled()

    assert run_in(main) is True
    assert log == [KeyError]


@pytest.mark.parametrize("what", YIELDS)
def test_a_coroutine_that_others_cancel(run_in, what):
    """Waiting for what was cancelled is an error; the generator was not cancelled, and goes on."""
    log, hosts = [], []

    async def coroutine():
        hosts.append(asyncio.current_task())
        await asyncio.Event().wait()

    def plan():
        try:
            yield YIELDS[what](coroutine())
        except dari.TaskCancelledError:
            log.append("told")
        yield
        log.append("went on")

    async def main():
        async with dari.Scheduler() as scheduler:
            task = scheduler.create_task(plan)
            await turns()
            hosts[0].cancel()
        return task.cancelled()

    assert run_in(main) is False
    assert log == ["told", "went on"]


def test_a_coroutine_is_told_once(run_in):
    """The generator is cancelled three times, by its scope, its task and its scheduler: the coroutine once."""
    log, scopes = [], []

    async def coroutine():
        for number in range(3):
            try:
                await asyncio.sleep(0.002 if number else 3600)
            except asyncio.CancelledError:
                log.append((number, asyncio.current_task().cancelling()))

    def plan():
        with dari.CancelScope() as scope:
            scopes.append(scope)
            yield coroutine()

    async def main():
        async with dari.Scheduler() as scheduler:
            task = scheduler.create_task(plan)
            await turns()
            for cancel in (scopes[0].cancel, task.cancel, scheduler.cancel):
                cancel()
                await turns(3)

    run_in(main)

    assert log == [(0, 1)]


# ---- chains ----------------------------------------------------------------------------------------------------------


def test_a_chain_is_cancelled_from_the_top(run_in):
    """Host, generator, coroutine, generator, coroutine: each cleans up when what it waits for has, in this order."""
    log = []

    async def main():
        async with dari.Scheduler() as scheduler:

            def second():
                return resting("generator 2", log, lambda: coroutine_resting("coroutine 2", log))

            def first():
                return resting(
                    "generator 1",
                    log,
                    lambda: coroutine_resting("coroutine 1", log, lambda: scheduler.create_task(second)),
                )

            waiter = asyncio.create_task(coroutine_resting("host", log, lambda: scheduler.create_task(first)))
            await turns(30)
            waiter.cancel()
            await asyncio.wait([waiter])
        return waiter.cancelled(), waiter.cancelling(), scheduler.stats().cancelled

    assert run_in(main) == (True, 1, 2)
    names = ["host", "generator 1", "coroutine 1", "generator 2", "coroutine 2"]
    assert log == [f"{name} begins" for name in names] + [f"{name} ends" for name in reversed(names)]


@pytest.mark.parametrize("cut", range(3))
def test_a_chain_is_cut_in_the_middle(run_in, cut):
    """What is below ends by the cancel, what is above is told of it, and nobody above is cancelled."""
    log, tasks = [], {}

    def generator(name, below):
        tasks[name] = dari.current_task()
        try:
            return (yield below())
        except dari.TaskCancelledError as error:
            log.append(name)
            raise KeyError(name) from error

    async def coroutine(name, below):
        tasks[name] = asyncio.current_task()
        try:
            return await below()
        except dari.TaskCancelledError as error:
            log.append(name)
            raise KeyError(name) from error

    async def main():
        async with dari.Scheduler() as scheduler:
            create = scheduler.create_task
            waiter = asyncio.create_task(
                coroutine(
                    "host",
                    lambda: create(
                        generator,
                        0,
                        lambda: coroutine(
                            1, lambda: create(generator, 2, lambda: coroutine_resting("end", log, slow=1))
                        ),
                    ),
                )
            )
            await turns(30)
            tasks[cut].cancel()
            await asyncio.wait([waiter])
        return repr(waiter.exception()), waiter.cancelling()

    told = {0: "host", 1: 0, 2: 1}[cut]
    assert run_in(main) == (f"KeyError({told!r})", 0)
    assert log == ["end begins", "end ends", told]


def test_a_value_goes_through_a_chain_that_is_cancelled(run_in):
    """The lowest generator has won an item: it is delivered to the top one, through the coroutine between them."""
    queue, got = dari.Queue(), []

    def lowest():
        with dari.CancelScope(shield=True):
            return (yield queue.get())

    async def between(scheduler):
        return await scheduler.create_task(lowest)

    def top(scheduler):
        got.append((yield between(scheduler)))
        yield
        got.append("went on")

    async def main():
        async with dari.Scheduler() as scheduler:
            task = scheduler.create_task(top, scheduler)
            await turns()
            task.cancel()
            await turns()
            queue.put_nowait("item")
        return task.cancelled()

    assert run_in(main) is True
    assert got == ["item"]


@pytest.mark.parametrize("later", range(8))
def test_a_cancel_that_comes_twice(run_in, later):
    """While the generator cleans up, its waiter is told again: nothing more happens to either."""
    log = []

    async def main():
        async with dari.Scheduler() as scheduler:
            task = scheduler.create_task(
                resting, "generator", log, lambda: coroutine_resting("coroutine", log, slow=20), 20
            )
            waiter = asyncio.create_task(awaited(lambda: task))
            await turns()
            waiter.cancel()
            await turns(later)  # far fewer than the coroutine needs for its end
            waiter.cancel()
            task.cancel()
            await asyncio.wait([waiter])
        return waiter.cancelled(), waiter.cancelling()

    assert run_in(main) == (True, 2)
    assert log == ["generator begins", "coroutine begins", "coroutine ends", "generator ends"]


# ---- before the first step -------------------------------------------------------------------------------------------


def test_the_waiter_is_cancelled_before_its_first_step(run_in):
    """As in asyncio none of its code runs: neither has it started a task, nor does it own the one it would wait for."""
    log = []

    async def main():
        async with dari.Scheduler():
            waiter = asyncio.create_task(dari.arun(resting, "generator", log))
            waiter.cancel()
            await asyncio.wait([waiter])
        return waiter.cancelled()

    assert run_in(main) is True
    assert log == []


@pytest.mark.parametrize("turn", range(6))
def test_the_waiter_is_cancelled_in_one_of_its_first_turns(run_in, turn):
    """The generator has not begun, or it cleans up: never does it stay behind."""
    log = []

    async def main():
        async with dari.Scheduler():
            waiter = asyncio.create_task(dari.arun(resting, "generator", log))
            await turns(turn)
            waiter.cancel()
            await asyncio.wait([waiter])
        return waiter.cancelled()

    assert run_in(main) is True
    assert log in ([], ["generator begins", "generator ends"])


@pytest.mark.parametrize("turn", range(6))
@pytest.mark.parametrize("what", YIELDS)
def test_the_generator_is_cancelled_in_one_of_its_first_turns(run_in, what, turn):
    """The coroutine has not begun and is closed without a warning, or it cleans up."""
    log = []

    def plan():
        yield YIELDS[what](coroutine_resting("coroutine", log))

    async def main():
        async with dari.Scheduler() as scheduler:
            task = scheduler.create_task(plan)
            await turns(turn)
            task.cancel()
        return task.cancelled()

    assert run_in(main) is True
    assert log in ([], ["coroutine begins", "coroutine ends"])


@pytest.mark.parametrize("turn", range(4))
def test_a_coroutine_given_as_a_task_is_cancelled_in_one_of_its_first_turns(run_in, turn):
    """The same for an `async def` task."""
    log = []

    async def main():
        async with dari.Scheduler() as scheduler:
            task = scheduler.create_task(coroutine_resting, "coroutine", log)
            await turns(turn)
            task.cancel()
            with pytest.raises(dari.TaskCancelledError):
                await task

    run_in(main)

    assert log in ([], ["coroutine begins", "coroutine ends"])


@pytest.mark.parametrize("what", ["a coroutine", "host", "a list"])
def test_the_generator_is_cancelled_by_one_that_runs_after_it(run_in, what):
    """In the same slice: the host has not been asked yet, the coroutine is closed, and never said to be forgotten."""
    log = []

    def plan():
        yield YIELDS[what](coroutine_resting("coroutine", log))

    def cancels(task):
        task.cancel()
        yield

    async def main():
        async with dari.Scheduler() as scheduler:
            task = scheduler.create_task(plan)
            scheduler.create_task(cancels, task)
        return task.cancelled()

    assert run_in(main) is True
    assert log == []


def test_the_generator_cancels_itself_before_it_waits(run_in):
    """Its coroutine never begins."""
    log = []

    def plan():
        with dari.CancelScope() as scope:
            scope.cancel()
            coroutine = coroutine_resting("coroutine", log)
            try:
                yield coroutine
            finally:
                coroutine.close()

    async def main():
        await dari.arun(plan)

    run_in(main)

    assert log == []


# ---- the loop ends ---------------------------------------------------------------------------------------------------


def left_mid_wait(create, log):
    """One of each kind of wait over the seam: tasks made by `create`, and tasks of asyncio."""
    queue, loop = dari.Queue(), asyncio.get_running_loop()
    create(resting, "1", log, lambda: coroutine_resting("1 below", log, slow=2))
    create(resting, "2", log, loop.create_future)
    create(resting, "3", log)
    create(coroutine_resting, "4", log)
    chain = partial(resting, "7 below", log, lambda: coroutine_resting("7 lowest", log))
    return [
        asyncio.create_task(coroutine_resting("5", log, lambda: dari.arun(resting, "5 below", log))),
        asyncio.create_task(coroutine_resting("6", log, queue.get)),
        asyncio.create_task(coroutine_resting("7", log, lambda: dari.arun(chain))),
    ]


def begun(log):
    return {line.removesuffix(" begins") for line in log if line.endswith(" begins")}


def ended(log):
    return [line.removesuffix(" ends") for line in log if line.endswith(" ends")]


NAMES = {"1", "1 below", "2", "3", "4", "5", "5 below", "6", "7", "7 below", "7 lowest"}


@pytest.fixture
def quiet(caplog):
    """Nothing was logged: neither by asyncio nor by dari."""
    yield
    assert [record.getMessage() for record in caplog.get_records("call")] == []


@pytest.mark.parametrize("entered", ["by a task", "by main"])
def test_the_loop_ends_around_a_scheduler(run_in, quiet, entered):
    """`asyncio.run` cancels all tasks at its end: every `finally` runs once, lowest first, and nothing is said."""
    log = []

    async def service():
        async with dari.Scheduler() as scheduler:
            left_mid_wait(scheduler.create_task, log)
            await asyncio.Event().wait()

    async def main():
        services.append(asyncio.create_task(service()))
        await turns(30)
        if entered == "by main":
            await asyncio.wait_for(services[0], 0.001)

    services = []
    if entered == "by a task":
        run_in(main)
    else:
        with pytest.raises(TimeoutError):
            run_in(main)

    assert begun(log) == NAMES
    assert sorted(ended(log)) == sorted(NAMES)
    assert ended(log).index("7 lowest") < ended(log).index("7 below") < ended(log).index("7")


def test_the_loop_ends_around_the_implicit_scheduler(run_in, quiet):
    """The same for what `arun` has left on the loop's own scheduler."""
    log = []

    def leaves():
        left_mid_wait(dari.create_task, log)
        yield

    async def main():
        await dari.arun(leaves)
        await turns(30)

    run_in(main)

    assert begun(log) == NAMES
    assert sorted(ended(log)) == sorted(NAMES)


def test_the_loop_ends_before_anything_has_begun(run_in, quiet):
    """Nothing begins, nothing hangs, no coroutine is said to have never been awaited."""
    log = []

    def leaves():
        left_mid_wait(dari.create_task, log)
        yield

    async def main():
        await dari.arun(leaves)

    run_in(main)

    assert sorted(ended(log)) == sorted(begun(log))


def test_the_loop_ends_while_its_generators_clean_up_by_coroutines(run_in, quiet):
    """A shielded cleanup may run a coroutine on the loop that is closing, and waits for it."""
    log = []

    async def says_goodbye():
        await asyncio.sleep(0.001)
        log.append("goodbye")

    def plan():
        try:
            yield dari.Event().wait()
        finally:
            with dari.CancelScope(shield=True):
                yield says_goodbye()
            log.append("ended")

    async def main():
        own = asyncio.create_task(dari.arun(plan))
        await turns()
        assert not own.done()
        left.append(own)

    left = []
    run_in(main)

    assert log == ["goodbye", "ended"]


def test_main_is_interrupted_while_it_waits_for_a_generator(loop_factory):
    """An error of `main`'s own around `async with Scheduler` is what comes out, after every end."""
    log = []

    async def main():
        async with dari.Scheduler() as scheduler:
            left_mid_wait(scheduler.create_task, log)
            await turns(30)
            raise SystemExit(3)

    with pytest.raises(SystemExit), asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main())

    assert begun(log) == NAMES
    assert sorted(ended(log)) == sorted(NAMES)


ABANDONED = """
import asyncio, gc, dari

def rests():
    yield dari.Event().wait()

async def service():
    async with dari.Scheduler() as scheduler:
        scheduler.create_task(rests)

loop = asyncio.new_event_loop()
task = loop.create_task(service())
loop.run_until_complete(asyncio.sleep(0.01))
loop.close()
del task
gc.collect()
print("went on")
"""


def test_a_loop_that_is_closed_around_a_scheduler():
    """Its program cancelled nothing and stopped: that leaves work behind, but does not hold up the interpreter."""
    process = subprocess.run([sys.executable, "-c", ABANDONED], capture_output=True, text=True, timeout=60, check=False)

    assert (process.stdout, process.returncode) == ("went on\n", 0)
