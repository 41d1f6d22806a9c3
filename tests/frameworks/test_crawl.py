"""The crawler of docs/howto/crawl-with-httpx.md, on real sites: http.server in a thread."""

from __future__ import annotations

import asyncio
import importlib.util
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import uvloop

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "docs" / "examples" / "crawl.py"
PAGE = ROOT / "docs" / "howto" / "crawl-with-httpx.md"
PATIENCE = 20  # seconds, for an event that must come

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}


def load_example() -> Any:
    spec = importlib.util.spec_from_file_location("crawl", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    sys.modules["crawl"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


crawl = load_example()


@dataclass
class Answer:
    body: str | bytes = ""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    held: bool = False  # until the site is closed: the body is announced, and does not come


@dataclass
class Site:
    """A site of some pages, and what was asked of it."""

    pages: dict[str, Answer]
    url: str = ""
    asked: list[str] = field(default_factory=list)
    agents: set[str] = field(default_factory=set)
    times: list[float] = field(default_factory=list)
    most: int = 0  # requests at the same time
    meeting: threading.Barrier | None = None  # where requests wait for each other
    reached: threading.Event = field(default_factory=threading.Event)  # a page that is held
    closing: threading.Event = field(default_factory=threading.Event)


@contextmanager
def serving(pages: dict[str, Answer], parties: int = 0) -> Iterator[Site]:
    site = Site(pages, meeting=threading.Barrier(parties) if parties else None)
    lock, inside = threading.Lock(), 0

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            nonlocal inside
            answer = site.pages.get(self.path, Answer(status=404))
            body = answer.body.encode() if isinstance(answer.body, str) else answer.body
            with lock:
                inside += 1
                site.most = max(site.most, inside)
                site.times.append(time.monotonic())
                site.asked.append(self.path)
                site.agents.add(self.headers["user-agent"])
            if site.meeting is not None and answer.headers.get("meet"):
                site.meeting.wait(PATIENCE)
            with lock:
                inside -= 1
            self.send_response(answer.status)
            for name, value in {
                "content-type": "text/html; charset=utf-8",
                "content-length": f"{len(body) + answer.held}",
                **answer.headers,
            }.items():
                self.send_header(name, value)
            self.end_headers()
            try:
                self.wfile.write(body)
                self.wfile.flush()
                if answer.held:
                    site.reached.set()
                    site.closing.wait(PATIENCE)
                    self.close_connection = True
            except ConnectionError:
                self.close_connection = True  # who asked has gone

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        site.url = "http://{}:{}".format(*server.server_address)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield site
        finally:
            site.closing.set()
            server.shutdown()
            thread.join()


def links(*targets: str, **more: Any) -> Answer:
    return Answer("".join(f'<p><a href="{target}">there</a>' for target in targets), **more)


def visit(site: Site, start: str = "/", *, loop: str = "asyncio", **limits: Any) -> dict[str, str]:
    """Path and problem of each page, in the order in which they were read."""
    settings = crawl.Limits(**{"pause": 0, "patience": PATIENCE} | limits)
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        pages = runner.run(asyncio.wait_for(crawl.crawl(site.url + start, settings), PATIENCE))
    return {page.url.removeprefix(site.url): page.problem for page in pages}


# ---- the crawl


@pytest.mark.parametrize("loop", LOOPS)
def test_visits_each_page_of_the_site_once(loop: str) -> None:
    """All that can be reached is visited once, by its several names; other sites, and what is no page, are not."""
    pages = {
        "/": links("a", "/b#one", "b#two", "dir/", "http://127.0.0.1:1/", "mailto:a@b.c", "http://[", "old", "none"),
        "/a": links("/", "a", "../../b"),
        "/b": links("/?q=1"),
        "/?q=1": links(),
        "/dir/": links("a", "../a", "picture"),
        "/dir/a": links("javascript:alert(1)", ""),
        "/dir/picture": links("/hidden", headers={"content-type": "image/png"}),
        "/old": Answer(status=301, headers={"location": "/new"}),
        "/new": links("/away"),
        "/away": Answer(status=302, headers={"location": "http://127.0.0.1:1/"}),
    }
    with serving(pages) as site:
        seen = visit(site, loop=loop)

    assert seen == {**dict.fromkeys(pages, ""), "/none": "404 Not Found"}
    assert sorted(site.asked) == sorted([*seen, "/robots.txt"])
    assert site.agents == {crawl.AGENT}


def test_one_bad_page_is_not_the_end() -> None:
    """A page that fails, hangs or breaks off is told of; one that is no text, or rubbish, is read as far as it goes."""
    pages = {
        "/": links("fails", "hangs", "breaks", "odd", "odder", "rubbish"),
        "/fails": Answer(status=500),
        "/hangs": links("never", held=True),
        "/breaks": Answer(headers={"content-length": "100", "connection": "close"}),
        "/odd": Answer(b'\xff<a href="good">', headers={"content-type": "text/html; charset=klingon"}),
        "/odder": Answer(b'\xff<a href="good">', headers={"content-type": "text/html; charset=rot13"}),
        "/rubbish": Answer('<a href="good"><![x]>'),
        "/good": links("last"),
        "/last": links(),
    }
    with serving(pages) as site:
        seen = visit(site, patience=1.5)  # which all other pages have, too, on however busy a machine

    problems = {path: problem.split(":")[0] for path, problem in seen.items() if problem}
    assert problems == {
        "/fails": "500 Internal Server Error",
        "/hangs": "TimeoutError",
        "/breaks": "RemoteProtocolError",
    }
    assert set(seen) == set(pages)


def test_workers_ask_at_the_same_time_and_no_more_than_that() -> None:
    """Three workers: three requests meet at the site, again and again, and never a fourth."""
    pages = {"/": links(*(f"{n}" for n in range(9))), **{f"/{n}": links(headers={"meet": "yes"}) for n in range(9)}}
    with serving(pages, parties=3) as site:
        seen = visit(site, workers=3)

    assert (len(seen), site.most) == (10, 3)


def test_pages_are_a_bound() -> None:
    """A site without end is left after as many pages as asked for; so is one page."""
    pages = {f"/{n}": links(*(f"{m}" for m in range(n + 1, n + 5))) for n in range(100)}
    with serving(pages) as site:
        ends = [len(visit(site, "/0", pages=count)) for count in (1, 7, 30)]

    assert ends == [1, 7, 30]
    assert len(site.asked) == 3 + sum(ends)


def test_a_page_without_end_is_read_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes after the largest size is not waited for; the links before it are followed."""
    monkeypatch.setattr(crawl, "LARGEST", 1000)
    pages = {"/": Answer('<a href="early">' + "x" * 2000 + '<a href="late">', held=True), "/early": links()}
    with serving(pages) as site:
        assert set(visit(site)) == {"/", "/early"}


def test_the_site_is_asked_once_per_pause() -> None:
    """However many workers there are."""
    pages = {"/": links("a", "b", "c"), **{path: links() for path in ("/a", "/b", "/c")}}
    with serving(pages) as site:
        visit(site, workers=4, pause=0.05)

    gaps = [after - before for before, after in zip(site.times, site.times[1:], strict=False)]
    assert site.times[-1] - site.times[0] >= 0.95 * 0.05 * 4, gaps  # robots.txt is the first


def test_obeys_robots_txt() -> None:
    """What it forbids to all or to this one is not asked for; a redirect of robots.txt itself is followed."""
    rules = "User-agent: *\nDisallow: /\n\nUser-agent: dari-crawl-example\nDisallow: /private\n"
    pages = {
        "/robots.txt": Answer(status=302, headers={"location": "/rules.txt"}),
        "/rules.txt": Answer(rules, headers={"content-type": "text/plain"}),
        "/": links("private/a", "public"),
        "/public": links(),
    }
    with serving(pages) as site:
        assert set(visit(site)) == {"/", "/public"}
        assert visit(site, "/private/b") == {}


@pytest.mark.parametrize(
    "limits", [{"workers": 0}, {"pages": 0}, {"pause": -1}, {"patience": 0}, {"pause": float("nan")}]
)
def test_limits_that_make_no_sense_are_refused(limits: dict[str, Any]) -> None:
    """A crawl without workers would never end."""
    with pytest.raises(ValueError, match="never"):
        crawl.Limits(**limits)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_cancelled_crawl_leaves_nothing(loop: str) -> None:
    """Its workers end, and their connections are closed, before whoever cancelled it goes on."""

    async def main(site: Site) -> set[asyncio.Task[Any]]:
        task = asyncio.create_task(crawl.crawl(site.url, crawl.Limits(pause=0)))
        assert await asyncio.to_thread(site.reached.wait, PATIENCE)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return asyncio.all_tasks() - {asyncio.current_task()}

    pages = {"/": links("a", "b"), "/a": links(held=True), "/b": links(held=True)}
    with serving(pages) as site, asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        assert runner.run(main(site)) == set()


# ---- the program


def run(*arguments: str) -> tuple[int, str, str]:
    command = [sys.executable, "-W", "error", str(EXAMPLE), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    return done.returncode, done.stdout, done.stderr


def test_program_tells_what_is_broken() -> None:
    """It prints the broken pages and a sum, and ends with 1; with 0 if there is none."""
    with serving({"/": links("none", "good"), "/good": links()}) as site:
        ends = [run(site.url + path, "--pause", "0", "--workers", "2") for path in ("/", "/good")]
        url = site.url

    assert ends == [(1, f"{url}/none: 404 Not Found\n3 pages, 1 broken\n", ""), (0, "1 pages, 0 broken\n", "")]


def test_program_says_why_it_cannot_visit(capsys: pytest.CaptureFixture[str]) -> None:
    """No server, no address, forbidden by its robots.txt, or unable to tell its rules: 2, and one line."""
    forbids, cannot_tell = Answer("User-agent: *\nDisallow: /"), Answer(status=503)
    with serving({"/robots.txt": forbids}) as forbidden, serving({"/robots.txt": cannot_tell}) as ill:
        ends = [crawl.main([url]) for url in ("http://127.0.0.1:1/", "nowhere", f"{forbidden.url}/", f"{ill.url}/")]
    lines = capsys.readouterr().err.splitlines()

    assert ends == [2] * 4
    assert [line.split(": ", 1)[1] for line in lines] == [
        "cannot read its robots.txt: ConnectError: All connection attempts failed",
        "cannot read its robots.txt: UnsupportedProtocol: Request URL is missing an 'http://' or 'https://' protocol.",
        "its robots.txt does not want us",
        "cannot read its robots.txt: 503 Service Unavailable",
    ]


def test_program_refuses_senseless_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    """As any wrong argument."""
    with pytest.raises(SystemExit) as end:
        crawl.main(["http://127.0.0.1:1/", "--workers", "0"])

    assert end.value.code == 2
    assert "Limits(workers=0" in capsys.readouterr().err


def test_ctrl_c_stops_the_program() -> None:
    """While its requests hang it ends at once, with 130 and without a traceback."""
    with (
        serving({"/": links("a", "b"), "/a": links(held=True), "/b": links(held=True)}) as site,
        subprocess.Popen(
            [sys.executable, "-W", "error", EXAMPLE, site.url, "--pause", "0"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        try:
            assert site.reached.wait(PATIENCE)
            process.send_signal(signal.SIGINT)
            output = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()

    assert (process.returncode, output) == (130, ("", "stopped\n"))


# ---- the page


def test_the_page_quotes_the_example() -> None:
    """What the page shows of the example is there, to the letter. (Its program is run by tests/test_docs.py.)"""
    quotes = re.findall(r"^```py\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    source = EXAMPLE.read_text()

    assert [quote for quote in quotes if quote not in source] == []
    assert len(quotes) == 5
