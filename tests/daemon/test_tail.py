"""`dari logs`: the end of the log, followed over every kind of rotation."""

from __future__ import annotations

import os
import shutil
import signal

import pytest


@pytest.mark.parametrize("count", [0, 1, 2, 19, 20, 21, 5000])
@pytest.mark.parametrize("rest", ["", "no end"])
def test_the_last_lines(bench, count, rest):
    """As many as asked for, whatever the number and the length of what is there, also without a last newline."""
    lines = [f"{number} {'x' * (number % 300)}\n" for number in range(2000)] + ([rest] if rest else [])
    bench.logfile.write_text("".join(lines))

    done = bench.dari("logs", "app.py:main", "-n", str(count))

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "".join(lines[-count:] if count else [])


def test_lines_that_end_where_a_block_does(bench):
    """The file is read backwards in blocks of 64 KiB: an end of line at the seam counts once."""
    lines = [f"{number:063}\n" for number in range(3000)]
    bench.logfile.write_text("".join(lines))

    assert bench.dari("logs", "app.py:main", "-n", "2500").stdout == "".join(lines[-2500:])


def test_twenty_are_shown_by_default(bench):
    """And a short file whole."""
    bench.logfile.write_text("line\n" * 30)
    assert bench.dari("logs", "app.py:main").stdout == "line\n" * 20

    bench.logfile.write_text("line\n" * 3)
    assert bench.dari("logs", "app.py:main").stdout == "line\n" * 3


def test_what_cannot_be_shown_is_said(bench):
    """A missing log, a directory in its place, a number that is none, options of another command."""
    missing = bench.dari("logs", "app.py:main")
    assert missing.returncode == 1
    assert missing.stderr.startswith(f"app: there is no log {bench.logfile}: the service never ran, or")
    bench.logfile.mkdir()
    assert "not a regular file" in bench.dari("logs", "app.py:main").stderr
    assert bench.dari("logs", "app.py:main", "-n", "-1").returncode == 2
    assert bench.dari("logs", "app.py:main", "--json").returncode == 2
    assert bench.dari("status", "app.py:main", "--follow").returncode == 2


def renamed(bench):
    files = len(list(bench.directory.glob("app.log.*")))
    for number in range(files, 0, -1):
        os.rename(f"{bench.logfile}.{number}", f"{bench.logfile}.{number + 1}")
    os.rename(bench.logfile, f"{bench.logfile}.1")
    return open(bench.logfile, "a", buffering=1)


def copied_and_truncated(bench):
    shutil.copyfile(bench.logfile, f"{bench.logfile}.1")
    os.truncate(bench.logfile, 0)
    return open(bench.logfile, "a", buffering=1)


@pytest.mark.parametrize("rotate", [renamed, copied_and_truncated])
def test_follow_over_rotations(bench, rotate):
    """Each line once and in order, those that come into the old file after the rename too."""
    log = open(bench.logfile, "a", buffering=1)  # noqa: SIM115 - which file it is changes with every turn
    log.write("line 0\n")
    logs = bench.popen("logs", "app.py:main", "--follow")
    assert logs.stdout.readline() == "line 0\n"
    for number in range(1, 40, 3):
        log.write(f"line {number}\n")
        assert logs.stdout.readline() == f"line {number}\n"
        fresh = rotate(bench)
        if rotate is renamed:  # the service has not heard of it yet
            log.write("still the old one\n")
            assert logs.stdout.readline() == "still the old one\n"
            log.write(f"line {number + 1}\n")
        else:
            fresh.write(f"line {number + 1}\n")
        assert logs.stdout.readline() == f"line {number + 1}\n"
        log.close()
        log = fresh
        log.write(f"line {number + 2}\n")
        assert logs.stdout.readline() == f"line {number + 2}\n"
    log.close()
    logs.send_signal(signal.SIGINT)

    assert logs.communicate(timeout=20) == ("", "")
    assert logs.returncode == 0


def test_follow_over_many_rotations_at_once(bench):
    """Whole files that came and were moved on between two looks are shown too, in their order."""
    bench.logfile.write_text("line 0\n")
    logs = bench.popen("logs", "app.py:main", "--follow")
    assert logs.stdout.readline() == "line 0\n"
    logs.send_signal(signal.SIGSTOP)
    for number in range(1, 12):
        with renamed(bench) as fresh:
            fresh.write(f"line {number}\n")
    logs.send_signal(signal.SIGCONT)

    assert [logs.stdout.readline() for _ in range(11)] == [f"line {number}\n" for number in range(1, 12)]


def test_follow_a_service_that_rotates(bench):
    """A real service, with files so small that there is one for every few lines: nothing is missed."""
    bench.program(
        """
        import asyncio, logging
        async def main(ctx):
            ctx.ready()
            number = 0
            while not ctx.stopping.is_set():
                number += 1
                logging.info("number %d", number)
                await asyncio.sleep(0.002)
        """
    )
    bench.start("--log-rotate", "size", "--log-max-bytes", "2000", "--log-backups", "90")
    logs = bench.popen("logs", "app.py:main", "--follow", "-n", "0")
    while "number" not in (line := logs.stdout.readline()):  # that it is ready may be told as late as this
        pass
    first = int(line.split()[-1])

    assert [int(logs.stdout.readline().split()[-1]) for _ in range(500)] == list(range(first + 1, first + 501))


@pytest.mark.parametrize("busy", [False, True])
def test_a_reader_that_goes_ends_it(bench, busy):
    """Quietly, with 0, also when nothing is written any more that could meet the closed pipe."""
    bench.logfile.write_text("line\n")
    logs = bench.popen("logs", "app.py:main", "--follow")
    assert logs.stdout.readline() == "line\n"
    logs.stdout.close()
    if busy:
        with open(bench.logfile, "a") as log:
            log.write("more\n")

    assert logs.wait(timeout=20) == 0
    assert logs.stderr.read() == ""
