"""A crawler of generator tasks and httpx: `python docs/examples/crawl.py URL`, and Ctrl-C stops it.

It visits the pages of one site, each once, and tells which are broken. It needs httpx. How it works is told in
docs/howto/crawl-with-httpx.md.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from dataclasses import dataclass
from html.parser import HTMLParser
from urllib.robotparser import RobotFileParser

import httpx

import dari

AGENT = "dari-crawl-example"  # who we are: in each request, and in robots.txt
LARGEST = 1_000_000  # bytes of a page that are read at most


@dataclass(frozen=True)
class Limits:
    """How much is asked of the site, and of us."""

    workers: int = 4  # requests at the same time
    pause: float = 0.1  # seconds from one request to the next, of all workers together
    pages: int = 100  # visited at most
    patience: float = 10.0  # seconds for one page

    def __post_init__(self) -> None:
        if not (self.workers >= 1 and self.pages >= 1 and self.pause >= 0 and self.patience > 0):
            raise ValueError(f"that would never end, or never begin: {self}")


@dataclass(frozen=True)
class Page:
    url: str
    problem: str = ""  # why it could not be read
    links: tuple[str, ...] = ()


class Crawl:
    """One visit to one site."""

    def __init__(self, client: httpx.AsyncClient, limits: Limits) -> None:
        self.pages: list[Page] = []
        self._client = client
        self._limits = limits
        self._links: dari.Queue[httpx.URL] = dari.Queue()  # bounded by `_seen`: no link goes in twice
        self._seen: set[httpx.URL] = set()
        self._turn = dari.Lock()
        self._rules = RobotFileParser()

    def run(self, start: str) -> dari.Steps[list[Page]]:
        """Visit `start` and what can be reached from it."""
        root = httpx.URL(start)
        yield from self._read_rules(root)
        self._add(root.copy_with(fragment=None))
        with dari.TaskGroup() as group:
            for number in range(self._limits.workers):
                group.create_task(self._work, root, name=f"worker {number}")
            yield from self._links.join()  # every link that went in was dealt with, so none will come
            self._links.shutdown()  # the workers wait for one: this ends them
            yield from group.join()
        return self.pages

    def _work(self, root: httpx.URL) -> dari.Steps[None]:
        """One of the workers: takes a link, visits it, adds what it finds."""
        while True:
            try:
                url = yield from self._links.get()
            except dari.QueueShutDown:
                return
            page = yield from self._visit(url)
            self.pages.append(page)
            for link in page.links:
                self._follow(root, url, link)
            self._links.task_done()  # only now: before, the queue would look finished

    def _follow(self, root: httpx.URL, url: httpx.URL, link: str) -> None:
        try:
            found = url.join(link).copy_with(fragment=None)
        except httpx.InvalidURL:
            return  # a page may say anything
        if (found.scheme, found.netloc) == (root.scheme, root.netloc):  # on this site
            self._add(found)

    def _add(self, url: httpx.URL) -> None:
        allowed = self._rules.can_fetch(AGENT, str(url))
        if allowed and url not in self._seen and len(self._seen) < self._limits.pages:
            self._seen.add(url)
            self._links.put_nowait(url)

    def _visit(self, url: httpx.URL) -> dari.Steps[Page]:
        """What goes wrong with one page is written down; it does not end the crawl."""
        yield from self._take_turn()
        links: list[str] = []
        try:
            with dari.timeout(self._limits.patience):
                links = yield from dari.host(links_of(self._client, url))
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
            return Page(str(url), why(error))
        return Page(str(url), links=tuple(links))

    def _take_turn(self) -> dari.Steps[None]:
        """Workers go through here one by one, so the site is asked once per pause, however many they are."""
        with (yield from self._turn.acquire()):
            yield from dari.sleep(self._limits.pause)

    def _read_rules(self, root: httpx.URL) -> dari.Steps[None]:
        """What robots.txt allows. Without one all is allowed; with one that cannot be read now (5xx), nothing."""
        rules: list[str] = []
        with dari.timeout(self._limits.patience):
            answer = yield from dari.host(self._client.get(root.join("/robots.txt"), follow_redirects=True))
            if not answer.is_client_error:
                rules = answer.raise_for_status().text.splitlines()
        self._rules.parse(rules)


async def links_of(client: httpx.AsyncClient, url: httpx.URL) -> list[str]:
    """The links of a page. A coroutine: `async with` and `async for` of httpx are at home here."""
    async with client.stream("GET", url) as answer:
        if answer.has_redirect_location:  # one more link, to be followed if it stays on this site
            return [answer.headers["location"]]
        answer.raise_for_status()
        if not answer.headers.get("content-type", "").startswith("text/html"):
            return []
        body = bytearray()
        async for piece in answer.aiter_bytes():
            body += piece
            if len(body) > LARGEST:
                break
        return links_in(text_of(bytes(body[:LARGEST]), answer.charset_encoding or "utf-8"))


def text_of(body: bytes, encoding: str) -> str:
    try:
        return body.decode(encoding, "replace")
    except (LookupError, UnicodeError):  # a page may name any encoding
        return body.decode("utf-8", "replace")


def links_in(html: str) -> list[str]:
    found: list[str] = []

    class Links(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            found.extend(value for name, value in attrs if (tag, name) == ("a", "href") and value)

    try:
        Links().feed(html)
    except AssertionError:
        pass  # some rubbish is too much for html.parser (`<![x]>`); what stands before it was found
    return found


def why(error: Exception) -> str:
    if isinstance(error, httpx.HTTPStatusError):
        return f"{error.response.status_code} {error.response.reason_phrase}"
    return f"{type(error).__name__}: {error}"


async def crawl(start: str, limits: Limits) -> list[Page]:
    """The pages of the site, in the order in which they were read."""
    async with httpx.AsyncClient(headers={"user-agent": AGENT}) as client:
        return await dari.arun(Crawl(client, limits).run, start)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Visit the pages of one site, and tell which are broken.")
    parser.add_argument("url", help="where to begin")
    parser.add_argument("--workers", type=int, default=Limits.workers, help="requests at a time (%(default)s)")
    parser.add_argument("--pause", type=float, default=Limits.pause, help="seconds between two (%(default)s)")
    parser.add_argument("--pages", type=int, default=Limits.pages, help="to visit at most (%(default)s)")
    given = parser.parse_args(arguments)
    try:
        limits = Limits(given.workers, given.pause, given.pages)
    except ValueError as error:
        parser.error(str(error))
    try:
        pages = asyncio.run(crawl(given.url, limits))
    except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
        print(f"{given.url}: cannot read its robots.txt: {why(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    if not pages:
        print(f"{given.url}: its robots.txt does not want us", file=sys.stderr)
        return 2
    broken = [page for page in pages if page.problem]
    for page in broken:
        print(f"{page.url}: {page.problem}")
    print(f"{len(pages)} pages, {len(broken)} broken")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
