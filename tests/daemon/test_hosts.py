"""Every kind of main on every host: ready, stopping, cancel and failure mean the same everywhere."""

from __future__ import annotations

import pytest

ASYNC = """
    async def with_ctx(ctx):
        ctx.ready()
        await ctx.stopping.wait()
        print("asked by", type(ctx.stopping).__module__)
    async def without():
        import asyncio
        try:
            await asyncio.Event().wait()
        finally:
            print("cancelled")
    async def fails_late(ctx):
        ctx.ready()
        raise RuntimeError("no disk")
    async def fails_at_once():
        raise RuntimeError("no disk")
"""
STEPS = """
    import dari
    def with_ctx(ctx):
        ctx.ready()
        yield ctx.stopping.wait()
        print("asked by", type(ctx.stopping).__module__)
    def without():
        try:
            yield dari.sleep(3600)
        finally:
            print("cancelled")
    def fails_late(ctx):
        ctx.ready()
        yield dari.sleep(0.01)
        raise RuntimeError("no disk")
    def fails_at_once():
        raise RuntimeError("no disk")
        yield
"""
# The same for a coroutine that dari steps itself: it may wait for dari's own things only.
STEPPED = ASYNC.replace("import asyncio", "import dari").replace("asyncio.Event().wait()", "dari.sleep(3600)")

TRIO = ASYNC.replace("import asyncio", "import trio").replace("asyncio.Event().wait()", "trio.sleep_forever()")
HOSTS = {
    "asyncio": ("asyncio", ASYNC),
    "uvloop": ("uvloop", ASYNC),
    "trio": ("trio", TRIO),
    "dari": ("dari", ASYNC),
    "steps on asyncio": ("asyncio", STEPS),
    "steps on trio": ("trio", STEPS),
    "steps alone": ("standalone", STEPS),
    "coroutine alone": ("standalone", STEPPED),
}


@pytest.fixture(params=HOSTS.values(), ids=HOSTS.keys())
def hosted(bench, request):
    backend, program = request.param
    if backend in ("uvloop", "trio"):
        pytest.importorskip(backend)
    bench.program(program)
    bench.env["DARI_DAEMON__BACKEND"] = backend
    return bench


def test_ready_and_stopping(hosted):
    """main says when it is ready, and is told when to stop, by an event of its host's own kind."""
    hosted.start(target="app.py:with_ctx")
    own = {"trio": "trio", "standalone": "dari.sync.event"}.get(hosted.env["DARI_DAEMON__BACKEND"], "asyncio.locks")

    assert hosted.dari("stop", "app.py:main", "--strict").returncode == 0
    assert f"asked by {own}\n" in hosted.log()


def test_main_without_a_context(hosted):
    """Without a parameter main is ready at its first wait, and cancelled at the stop."""
    hosted.start(target="app.py:without")

    assert hosted.dari("stop", "app.py:main", "--strict").returncode == 0
    assert "cancelled\n" in hosted.log()


def test_failure_after_ready(hosted, until, gone):
    """A main that fails later leaves its traceback in the log and the pidfile clear."""
    pid = hosted.start(target="app.py:fails_late")

    assert gone(pid)
    assert "RuntimeError: no disk" in hosted.log()
    assert hosted.status() == (3, "stopped")


def test_failure_in_the_first_step(hosted):
    """A main that fails before its first wait was never ready."""
    done = hosted.dari("start", "app.py:fails_at_once")

    assert done.returncode == 1
    assert "RuntimeError: no disk" in done.stderr
    assert "is ready" not in hosted.log()


def test_the_loop_of_dari_has_priorities(bench):
    """`backend = "dari"` is asyncio on `dari.EventLoop`: what is urgent goes before what was there first."""
    bench.program(
        """
        import asyncio, dari
        async def main(ctx):
            async def say(word):
                print(word)
            with dari.priority(dari.Priority.LOW):
                low = asyncio.create_task(say("low"))
            with dari.priority(dari.Priority.URGENT):
                urgent = asyncio.create_task(say("urgent"))
            await asyncio.wait([low, urgent])
            print(type(asyncio.get_running_loop()) is dari.EventLoop)
        """
    )

    assert bench.dari("run", "app.py:main", "--backend", "dari").stdout == "urgent\nlow\nTrue\n"


def test_tasks_of_trio_are_known(bench, until):
    """What counts the tasks of a service finds those of trio, in whatever nursery."""
    pytest.importorskip("trio")
    bench.program(
        """
        import trio
        import __main__ as service
        async def main(ctx):
            async with trio.open_nursery() as outer, trio.open_nursery() as inner:
                for _ in range(3):
                    inner.start_soon(trio.sleep_forever)
                await trio.sleep(0)
                print(names(ctx), flush=True)
                outer.cancel_scope.cancel()
            print(names(ctx), flush=True)
        def names(ctx):
            host = ctx._make_scheduler.__self__
            return sorted(task.name for task in host.tasks() if "trio" in task.name and "forever" in task.name)
        """
    )
    out = bench.dari("run", "app.py:main", "--backend", "trio").stdout.splitlines()

    assert out == [str(["trio.sleep_forever"] * 3), "[]"]
