"""What comes with main, and after it: `ctx.scheduler`, `ctx.pool` and `ctx.on_stop`, on every host."""

from __future__ import annotations

import json

import pytest

# One life, written twice: as a coroutine and as a generator. Everything in it is dari's own, so that every host has it.
LIFE = """
    import threading, dari
    {define} main(ctx):
        pool = ctx.pool
        @ctx.on_stop
        def first():
            print("hook: plain", ctx.stopping.is_set(), threading.current_thread().name)
        @ctx.on_stop
        async def second():
            await dari.sleep(0.01)
            print("hook: async")
        @ctx.on_stop
        def fails():
            raise OSError("no such socket")
        @ctx.on_stop
        def third():
            print("hook: job", (yield pool.run_sync(len, "four")))
        async def accept(new, old):
            await dari.sleep(0)
            print("reload: async", new["pool"]["max_workers"])
        def accept_too(new, old):
            yield dari.sleep(0)
            print("reload: steps")
        ctx.on_reload(accept)
        ctx.on_reload(accept_too)
        def beside():
            thread = yield pool.run_sync(threading.current_thread)
            ctx.ready()
            print("task: a job on", thread.name)
            yield dari.sleep(3600)
        ctx.scheduler.create_task(beside)
        {wait} ctx.stopping.wait()
        print("main has ended", ctx.pool is pool)
"""
AS_COROUTINE = LIFE.format(define="async def", wait="await")
AS_STEPS = LIFE.format(define="def", wait="yield")


@pytest.mark.parametrize(
    ("backend", "program"),
    [
        ("asyncio", AS_COROUTINE),
        ("uvloop", AS_COROUTINE),
        ("trio", AS_COROUTINE),
        ("standalone", AS_COROUTINE),
        ("asyncio", AS_STEPS),
        ("trio", AS_STEPS),
        ("standalone", AS_STEPS),
    ],
    ids=["asyncio", "uvloop", "trio", "standalone", "steps on asyncio", "steps on trio", "steps alone"],
)
def test_a_whole_life(bench, backend, program):
    """Tasks beside main, jobs on its pool, reload callbacks that may wait, and hooks at the end, the last one first."""
    if backend in ("uvloop", "trio"):
        pytest.importorskip(backend)
    bench.program(program)
    bench.config("[pool]\nmax_workers = 3\nmin_workers = 2\n")
    bench.start("-c", "dari.toml", "--backend", backend)
    bench.config("[pool]\nmax_workers = 5\nmin_workers = 1\n")

    reloaded = bench.dari("reload", "app.py:main", "--json")
    bench.config("[pool]\nmax_workers = 1\n")
    refused = bench.dari("reload", "app.py:main", "--json")
    stopped = bench.dari("stop", "app.py:main", "--strict")

    answer = json.loads(reloaded.stdout)
    assert (reloaded.returncode, answer["changed"]) == (0, ["pool.max_workers", "pool.min_workers"])
    assert answer["restart"] == ["pool.min_workers"]
    assert refused.returncode == 153
    assert "dari.toml:2: [pool] max_workers must be at least the running pool's min_workers (2)" in refused.stdout
    assert stopped.returncode == 0
    told = [line for line in bench.log().splitlines() if line.startswith(("task", "reload:", "main", "hook"))]
    assert told == [
        "task: a job on app-0",
        "reload: async 5",
        "reload: steps",
        "main has ended True",
        "hook: job 4",
        "hook: async",
        "hook: plain True MainThread",
    ]
    assert "on_stop hook main.<locals>.fails failed" in bench.log()
    assert "OSError: no such socket" in bench.log()
