"""A web service whose endpoints await generator tasks: `uvicorn --app-dir docs/examples web_service:app`.

`--loop uvloop` runs the same on uvloop. The lifespan owns a scheduler and a pool, which all requests share. It needs
fastapi and uvicorn. How it works is told in docs/howto/serve-with-fastapi.md.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, TypedDict, TypeVar

from fastapi import Depends, FastAPI, HTTPException, Query, Request
from fastapi.responses import PlainTextResponse, StreamingResponse

import dari

T = TypeVar("T")

log = logging.getLogger("uvicorn.error")  # the logger that uvicorn shows


# ---- what lives as long as the service


@dataclass
class Service:
    scheduler: dari.Scheduler
    pool: dari.Pool


class State(TypedDict):
    service: Service


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncGenerator[State, None]:
    """Opened when the server starts, left when it stops: first the tasks end, then the pool."""
    async with dari.Pool(max_workers=4) as pool, dari.Scheduler() as scheduler:
        service = Service(scheduler, pool)
        scheduler.create_task(report, service, priority=dari.Priority.LOW)
        yield {"service": service}
        scheduler.cancel("the service stops")  # `report` would never end by itself


def report(service: Service, period: float = 60) -> dari.Steps[None]:
    """Work of the service itself, beside all requests."""
    ticks = dari.every(period)
    while True:
        yield ticks
        log.info("tasks completed: %d", service.scheduler.stats().completed)


# ---- what a request does: generator tasks


def digests(pool: dari.Pool, texts: list[str]) -> dari.Steps[dict[str, str]]:
    """All at once: one task for each text. The first that fails cancels the others."""
    tasks: dict[str, dari.Task[str]] = {}
    with dari.TaskGroup() as group:
        for text in texts:
            tasks[text] = group.create_task(digest, pool, text)
        yield group.join()
    return {text: task.result() for text, task in tasks.items()}


def digest(pool: dari.Pool, text: str) -> dari.Steps[str]:
    salt = yield from dari.host(salt_of(text))  # a coroutine runs in the loop of the server
    return (yield from pool.run_sync(stretch, text, salt))  # a blocking function runs on a thread of the pool


async def salt_of(text: str) -> bytes:
    """In place of a database or of another service: any asyncio library works here."""
    await asyncio.sleep(0.01)
    return text[::-1].encode()


def stretch(text: str, salt: bytes) -> str:
    """Slow on purpose. In the loop's own thread it would hold up every request."""
    return hashlib.scrypt(text.encode(), salt=salt, n=2**14, r=8, p=1, dklen=16).hex()


def count_down(start: int, period: float, lines: dari.Queue[str]) -> dari.Steps[None]:
    for number in range(start, 0, -1):
        yield from lines.put(f"{number}\n")  # waits while the client is slow
        yield from dari.sleep(period)


# ---- the endpoints: `async def`, for a scheduler belongs to the loop's thread


async def service_of(request: Request) -> Service:
    service: Service = request.state.service
    return service


Here = Annotated[Service, Depends(service_of)]

app = FastAPI(lifespan=lifespan)


@app.get("/digests")
async def get_digests(
    request: Request, here: Here, text: Annotated[list[str], Query(min_length=1, max_length=20)]
) -> dict[str, str]:
    """The digest of each text."""
    task = here.scheduler.create_task(digests, here.pool, text)
    return await while_connected(request, task)


@app.get("/countdown/{start}")
async def get_countdown(here: Here, start: int, period: Annotated[float, Query(ge=0)] = 1) -> StreamingResponse:
    """A line per period, each sent when it is there."""
    return StreamingResponse(countdown(here.scheduler, start, period), media_type="text/plain")


@app.get("/stats")
async def get_stats(here: Here) -> PlainTextResponse:
    """What scheduler and pool do."""
    return PlainTextResponse(f"{here.scheduler.stats()}\n\n{here.pool.stats()}\n")


# ---- when the client hangs up


async def while_connected(request: Request, task: dari.Task[T]) -> T:
    """The task's result. The server does not cancel an endpoint when its client hangs up: so this one watches."""

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass  # a piece of the request's body
        task.cancel("the client hung up")

    watcher = asyncio.create_task(watch())
    try:
        return await task  # cancelled here, when the server does not want to wait any longer, it cancels the task
    except dari.TaskCancelledError as error:
        raise HTTPException(499, str(error)) from error  # seen in the server's log only
    finally:
        watcher.cancel()


async def countdown(scheduler: dari.Scheduler, start: int, period: float) -> AsyncGenerator[str, None]:
    """A stream *is* cancelled when its client hangs up; the task behind it is started and ended here."""
    lines: dari.Queue[str] = dari.Queue(maxsize=1)
    task = scheduler.create_task(count_down, start, period, lines)
    task.add_done_callback(lambda _: lines.shutdown())  # however it ended, so that nobody waits for another line
    try:
        while True:
            yield await lines.get()
    except dari.QueueShutDown:
        await task  # raises, if it failed
    finally:
        task.cancel("nobody reads its lines")
