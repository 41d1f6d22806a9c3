"""What `dari.EventLoop` relies on of CPython's inside. One failure here tells what a new version has changed."""

from __future__ import annotations

import ast
import asyncio
import asyncio.base_events
import asyncio.selector_events
import asyncio.unix_events
import contextvars
import inspect
import textwrap
from collections import deque

import pytest

import dari
from dari.drivers.asyncio_inside import awaited_by, task_resumed_by

MODULES = (asyncio.base_events, asyncio.selector_events, asyncio.unix_events)


def uses_of_ready() -> set[str]:
    """How asyncio uses `self._ready`: as `self._ready.NAME`, `FUNCTION(self._ready)`, or otherwise."""
    found = set()
    for module in MODULES:
        tree = ast.parse(inspect.getsource(module))
        parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and node.attr == "_ready":
                parent = parents[node]
                if isinstance(parent, ast.Attribute):
                    found.add(parent.attr)
                elif isinstance(parent, ast.Call):
                    found.add(ast.unparse(parent.func))
                elif isinstance(parent, ast.BoolOp | ast.If | ast.While | ast.IfExp):
                    found.add("bool")
                else:
                    found.add(ast.unparse(parent))
    return found


def test_the_queue_is_used_by_five_operations():
    """asyncio makes a deque, and then appends to it, takes from its left, asks for length and truth, and clears it."""
    assert uses_of_ready() == {"self._ready = collections.deque()", "append", "popleft", "len", "bool", "clear"}


def test_the_queue_is_a_deque():
    """A new loop's queue is a bare deque."""
    loop = asyncio.SelectorEventLoop()

    assert type(loop._ready) is deque
    loop.close()


def test_the_batch_is_counted_beforehand_and_passes_over_what_is_cancelled():
    """`_run_once` asks for the length, takes so many, and looks at nothing of a cancelled handle but that it is."""
    source = textwrap.dedent(inspect.getsource(asyncio.base_events.BaseEventLoop._run_once))
    batch = source[source.index("ntodo = ") :].splitlines()

    assert [line.strip() for line in batch[:5]] == [
        "ntodo = len(self._ready)",
        "for i in range(ntodo):",
        "handle = self._ready.popleft()",
        "if handle._cancelled:",
        "continue",
    ]


def test_a_handle_has_its_context():
    """Whether it was given or copied."""
    context = contextvars.copy_context()
    loop = asyncio.SelectorEventLoop()

    given, copied, timer = (
        loop.call_soon(print, context=context),
        loop.call_soon(print),
        loop.call_later(1, print, context=context),
    )

    assert given._context is timer._context is context
    assert isinstance(copied._context, contextvars.Context)
    assert given._cancelled is False
    loop.close()


def test_a_loop_knows_that_it_stops():
    """`stop()` is seen at once, in `_stopping`."""
    loop = asyncio.SelectorEventLoop()
    seen = [loop._stopping]
    loop.call_soon(lambda: (loop.stop(), seen.append(loop._stopping)))

    loop.run_forever()

    assert seen == [False, True]
    loop.close()


@pytest.mark.parametrize("task_class", [asyncio.Task, asyncio.tasks._PyTask], ids=["C", "Python"])
def test_the_step_of_a_task_is_known(task_class):
    """Of all callbacks those that resume a task are told from others, also from other methods of that task."""
    seen = []

    class Spy(deque):
        def append(self, handle):
            seen.append(task_resumed_by(handle))
            super().append(handle)

    async def sleeper():
        await asyncio.sleep(0)
        await asyncio.sleep(0.001)

    async def main():
        loop = asyncio.get_running_loop()
        task = task_class(sleeper(), loop=loop)
        waits = [awaited_by(task)]
        loop._ready = Spy(loop._ready)
        loop.call_soon(task.done)  # no step
        await asyncio.sleep(0)
        loop.call_soon(task.get_name)  # no step
        waits.append(awaited_by(task))  # of the bare yield
        await asyncio.sleep(0)
        waits.append(awaited_by(task))
        await task
        return task, waits

    with asyncio.Runner() as runner:
        task, waits = runner.run(main())

    assert seen.count(task) == 2  # after the bare yield, and after the sleep; the first stood in the queue before
    assert seen.count(None) >= 2
    assert waits[:2] == [None, None]
    assert isinstance(waits[2], asyncio.Future)


@pytest.mark.parametrize("make", [asyncio.Runner, lambda: asyncio.Runner(debug=True)], ids=["plain", "debug"])
def test_a_step_of_a_task_runs_in_the_context_of_the_task(make):
    """Every handle that resumes a task has the very context of that task: its priority is the task's own."""
    seen = []

    class Spy(deque):
        def append(self, handle):
            if task_resumed_by(handle):
                seen.append(handle._context)
            super().append(handle)

    async def sleeper():
        await asyncio.sleep(0)
        await asyncio.sleep(0.001)

    async def main():
        context = contextvars.copy_context()
        asyncio.get_running_loop()._ready = Spy()
        await asyncio.create_task(sleeper(), context=context)
        return context

    with make() as runner:
        context = runner.run(main())

    assert [each is context for each in seen[:3]] == [True] * 3


def test_a_loop_has_few_attributes():
    """With 30 of them CPython gives up the layout in which it finds attributes fast."""

    async def main():
        return len(vars(asyncio.get_running_loop()))

    with asyncio.Runner(loop_factory=dari.EventLoop) as runner:
        assert runner.run(main()) < 30


@pytest.mark.parametrize("context", [None, contextvars.Context()], ids=["copied", "given"])
def test_a_handle_is_as_asyncio_makes_it(context):
    """`call_soon` makes it without asyncio's calls: every attribute is the same, and none is missing."""
    loops = dari.EventLoop(), asyncio.SelectorEventLoop()
    ours, theirs = (loop.call_soon(print, 1, context=context) for loop in loops)
    same = set(asyncio.Handle.__slots__) - {"_loop", "_context", "__weakref__"}

    assert type(ours) is asyncio.Handle
    assert ours._loop is loops[0]
    assert {name: getattr(ours, name) for name in same} == {name: getattr(theirs, name) for name in same}
    assert (ours._context is context) == (context is not None)
    assert isinstance(ours._context, contextvars.Context)
    for loop in loops:
        loop.close()


def test_call_soon_refuses_what_asyncio_refuses():
    """A closed loop; and in debug mode what is no callback, or comes from another thread."""
    loop = dari.EventLoop()
    loop.set_debug(True)

    with pytest.raises(TypeError, match="callable object was expected"):
        loop.call_soon(1)
    assert loop.call_soon(print)._source_traceback[-1].name == "test_call_soon_refuses_what_asyncio_refuses"
    loop.close()
    for debug in (True, False):
        loop.set_debug(debug)
        with pytest.raises(RuntimeError, match="closed"):
            loop.call_soon(print)
