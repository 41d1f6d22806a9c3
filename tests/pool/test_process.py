"""The process around a pool: its exit, its forks. Real processes."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

from dari.pool import process


def python(program):
    """Run it: exit code, what it printed and told. One that does not exit by itself is a failure."""
    ended = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return ended.returncode, ended.stdout, ended.stderr


def test_the_process_exits_although_a_job_is_stuck():
    """After exit_timeout, naming what is stuck and how much never started."""
    code, out, error = python(
        """
        import threading
        from dari.pool import Pool
        pool, started = Pool(1, exit_timeout=0.2, thread_name_prefix="mine"), threading.Event()
        def stuck():
            started.set()
            threading.Event().wait()
        pool.submit(stuck)
        for _ in range(3):
            pool.submit(print, "never")
        started.wait()
        """
    )

    assert (code, out) == (0, "")
    assert "without 4 jobs of pool 'mine', after 0.2 s" in error
    assert "'stuck' running> on mine-0" in error
    assert "3 more never started" in error


def test_who_left_a_block_by_an_error_has_waited_already(make_pool, gate, monkeypatch):
    """The exit of the process does not wait for `exit_timeout` once more, but for what is left of it."""
    given_up, left_as_usual = make_pool(1, exit_timeout=50), make_pool(1, exit_timeout=50)
    for pool in (given_up, left_as_usual):
        gate.hold(pool)
    given_up._desk.close(cancel=True, ask=True)
    given_up._desk.given_up -= 30
    waits = {}
    monkeypatch.setattr(process, "_crews", {given_up._crew, left_as_usual._crew})
    monkeypatch.setattr(process, "_name_the_stuck", lambda crew: None)
    monkeypatch.setattr(process, "wait_until_idle", lambda desk, timeout: waits.setdefault(desk, timeout) < 0)

    process._at_exit()

    assert waits[given_up._desk] <= 20
    assert waits[left_as_usual._desk] > 20


def test_what_is_queued_at_the_exit_runs():
    """And nothing is printed about it; several pools share the clock."""
    code, out, error = python(
        """
        import sys, time
        from dari.pool import Pool
        pools = [Pool(1), Pool(1)]
        for pool in pools:
            pool.submit(time.sleep, 0.1)
            pool.submit(sys.stdout.write, "ran\\n")
        """
    )

    assert (code, out, error) == (0, "ran\nran\n", "")


def test_what_is_scheduled_at_the_exit_runs_if_its_time_comes_soon():
    """The rest is told as what never started, after exit_timeout."""
    code, out, error = python(
        """
        import sys
        from dari.pool import Pool
        pool = Pool(1, exit_timeout=2)
        pool.submit(int).result()
        pool.options(delay=0.05).submit(sys.stdout.write, "ran\\n")
        pool.options(delay=100).submit(sys.stdout.write, "never\\n")
        """
    )

    assert (code, out) == (0, "ran\n")
    assert "without 1 job of pool 'dari', after 2 s" in error
    assert "1 more never started" in error


def test_an_idle_pool_does_not_hold_the_exit():
    """Its threads are daemons."""
    code, out, error = python(
        "from dari.pool import Pool; pool = Pool(idle_timeout=None); print(pool.submit(pow, 2, 3).result())"
    )

    assert (code, out, error) == (0, "8\n", "")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_starts_afresh_and_hangs_on_nothing():
    """Inherited jobs fail with WorkerLost in the child, new ones run; the parent's run on."""
    code, out, error = python(
        """
        import os, threading, warnings
        from dari.exceptions import WorkerLost
        from dari.pool import Pool, JobState
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 warns of forks in a process with threads
        pool, gate, started = Pool(1), threading.Event(), threading.Event()
        def work():
            started.set()
            gate.wait()
            return "parent"
        told = []
        running = pool.submit(work)
        pool._desk.perform(pool._crew.compensate, 1)
        queued = pool.submit(pow, 2, 3)
        queued.add_done_callback(told.append)
        scheduled = pool.options(delay=0.05).submit(pow, 2, 4)
        started.wait()
        pid = os.fork()
        if pid == 0:
            try:
                for job in (running, queued, scheduled):
                    try:
                        job.result(timeout=30)
                    except WorkerLost:
                        assert job.state is JobState.FAILED
                    else:
                        os._exit(1)
                assert pool.options(delay=0.01).submit(pow, 2, 5).result(timeout=30) == 32
                stats = pool.stats()
                assert stats.workers == 1 and pool._crew._extra == 0
                assert (stats.completed, stats.scheduled, stats.queued) == (1, 0, 0) and not told
                assert not running.cancel() and pool.shutdown(timeout=30)
            except BaseException as error:
                print(repr(error), flush=True)
                os._exit(2)
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        gate.set()
        print(os.waitstatus_to_exitcode(status), running.result(), queued.result(), scheduled.result(), len(told))
        """
    )

    assert (code, out, error) == (0, "0 parent 8 16 1\n", "")


def test_forks_while_every_lock_is_busy_do_not_hang():
    """A job that forks, too: in the child its own end harms nothing."""
    code, out, error = python(
        """
        import os, threading, warnings
        from dari.pool import Pool
        warnings.simplefilter("ignore", DeprecationWarning)
        pool, stop = Pool(3, max_queue=20), threading.Event()
        def busy():
            while not stop.is_set():
                pool.submit(int).result()
        threads = [threading.Thread(target=busy) for _ in range(3)]
        for thread in threads:
            thread.start()
        def child():
            pid = os.fork()
            if pid == 0:
                other = [None]
                work = lambda: other.__setitem__(0, pool.submit(pow, 2, 3).result(timeout=30))
                thread = threading.Thread(target=work)
                thread.start()
                thread.join(30)
                os._exit(0 if other == [8] else 3)
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        codes = [child() for _ in range(15)] + [pool.submit(child).result() for _ in range(15)]
        stop.set()
        for thread in threads:
            thread.join()
        print(set(codes))
        """
    )

    assert (code, out, error) == (0, "{0}\n", "")


def test_importing_the_pool_loads_no_event_loop_and_no_logging():
    """asyncio comes with its bridge, when a coroutine waits; logging when there is something to tell."""
    _, out, _ = python(
        "import sys, dari.pool; print(sorted({'asyncio', 'anyio', 'trio', 'psutil', 'logging'} & set(sys.modules)))"
    )

    assert out == "[]\n"
