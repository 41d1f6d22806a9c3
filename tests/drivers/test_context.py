"""Context variables over the seam: what goes in, and that nothing comes back. And which task of asyncio is current."""

from __future__ import annotations

import asyncio
import sys
import threading
from contextvars import ContextVar, copy_context

import pytest

import dari

variable = ContextVar("variable", default="unset")


@pytest.fixture
def run_in(loop_factory):
    """Runs `main()` in a loop."""

    def run(main):
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            return runner.run(main())

    return run


async def turns(number=10):
    for _ in range(number):
        await asyncio.sleep(0)


def reads():
    yield
    return variable.get()


async def coroutine_reads():
    await asyncio.sleep(0)
    return variable.get()


def sets(value):
    variable.set(value)
    yield
    return variable.get()


async def coroutine_sets(value):
    variable.set(value)
    await asyncio.sleep(0)
    return variable.get()


def in_a_thread(function, *args):
    """Call it in another thread, which has a context of its own; gives its result."""
    results = []
    thread = threading.Thread(target=lambda: results.append(function(*args)))
    thread.start()
    thread.join()
    return results[0]


# ---- in --------------------------------------------------------------------------------------------------------------

BODIES = {"a generator": reads, "a coroutine": coroutine_reads}

IN = {
    "create_task": lambda scheduler, body: scheduler.create_task(body),
    "create_task, made before": lambda scheduler, body: scheduler.create_task(body()),
    "arun": lambda scheduler, body: dari.arun(body),
    "the module's create_task": lambda scheduler, body: dari.create_task(body),
    "create_task_threadsafe": lambda scheduler, body: asyncio.wrap_future(scheduler.create_task_threadsafe(body)),
}


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("how", IN)
def test_a_task_has_the_variables_of_its_creator(run_in, how, body):
    """As they were when it was created; what its creator sets afterwards is not seen."""

    async def main():
        async with dari.Scheduler() as scheduler:
            variable.set("creator's")
            task = asyncio.ensure_future(IN[how](scheduler, BODIES[body]))
            if not how.startswith("arun"):
                await turns(1)
            variable.set("later")
            return await task

    assert run_in(main) == "creator's"


@pytest.mark.parametrize("body", BODIES)
def test_a_task_of_a_thread_has_the_variables_of_the_thread(run_in, body):
    """`create_task_threadsafe` takes them where it is called, not where the task is made."""

    async def main():
        variable.set("host's")

        async with dari.Scheduler() as scheduler:

            def client():
                variable.set("thread's")
                return scheduler.create_task_threadsafe(BODIES[body])

            return await asyncio.wrap_future(in_a_thread(client)), variable.get()

    assert run_in(main) == ("thread's", "host's")


def test_a_call_of_a_thread_has_the_variables_of_the_thread(run_in):
    """`call_soon_threadsafe` is asyncio's: what is called runs in a copy of the caller's context."""
    seen = []

    async def main():
        async with dari.Scheduler() as scheduler:

            def client():
                variable.set("thread's")
                scheduler.call_soon_threadsafe(lambda: seen.append(variable.get()))

            in_a_thread(client)

    run_in(main)

    assert seen == ["thread's"]


class Awaitable:
    def __init__(self, body):
        self._body = body

    def __await__(self):
        return self._body().__await__()


YIELDS = {
    "a coroutine": lambda body: body(),
    "host": lambda body: dari.host(body()),
    "an asyncio task": lambda body: asyncio.ensure_future(body()),
    "a gather": lambda body: asyncio.gather(body()),
    "an awaitable": Awaitable,
    "a list": lambda body: [body()],
    "dari.gather": lambda body: dari.gather(body()),
    "a task": dari.create_task,
}


@pytest.mark.parametrize("what", YIELDS)
def test_what_a_generator_yields_has_its_variables(run_in, what):
    """Those that the generator has set itself too."""

    def plan():
        variable.set("generator's")
        got = yield YIELDS[what](coroutine_reads)
        return got[0] if isinstance(got, list) else got

    async def main():
        variable.set("host's")
        return await dari.arun(plan)

    assert run_in(main) == "generator's"


@pytest.mark.parametrize("how", [lambda: [reads()], lambda: dari.gather(reads())], ids=["a list", "dari.gather"])
def test_generators_in_a_list_have_the_variables_of_who_yields_it(run_in, how):
    """And its priority, which is such a variable."""

    def reads_priority():
        yield
        return dari.current_task().priority

    def plan():
        variable.set("generator's")
        return [(yield how()), (yield [reads_priority()])]

    async def main():
        async with dari.Scheduler() as scheduler:
            return await scheduler.create_task(plan, priority=-3)

    assert run_in(main) == [["generator's"], [-3]]


def test_a_child_generator_has_the_variables_of_its_parent(run_in):
    """By `create_task`, by a group; and through a coroutine between them."""

    async def between():
        return await dari.arun(reads)

    def plan():
        variable.set("parent's")
        with dari.TaskGroup() as group:
            member = group.create_task(reads)
            yield group.join()
        return [(yield dari.create_task(reads)), member.result(), *(yield [dari.create_task(reads)]), (yield between())]

    async def main():
        return await dari.arun(plan)

    assert run_in(main) == ["parent's"] * 4


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with 3.12")
def test_the_first_step_of_an_eager_coroutine_has_them_too():
    """It runs in the context of its own, not in that of the slice."""

    def plan():
        variable.set("generator's")
        return (yield coroutine_sets_eagerly()), variable.get()

    async def coroutine_sets_eagerly():
        seen = variable.get()
        variable.set("coroutine's")
        return seen

    async def main():
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        return await dari.arun(plan), variable.get()

    assert asyncio.run(main()) == (("generator's", "generator's"), "unset")


# ---- and not back ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", YIELDS)
def test_what_a_coroutine_sets_stays_with_it(run_in, what):
    """However a generator waits for it."""

    def plan():
        variable.set("generator's")
        yield YIELDS[what](lambda: coroutine_sets("coroutine's"))
        return variable.get()

    async def main():
        return await dari.arun(plan)

    assert run_in(main) == "generator's"


@pytest.mark.parametrize("body", [sets, coroutine_sets])
@pytest.mark.parametrize("how", ["await task", "arun"])
def test_what_a_task_sets_stays_with_it(run_in, how, body):
    """Its waiter in the host sees its own."""

    async def main():
        variable.set("host's")
        async with dari.Scheduler() as scheduler:
            value = await (scheduler.create_task(body, "task's") if how == "await task" else dari.arun(body, "task's"))
        return value, variable.get()

    assert run_in(main) == ("task's", "host's")


def test_tasks_that_take_turns_keep_theirs(run_in):
    """A hundred of them on one scheduler, with coroutines between their steps."""

    def plan(number):
        variable.set(number)
        seen = []
        for _ in range(3):
            yield
            seen.append(variable.get())
            seen.append((yield coroutine_reads()))
        return set(seen) == {number}

    async def main():
        async with dari.Scheduler() as scheduler:
            tasks = [scheduler.create_task(plan, number) for number in range(100)]
        return all(task.result() for task in tasks), variable.get()

    assert run_in(main) == (True, "unset")


def test_a_token_is_reset_where_it_was_made(run_in):
    """One context for life: `set` in one step and `reset` in a later one, over the seam and in the cleanup."""

    def plan():
        token = variable.set("generator's")
        try:
            yield asyncio.sleep(0)
            yield dari.Event().wait()
        finally:
            variable.reset(token)
            seen.append(variable.get())

    async def main():
        variable.set("host's")
        async with dari.Scheduler() as scheduler:
            task = scheduler.create_task(plan)
            await turns()
            task.cancel()

    seen = []
    run_in(main)

    assert seen == ["host's"]


def test_a_done_callback_runs_in_the_context_of_who_added_it(run_in):
    """In a copy of it, as a future's: what it sets leaks neither to the adder nor to the next callback."""
    seen = []

    def callback(_):
        seen.append(variable.get())
        variable.set("callback's")

    async def main():
        async with dari.Scheduler() as scheduler:
            variable.set("adder's")
            task = scheduler.create_task(sets, "task's")
            task.add_done_callback(callback)
            task.add_done_callback(callback)
            await task
            seen.append(variable.get())

    run_in(main)

    assert seen == ["adder's"] * 3


def test_a_done_callback_that_is_late_leaks_nothing(run_in):
    """The task has ended already: its adder's variables are as they were."""

    def callback(_):
        variable.set("callback's")

    async def main():
        async with dari.Scheduler() as scheduler:
            variable.set("adder's")
            task = scheduler.create_task(reads)
            await task
            task.add_done_callback(callback)
            await turns(2)
            return variable.get()

    assert run_in(main) == "adder's"


def test_a_posted_call_leaks_nothing_into_the_next(run_in):
    """Each has a context of its own; so has the task that one of them makes."""
    tasks = []

    async def main():
        async with dari.Scheduler() as scheduler:
            scheduler.call_soon_threadsafe(variable.set, "leak")
            scheduler.call_soon_threadsafe(lambda: tasks.append(scheduler.create_task(reads)))
        return tasks[0].result(), variable.get()

    assert run_in(main) == ("unset", "unset")


def test_the_loop_s_callbacks_see_nothing_of_the_tasks(run_in):
    """What the host schedules while tasks run has the host's variables."""
    seen = []

    async def main():
        variable.set("host's")
        async with dari.Scheduler() as scheduler:
            for number in range(5):
                scheduler.create_task(sets, number)
                asyncio.get_running_loop().call_soon(lambda: seen.append(variable.get()))
        future = asyncio.get_running_loop().create_future()
        future.add_done_callback(lambda _: seen.append(variable.get()))
        await dari.arun(lambda: (yield future.set_result(None)))
        await turns(2)

    run_in(main)

    assert seen == ["host's"] * 6


def test_the_innermost_scheduler_is_the_block_s_own(run_in):
    """It is no property of the loop: a task that was started before the block does not see it."""

    def kernel():
        yield
        return dari.current_task().kernel

    async def main():
        entered = asyncio.Event()

        async def outside():
            await entered.wait()
            return await dari.arun(kernel)

        before = asyncio.create_task(outside())
        async with dari.Scheduler() as scheduler:
            entered.set()
            inside = await dari.arun(kernel)
            other = await before
            assert inside is await scheduler.create_task(kernel)
        return inside is other, inside is await dari.arun(kernel)

    assert run_in(main) == (False, False)


# ---- the current task of asyncio -------------------------------------------------------------------------------------


def test_in_a_generator_no_task_of_asyncio_is_current(run_in):
    """Its steps are callbacks of the loop: at the first, after waits of all kinds, and in its cleanup."""
    seen = []

    def plan():
        seen.append(asyncio.current_task())
        try:
            for what in (None, asyncio.sleep(0), dari.sleep(0.001), dari.create_task(reads)):
                yield what
                seen.append(asyncio.current_task())
            yield dari.Event().wait()
        finally:
            seen.append(asyncio.current_task())
            seen.append(asyncio.get_running_loop() is loops[0])

    async def main():
        loops.append(asyncio.get_running_loop())
        async with dari.Scheduler() as scheduler:
            task = scheduler.create_task(plan)
            await asyncio.sleep(0.005)
            task.cancel()

    loops = []
    run_in(main)

    assert seen == [None] * 6 + [True]


@pytest.mark.parametrize("eager", [False, True], ids=["lazy", "eager"])
def test_in_a_coroutine_its_own_task_is_current(eager):
    """Whether yielded or given as a task; and it is the host's again where that goes on."""
    if eager and sys.version_info < (3, 12):
        pytest.skip("eager tasks came with 3.12")

    async def coroutine():
        first = asyncio.current_task()
        await asyncio.sleep(0)
        return first if first is asyncio.current_task() and first.get_coro().__name__ == "coroutine" else None

    def plan():
        tasks = [(yield coroutine()), (yield from dari.host(coroutine())), (yield dari.create_task(coroutine))]
        return [*tasks, asyncio.current_task()]

    async def main():
        if eager:
            asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        host = asyncio.current_task()
        async with dari.Scheduler() as scheduler:
            tasks = await scheduler.create_task(plan)
            tasks.append(await scheduler.create_task(coroutine))
            assert asyncio.current_task() is host
        return [task is not None and task is not host for task in tasks], len(set(tasks))

    assert asyncio.run(main()) == ([True, True, True, False, True], 5)


def test_in_callbacks_no_task_of_asyncio_is_current(run_in):
    """Done callbacks and posted calls."""
    seen = []

    async def main():
        async with dari.Scheduler() as scheduler:
            task = scheduler.create_task(reads)
            task.add_done_callback(lambda _: seen.append(asyncio.current_task()))
            scheduler.call_soon_threadsafe(lambda: seen.append(asyncio.current_task()))

    run_in(main)

    assert seen == [None, None]


def test_a_task_s_context_is_its_own_copy():
    """Running `create_task` inside a copied context gives the task that context's variables."""

    async def main():
        context = copy_context()
        context.run(variable.set, "copy's")
        async with dari.Scheduler() as scheduler:
            return await context.run(scheduler.create_task, sets, "task's"), context[variable]

    assert asyncio.run(main()) == ("task's", "copy's")
