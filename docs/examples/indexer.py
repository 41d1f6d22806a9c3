"""Index a tree of Python files: a small real service that uses all of dari, and runs in three ways.

By itself, with a progress bar and what the pool does just now, until everything is read; then it prints a table:

    python docs/examples/indexer.py [DIRECTORY] [--workers N]

Inside an asyncio program, answering over HTTP while it works, until Ctrl-C:

    python docs/examples/indexer.py [DIRECTORY] --serve 8765

As a daemon (with `-c docs/examples/dari.toml` in place of the target, that file configures it):

    dari start docs/examples/indexer.py:daemon
    curl http://127.0.0.1:8765/stats
    dari stop docs/examples/indexer.py:daemon

Without a directory it is the running Python's own standard library. Each directory has a generator task; what is nearer
the root goes first, tests go last. Files are read and parsed on a pool. Bad input is counted and named, never fatal.
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import contextlib
import html
import io
import json
import logging
import os
import shutil
import stat
import sys
import sysconfig
import threading
import time
import tokenize
import warnings
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import dari

SKIPPED = {"__pycache__", "site-packages"}
READERS = 4  # files of one directory that are on the pool at a time
LARGEST_FILE = 10_000_000  # bytes
LONGEST_REQUEST = 10  # seconds
# CPython 3.11 keeps the depth of the tree it builds in one place for all threads, and raises a SystemError when they
# alternate. The GIL lets only one of them parse anyway.
PARSING = threading.Lock()


@dataclass(frozen=True)
class Settings:
    """The command line, or the `[indexer]` table of the daemon's configuration."""

    root: str = sysconfig.get_path("stdlib")
    port: int = 8765
    workers: int | None = None


# ---- What blocks: plain functions for the pool, that know nothing of dari. What they raise arrives at the `yield`.


class UnfitError(Exception):
    """A file that cannot be a module. The text says why."""


class Listing(NamedTuple):
    identity: tuple[int, int]  # the same directory, by whatever path it was reached
    folders: list[str]
    files: list[str]


class Module(NamedTuple):
    lines: int
    definitions: int
    imports: list[str]  # top-level names


def list_directory(path: str) -> Listing:
    status = os.stat(path)
    listing = Listing((status.st_dev, status.st_ino), [], [])
    with os.scandir(path) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.is_dir(follow_symlinks=False) or os.path.isdir(entry):
                if entry.name not in SKIPPED and not entry.name.startswith("."):
                    listing.folders.append(entry.path)
            elif entry.name.endswith(".py"):
                listing.files.append(entry.path)
    return listing


def read_module(path: str) -> Module:
    lines = read_lines(path)
    with PARSING:
        tree = ast.parse("".join(lines), "<indexed>")
    definitions, imports = 0, list[str]()
    for statement in statements(tree):
        match statement:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                definitions += 1
            case ast.Import(names=names):
                imports += [alias.name.partition(".")[0] for alias in names]
            case ast.ImportFrom(module=str(module), level=0):
                imports.append(module.partition(".")[0])
            case ast.ImportFrom():
                imports.append("(relative)")
            case _:
                pass
    return Module(len(lines), definitions, imports)


def statements(tree: ast.AST) -> Iterator[ast.AST]:
    """All statements below; eight times faster than ast.walk, which visits expressions too."""
    below = [tree]
    while below:
        yield (node := below.pop())
        for block in ("body", "orelse", "handlers", "finalbody", "cases"):
            below += getattr(node, block, ())


def read_lines(path: str) -> list[str]:
    try:
        # O_NONBLOCK: opening a FIFO would wait for its writer.
        file = open(path, "rb", opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK))  # noqa: SIM115 - below
    except FileNotFoundError:
        raise UnfitError("broken symbolic link" if os.path.islink(path) else "deleted meanwhile") from None
    with file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise UnfitError("not a regular file")
        raw = file.read(LARGEST_FILE + 1)
    if len(raw) > LARGEST_FILE:
        raise UnfitError(f"larger than {LARGEST_FILE:,} bytes")
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(raw).readline)
        return io.StringIO(raw.decode(encoding), newline=None).readlines()
    except (SyntaxError, UnicodeError, LookupError) as error:
        raise UnfitError("not in its encoding") from error


def explain(error: Exception) -> tuple[str, str]:
    """The kind of a problem, and what else there is to say."""
    match error:
        case UnfitError():
            return str(error), str(error.__cause__ or "")
        case SyntaxError():
            return "syntax error", f"line {error.lineno}: {error.msg}"
        case RecursionError() | MemoryError():
            return "nested too deeply", ""
        case OSError(strerror=str(reason)):
            return reason.lower(), ""
        case _:
            return type(error).__name__, str(error)


# ---- What waits: generator tasks. They all run on one thread, so the totals need no lock.


class Indexer:
    """The totals, and the tasks that gather them."""

    def __init__(self, root: str, pool: dari.Pool, scheduler: dari.Scheduler) -> None:
        self.root = os.path.abspath(root)
        self.pool = pool
        self.scheduler = scheduler
        self.started = time.monotonic()
        self.ended: float | None = None
        self.seen = set[tuple[int, int]]()
        self.directories = self.found = self.files = self.lines = self.definitions = self.imports = 0
        self.modules = Counter[str]()
        self.problems = defaultdict[str, list[str]](list)

    def index(self) -> dari.Steps[None]:
        # The parser warns of odd escapes and the like in what it reads: not our business.
        warnings.filterwarnings("ignore", module="<indexed>")
        yield from dari.create_task(self.directory, self.root, 0, priority=0)
        self.ended = time.monotonic()

    def directory(self, path: str, priority: int) -> dari.Steps[None]:
        """Index one directory, and start a task for each one in it."""
        # Listings overtake files, so that the progress bar soon knows how many there will be.
        urgently = self.pool.options(priority=dari.Priority.URGENT)
        try:
            listing = yield from urgently.run_sync(list_directory, path)
        except OSError as error:
            self.note(path, error)
            return
        if listing.identity in self.seen:
            self.note(path, UnfitError("directory met before"))
            return
        self.seen.add(listing.identity)
        self.directories += 1
        self.found += len(listing.files)
        with dari.TaskGroup() as group:
            for folder in listing.folders:
                # Nearer the root goes first; tests, and all that is below them, after everything else.
                later = priority + (100 if os.path.basename(folder) in ("test", "tests") else 1)
                group.create_task(self.directory, folder, later, priority=later, name=folder)
            files = iter(listing.files)
            for _ in range(READERS):
                group.create_task(self.read, files, priority)
            yield group.join()

    def read(self, files: Iterator[str], priority: int) -> dari.Steps[None]:
        """Index files until none is left. Several of these share one iterator, and so bound what is in flight."""
        pool = self.pool.options(priority=priority)
        for path in files:
            try:
                module = yield from pool.run_sync(read_module, path)
            except Exception as error:  # noqa: BLE001 - whatever a file does to the parser: told, and survived
                self.note(path, error)
            else:
                self.files += 1
                self.lines += module.lines
                self.definitions += module.definitions
                self.imports += len(module.imports)
                self.modules.update(module.imports)

    def note(self, path: str, error: Exception) -> None:
        kind, detail = explain(error)
        name = repr(os.path.relpath(path, self.root))[1:-1]  # a file's name may hold anything, newlines too
        self.problems[kind].append(f"{name} ({detail})" if detail else name)

    def totals(self) -> dict[str, Mapping[str, str | int | float | list[str]]]:
        seconds = (self.ended or time.monotonic()) - self.started
        return {
            "index": {
                "root": self.root,
                "state": "working" if self.ended is None else "complete",
                "directories": self.directories,
                "files": self.files,
                "lines": self.lines,
                "definitions": self.definitions,
                "imports": self.imports,
                "seconds": round(seconds, 2),
                "files per second": round(self.files / max(seconds, 0.001)),
            },
            "pool": self.pool_now(),
            "most imported": dict(self.modules.most_common(10)),
            "problems": dict(self.problems),
        }

    def pool_now(self) -> dict[str, int]:
        """The pool's statistics in brief; times are those of the slowest priority."""
        stats = self.pool.stats()
        return {
            "running": stats.running,
            "queued": stats.queued,
            "ms wait p95": round(1000 * max((each.wait.p95 for each in stats.priorities.values()), default=0)),
            "ms run p95": round(1000 * max((each.run.p95 for each in stats.priorities.values()), default=0)),
            "completed": stats.completed,
            "workers": stats.workers,
            "idle": stats.idle,
        }

    def rows(self, names: int) -> Iterator[tuple[str, str, str]]:
        """The totals for people, with so many names of each kind of problem."""
        for section, entries in self.totals().items():
            for name, value in entries.items():
                match value:
                    case list():
                        first = ", ".join(value[:names])
                        text = f"{len(value)}: {first}{', …' if len(value) > names else ''}"
                    case int():
                        text = f"{value:,}"
                    case _:
                        text = str(value)
                yield section, name, text
                section = ""


# ---- First way: by itself.


def standalone(settings: Settings) -> None:
    scheduler = dari.Scheduler(name="indexer")
    with dari.Pool(settings.workers) as pool:
        indexer = Indexer(settings.root, pool, scheduler)
        task = scheduler.create_task(with_progress, indexer)
        scheduler.run()
        task.result()
        print_table(indexer.rows(names=3))
        print(scheduler.stats(), pool.stats(), sep="\n\n")


def with_progress(indexer: Indexer) -> dari.Steps[None]:
    """Index, and draw the bar and the pool's statistics ten times a second meanwhile."""
    with progress_bar() as draw:
        work = dari.create_task(indexer.index)
        while not work.done():
            with dari.move_on_after(0.1):
                yield dari.shield(work)
            done = indexer.files + sum(map(len, indexer.problems.values()))
            draw(done, indexer.found, ", ".join(f"{number:,} {name}" for name, number in indexer.pool_now().items()))


@contextlib.contextmanager
def progress_bar() -> Generator[Callable[[int, int, str], object], None, None]:
    """Give a function that draws how many are done, of how many, and a line of text."""
    try:
        from rich.console import Console, Group
        from rich.live import Live
        from rich.progress import Progress
    except ImportError:
        width = shutil.get_terminal_size().columns
        yield lambda done, of, text: print(
            f"\rindexing {done}/{of}: {text}"[:width].ljust(width), end="", file=sys.stderr, flush=True
        )
        print(file=sys.stderr)
        return
    with Live(console=Console(stderr=True), auto_refresh=False) as live:
        bar = Progress(console=live.console)
        files = bar.add_task("indexing", total=None)

        def draw(done: int, of: int, text: str) -> None:
            bar.update(files, completed=done, total=of)
            live.update(Group(bar, text), refresh=True)

        yield draw


def print_table(rows: Iterator[tuple[str, str, str]]) -> None:
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        for section, name, text in rows:
            print(f"{section:<14} {name:<22} {text}")
        return
    table = Table(show_header=False)
    for _ in range(3):
        table.add_column(overflow="fold")
    for section, name, text in rows:
        if section:
            table.add_section()
        table.add_row(section, name, text)
    Console(markup=False, emoji=False, highlight=False).print(table)


# ---- Second way: inside an asyncio program.


@contextlib.asynccontextmanager
async def serving(settings: Settings) -> AsyncGenerator[str, None]:
    """Index, and answer at the URL that is given, while the block lasts."""
    async with dari.Pool(settings.workers) as pool, dari.Scheduler(name="indexer") as scheduler:
        indexer = Indexer(settings.root, pool, scheduler)
        scheduler.create_task(indexer.index)
        # The connections are tasks of the same scheduler, which cancels all its tasks at the end, and waits for them.
        server = await asyncio.start_server(
            lambda reader, writer: scheduler.create_task(answer, indexer, reader, writer), "127.0.0.1", settings.port
        )
        try:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        finally:
            server.close()
            scheduler.cancel("stopping")


async def answer(indexer: Indexer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One request, one answer, goodbye: as much of HTTP as a status page needs."""
    try:
        try:
            async with asyncio.timeout(LONGEST_REQUEST):
                method, target, _version = (await reader.readline()).decode("ascii").split()
                while (await reader.readline()).strip():
                    pass  # a header
            status, kind, body = respond(indexer, method, target.partition("?")[0])
        except ValueError:  # not ASCII, not three words, too long
            status, kind, body = "400 Bad Request", "text/plain", "That was no HTTP.\n"
        head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}; charset=utf-8\r\nContent-Length: {len(body.encode())}\r\n"
        writer.write(f"{head}Connection: close\r\n\r\n{body}".encode())
        await writer.drain()
    except (ConnectionError, TimeoutError):
        pass  # gone, or too slow
    finally:
        writer.close()


def respond(indexer: Indexer, method: str, path: str) -> tuple[str, str, str]:
    """Status, type, body."""
    match method, path:
        case "GET", "/":
            return "200 OK", "text/html", page(indexer)
        case "GET", "/stats":
            return "200 OK", "application/json", json.dumps(statistics(indexer), indent=2)
        case "GET", _:
            return "404 Not Found", "text/plain", "There are / and /stats.\n"
        case _:
            return "405 Method Not Allowed", "text/plain", "There is only GET.\n"


def statistics(indexer: Indexer) -> dict[str, object]:
    totals = indexer.totals()
    priorities = {priority: each._asdict() for priority, each in indexer.pool.stats().priorities.items()}
    return {
        **totals,
        "scheduler": indexer.scheduler.stats()._asdict(),
        "pool": {**totals["pool"], "priorities": priorities},
    }


def page(indexer: Indexer) -> str:
    refresh = '<meta http-equiv="refresh" content="1">' if indexer.ended is None else ""
    rows = (map(html.escape, row) for row in indexer.rows(names=100))
    table = "\n".join(f"<tr><th>{section}<td>{name}<td>{text}" for section, name, text in rows)
    stats = html.escape(f"{indexer.scheduler.stats()}\n\n{indexer.pool.stats()}")
    return (
        f"<!doctype html><meta charset=utf-8>{refresh}<title>indexer</title>"
        f"<style>th, td {{text-align: left; vertical-align: top}}</style>\n<table>{table}</table>\n<pre>{stats}</pre>\n"
    )


async def serve(settings: Settings) -> None:
    async with serving(settings) as url:
        print(f"indexing {settings.root}: see {url}", flush=True)
        await asyncio.Event().wait()  # until Ctrl-C


# ---- Third way: as a daemon.


async def main(ctx: dari.Context) -> None:
    settings = Settings(**ctx.config.get("indexer", {}))
    async with serving(settings) as url:
        logging.getLogger("indexer").info("indexing %s: see %s", settings.root, url)
        ctx.ready()
        await ctx.stopping.wait()


daemon = dari.Daemon(main, name="indexer")


def command_line() -> None:
    parser = argparse.ArgumentParser(description="Index a tree of Python files.")
    parser.add_argument("directory", nargs="?", default=Settings.root, help="default: the standard library")
    parser.add_argument("--workers", type=int, metavar="N", help="threads of the pool, at most")
    parser.add_argument("--serve", type=int, metavar="PORT", help="answer over HTTP on this port of loopback (0: any)")
    options = parser.parse_args()
    if not os.path.isdir(options.directory):
        parser.error(f"{options.directory} is not a directory")
    if reconfigure := getattr(sys.stdout, "reconfigure", None):
        reconfigure(errors="replace")  # what is told of a file may not be in the terminal's encoding
    settings = Settings(options.directory, options.serve or 0, options.workers)
    try:
        if options.serve is None:
            standalone(settings)
        else:
            asyncio.run(serve(settings))
    except KeyboardInterrupt:
        sys.exit(130 if options.serve is None else 0)  # half of a table is a failure; a server is meant to be stopped


if __name__ == "__main__":
    command_line()
