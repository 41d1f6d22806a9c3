"""`dari stop` and `restart`: one timeline, the right process and no other, and an end that is an end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time

import pytest

from dari.daemon import cli
from dari.daemon.commands import operate
from dari.daemon.pidfile import STOP_BYTE, open_pidfile, try_lock
from dari.daemon.process import Handle
from dari.daemon.target import may_be_same

BLOCKED = """
    import ctypes, os, threading, time, signal
    async def main(ctx):
        ctx.ready()
        ctx.stopping
        {}
"""
IN_PYTHON = "while True: pass"
IN_SLEEP = "time.sleep(3600)"
# A mutex locked twice: C code that lets the GIL go, never returns, and knows no EINTR.
IN_C = "lib = ctypes.CDLL(None); m = ctypes.create_string_buffer(64); [lib.pthread_mutex_lock(m) for _ in range(2)]"


def end_of(bench, until) -> str:
    """Return the log once it holds the stacks of a forced exit."""
    until(lambda: "leaving hard" in bench.log())
    return bench.log()


def test_graceful_stop_lets_main_finish(bench):
    """stop sets ctx.stopping; main goes on to its own end."""
    bench.program(
        """
        async def main(ctx):
            ctx.ready()
            await ctx.stopping.wait()
            print("good night", ctx.stopping.is_set())
        """
    )
    bench.start()

    assert bench.dari("stop", "app.py:main").returncode == 0
    assert "good night True\n" in bench.log()
    assert "leaving hard" not in bench.log()


def test_main_that_never_asked_is_cancelled_at_once(bench):
    """A main that does not know ctx.stopping is not made to wait for a grace that it cannot use."""
    bench.program(
        """
        import asyncio
        async def main(ctx):
            @ctx.on_stop
            async def hook():
                print("requests to cancel:", asyncio.current_task().cancelling())
            ctx.ready()
            try:
                await asyncio.sleep(3600)
            finally:
                print("cleaned up")
        """
    )
    bench.start("--stop-grace", "30")
    began = time.monotonic()

    assert bench.dari("stop", "app.py:main").returncode == 0
    assert time.monotonic() - began < 10
    assert "cleaned up\nrequests to cancel: 0\n" in bench.log()  # they were main's alone


def test_main_that_overstays_its_grace_is_cancelled(bench):
    """After stop_grace main is cancelled, and its `finally` still runs."""
    bench.program(
        """
        import asyncio
        async def main(ctx):
            ctx.ready()
            try:
                await ctx.stopping.wait()
                await asyncio.sleep(3600)
            finally:
                print("cleaned up")
        """
    )
    bench.start("--stop-grace", "0.3")

    done = bench.dari("stop", "app.py:main", "--strict")

    assert done.returncode == 0
    assert "cleaned up\n" in bench.log()
    assert "leaving hard" not in bench.log()


def test_stop_before_ready(bench, until, gone):
    """A TERM while main starts cancels it at once; `start` tells that it ended too early."""
    bench.program("import asyncio\nasync def main(ctx):\n    await asyncio.sleep(3600)\n")
    start = bench.popen("start", "app.py:main")
    [pid] = until(bench.witnesses)

    stopped = bench.dari("stop", "app.py:main")

    assert stopped.returncode == 0
    assert gone(pid)
    assert start.wait(timeout=30) == 1
    assert bench.status() == (3, "stopped")


@pytest.mark.parametrize("backend", ["trio", "standalone"])
def test_stop_in_the_first_step(bench, backend):
    """The same on other hosts, from main's very first step: it asks for ctx.stopping too early to be waited for."""
    if backend == "trio":
        pytest.importorskip("trio")
    bench.program(
        """
        import signal
        import dari
        async def main(ctx):
            os.kill(os.getpid(), signal.SIGTERM)
            try:
                await ctx.stopping.wait()
                await dari.sleep(3600)
            finally:
                print("cancelled", flush=True)
        """
    )
    run = bench.popen("run", "app.py:main", "--backend", backend, "--stop-grace", "300")

    assert (run.communicate(timeout=30)[0], run.returncode) == ("cancelled\n", 0)


def test_stop_during_the_import(bench, until):
    """A TERM while the program is being imported ends it there, as Ctrl-C would."""
    bench.program("import time\ntime.sleep(3600)\nasync def main(ctx): ...\n")
    start = bench.popen("start", "app.py:main")
    until(bench.witnesses)
    began = time.monotonic()

    assert bench.dari("stop", "app.py:main").returncode == 0
    assert start.wait(timeout=30) == 1
    assert time.monotonic() - began < 10


def test_a_blocked_loop_leaves_hard_at_its_deadline(bench, until):
    """When neither the event nor the cancel is heard, the service leaves by itself, with its stacks in the log."""
    bench.program(BLOCKED.format(IN_C))
    bench.start("--stop-grace", "0.3")

    done = bench.dari("stop", "app.py:main", "--strict", "--stop-grace", "5")

    assert done.returncode == 0  # it left by itself: nobody had to kill it
    log = end_of(bench, until)
    assert "leaving hard: still running 2.3 s after SIGTERM" in log
    assert "in main" in log
    assert bench.status() == (3, "stopped")


def test_stop_kills_who_ignores_term(bench):
    """A service without a handler for TERM is killed at the end; --strict says 154, and the pidfile is clear."""
    bench.program(
        """
        import signal
        async def main(ctx):
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            ctx.ready()
            await ctx.stopping.wait()
        """
    )
    pid = bench.start()

    done = bench.dari("stop", "app.py:main", "--strict", "--json", "--stop-grace", "0.2")

    answer = json.loads(done.stdout)
    assert (done.returncode, answer["killed"], answer["pid"]) == (154, True, pid)
    assert bench.status() == (3, "stopped")


@pytest.mark.parametrize(
    ("block", "signum", "backend"),
    [
        (IN_PYTHON, signal.SIGTERM, "asyncio"),
        (IN_SLEEP, signal.SIGINT, "asyncio"),
        (IN_C, signal.SIGTERM, "asyncio"),
        (IN_C, signal.SIGTERM, "uvloop"),  # which takes the wakeup descriptor for itself
        (IN_C, signal.SIGTERM, "trio"),  # which does, too, and warns
        (IN_SLEEP, signal.SIGTERM, "standalone"),
    ],
    ids=["Python", "sleep", "C", "C under uvloop", "C under trio", "sleep alone"],
)
def test_the_second_signal_forces_on_a_blocked_loop(bench, until, block, signum, backend):
    """The second TERM (or INT) ends a service whose loop is blocked, and it dies of that very signal."""
    if backend in ("uvloop", "trio"):
        pytest.importorskip(backend)
    bench.program(BLOCKED.format(block))
    run = bench.popen("run", "app.py:main", "--stop-grace", "4", "--backend", backend)
    until(lambda: bench.is_now("running"))

    run.send_signal(signum)
    until(lambda: bench.is_now("stopping"))
    assert run.poll() is None
    run.send_signal(signum)

    assert run.wait(timeout=30) == -signum
    assert f"leaving hard: {signum.name} came again" in bench.log()  # it was not the deadline
    assert bench.status() == (3, "stopped")


@pytest.mark.parametrize(
    ("backend", "spelling"),
    [("asyncio", "await"), ("asyncio", "yield"), ("trio", "await"), ("standalone", "yield")],
)
def test_a_stop_between_ready_and_stopping_is_graceful(bench, backend, spelling):
    """Main says that it is ready, and is told to stop before it could ask for ctx.stopping: it is not cancelled,
    however long that step of it takes."""
    if backend == "trio":
        pytest.importorskip("trio")
    bench.program(
        f"""
        import signal, time
        import dari
        from dari.daemon.pidfile import look
        {"async " if spelling == "await" else ""}def main(ctx):
            ctx.ready()
            os.kill(os.getpid(), signal.SIGTERM)
            while look({str(bench.pidfile)!r}).state.value != "stopping":
                time.sleep(0.001)
            time.sleep(0.5)
            {spelling} ctx.stopping.wait()
            {spelling} dari.sleep(0.01)
            print("graceful", flush=True)
        """
    )
    run = bench.popen("run", "app.py:main", "--backend", backend)

    assert (run.communicate(timeout=30)[0], run.returncode) == ("graceful\n", 0)


def test_main_is_cancelled_once(bench, until):
    """By its own loop at once, because it does not listen; the cancel at the end of stop_grace changes nothing."""
    bench.program(
        """
        import asyncio, threading
        import __main__ as service
        asked = threading.Event()
        def cancel(self, really=service.Service.cancel):
            really(self)
            if threading.current_thread().name == "dari-keeper":
                asked.set()
        service.Service.cancel = cancel
        async def main(ctx):
            ctx.ready()
            try:
                await asyncio.sleep(3600)
            finally:
                while not asked.is_set():
                    await asyncio.sleep(0.01)
                for _ in range(3):
                    await asyncio.sleep(0)
                print("cancelled once", flush=True)
        """
    )
    run = bench.popen("run", "app.py:main", "--stop-grace", "0.3")
    until(lambda: bench.is_now("running"))
    run.send_signal(signal.SIGTERM)

    assert (run.communicate(timeout=30)[0], run.returncode) == ("cancelled once\n", 0)


def test_one_term_and_one_int_do_not_force(bench, until):
    """Signals of different kinds are not "the second one": a terminal sends INT to the group, a supervisor TERM."""
    bench.program(
        """
        import asyncio
        async def main(ctx):
            ctx.ready()
            await ctx.stopping.wait()
            while not os.path.exists("go on"):
                await asyncio.sleep(0.01)
            print("finished", flush=True)
        """
    )
    run = bench.popen("run", "app.py:main")
    until(lambda: bench.is_now("running"))

    run.send_signal(signal.SIGTERM)
    until(lambda: bench.is_now("stopping"))
    run.send_signal(signal.SIGINT)
    (bench.directory / "go on").touch()

    assert run.communicate(timeout=30)[0] == "finished\n"
    assert run.returncode == 0


@pytest.mark.parametrize("backend", ["asyncio", "trio", "standalone"])
def test_quit_is_the_fast_stop(bench, until, backend):
    """QUIT cancels main at once, also one that asked for ctx.stopping."""
    if backend == "trio":
        pytest.importorskip("trio")
    bench.program(
        """
        import dari
        async def main(ctx):
            ctx.ready()
            try:
                await ctx.stopping.wait()
                await dari.sleep(3600)
            finally:
                print("cleaned up", flush=True)
        """
    )
    run = bench.popen("run", "app.py:main", "--backend", backend, "--stop-grace", "300")
    until(lambda: bench.is_now("running"))
    run.send_signal(signal.SIGQUIT)

    assert (run.communicate(timeout=30)[0], run.returncode) == ("cleaned up\n", 0)


LINGERS = """
    import asyncio
    async def main(ctx):
        ctx.ready()
        await ctx.stopping.wait()
        while not os.path.exists(os.environ["WITNESS"] + ".go"):
            await asyncio.sleep(0.01)
        print("finished")
"""


@pytest.fixture
def stop_here(bench, monkeypatch):
    """`dari stop` in this very process: returns its code and what it has sent. (What the service does about two TERMs
    would not tell: two in one moment are one to the kernel.) `meanwhile` is done when it has come to its wait."""

    def stop(meanwhile=lambda: None):
        send, wait, sent = Handle.send, Handle.wait, []

        def note(handle, signum):
            sent.append(signum)
            send(handle, signum)

        def wait_while(handle, timeout):
            meanwhile()
            return wait(handle, timeout)

        with monkeypatch.context() as patch:
            for key in filter(lambda key: key.startswith("DARI_"), os.environ):
                patch.delenv(key)
            for key, value in bench.env.items():
                patch.setenv(key, value)
            patch.chdir(bench.directory)
            patch.setattr(Handle, "send", note)
            patch.setattr(Handle, "wait", wait_while)
            return cli.main(["stop", "app.py:main", "--strict"]), sent

    return stop


def test_a_stop_sends_one_term(bench, stop_here):
    """One TERM, and nothing else, to a service that ends."""
    bench.start()

    assert stop_here() == (0, [signal.SIGTERM])


def test_a_stop_beside_a_stop_only_waits(bench, stop_here):
    """While another `dari stop` is at it (here: we hold its byte, and send its TERM), one more sends no second TERM,
    which would force, but waits for the same end."""
    pid = bench.start()
    ours = open_pidfile(str(bench.pidfile), create=False)
    assert try_lock(ours, STOP_BYTE)

    assert stop_here(lambda: os.kill(pid, signal.SIGTERM)) == (0, [])
    os.close(ours)


def test_a_stop_of_a_stopping_service_only_waits(bench, until, stop_here):
    """Nor does one that finds the service stopping already, after a bare `kill`."""
    bench.program(LINGERS)
    pid = bench.start()
    os.kill(pid, signal.SIGTERM)
    until(lambda: bench.is_now("stopping"))

    assert stop_here((bench.directory / "witness.go").touch) == (0, [])
    assert "finished\n" in bench.log()
    assert "leaving hard" not in bench.log()


def test_many_stops(bench):
    """Several `dari stop` at the same time all end with 0, and the service ends gracefully."""
    bench.program("async def main(ctx):\n    ctx.ready()\n    await ctx.stopping.wait()\n    print('finished')\n")
    bench.start()
    stops = [bench.popen("stop", "app.py:main") for _ in range(4)]

    assert [stop.wait(timeout=30) for stop in stops] == [0, 0, 0, 0]
    assert "finished\n" in bench.log()


def test_a_thread_that_never_ends_does_not_keep_the_process(bench, until):
    """After main, threads have stop_grace to end; then the process leaves hard, with the exit code that it had."""
    bench.program(
        """
        import threading, time
        async def main(ctx):
            ctx.ready()
            threading.Thread(target=time.sleep, args=(3600,)).start()
        """
    )
    run = bench.dari("run", "app.py:main", "--stop-grace", "1.5")  # until then its loop has to be closed

    assert run.returncode == 0
    assert "leaving hard: main has ended" in bench.log()
    assert bench.status() == (3, "stopped")


def test_a_forged_pidfile_never_gets_its_process_signalled(bench, bystander, start_time, boot_id):
    """A pidfile that names a foreign process, even with its true start time, is dead: nobody holds the lock."""
    bench.start()
    bench.dari("stop", "app.py:main")
    forgeries = [
        f"{bystander.pid}\n",
        f"{bystander.pid}\nstart={start_time(bystander.pid)}\nboot={boot_id}\nlock=0\nstate=running \n",
        f"{bystander.pid}\nstart=1\nboot={boot_id}\nlock=0\nstate=running \n",
    ]
    for forgery in forgeries:
        bench.pidfile.write_text(forgery)
        code, state = bench.status()
        assert (code, state) in ((1, "dead"), (3, "stopped"))
        assert bench.dari("stop", "app.py:main").returncode == 0
        assert bystander.poll() is None


def test_a_forged_pidfile_under_a_held_lock(bench, gone, bystander, start_time, boot_id):
    """The lock held, the record true but for one thing: the named process does not have this file open. 155."""
    pid = bench.start()
    start = start_time(bystander.pid)
    true = bench.pidfile.read_bytes()
    bench.pidfile.write_text(f"{bystander.pid}\nstart={start}\nboot={boot_id}\nlock=0\nstate=running \n")

    assert bench.status() == (4, "orphaned")
    assert bench.dari("stop", "app.py:main").returncode == 155
    assert bystander.poll() is None
    assert not gone(pid, timeout=0)
    bench.pidfile.write_bytes(true)
    assert bench.status() == (0, "running")


def test_the_start_time_is_checked_even_when_the_file_is_open(bench, gone):
    """A reused pid: the record's pid lives and has the pidfile open, but started at another time. Not signalled."""
    pid = bench.start()
    true = bench.pidfile.read_text()
    lines = true.splitlines()
    lines[1] = f"start={int(lines[1].removeprefix('start=')) + 1}"
    bench.pidfile.write_text("\n".join(lines) + "\n")

    assert bench.status() == (4, "orphaned")
    assert bench.dari("stop", "app.py:main").returncode == 155
    assert not gone(pid, timeout=0)
    bench.pidfile.write_text(true)
    assert bench.dari("stop", "app.py:main").returncode == 0


def test_two_programs_with_the_same_file_name(bench, gone):
    """They share their default name, and are not taken for one another: what was asked for the one leaves the other
    alone. Whoever gives the name means what has it."""
    here, there = (bench.directory / part for part in ("here", "there"))
    for directory in (here, there):
        directory.mkdir()
        shutil.copy(bench.directory / "app.py", directory)
    pid = bench.start(target="here/app.py:main")
    is_here = f"{here}/app.py:main (pid {pid})"

    starts = [bench.dari(*how, "there/app.py:main") for how in (("start",), ("start", "--strict"), ("run",))]
    others = [bench.dari(command, "there/app.py:main") for command in ("stop", "reload", "restart", "dump")]
    status = json.loads(bench.dari("status", "there/app.py:main", "--json").stdout)

    text = f"app: app runs already, but it is {is_here}: give --name, or stop that one\n"
    assert [(done.returncode, done.stderr) for done in starts] == [(150, text)] * 3
    text = f"app: {there}/app.py:main is not running: app is {is_here}; --name app means that one\n"
    assert [(done.returncode, done.stderr) for done in others] == [(7, text)] * 4
    assert (status["state"], status["target"]) == ("running", f"{here}/app.py:main")
    assert not gone(pid, timeout=0)
    assert bench.dari("stop", "there/app.py:main", "--name", "app").returncode == 0
    assert bench.dari("stop", "there/app.py:main").returncode == 0  # nothing runs


@pytest.mark.parametrize(
    ("one", "other", "same", "same_file"),
    [
        ("/a/app.py:main", "/a/app.py:main", True, True),
        ("/a/app.py:main", "/b/app.py:main", False, False),
        ("/a/app.py:main", "/a/app.py:daemon", False, True),
        ("/a/pkg/app.py:main", "pkg.app:main", True, True),
        ("/a/pkg/app.py:main", "pkg.app:daemon", False, True),
        ("pkg.app:main", "/a/app.py:main", False, False),
        ("pkg.app:main", "app:main", False, False),
    ],
)
def test_which_targets_may_be_the_same(one, other, same, same_file):
    """A module and a file are compared by the end of the path."""
    assert may_be_same(one, other, attributes=True) is may_be_same(other, one, attributes=True) is same
    assert may_be_same(one, other, attributes=False) is may_be_same(other, one, attributes=False) is same_file


def test_stop_waits_by_the_services_own_grace(bench, until, monkeypatch):
    """What the service allows its main counts, also after a reload that changed it; for this stop alone, an option."""
    del bench.env["DARI_DAEMON__STOP_GRACE"]
    config = bench.config("[daemon]\nstop_grace = 40\n")
    bench.start("-c", config)
    waits = []
    monkeypatch.setattr(operate, "_end", lambda handle, grace, **_: waits.append(grace) or False)
    monkeypatch.setattr(operate, "_tidy", lambda *_, **__: None)

    bench.dari("stop", "--name", "app")
    bench.config("[daemon]\nstop_grace = 50.5\n")
    bench.dari("stop", "app.py:main", "-c", config)  # the service has not read it yet
    assert bench.dari("reload", "--name", "app").returncode == 0
    bench.dari("stop", "--name", "app")
    bench.dari("stop", "--name", "app", "--stop-grace", "2")
    bench.env["DARI_DAEMON__STOP_GRACE"] = "3"
    bench.dari("stop", "--name", "app")

    assert waits == [40, 40, 50.5, 2, 3]


def test_restart(bench, gone):
    """restart ends the one and starts the other, and says which; it also says when only the first half was done."""
    first = bench.start()

    done = bench.dari("restart", "app.py:main")
    assert bench.status() == (0, "running")
    second = bench.witnesses()[-1]
    assert (done.returncode, done.stdout) == (0, f"app: restarted (pid {first} -> {second})\n")
    assert gone(first, timeout=0)

    bench.program("async def main(ctx):\n    raise SystemExit('no luck')\n")
    failed = bench.dari("restart", "app.py:main", "--json")
    answer = json.loads(failed.stdout)
    assert (failed.returncode, answer["stopped"], answer["state"], answer["origin"]) == (
        1,
        second,
        "stopped",
        "service",
    )
    assert answer["text"] == f"no luck\npid {second} was stopped for it; nothing runs now"


def test_restart_of_a_stopped_one_starts_it(bench):
    """restart of what does not run is a start."""
    done = bench.dari("restart", "app.py:main")
    assert (done.returncode, done.stdout) == (0, f"app: was not running; started (pid {bench.witnesses()[-1]})\n")
    assert bench.status() == (0, "running")


def test_restart_checks_before_it_stops(bench):
    """Broken configuration or a broken program leave the running service alone."""
    pid = bench.start()
    config = bench.config("[daemon]\nnmae = 'x'\n")
    bench.program("import nowhere_to_be_found\n")

    bad_config = bench.dari("restart", "app.py:main", "-c", config)
    bad_target = bench.dari("restart", "app.py:main")

    assert (bad_config.returncode, bad_target.returncode) == (6, 5)
    assert "nowhere_to_be_found" in bad_target.stderr
    assert bench.status() == (0, "running")
    assert json.loads(bench.dari("status", "app.py:main", "--json").stdout)["pid"] == pid
