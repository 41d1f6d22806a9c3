"""The main example, docs/examples/indexer.py, in its three ways, on a small tree with all sorts of bad input."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import gc
import importlib.util
import json
import os
import pty
import re
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tokenize
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import dari

EXAMPLE = Path(__file__).parents[1] / "docs" / "examples" / "indexer.py"
PATIENCE = 120  # seconds; ten when nothing else runs on the machine


def load_example() -> Any:
    spec = importlib.util.spec_from_file_location("indexer", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    sys.modules["indexer"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


indexer = load_example()

GOOD = {
    "good.py": b"import os.path, re\nfrom os import sep\n\n\nclass A:\n    def f(self):\n        async def g(): ...\n",
    "empty.py": b"",
    "latin.py": "# coding: latin-1\nx = 'é'".encode("latin-1"),
    "bom.py": "\ufeffx = 'é'\r\n".encode(),
    "escape.py": b"x = '\\d'\n",  # the parser warns; warnings are errors here
    "package/inner.py": b"from . import x\nfrom .y import z\nif x:\n    import re\n",
    "package/tests/test_inner.py": b"def test(): ...\n",
    "sub.py/odd.py": b"match 1:\n    case 1:\n        def f(): ...\n",
}
BAD = {
    "not_utf8.py": b"\n\nx = '\xff'\n",
    "unknown.py": b"# coding: uft-8\n",
    "not_text.py": b"# coding: rot13\n",
    "syntax.py": b"x = 1\nx = (\n",
    "null.py": b"x = 1\0\n",
    "deep.py": b"-" * 100_000 + b"1",
    "package/tests/name\n\udcff.py": b"1 1",
}
IGNORED = {"notes.txt": b"\xff", "__pycache__/x.py": b"(", ".hidden/x.py": b"(", "site-packages/x.py": b"("}


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Path]:
    """A small tree of good and bad files."""
    root = tmp_path / "tree"
    for name, content in (GOOD | BAD | IGNORED).items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    with (root / "huge.py").open("wb") as file:
        file.truncate(indexer.LARGEST_FILE + 1)  # a hole: it takes no space
    (root / "broken.py").symlink_to("nowhere")
    (root / "itself.py").symlink_to("itself.py")
    (root / "itself").symlink_to("itself")
    (root / "package" / "loop").symlink_to("..")
    os.mkfifo(root / "fifo.py")
    make_unreadable(root / "far")
    yield root
    shutil.rmtree(tmp_path)


def make_unreadable(root: Path) -> None:
    """Make a directory that even root cannot list: permissions do not stop root, but a path of over 4095 bytes does.

    Such a path cannot be made in one call either, only step by step from within.
    """
    root.mkdir()
    here = os.open(root, os.O_RDONLY)
    length = len(os.fsencode(root))
    while length < 4096:
        os.mkdir("d" * 200, dir_fd=here)
        inner = os.open("d" * 200, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
        length += 201
    os.close(here)


def levels(root: Path) -> int:
    """How many directories of `make_unreadable` can be listed."""
    return 1 + (4095 - len(os.fsencode(root / "far"))) // 201


NAMED = {
    "broken symbolic link": ["broken.py"],
    "directory met before": ["package/loop"],
    "larger than 10,000,000 bytes": ["huge.py"],
    "nested too deeply": ["deep.py"],
    "not a regular file": ["fifo.py"],
    "not in its encoding": ["not_text.py", "not_utf8.py", "unknown.py"],
    "syntax error": ["null.py", "package/tests/name\\n\\udcff.py", "syntax.py"],
    "file name too long": ["far"],
    "too many levels of symbolic links": ["itself.py"],
}


def named(problems: dict[str, list[str]]) -> dict[str, list[str]]:
    """The names alone, without details; of the one that is far too long its beginning."""
    return {kind: sorted(re.sub(r" \(.*|/ddd.*", "", name) for name in names) for kind, names in problems.items()}


def counts(totals: dict[str, Any]) -> dict[str, int]:
    return {name: totals[name] for name in ("directories", "files", "lines", "definitions", "imports")}


def expected(tree: Path) -> dict[str, int]:
    return {"directories": 4 + levels(tree), "files": 8, "lines": 19, "definitions": 5, "imports": 6}


def index(root: Path, run: Any = None) -> Any:
    """Run an Indexer on a scheduler by itself; `run` says which of its tasks."""
    scheduler = dari.Scheduler()
    with dari.Pool(2) as pool:
        it = indexer.Indexer(str(root), pool, scheduler)
        task = scheduler.create_task(it.index() if run is None else run(it))
        assert scheduler.run(PATIENCE)
    task.result()
    return it


# ---- the tasks


def test_counts_and_names(tree: Path) -> None:
    """All that is good is counted, all that is bad is counted and named by its kind, and nothing is fatal."""
    totals = index(tree).totals()

    assert counts(totals["index"]) == expected(tree)
    assert named(totals["problems"]) == NAMED
    assert totals["most imported"] == {"re": 2, "os": 2, "(relative)": 2}
    assert totals["index"]["state"] == "complete"


def test_syntax_errors_tell_the_line(tree: Path) -> None:
    """A syntax error is named with its line and what is wrong there."""
    problems = index(tree).problems["syntax error"]

    assert any(name == "syntax.py (line 2: '(' was never closed)" for name in problems)


def test_deleted_meanwhile(tree: Path) -> None:
    """A file and a directory that are gone when their turn comes are named, and the others are read."""
    listing = indexer.list_directory(str(tree / "package"))
    (tree / "package" / "inner.py").unlink()
    files = [*listing.files, str(tree / "good.py")]
    done = index(tree, lambda it: it.read(iter(files), 0))

    assert (done.files, dict(done.problems)) == (1, {"deleted meanwhile": ["package/inner.py"]})

    done = index(tree, lambda it: it.directory(str(tree / "package" / "gone"), 0))

    assert (done.directories, dict(done.problems)) == (0, {"no such file or directory": ["package/gone"]})


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not stop root")
def test_permissions(tree: Path) -> None:
    """A directory and a file without permissions are named."""
    (tree / "package").chmod(0)
    (tree / "good.py").chmod(0)
    try:
        problems = index(tree).problems
    finally:
        (tree / "package").chmod(0o700)

    assert sorted(problems["permission denied"]) == ["good.py", "package"]


def plain_loop(root: str) -> dict[str, int]:
    """The same totals by other means: os.walk, tokenize.open, ast.walk."""
    totals = dict.fromkeys(("directories", "files", "lines", "definitions", "imports"), 0)
    for directory, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name not in ("__pycache__", "site-packages") and name[0] != "."]
        totals["directories"] += 1
        for name in files:
            if not name.endswith(".py"):
                continue
            try:
                with tokenize.open(os.path.join(directory, name)) as file:
                    lines = file.readlines()
                with warnings.catch_warnings(action="ignore"):
                    nodes = list(ast.walk(ast.parse("".join(lines))))
            except (SyntaxError, UnicodeError):
                continue
            totals["files"] += 1
            totals["lines"] += len(lines)
            for node in nodes:
                definition = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
                totals["definitions"] += definition
                totals["imports"] += isinstance(node, ast.ImportFrom)
                totals["imports"] += len(node.names) if isinstance(node, ast.Import) else 0
    return totals


@pytest.mark.parametrize("part", ["asyncio", "unittest"])
def test_agrees_with_a_plain_loop(part: str) -> None:
    """On the standard library the totals are those of a plain loop."""
    root = os.path.join(sysconfig.get_path("stdlib"), part)

    it = index(Path(root))

    assert counts(it.totals()["index"]) == plain_loop(root), it.problems


def test_threads_parse_in_turn() -> None:
    """No file is lost when the garbage collector runs Python code in the middle of a parse (3.11: SystemError)."""

    def switch_threads(phase: str, info: dict[str, int]) -> None:
        sum(range(100))

    gc.callbacks.append(switch_threads)
    try:
        it = index(Path(sysconfig.get_path("stdlib"), "unittest"))
    finally:
        gc.callbacks.remove(switch_threads)

    assert (it.files, dict(it.problems)) == (it.found, {})


def test_priorities(tree: Path) -> None:
    """What is nearer the root has the lower number, tests the highest."""
    seen: dict[str, int] = {}

    def watch(it: Any) -> dari.Steps[None]:
        work = dari.create_task(it.index)
        while not work.done():
            seen.update({task.name: task.priority for task in it.scheduler.tasks})
            yield dari.sleep(0)

    index(tree, watch)

    names = ("package", "package/tests", "sub.py")
    assert [seen[str(tree / name)] for name in names] == [1, 101, 1]


# ---- by itself


NO_RICH = "sys.modules['rich'] = None"


def command_for(*arguments: str | Path, before: str = "") -> list[str | Path]:
    """The command line of the example, with some code to run before it."""
    code = f"import runpy, sys; {before}; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    return [sys.executable, *(["-c", code] if before else []), EXAMPLE, *arguments]


def run_example(*arguments: str | Path, before: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    command = command_for(*arguments, before=before)
    environment = {**os.environ, "COLUMNS": "200", **environment}
    return subprocess.run(command, capture_output=True, check=False, text=True, timeout=PATIENCE, env=environment)


@pytest.mark.parametrize("before", ["", NO_RICH], ids=["rich", "plain"])
def test_standalone(tree: Path, before: str) -> None:
    """By itself it prints a table and ends with 0; with rich or without."""
    done = run_example(tree, "--workers", "2", before=before)

    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    for name, value in expected(tree).items():
        assert re.search(rf"\b{name}\b\W+{value}\b", done.stdout), done.stdout
    for kind, names in NAMED.items():
        assert re.search(rf"{kind}\W+{len(names)}: ", done.stdout), done.stdout
    assert re.search(r"tasks created +\d+", done.stdout)
    assert re.search(r"\d workers", done.stdout)


@pytest.mark.parametrize("before", ["", NO_RICH], ids=["rich", "plain"])
def test_poor_terminal(tmp_path: Path, before: str) -> None:
    """A terminal that cannot show what a file holds, and names that look like markup, end nothing."""
    (tmp_path / "[red]:smile:.py").write_text("€ = 1\n", encoding="utf-8")
    done = run_example(tmp_path, before=before, PYTHONIOENCODING="ascii")

    assert (done.returncode, "[red]:smile:.py (line 1: invalid character '?'" in done.stdout) == (0, True), done


LIVE = re.compile(
    r"(?P<running>\d) running, (?P<queued>\d+) queued, [\d,]+ ms wait p95, (?P<run>[\d,]+) ms run p95, "
    r"(?P<completed>\d+) completed, (?P<workers>\d) workers, (?P<idle>\d) idle"
)


@pytest.mark.parametrize("before", ["", NO_RICH], ids=["rich", "plain"])
def test_shows_the_pool_live(tmp_path: Path, before: str) -> None:
    """On a terminal the pool's statistics stand beside the bar, change while it works, and are final in the end."""
    for number in range(30):
        (tmp_path / f"long{number}.py").write_text("x = 1\n" * 4_000)  # some 30 ms each
    screen, terminal = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "130"}
    command = command_for(tmp_path, "--workers", "2", before=before)
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=terminal, env=environment) as child:
        os.close(terminal)
        shown = b""
        try:
            with contextlib.suppress(OSError):  # EIO: the child has ended
                while select.select([screen], [], [], PATIENCE)[0] and (more := os.read(screen, 65536)):
                    shown += more
        finally:
            child.kill()
            os.close(screen)

    text = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", shown.decode())
    lines = [each.groupdict() for each in LIVE.finditer(text)]
    assert len(lines) > 2, text
    assert any(line["running"] != "0" and line["queued"] != "0" for line in lines)
    assert int(lines[0]["completed"]) < int(lines[-1]["completed"]) == 31
    assert any(0 < int(line["completed"]) < 31 for line in lines)
    assert int(lines[-1]["run"]) > 0
    assert [lines[-1][name] for name in ("running", "queued", "workers", "idle")] == ["0", "0", "2", "2"]


def test_interrupted() -> None:
    """Ctrl-C in the middle of it ends it at once, by the code that shells know."""
    command = command_for(before=NO_RICH)  # which tells its progress to a pipe too
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        try:
            assert child.stderr is not None
            assert child.stderr.read(10) == b"\rindexing "
            child.send_signal(signal.SIGINT)
            out, errors = child.communicate(timeout=PATIENCE)
        finally:
            child.kill()

    assert (child.returncode, out) == (130, b""), errors.decode()


def test_no_such_directory(tmp_path: Path) -> None:
    """A directory that is not there is the caller's mistake."""
    done = run_example(tmp_path / "nowhere")

    assert (done.returncode, done.stderr.splitlines()[-1]) == (
        2,
        f"indexer.py: error: {tmp_path}/nowhere is not a directory",
    )


def test_standalone_in_process(tree: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """It also runs as a module of another program's process, whose warnings are errors."""
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), str(tree)])
    runpy.run_path(str(EXAMPLE), run_name="__main__")

    assert "complete" in capsys.readouterr().out


# ---- inside asyncio


async def send(url: str, request: bytes) -> tuple[int, str]:
    """Status and body of what the server answers to these very bytes."""
    port = int(url.rstrip("/").rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    if not request.endswith(b"\n"):
        writer.write_eof()
    async with asyncio.timeout(PATIENCE):
        answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    head, _, body = answer.decode().partition("\r\n\r\n")
    return int(head.split()[1]), body


async def get(url: str, path: str) -> tuple[int, str]:
    return await send(url, f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())


async def completed(url: str) -> dict[str, Any]:
    """Ask until the index is complete."""
    async with asyncio.timeout(PATIENCE):
        while True:
            stats: dict[str, Any] = json.loads((await get(url, "/stats"))[1])
            if stats["index"]["state"] == "complete":
                return stats


def test_answers_while_it_works() -> None:
    """In an asyncio program it answers while thousands of files are being read, and leaving the block stops it."""

    async def program() -> tuple[tuple[int, str], dict[str, Any]]:
        async with indexer.serving(indexer.Settings(port=0, workers=2)) as url:
            stats = json.loads((await get(url, "/stats"))[1])
            while stats["index"]["files"] == 0:
                stats = json.loads((await get(url, "/stats"))[1])
            return await get(url, "/"), stats

    (status, page), stats = asyncio.run(program())

    assert (status, stats["index"]["state"]) == (200, "working")
    assert '<meta http-equiv="refresh"' in page
    assert stats["scheduler"]["waiting"] > 1
    assert stats["pool"]["workers"] == 2
    assert stats["pool"]["completed"] > 0
    assert re.search(r"<th>pool<td>running<td>\d", page)
    assert re.search(r"<td>ms run p95<td>\d", page)
    assert set(stats["pool"]["priorities"]) >= {"-2", "0"}


def test_serves_the_totals(tree: Path) -> None:
    """When the work is done, `/stats` has the totals of the tree, and `/` shows them to people, escaped."""
    (tree / "<b>.py").write_text("(")

    async def program() -> tuple[dict[str, Any], str]:
        async with indexer.serving(indexer.Settings(str(tree), port=0)) as url:
            return await completed(url), (await get(url, "/"))[1]

    stats, page = asyncio.run(program())

    assert counts(stats["index"]) == expected(tree)
    assert "&lt;b&gt;.py" in page
    assert "<b>" not in page
    assert '<meta http-equiv="refresh"' not in page


def test_requests(tmp_path: Path) -> None:
    """What is not there is 404, what is no HTTP is 400; the server survives it all."""
    requests = {
        b"GET /stats?pretty HTTP/1.0\r\n\r\n": 200,
        b"GET /nope HTTP/1.1\r\n\r\n": 404,
        b"GET /../../etc/passwd HTTP/1.1\r\n\r\n": 404,
        b"POST / HTTP/1.1\r\n\r\n": 405,
        b"\r\n": 400,
        b"": 400,
        b"GET /": 400,
        b"\xff\xfe\n": 400,
        b"hello, who is there?\r\n": 400,
        b"GET /" + b"x" * 100_000: 400,
    }

    async def program() -> dict[bytes, int]:
        async with indexer.serving(indexer.Settings(str(tmp_path), port=0)) as url:
            return {request: (await send(url, request))[0] for request in requests}

    assert asyncio.run(program()) == requests


def test_leaving_with_open_connections(tmp_path: Path) -> None:
    """Who connects and says nothing is hung up on when the block is left; who hangs up at once does no harm."""

    async def program() -> bytes:
        async with indexer.serving(indexer.Settings(str(tmp_path), port=0)) as url:
            port = int(url.rstrip("/").rpartition(":")[2])
            hasty = socket.create_connection(("127.0.0.1", port))
            hasty.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # close by a reset
            hasty.sendall(b"GET / HTTP/1.1\r\n\r\n")
            hasty.close()
            silent, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET / HTT")
            await get(url, "/")
        async with asyncio.timeout(PATIENCE):
            left = await silent.read()
        writer.close()
        await writer.wait_closed()
        return left

    assert asyncio.run(program()) == b""


def test_serve_option(tree: Path) -> None:
    """`--serve` says where it answers, and Ctrl-C ends it with 0 and without a traceback."""
    command = [sys.executable, EXAMPLE, tree, "--serve", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            url = child.stdout.readline().split()[-1]
            stats = asyncio.run(completed(url))
            child.send_signal(signal.SIGINT)
            _, errors = child.communicate(timeout=PATIENCE)
        finally:
            child.kill()

    assert counts(stats["index"]) == expected(tree)
    assert (child.returncode, errors) == (0, "")


# ---- as a daemon


def test_daemon(tree: Path, tmp_path: Path) -> None:
    """`dari start` with a configuration returns when it answers; `status` and `stop` do what they say."""
    config = tmp_path / "dari.toml"
    log = tmp_path / "indexer.log"
    config.write_text(
        f'[daemon]\nrundir = "run"\nlogfile = "{log.name}"\nstop_grace = 10\n'
        f'[indexer]\nroot = "{tree}"\nport = 0\nworkers = 2\n'
    )

    def command(*arguments: str) -> tuple[int, dict[str, Any]]:
        line = [sys.executable, "-m", "dari", *arguments, f"{EXAMPLE}:daemon", "-c", config, "--json"]
        done = subprocess.run(line, check=False, capture_output=True, text=True, timeout=PATIENCE)
        return done.returncode, json.loads(done.stdout)

    code, started = command("start")
    assert code == 0, started
    pid = started["pid"]
    process = os.pidfd_open(pid)
    try:
        while not (found := re.search(r"see (http://\S+/)", log.read_text())):  # by the log's thread, soon
            assert not select.select([process], [], [], 0.005)[0]
        stats = asyncio.run(completed(found[1]))
        running = command("status")
        stopped = command("stop")
        ended = select.select([process], [], [], PATIENCE)[0]
        after = command("status")
    finally:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(process, signal.SIGKILL)
        os.close(process)

    assert counts(stats["index"]) == expected(tree)
    assert named(stats["problems"]) == NAMED
    assert (running[0], running[1]["state"], running[1]["pid"]) == (0, "running", pid)
    assert stopped[0] == 0
    assert ended == [process]
    assert after[0] == 3
    assert "Traceback" not in log.read_text()


def test_the_example_configuration() -> None:
    """The configuration file beside the example is one that dari and the example accept."""
    import tomllib

    from dari.daemon.config import resolve

    path = EXAMPLE.parent / "dari.toml"
    settings = resolve(command_line={}, target=None, config=str(path), environ={}, keywords={}, cwd="/")

    assert (settings.name, str(settings.target)) == ("indexer", f"{EXAMPLE}:daemon")
    assert indexer.Settings(**tomllib.loads(path.read_text())["indexer"]).port == 8765
