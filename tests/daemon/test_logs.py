"""The log: no line lost or doubled by a rotation, none that blocks, and none that a full disk makes fatal."""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import resource
import shutil
import signal
import subprocess
import threading
from types import SimpleNamespace

import pytest

from dari.daemon.config import resolve
from dari.daemon.logs import log as log_module
from dari.daemon.logs import rotation
from dari.daemon.logs import writer as logwriter
from dari.daemon.logs.format import JsonFormatter
from dari.daemon.logs.writer import Writer

# Counts in three voices: logging, print, and C code's way, straight to the descriptor.
COUNTER = """
    import asyncio, logging, os
    async def main(ctx):
        ctx.ready()
        number = 0
        while not ctx.stopping.is_set():
            for number in range(number + 1, number + 11):
                logging.info("logged %d", number)
                print("printed", number)
                os.write(2, f"written {number}\\n".encode())
            await asyncio.sleep(0.005)  # slow enough for a queue of 10 000 to bear a disk that is busy for a second
"""

# Says a burst of numbered lines each time it is told to, and says so.
BURSTS = """
    import asyncio, logging, sys
    async def main(ctx):
        ctx.ready()
        last = 0
        loop = asyncio.get_running_loop()
        while await loop.run_in_executor(None, sys.stdin.readline):
            for last in range(last + 1, last + 501):
                logging.info("logged %d", last)
            logging.getLogger().handlers[0]._writer.flush(10)
            print(last, flush=True)
"""


def numbers(text, voice):
    return [int(number) for number in re.findall(rf"{voice} (\d+)$", text, re.MULTILINE)]


def all_logs(bench):
    """Return what stands in all files, the oldest first."""
    files = sorted(
        bench.directory.glob("app.log*"), key=lambda path: -int(path.suffix[1:] if path.suffix[1:].isdigit() else 0)
    )
    return "".join(path.read_text() for path in files)


def logrotate(bench, how):
    run_logrotate(bench, f"{bench.logfile} {{\n    rotate 99\n    {how}\n}}\n")


def run_logrotate(bench, text):
    """Run the real one, as cron does it."""
    program = shutil.which("logrotate", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if program is None:
        assert os.geteuid() != 0, "as root .ci/run installs logrotate: a skip would hide what this is for"
        pytest.skip("logrotate is not installed")
    config = bench.directory / "logrotate.conf"
    config.write_text(text)
    config.chmod(0o644)
    command = [program, "--force", "--state", str(bench.directory / "state"), str(config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def hup(bench, pid, how):
    """Rename as logrotate does it, without it."""
    rotated = sum(1 for _ in bench.directory.glob("app.log.*"))
    for number in range(rotated, 0, -1):
        os.rename(f"{bench.logfile}.{number}", f"{bench.logfile}.{number + 1}")
    os.rename(bench.logfile, f"{bench.logfile}.1")
    os.kill(pid, signal.SIGHUP)


def real_hup(bench, pid, how):
    logrotate(bench, f"nocreate\n    postrotate\n        kill -HUP {pid}\n    endscript")


@pytest.mark.parametrize("rotate", [hup, real_hup])
def test_renaming_loses_and_doubles_no_line(bench, until, rotate):
    """Ten rotations by rename and HUP in the middle of the writing: each voice's numbers are whole, and in order."""
    voices = {"logged", "printed", "written"}
    bench.program(COUNTER)
    pid = bench.start()
    for _ in range(10):
        until(lambda: bench.logfile.exists() and "logged" in bench.log())
        rotate(bench, pid, "")
    # The log's thread may write lines of before it into the last file: every voice has to be heard after that.
    until(lambda: bench.logfile.exists() and voices <= set(re.findall(r"logged|printed|written", bench.log())))
    assert bench.dari("stop", "app.py:main", "--strict").returncode == 0
    text = all_logs(bench)

    assert len(list(bench.directory.glob("app.log.*"))) == 10
    last = numbers(text, "logged")[-1]
    for voice in voices:
        assert numbers(text, voice) == list(range(1, last + 1)), voice


def copytruncate(bench):
    rotated = sum(1 for _ in bench.directory.glob("app.log.*"))
    for number in range(rotated, 0, -1):
        os.rename(f"{bench.logfile}.{number}", f"{bench.logfile}.{number + 1}")
    shutil.copyfile(bench.logfile, f"{bench.logfile}.1")
    os.truncate(bench.logfile, 0)


@pytest.mark.parametrize("rotate", [copytruncate, lambda bench: logrotate(bench, "copytruncate")])
def test_copytruncate_loses_and_doubles_no_line(bench, until, rotate):
    """After a truncate the next line stands at the beginning of the file, not behind a hole, also in a log that was
    reopened. (What comes between the copy and the truncate is lost by copytruncate itself, so nothing is written
    then.)"""
    bench.program(BURSTS)
    run = bench.popen("run", "app.py:main", stdin=subprocess.PIPE)
    for burst in range(1, 6):
        run.stdin.write("\n")
        run.stdin.flush()
        assert run.stdout.readline() == f"{burst * 500}\n"
        if burst == 1:
            assert bench.dari("reload", "app.py:main").returncode == 0
            until(lambda: "generation 2" in bench.log())  # nothing is left to be written
        rotate(bench)
        assert bench.logfile.stat().st_size == 0
    run.stdin.close()
    assert run.wait(timeout=30) == 0
    text = all_logs(bench)

    assert numbers(text, "logged") == list(range(1, 2501))
    assert "\0" not in text


@pytest.mark.parametrize("make", [lambda path, other: path.symlink_to(other), lambda path, other: os.mkfifo(path)])
def test_a_log_that_is_no_file_of_ours_is_refused(bench, make):
    """A symlink is not followed and a fifo is not opened: the start fails, names it, and leaves nothing."""
    victim = bench.directory / "victim"
    victim.write_text("precious")
    make(bench.logfile, victim)

    done = bench.dari("start", "app.py:main")

    assert done.returncode == 1
    assert str(bench.logfile) in done.stderr
    assert victim.read_text() == "precious"
    assert bench.status() == (3, "stopped")


TALKS = """
    import logging, threading
    async def main(ctx):
        ctx.ready()
        logging.warning("watch %s", "out", extra={"user": "ann", "odd": {1: float("nan")}})
        try:
            1 / 0
        except ZeroDivisionError:
            logging.exception("went wrong")
        print("two\\nlines")
        print("no end", end="")
        await ctx.stopping.wait()
"""


def test_json_lines(bench):
    """Every line is one object: the log's own, an exception inside of its line, and what was printed."""
    bench.program(TALKS)
    bench.start("--log-format", "json")
    bench.dari("stop", "app.py:main")
    lines = [json.loads(line) for line in bench.log().splitlines()]

    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"]) for line in lines)
    told = [(line["level"], line["logger"], line["message"]) for line in lines]
    assert told[1:] == [
        ("WARNING", "root", "watch out"),
        ("ERROR", "root", "went wrong"),
        ("INFO", "stdout", "two"),
        ("INFO", "stdout", "lines"),
        ("INFO", "stdout", "no end"),
    ]
    assert (lines[1]["user"], lines[1]["odd"]) == ("ann", "{1: nan}")
    assert lines[2]["exception"].endswith("ZeroDivisionError: division by zero")


@pytest.mark.parametrize("value", [{1: 2}, {1, 2}, float("nan"), "half \ud83d"])
def test_json_has_a_word_for_everything(value):
    """What somebody gives as extra= never costs the line, nor its being JSON."""
    record = logging.makeLogRecord({"msg": "m", "name": "n", "value": value})

    line = json.loads(JsonFormatter().format(record).encode("utf-8", "backslashreplace"))

    assert line["message"] == "m"
    assert "value" in line


def test_format_none_leaves_logging_alone(bench, until):
    """An application that configures logging itself finds it untouched; printed lines still go to the log file."""
    bench.program(
        """
        import logging
        root = logging.getLogger()
        print(root.handlers, root.level, flush=True)
        logging.basicConfig(filename=os.environ["HOME"] + "/own.log", level="DEBUG")
        async def main(ctx):
            ctx.ready()
            logging.debug("mine")
            print("printed")
            raise RuntimeError("no disk")
        """
    )
    done = bench.dari("start", "app.py:main", "--log-format", "none")

    assert done.stdout.splitlines()[0] == f"[] {logging.WARNING}"
    until(lambda: bench.is_now("stopped"))
    assert "mine" in (bench.directory / "own.log").read_text()
    assert "printed\n" in bench.log()
    assert "mine" not in bench.log()


def test_format_none_tells_a_failed_start_once(bench):
    """The caller sees the traceback, once; the log has it too."""
    bench.program("async def main(ctx):\n    raise RuntimeError('no disk')\n")

    done = bench.dari("start", "app.py:main", "--log-format", "none")

    assert done.stderr.count("RuntimeError: no disk") == 1
    assert bench.log().count("RuntimeError: no disk") == 1


@pytest.mark.parametrize("form", ["text", "json", "none"])
def test_rotation_by_size(bench, form):
    """No file of complete lines is above max_bytes, no more than `backups` are kept, and no number is missing."""
    bench.program(
        """
        import logging
        async def main(ctx):
            ctx.ready()
            for number in range(1, 601):
                logging.info("logged %d", number)
                print("printed", number)
        """
    )
    run = ["--log-format", form, "--log-rotate", "size", "--log-max-bytes", "5000", "--log-backups", "50"]
    bench.start(*run)
    bench.dari("stop", "app.py:main")
    files = list(bench.directory.glob("app.log*"))
    text = all_logs(bench).replace('"}', "")

    assert 2 <= len(files) <= 51
    assert max(path.stat().st_size for path in files) <= 5000
    assert numbers(text, "printed") == list(range(1, 601))
    if form != "none":
        assert numbers(text, "logged") == list(range(1, 601))


def test_rotation_keeps_so_many_backups(tmp_path):
    """The oldest goes; whoever finds the file moved by somebody else only opens it again."""
    path = tmp_path / "x.log"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    reopened = []

    def reopen():
        fresh = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(fresh, fd)
        os.close(fresh)
        reopened.append(1)

    by_size = rotation.Rotation(str(path), fd, reopen, by_time=False, max_bytes=10, backups=2)
    for word in (b"aaaaaaaa", b"bbbbbbbb", b"cccccccc", b"dddddddd"):
        assert by_size.make_room(len(word)) is None
        os.write(fd, word)
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {
        "x.log": "dddddddd",
        "x.log.1": "cccccccc",
        "x.log.2": "bbbbbbbb",
    }

    path.rename(tmp_path / "elsewhere")
    path.write_text("theirs")
    assert by_size.make_room(8) is None

    assert len(reopened) == 4
    assert (path.read_text(), (tmp_path / "x.log.1").read_text()) == ("theirs", "cccccccc")
    os.close(fd)


def test_a_reload_beside_a_rotation(tmp_path, monkeypatch):
    """The log is moved away and opened anew while a reload has the old file in hand: the new one is what stays."""
    path = tmp_path / "app.log"
    settings = resolve(
        command_line={"log.format": "none"}, target="app.py:main", config=None, environ={}, keywords={}, cwd="/"
    )
    log = log_module.Log(str(path), settings, create_directory=False, detached=False)
    rotating = threading.Thread(target=log.reopen)

    def open_and_be_late(*args, really=log_module.open_log, **keys):
        fd = really(*args, **keys)
        monkeypatch.setattr(log_module, "open_log", really)
        path.rename(tmp_path / "app.log.1")
        rotating.start()
        rotating.join(0.2)  # it waits for us
        return fd

    monkeypatch.setattr(log_module, "open_log", open_and_be_late)
    log.reopen()
    rotating.join()

    assert os.path.samestat(os.fstat(log.fd), path.stat())
    log.close(10)
    os.close(log.fd)


def test_rotation_at_midnight(tmp_path):
    """A day's lines go to one file, those of a service that was down over midnight too; an empty one stays."""
    path = tmp_path / "x.log"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    now = SimpleNamespace(time=0.0)

    def reopen():
        fresh = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(fresh, fd)
        os.close(fresh)

    noon = 1_000_000_000 // 86400 * 86400 + 43200  # whatever the zone, twelve hours later another day has begun
    os.utime(path, (noon, noon))
    daily = rotation.Rotation(str(path), fd, reopen, by_time=True, max_bytes=1, backups=9, clock=lambda: now.time)
    for now.time, word in ((noon + 1, b"a"), (noon + 2, b"b"), (noon + 86400, b"c"), (noon + 86401, b"d")):
        assert daily.make_room(1) is None
        os.write(fd, word)
    now.time = path.stat().st_mtime + 86400
    again = rotation.Rotation(str(path), fd, reopen, by_time=True, max_bytes=1, backups=9, clock=lambda: now.time)
    assert again.make_room(1) is None

    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {
        "x.log": "",
        "x.log.1": "cd",
        "x.log.2": "ab",
    }
    os.close(fd)


def test_a_rotation_that_fails_costs_no_line(tmp_path):
    """It is told, the old file stays in use, and it is not tried again with every line."""
    path = tmp_path / "x.log"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(fd, b"12345678")
    (tmp_path / "x.log.1").mkdir()
    by_size = rotation.Rotation(str(path), fd, lambda: None, by_time=False, max_bytes=10, backups=1)

    wrong = by_size.make_room(8)

    assert wrong is not None
    assert str(path) in wrong
    assert by_size.make_room(8) is None
    assert path.read_text() == "12345678"
    os.close(fd)


def test_the_queue_is_bounded_and_counts():
    """A reader that does not read blocks nobody: what finds no place is counted, and told when there is room."""
    reader, fd = os.pipe()
    writer = Writer(fd, lambda text: f"told: {text}\n".encode(), limit=10)
    line = b"x" * 4095 + b"\n"
    for _ in range(200):
        writer.put(line)
    dropped = writer.dropped()
    assert 100 < dropped <= 190
    writer.put(b"asked for\n", always=True)
    text = b""
    while b"told: " not in text:
        text += os.read(reader, 1 << 20)

    assert writer.flush(10)
    text += os.read(reader, 1 << 20) if b"asked for\n" not in text else b""
    assert b"asked for\n" in text
    assert writer.dropped() == dropped
    assert text.count(b"x\n") == 200 - dropped
    assert f"told: {dropped} lines were dropped here".encode() in text
    writer.close(10)
    os.close(fd)
    os.close(reader)


def test_a_full_disk_at_the_end_is_no_reason_to_stay():
    """When there is no room until the end, close gives up at once and counts."""
    fd = os.open("/dev/full", os.O_WRONLY)
    writer = Writer(fd, lambda text: text.encode())
    for _ in range(3):
        writer.put(b"x\n")
    writer.close(10)

    assert writer.dropped() >= 3
    os.close(fd)


def test_a_line_that_was_cut_short_starts_anew_in_the_new_file(tmp_path, monkeypatch):
    """The disk is full in the middle of a line, then the log is reopened elsewhere: the whole line stands there."""
    old, new = tmp_path / "old", tmp_path / "new"
    fd = os.open(old, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    full = threading.Event()
    real_write = os.write

    def write(number, data):
        if number != fd or full.is_set() or old.stat().st_size == 0:
            return real_write(number, bytes(data)[:7])
        full.set()
        fresh = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(fresh, fd)
        os.close(fresh)
        writer.moved()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", write)
    monkeypatch.setattr(logwriter, "_TRY_AGAIN", 0.001)
    writer = logwriter.Writer(fd, lambda text: text.encode())
    writer.put(b"one\ntwo\nthree\n")
    assert writer.flush(10)

    assert (old.read_text(), new.read_text()) == ("one\ntwo", "two\nthree\n")
    os.close(fd)


FLOODS = """
    import asyncio, logging, os
    async def main(ctx):
        logging.getLogger().handlers[0]._writer._limit = 100
        ctx.ready()
        number = 0
        async def tick():
            while True:  # the loop lives, and says so where there is room
                with open(os.environ["HOME"] + "/alive", "w") as file:
                    file.write(str(number))
                await asyncio.sleep(0.01)
        alive = asyncio.create_task(tick())
        while not ctx.stopping.is_set():
            for number in range(number + 1, number + 11):
                logging.info("logged %d %s", number, "." * 200)
                print("printed", number, flush=True)
            await asyncio.sleep(0.005)
        # The last of both get through, so that it is known how many there were.
        logging.getLogger().handlers[0]._writer.flush(10)
        logging.info("logged %d %s", number + 1, ".")
        print("printed", number + 1)
"""


def check_full_disk(bench, until, make_room):
    """The service goes on while its disk is full, and afterwards says how many lines are missing; exactly so many."""
    alive = bench.directory / "alive"

    def number():
        return int(alive.read_text() or 0)

    full = number()
    until(lambda: number() > full + 500)
    assert json.loads(bench.dari("status", "app.py:main", "--json").stdout)["log"]["dropped"] > 0
    make_room()
    until(lambda: re.search(r"lines were dropped here: the log had no room \((File too|No space)", bench.log()))
    assert bench.dari("stop", "app.py:main", "--strict").returncode == 0
    lines = bench.log().splitlines()
    dropped = sum(
        int(found[1]) for line in lines if (found := re.search(r"dari.daemon: (\d+) lines were dropped", line))
    )
    logged, printed = numbers(bench.log().replace(" .", "").replace(".", ""), "logged"), numbers(bench.log(), "printed")
    assert logged == sorted(set(logged))
    assert len(logged) + len(printed) + dropped == logged[-1] + printed[-1]


def test_a_full_disk_does_not_kill_or_block(bench, until):
    """Where the file may not grow (RLIMIT_FSIZE), logging and printing lose lines, count them, and harm nobody."""
    bench.program(FLOODS)
    limit = 20_000
    pid = bench.start()
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    until(lambda: bench.logfile.stat().st_size >= limit)

    check_full_disk(bench, until, lambda: resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a disk that is full soon")
def test_a_disk_that_is_really_full(bench, until):
    """The same on a disk of 64 KiB."""
    disk = bench.directory / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], check=False, capture_output=True, text=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"mounting is not permitted here: {mounted.stderr}")
    try:
        (disk / "filler").write_bytes(b"x" * 40_000)
        bench.logfile = disk / "app.log"
        bench.program(FLOODS)
        bench.start("--logfile", str(bench.logfile))
        until(lambda: os.statvfs(disk).f_bavail == 0)

        check_full_disk(
            bench, until, lambda: subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        )
    finally:
        bench.clean_up()
        subprocess.run(["umount", str(disk)], check=True)


def test_a_program_may_close_its_output(bench):
    """As daemons used to: it starts, runs and stops, and its log goes on."""
    bench.program(
        """
        import logging, sys
        print(sys.stdout.name, sys.stdout.fileno(), sys.stderr.fileno(), sys.stdout.isatty(), flush=True)
        sys.stdout.close()
        sys.stderr.close()
        async def main(ctx):
            ctx.ready()
            logging.info("logged 1")
            await ctx.stopping.wait()
        """
    )
    done = bench.dari("start", "app.py:main")
    assert done.stdout.splitlines()[0] == "<stdout> 1 2 False"
    assert bench.dari("stop", "app.py:main", "--strict").returncode == 0

    assert numbers(bench.log(), "logged") == [1]
    assert "Error" not in bench.log()


def test_a_forked_child_logs_too(bench, until):
    """A child has no writer thread: its lines are written where they are logged, and none of its parent's again."""
    bench.program(
        """
        import logging, os
        async def main(ctx):
            ctx.ready()
            for number in range(1, 101):
                logging.info("logged %d", number)
            child = os.fork()
            if child == 0:
                logging.info("logged 101")
                print("printed by the child")
                os._exit(0)
            os.waitpid(child, 0)
            logging.info("logged 102")
            await ctx.stopping.wait()
        """
    )
    bench.start()
    bench.dari("stop", "app.py:main")

    assert sorted(numbers(bench.log(), "logged")) == list(range(1, 103))


def test_a_crash_leaves_its_stack(bench, gone):
    """What kills the interpreter itself is in the log with the lines where it was, after a reopening, too."""
    bench.program(
        """
        import ctypes
        async def main(ctx):
            ctx.ready()
            await ctx.stopping.wait()
            ctypes.string_at(0)
        """
    )
    pid = bench.start("--limits-core", "0")
    bench.logfile.rename(bench.directory / "app.log.1")
    assert bench.dari("reload", "app.py:main").returncode == 0
    os.kill(pid, signal.SIGTERM)

    assert gone(pid)
    assert "Fatal Python error: Segmentation fault" in bench.log()
    assert re.search(r'app.py", line \d+ in main', bench.log())
