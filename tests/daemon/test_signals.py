"""What a running service does with HUP, USR1, USR2, with signals that come early, and with those of its children."""

from __future__ import annotations

import os
import select
import signal

import pytest

TALKER = """
    import asyncio
    import logging
    async def main(ctx):
        ctx.ready()
        logging.warning("first")
        while not ctx.stopping.is_set():
            print(ctx.config["app"]["greeting"], flush=True)
            await asyncio.sleep(0.01)
"""


@pytest.fixture
def talker(bench):
    bench.program(TALKER)
    bench.config("[app]\ntarget = 'app.py:main'\ngreeting = 'hello'\n")
    return bench


def test_hup_reopens_the_log_and_reads_the_configuration(talker, until):
    """After a rename and a HUP everything goes to a new file of the old name: logging, stdout, and nothing is lost."""
    pid = talker.start("-c", "dari.toml")
    until(lambda: "hello\n" in talker.log())
    old = talker.directory / "app.log.1"
    talker.logfile.rename(old)
    talker.config("[app]\ntarget = 'app.py:main'\ngreeting = 'good day'\n")

    os.kill(pid, signal.SIGHUP)

    until(lambda: "good day\n" in talker.log())
    assert "reloaded" in talker.log()
    assert "WARNING root: first" in old.read_text()
    assert set(old.read_text().splitlines()[2:]) == {"hello"}
    assert talker.status() == (0, "running")


@pytest.mark.parametrize("text", ["[app\n", "[daemon]\nnmae = 'x'\n", "[daemon]\numask = 'abc'\n"])
def test_hup_with_an_invalid_file_changes_nothing(talker, until, text):
    """A configuration that is not valid is refused in the log, and the old one stays."""
    pid = talker.start("-c", "dari.toml")
    config = talker.config(text)

    os.kill(pid, signal.SIGHUP)

    until(lambda: "the configuration stays as it was" in talker.log())
    assert str(config) in talker.log()
    until(lambda: talker.log().splitlines()[-1] == "hello")
    assert talker.status() == (0, "running")


def test_hup_when_the_log_cannot_be_opened(talker, until):
    """When the log cannot be reopened the old file stays in use: a full or missing disk is no reason to die."""
    pid = talker.start("-c", "dari.toml")
    old = talker.directory / "app.log.1"
    talker.logfile.rename(old)
    os.mkfifo(talker.logfile)

    os.kill(pid, signal.SIGHUP)

    until(lambda: "the log stays where it was" in old.read_text())
    assert talker.status() == (0, "running")


def test_usr2_does_not_kill(bench, until):
    """USR2, whose default action kills, is logged."""
    pid = bench.start()

    os.kill(pid, signal.SIGUSR2)

    until(lambda: "SIGUSR2 is reserved" in bench.log())
    assert bench.status() == (0, "running")


def test_hup_during_the_start_does_not_kill(bench, until):
    """Signals are held back from before the fork until the handlers exist: a HUP at any moment of the start is
    survived."""
    bench.program(
        """
        import asyncio
        async def main(ctx):
            await asyncio.sleep(0.2)
            ctx.ready()
            await ctx.stopping.wait()
        """
    )
    start = bench.popen("start", "app.py:main")
    # As soon as the pidfile has a first line, long before the fresh interpreter is up.
    pid = int(until(lambda: bench.pidfile.exists() and bench.pidfile.read_text().partition("\n")[0]))
    end = os.pidfd_open(start.pid)
    poll = select.poll()
    poll.register(end, select.POLLIN)
    while not poll.poll(1):  # a pair each millisecond; without a pause they would leave the start no time at all
        os.kill(pid, signal.SIGHUP)
        os.kill(pid, signal.SIGUSR2)
    os.close(end)

    assert start.wait() == 0
    assert bench.status() == (0, "running")


def test_ignored_signals_of_the_caller_are_not_inherited(bench):
    """What the caller ignores (nohup, a shell's background job) is not ignored in the service nor in its children."""
    bench.program(
        """
        import signal, subprocess, sys
        async def main(ctx):
            code = "import signal; print(*[int(signal.getsignal(n)) for n in (signal.SIGHUP, signal.SIGALRM)])"
            print(signal.getsignal(signal.SIGALRM) is signal.SIG_DFL, flush=True)
            subprocess.run([sys.executable, "-c", code], check=True)
            ctx.ready()
            await ctx.stopping.wait()
        """
    )

    def ignore():
        for signum in (signal.SIGHUP, signal.SIGALRM):
            signal.signal(signum, signal.SIG_IGN)

    done = bench.dari("start", "app.py:main", preexec_fn=ignore)

    assert done.stdout.splitlines()[:2] == ["True", "0 0"]


def test_a_signal_right_after_a_fork_is_the_childs(bench):
    """A TERM that reaches a forked child before Python has cleaned up after the fork kills the child, each time."""
    bench.program(
        """
        import os, signal
        async def main(ctx):
            for _ in range(50):
                child = os.fork()
                if child == 0:
                    while True:
                        signal.pause()
                os.kill(child, signal.SIGTERM)
                assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGTERM
            ctx.ready()
            await ctx.stopping.wait()
        """
    )
    bench.start()

    assert bench.status() == (0, "running")


def test_a_terminated_child_does_not_stop_the_service(bench, until, gone):
    """A forked child has default dispositions and no share in the signal pipe: its TERM kills it, and only it."""
    bench.program(
        """
        import os, time
        async def main(ctx):
            ctx.ready()
            child = os.fork()
            if child == 0:
                time.sleep(60)
                os._exit(0)
            with open(os.environ["WITNESS"] + ".children", "w") as file:
                file.write(f"{child}\\n")
            await ctx.stopping.wait()
        """
    )
    bench.start()
    [child] = until(bench.children_of_services)
    os.kill(child, signal.SIGTERM)

    assert gone(child)
    assert bench.status() == (0, "running")


def test_a_storm_of_signals(bench, until):
    """200 000 signals of every kind that does not stop, and a TERM at their end: the service stops, gracefully; neither
    stderr nor the log is flooded, for those of one kind that come while one is served make one more."""
    bench.program("async def main(ctx):\n    ctx.ready()\n    await ctx.stopping.wait()\n    print('graceful')\n")
    run = bench.popen("run", "app.py:main")
    until(lambda: bench.is_now("running"))
    for _ in range(50_000):
        for signum in (signal.SIGHUP, signal.SIGUSR2, signal.SIGHUP, signal.SIGUSR1):
            os.kill(run.pid, signum)
    run.send_signal(signal.SIGTERM)

    assert run.communicate(timeout=60) == ("graceful\n", "")
    assert run.returncode == 0
    assert "Traceback" not in bench.log()
    lines = bench.log().splitlines()
    for told in ("reloaded", "SIGUSR2 is reserved", "dump"):
        assert sum(told in line for line in lines) < 20_000, told


def test_a_loop_with_its_own_signal_handlers(bench, until):
    """A program that takes its loop's signal machinery for a signal of its own does not take ours away."""
    bench.program(
        """
        import asyncio, os, signal, sys
        async def main(ctx):
            await (in_trio if "trio" in sys.modules else in_asyncio)()
            ctx.ready()
            await ctx.stopping.wait()
        async def in_asyncio():
            winch = asyncio.Event()
            asyncio.get_running_loop().add_signal_handler(signal.SIGWINCH, winch.set)
            os.kill(os.getpid(), signal.SIGWINCH)
            await winch.wait()
        async def in_trio():
            with sys.modules["trio"].open_signal_receiver(signal.SIGWINCH) as received:
                os.kill(os.getpid(), signal.SIGWINCH)
                async for _ in received:
                    return
        """
    )
    for backend in ("asyncio", "uvloop", "trio"):
        if backend != "asyncio":
            pytest.importorskip(backend)
        started = bench.dari("start", "app.py:main", "--backend", backend)
        stopped = bench.dari("stop", "app.py:main", "--strict")
        assert (started.returncode, started.stderr, stopped.returncode) == (0, "", 0)  # trio warns of a stranger
    assert "leaving hard" not in bench.log()


@pytest.mark.parametrize("backend", ["asyncio", "trio", "standalone"])
def test_reloads_without_end_leave_main_its_turns(bench, backend):
    """Each reload is asked for again while it is under way; main goes on all the same, between two of them."""
    if backend == "trio":
        pytest.importorskip("trio")
    bench.program(
        """
        import os, signal, time
        import dari
        def main(ctx):
            reloads = 0
            @ctx.on_reload
            def slow(new, old):
                nonlocal reloads
                reloads += 1
                os.kill(os.getpid(), signal.SIGHUP)
                time.sleep(0.05)
            ctx.ready()
            for turn in range(5):
                before = reloads
                os.kill(os.getpid(), signal.SIGHUP)
                while reloads == before:
                    yield dari.sleep(0.001)
            print("five turns", flush=True)
        """
    )

    assert bench.dari("run", "app.py:main", "--backend", backend).stdout == "five turns\n"


def test_signals_that_come_while_the_interpreter_goes(bench, until):
    """HUP, USR1 and USR2 neither kill a service that has ended well, nor is there a complaint about them."""
    bench.program(
        """
        import os, signal, time
        class Last:
            def __del__(self, kill=os.kill, pid=os.getpid(), signals=(signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)):
                for _ in range(100):
                    for each in signals:
                        kill(pid, each)
        last = Last()  # goes with its module, after exit handlers and signal handlers
        async def main(ctx):
            ctx.ready()
            raise SystemExit(3)
        """
    )
    done = bench.dari("run", "app.py:main")

    assert (done.returncode, done.stdout, done.stderr) == (3, "", "")
