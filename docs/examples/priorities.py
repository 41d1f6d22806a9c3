"""A health check that stays quick while the loop is saturated: one web service, on asyncio's loop and on dari's.

The service has two answers. `/report` costs some milliseconds of work, cut into steps; a hundred customers ask for
reports as fast as they get them, which keeps the loop busy all the time. `/health` costs nothing, and a balancer takes
the service out when it does not answer in time. On asyncio's loop it stands in line behind everybody's next step. On
`dari.EventLoop` the one line that says `dari.priority` lets it go first.

    python docs/examples/priorities.py [seconds]

The service runs in a process of its own; the customers and the health checks share another.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import sys
import time
from statistics import quantiles

import dari

LOOPS = {"asyncio": asyncio.new_event_loop, "dari": dari.EventLoop}
CUSTOMERS = 100
HEALTH_CHECKS_EVERY = 0.02  # seconds


# ---- the service


async def report(pages: int) -> str:
    """Work of about half a millisecond a page; after each the others have their turn."""
    digest = b""
    for _ in range(pages):
        for _ in range(500):
            digest = hashlib.sha256(digest).digest()
        await asyncio.sleep(0)
    return digest.hex()


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One request, one answer."""
    path = (await reader.readuntil(b"\r\n\r\n")).split(maxsplit=2)[1].decode()
    if path == "/health":
        body = "well"
    else:
        with dari.priority(dari.Priority.LOW):  # the line that makes the difference, on dari.EventLoop
            body = await report(int(path.removeprefix("/report/")))
    writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode())
    await writer.drain()
    writer.close()
    await writer.wait_closed()


async def serve() -> None:
    """Serve until stdin is closed; the port is told on stdout."""
    server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=2 * CUSTOMERS)
    print(server.sockets[0].getsockname()[1], flush=True)
    end = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(end), sys.stdin)
    await end.read()


# ---- those who ask


async def get(port: int, path: str) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: here\r\n\r\n".encode())
    response = await reader.read()
    writer.close()
    await writer.wait_closed()
    return response


async def customer(port: int, reports: list[int], enough: asyncio.Event) -> None:
    while not enough.is_set():
        pages = random.randint(2, 12)  # different ones, or all customers would come back in step
        await get(port, f"/report/{pages}")
        reports.append(pages)


async def check_health(port: int, until: float) -> list[float]:
    """How long each check took, in milliseconds."""
    took: list[float] = []
    while (asked := time.perf_counter()) < until or len(took) < 2:
        await get(port, "/health")
        took.append((time.perf_counter() - asked) * 1000)
        await asyncio.sleep(HEALTH_CHECKS_EVERY)
    return took


async def measure(loop: str, seconds: float) -> tuple[list[float], float]:
    """The times of the health checks, and how many reports a second were made, on that loop."""
    service = await asyncio.create_subprocess_exec(
        *(sys.executable, __file__, "serve", loop), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert service.stdin is not None
    assert service.stdout is not None
    port = int(await service.stdout.readline())
    reports: list[int] = []
    enough = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for _ in range(CUSTOMERS):
            group.create_task(customer(port, reports, enough))
        while len(reports) < CUSTOMERS:  # now the loop is saturated
            await asyncio.sleep(0.01)
        started, before = time.perf_counter(), len(reports)
        took = await check_health(port, started + seconds)
        rate = (len(reports) - before) / (time.perf_counter() - started)
        enough.set()
    service.stdin.close()
    await service.wait()
    return took, rate


async def compare(seconds: float) -> None:
    print(f"{'loop':8}{'health p50':>13}{'p99':>13}{'reports/s':>13}")
    for loop in LOOPS:
        took, rate = await measure(loop, seconds)
        percent = quantiles(took, n=100, method="inclusive")
        print(f"{loop:8}{percent[49]:10.1f} ms{percent[98]:10.1f} ms{rate:13.0f}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        with asyncio.Runner(loop_factory=LOOPS[sys.argv[2]]) as runner:
            runner.run(serve())
    else:
        asyncio.run(compare(float(sys.argv[1]) if sys.argv[1:] else 5.0))
