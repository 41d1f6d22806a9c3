"""What comes with main, and after it: `ctx.scheduler`, `ctx.pool` and `ctx.on_stop`, on every host."""

from __future__ import annotations

import asyncio
import json
import signal

import pytest

import dari
from dari.daemon.ending import run_hooks
from dari.daemon.hosts.asyncio_loop import AsyncioHost
from dari.daemon.hosts.standalone import StandaloneHost
from dari.daemon.hosts.trio_loop import TrioHost

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
    stopped = bench.dari("stop", "app.py:main", "--strict")

    answer = json.loads(reloaded.stdout)
    assert (reloaded.returncode, answer["changed"]) == (0, ["pool.max_workers", "pool.min_workers"])
    assert answer["restart"] == ["pool.min_workers"]
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


def test_a_pool_that_cannot_be_is_refused(bench):
    """A reload that would take the running pool below its min_workers is refused, with the line that says so."""
    bench.program(AS_COROUTINE)
    bench.config("[pool]\nmax_workers = 3\nmin_workers = 2\n")
    bench.start("-c", "dari.toml")
    config = bench.config("[pool]\nmax_workers = 1\n")

    refused = bench.dari("reload", "app.py:main")

    assert refused.returncode == 153
    text = "[pool] max_workers must be at least the running pool's min_workers (2) until a restart"
    assert f"{config}:2: {text}" in refused.stderr


def test_another_thread_hands_tasks_in(bench):
    """ctx.scheduler is made where main runs; who asks for it elsewhere first is told so, and harms nobody."""
    bench.program(
        """
        import asyncio
        async def main(ctx):
            def elsewhere():
                try:
                    return ctx.scheduler
                except RuntimeError as error:
                    return error
            def task():
                yield
                return "done"
            print(await asyncio.to_thread(elsewhere))
            scheduler = ctx.scheduler
            assert await asyncio.to_thread(elsewhere) is scheduler
            future = await asyncio.to_thread(scheduler.create_task_threadsafe, task)
            print(await asyncio.wrap_future(future))
        """
    )
    out = bench.dari("run", "app.py:main").stdout.splitlines()

    assert out == ["ctx.scheduler is made in main's loop: ask for it there first, then any thread may have it", "done"]


def test_hooks_after_a_failure_and_jobs_that_are_stuck(bench):
    """A main that fails has its hooks, too; a job that never ends has the pool's exit_timeout, and is named."""
    bench.program(
        """
        import asyncio, threading
        async def main(ctx):
            ctx.on_stop(lambda: print("hook", flush=True))
            started = threading.Event()
            def stuck():
                started.set()
                threading.Event().wait()
            def quick():
                asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result()  # needs the loop, which is there
                print("job", flush=True)
            loop = asyncio.get_running_loop()
            ctx.pool.submit(stuck)
            await asyncio.to_thread(started.wait)
            ctx.pool.submit(quick)
            raise RuntimeError("no disk")
        """
    )
    bench.config("[pool]\nmax_workers = 2\nexit_timeout = 1\n")

    done = bench.dari("run", "app.py:main", "-c", "dari.toml")

    assert (done.returncode, done.stdout) == (1, "hook\njob\n")
    assert "RuntimeError: no disk" in bench.log()
    assert "1 job of the pool had not ended in time" in bench.log()
    assert "the process exits without 1 job of pool 'app'" in done.stderr
    assert "stuck" in done.stderr


def test_a_hook_that_never_ends(bench):
    """The keeper's clock runs on in a hook that blocks the loop: the process leaves hard, and has failed."""
    bench.program(
        """
        import asyncio, time
        async def stubborn():
            while True:
                try:
                    await asyncio.sleep(3600)
                except asyncio.CancelledError:
                    pass
        async def main(ctx):
            ctx.on_stop(lambda: time.sleep(3600))
            task = asyncio.create_task(stubborn(), name="stubborn one")
            await asyncio.sleep(0)
        """
    )
    done = bench.dari("run", "app.py:main", "--stop-grace", "1.5")

    assert done.returncode == 1
    assert "leaving hard: main has ended, and 1.5 s later the process has not" in bench.log()
    assert "in <lambda>" in bench.log()
    assert "asyncio task 'stubborn one'" in bench.log()
    assert bench.status() == (3, "stopped")


@pytest.mark.parametrize("backend", ["asyncio", "trio", "standalone"])
def test_a_stop_does_not_cancel_hooks(bench, backend):
    """A TERM that comes after main has ended would cancel main, and finds only hooks: they go on."""
    if backend == "trio":
        pytest.importorskip("trio")
    bench.program(
        """
        import signal, threading
        import __main__ as service
        import dari
        asked = threading.Event()
        def cancel(self, really=service.Service.cancel):
            really(self)
            asked.set()
        service.Service.cancel = cancel
        async def main(ctx):
            ctx.ready()
            @ctx.on_stop
            async def hook():
                os.kill(os.getpid(), signal.SIGTERM)
                while not asked.is_set():
                    await dari.sleep(0.01)
                for _ in range(3):
                    await dari.sleep(0)
                print("not cancelled", flush=True)
        """
    )
    done = bench.dari("run", "app.py:main", "--backend", backend)

    assert (done.returncode, done.stdout) == (0, "not cancelled\n")


@pytest.mark.parametrize("backend", ["asyncio", "trio", "standalone"])
def test_the_process_leaves_from_beside_main(bench, until, backend):
    """SystemExit in a reload callback: main ends, then the hooks are called, and the code is that of SystemExit."""
    if backend == "trio":
        pytest.importorskip("trio")
    bench.program(
        """
        import dari
        async def main(ctx):
            ctx.on_stop(lambda: print("hook", flush=True))
            @ctx.on_reload
            async def leave(new, old):
                await dari.sleep(0.01)
                raise SystemExit(4)
            ctx.ready()
            try:
                await dari.sleep(3600)
            finally:
                print("main", flush=True)
        """
    )
    run = bench.popen("run", "app.py:main", "--backend", backend)
    until(lambda: bench.is_now("running"))
    run.send_signal(signal.SIGHUP)

    assert (run.communicate(timeout=30)[0], run.returncode) == ("main\nhook\n", 4)


def test_the_last_lines_have_time(bench):
    """A disk that takes a second for the last line gets it, where the service has so much time."""
    bench.program(
        """
        import logging, time
        from dari.daemon.logs import writer as logwriter
        class Disk:
            def write(self, fd, chunk):
                if b"the last line" in bytes(chunk):
                    time.sleep(1)
                return os.write(fd, chunk)
            def __getattr__(self, name):
                return getattr(os, name)
        async def main(ctx):
            logwriter.os = Disk()
            ctx.ready()
            logging.warning("the last line")
        """
    )

    assert bench.dari("run", "app.py:main").returncode == 0
    assert "the last line" in bench.log()


def test_hooks_share_their_seconds(caplog):
    """One that is out of time is cancelled and named, and so are those for which nothing is left."""
    called = []

    async def waits():
        called.append("waits")
        await dari.Event().wait()

    hooks = [lambda: called.append("late"), waits, lambda: called.append("first")]
    asyncio.run(run_hooks(AsyncioHost(None, None), hooks, 1.5))

    assert called == ["first", "waits"]
    waited, late = [record.getMessage() for record in caplog.records]
    assert waited.endswith("waits did not end in time, and was cancelled")
    assert late.endswith("<lambda> was not called: there was no time left for it")


def in_asyncio(hooks):
    asyncio.run(run_hooks(AsyncioHost(None, None), hooks, 5.0))


def in_trio(hooks):
    trio = pytest.importorskip("trio")
    trio.run(run_hooks, TrioHost(None), hooks, 5.0)


def alone(hooks):
    dari.run(run_hooks, StandaloneHost(), hooks, 5.0)


@pytest.mark.parametrize("run", [in_asyncio, in_trio, alone])
def test_no_hook_harms_the_others(caplog, run):
    """Whatever one raises is logged, a stray cancel of asyncio's included; one that is added meanwhile is called."""
    called = []

    def adds():
        hooks.append(lambda: called.append("added"))

    def stray():
        raise asyncio.CancelledError

    async def its_own_timeout():
        raise TimeoutError

    hooks = [lambda: called.append("last"), stray, its_own_timeout, adds]
    run(hooks)

    assert called == ["added", "last"]
    assert [record.exc_info[0] for record in caplog.records] == [TimeoutError, asyncio.CancelledError]
