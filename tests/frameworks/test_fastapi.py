"""The web service of docs/howto/serve-with-fastapi.md, served by uvicorn on real sockets, asked by httpx."""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

import dari

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "docs" / "examples" / "web_service.py"
PAGE = ROOT / "docs" / "howto" / "serve-with-fastapi.md"
PATIENCE = 20  # seconds, for an event that must come

pytestmark = pytest.mark.parametrize("loop", ["asyncio", "uvloop", "dari:EventLoop"])


def load_example() -> Any:
    spec = importlib.util.spec_from_file_location("web_service", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    sys.modules["web_service"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


web_service = load_example()


def digest(text: str) -> str:
    return hashlib.scrypt(text.encode(), salt=text[::-1].encode(), n=2**14, r=8, p=1, dklen=16).hex()


@contextmanager
def serving(loop: str, app: FastAPI = web_service.app, **settings: Any) -> Iterator[str]:
    """The service in a thread; it stops at the end of the block, and is waited for."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(app, loop=loop, lifespan="on", log_config=None, **settings)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)  # if it hangs, pytest must not
        thread.start()
        try:
            yield "http://{}:{}".format(*listener.getsockname())
        finally:
            server.should_exit = True
            thread.join(PATIENCE)
            assert not thread.is_alive()


async def get(client: httpx.AsyncClient, path: str, *texts: str) -> httpx.Response:
    return await client.get(path, params={"text": texts} if texts else None)


def ask(url: str, path: str, *texts: str) -> httpx.Response:
    return httpx.get(url + path, params={"text": texts} if texts else None, timeout=PATIENCE)


async def happens(event: threading.Event) -> bool:
    return await asyncio.to_thread(event.wait, PATIENCE)


# ---- the program


def test_the_command_line_of_the_page(loop: str) -> None:
    """`uvicorn --app-dir docs/examples web_service:app` answers many at once; SIGTERM ends it, without a warning."""

    async def client(url: str) -> tuple[list[Any], str, str]:
        async with httpx.AsyncClient(base_url=url, timeout=PATIENCE) as client:
            requests = [get(client, "/digests", f"{n}", "same") for n in range(5)]
            answers = [answer.json() for answer in await asyncio.gather(*requests)]
            lines = (await get(client, "/countdown/3?period=0.01")).text
            return answers, lines, (await get(client, "/stats")).text

    command = [sys.executable, "-W", "error", "-m", "uvicorn", "--app-dir", "docs/examples", "web_service:app"]
    with subprocess.Popen(
        [*command, "--port", "0", "--loop", loop],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stderr is not None
            log: list[str] = []
            while not (found := re.search(r"running on (http://\S+)", log[-1] if log else "")):
                log.append(process.stderr.readline())
                assert log[-1], log
            answers, lines, stats = asyncio.run(client(found[1]))
            process.send_signal(signal.SIGTERM)
            log += process.communicate(timeout=PATIENCE)[1].splitlines(keepends=True)
        finally:
            process.kill()

    assert answers == [{f"{n}": digest(f"{n}"), "same": digest("same")} for n in range(5)]
    assert lines == "3\n2\n1\n"
    assert re.search(r"failed +0\n", stats)
    assert process.returncode == -signal.SIGTERM  # uvicorn's way: it stops, then lets the signal have its effect
    assert [line for line in log if not line.startswith("INFO:")] == []
    assert "Application shutdown complete" in log[-2]


# ---- requests


def test_requests_and_their_tasks_run_at_the_same_time(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten requests of three texts each are all under way before one goes on; the blocking calls are on the pool."""
    meeting = asyncio.Barrier(30)
    loops, threads = set(), set()

    async def salt_of(text: str) -> bytes:
        loops.add(type(asyncio.get_running_loop()).__module__.split(".")[0])
        await meeting.wait()
        return b"salt"

    def stretch(text: str, salt: bytes) -> str:
        threads.add(threading.current_thread().name.split("-")[0])
        return f"{text}, {salt.decode()}"

    async def client(url: str) -> list[Any]:
        async with httpx.AsyncClient(base_url=url, timeout=PATIENCE) as client:
            requests = [get(client, "/digests", *(f"{n}{letter}" for letter in "abc")) for n in range(10)]
            return [answer.json() for answer in await asyncio.gather(*requests)]

    monkeypatch.setattr(web_service, "salt_of", salt_of)
    monkeypatch.setattr(web_service, "stretch", stretch)
    with serving(loop) as url:
        answers = asyncio.run(client(url))

    assert answers == [{f"{n}{letter}": f"{n}{letter}, salt" for letter in "abc"} for n in range(10)]
    assert (loops, threads) == ({loop.partition(":")[0]}, {"dari"})


def test_hanging_up_ends_the_generator_of_an_endpoint(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the client goes, all tasks of its request end, and the others' go on."""
    begun, ended, others = threading.Event(), threading.Event(), asyncio.Event()

    async def salt_of(text: str) -> bytes:
        if text == "other":
            await others.wait()
            return b""
        try:
            begun.set()
            await asyncio.Event().wait()
        finally:
            ended.set()
        raise AssertionError("never")

    async def client(url: str, service: Any) -> tuple[bool, bool, int]:
        async with httpx.AsyncClient(base_url=url, timeout=PATIENCE) as client:
            other = asyncio.create_task(get(client, "/digests", "other"))
            async with httpx.AsyncClient(base_url=url, timeout=PATIENCE) as gone:
                request = asyncio.create_task(get(gone, "/digests", "gone"))
                has_begun = await happens(begun)
                request.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await request
            has_ended = await happens(ended)
            service.scheduler.call_soon_threadsafe(others.set)
            return has_begun, has_ended, (await other).status_code

    monkeypatch.setattr(web_service, "salt_of", salt_of)
    started = capture_service(monkeypatch)
    with serving(loop) as url:
        assert asyncio.run(client(url, started.result(PATIENCE))) == (True, True, 200)


def capture_service(monkeypatch: pytest.MonkeyPatch) -> Future[Any]:
    """Gives the service when it has started."""
    started: Future[Any] = Future()

    def report(service: Any) -> dari.Steps[None]:
        started.set_result(service)
        yield from dari.Event().wait()

    monkeypatch.setattr(web_service, "report", report)
    return started


def test_a_stream_is_sent_line_by_line_and_hanging_up_ends_its_generator(
    loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first line comes an hour before the second; who does not want that goes, and the generator ends."""
    count_down, ended = web_service.count_down, threading.Event()

    def watched(*args: Any) -> dari.Steps[None]:
        try:
            yield from count_down(*args)
        finally:
            ended.set()

    monkeypatch.setattr(web_service, "count_down", watched)
    with serving(loop) as url:
        with httpx.stream("GET", f"{url}/countdown/3?period=3600", timeout=PATIENCE) as answer:
            first = next(answer.iter_lines())
        has_ended = ended.wait(PATIENCE)

    assert (first, has_ended) == ("3", True)


def test_a_stream_whose_generator_fails_breaks_off(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client sees that the answer is not whole; the error is in the log; the server goes on."""

    def count_down(start: int, period: float, lines: dari.Queue[str]) -> dari.Steps[None]:
        yield from lines.put("one\n")
        raise LookupError("lost count")

    monkeypatch.setattr(web_service, "count_down", count_down)
    with serving(loop) as url:
        with pytest.raises(httpx.RemoteProtocolError):
            ask(url, "/countdown/3")
        assert ask(url, "/stats").status_code == 200


# ---- what the page says of other endpoints

other = FastAPI(lifespan=web_service.lifespan)


@other.get("/plain")
def plain(here: web_service.Here) -> str:
    result: str = here.scheduler.create_task_threadsafe(web_service.digest, here.pool, "a").result()
    return result


@other.get("/plain/wrong")
def plain_wrong(here: web_service.Here) -> str:
    try:
        here.scheduler.create_task(web_service.digest, here.pool, "a")
    except RuntimeError as error:
        return str(error)
    return "it went well"


@other.get("/arun")
async def arun(here: web_service.Here) -> str:
    result: str = await dari.arun(web_service.digest, here.pool, "a")
    return result


@other.get("/fails")
async def fails(here: web_service.Here) -> None:
    def fail() -> dari.Steps[None]:
        yield
        raise LookupError("not here")

    await here.scheduler.create_task(fail)


def test_other_endpoints(loop: str) -> None:
    """Plain `def` endpoints go through `create_task_threadsafe`; `arun` works; a task that fails is a 500."""
    with serving(loop, other) as url:
        answers = [ask(url, path) for path in ("/plain", "/arun", "/fails", "/plain/wrong")]

    assert [answer.status_code for answer in answers] == [200, 200, 500, 200]
    assert [answer.json() for answer in answers[:2]] == [digest("a")] * 2
    assert "thread" in answers[3].json()


# ---- the end


def test_stopping_ends_the_tasks_and_then_the_pool(
    loop: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The cleanup of a task may still use the pool; afterwards neither has anything left."""
    started: Future[Any] = Future()
    cleaned = []

    def report(service: Any) -> dari.Steps[None]:
        started.set_result(service)
        try:
            yield from dari.Event().wait()
        finally:
            with dari.CancelScope(shield=True):
                cleaned.append((yield from service.pool.run_sync(str.upper, "cleaned")))

    monkeypatch.setattr(web_service, "report", report)
    with serving(loop):
        service = started.result(PATIENCE)

    assert cleaned == ["CLEANED"]
    assert service.scheduler.tasks == ()
    with pytest.raises(dari.SchedulerClosed):
        service.scheduler.create_task(report, service)
    with pytest.raises(dari.PoolClosed):
        service.pool.submit(str)
    assert [record for record in caplog.records if record.levelname != "INFO"] == []


def test_a_request_that_takes_too_long_is_ended_before_the_lifespan(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After --timeout-graceful-shutdown its generator is cancelled, and its cleanup is waited for."""
    begun = threading.Event()
    log: list[Any] = []

    def slow(pool: dari.Pool, texts: list[str]) -> dari.Steps[None]:
        try:
            begun.set()
            yield from dari.Event().wait()
        finally:
            with dari.CancelScope(shield=True):
                log.append((yield from pool.run_sync(str, "cleaned")))

    def request(url: str) -> None:
        log.append(ask(url, "/digests", "a").status_code)

    monkeypatch.setattr(web_service, "digests", slow)
    with serving(loop, timeout_graceful_shutdown=0) as url:
        client = threading.Thread(target=request, args=(url,), daemon=True)
        client.start()
        assert begun.wait(PATIENCE)
    client.join(PATIENCE)

    assert log == ["cleaned", 500]  # the latter is what uvicorn answers in its place


def test_a_failure_that_nobody_saw_fails_the_shutdown(
    loop: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An error in a task of the service itself is in the log when it happens, and again at the end."""
    failed = threading.Event()

    def report(service: Any) -> dari.Steps[None]:
        yield
        failed.set()
        raise LookupError("nobody saw this")

    monkeypatch.setattr(web_service, "report", report)
    with serving(loop):
        assert failed.wait(PATIENCE)

    assert sum("nobody saw this" in (record.exc_text or record.getMessage()) for record in caplog.records) == 2
    assert "Application shutdown failed" in caplog.text


# ---- the page


def test_the_page_quotes_the_example(loop: str) -> None:
    """What the page shows of the example is there, to the letter."""
    quotes = re.findall(r"^```py\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    source = EXAMPLE.read_text()

    assert [quote for quote in quotes if quote not in source] == []
    assert len(quotes) == 6
