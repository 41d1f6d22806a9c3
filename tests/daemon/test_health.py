"""Probes over HTTP, as kubelet and Prometheus send them."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path

import pytest

from dari.daemon.control.metrics import METRICS, as_text
from dari.daemon.lifecycle import State

# Starting, running, blocked, stopping: each for as long as a file of that name is there.
ASYNC = """
    import asyncio, pathlib, time
    async def main(ctx):
        while pathlib.Path("starting").exists():
            await asyncio.sleep(0.01)
        ctx.ready()
        while not ctx.stopping.is_set():
            await asyncio.sleep(0.01)
            while pathlib.Path("blocked").exists():
                time.sleep(0.01)
        while pathlib.Path("stopping").exists():
            await asyncio.sleep(0.01)
"""
STEPS = """
    import dari, pathlib, time
    def main(ctx):
        while pathlib.Path("starting").exists():
            yield dari.sleep(0.01)
        ctx.ready()
        while not ctx.stopping.is_set():
            yield dari.sleep(0.01)
            while pathlib.Path("blocked").exists():
                time.sleep(0.01)
        while pathlib.Path("stopping").exists():
            yield dari.sleep(0.01)
"""


def talk(address, raw):
    host, port = address.rsplit(":", 1)
    with socket.create_connection((host.strip("[]"), int(port)), timeout=20) as connected:
        connected.sendall(raw)
        with connected.makefile("rb") as answer:
            return answer.read()


def get(address, path, method="GET"):
    """The status, and the body."""
    raw = talk(address, f"{method} {path} HTTP/1.1\r\nHost: here\r\n\r\n".encode())
    head, body = raw.split(b"\r\n\r\n", 1)
    return int(head.split()[1]), body.decode()


def address_of(bench):
    return json.loads(bench.dari("status", "app.py:main", "--json").stdout)["paths"]["health"]


@pytest.mark.parametrize(("backend", "program"), [("asyncio", ASYNC), ("standalone", STEPS)])
def test_the_life_of_a_service_in_probes(bench, until, backend, program):
    """Alive from the start on, ready when it says so, neither while its loop is blocked; not ready while it stops."""
    bench.program(program)
    for name in ("starting", "stopping"):
        (bench.directory / name).touch()
    options = ("--backend", backend, "--chdir", bench.directory, "--control-health", "127.0.0.1:0")
    start = bench.popen("start", "app.py:main", *options)
    until(lambda: bench.is_now("starting"))
    address = until(lambda: (found := address_of(bench)) and not found.endswith(":0") and found)

    assert (get(address, "/livez"), get(address, "/readyz")) == ((200, "starting\n"), (503, "starting\n"))
    (bench.directory / "starting").unlink()
    assert start.wait(timeout=20) == 0
    # Whose loop does not answer at once is told as blocked: on a busy machine anybody is, now and then.
    until(lambda: get(address, "/livez?verbose") == (200, "running\n"))
    until(lambda: get(address, "/readyz") == (200, "running\n"))
    (bench.directory / "blocked").touch()
    until(lambda: get(address, "/livez")[0] == 503)
    code, text = get(address, "/readyz")
    assert (code, bool(re.fullmatch(r"the loop has not answered for \d+\.\d s\n", text))) == (503, True)
    assert "\ndari_loop_answers 0\n" in get(address, "/metrics")[1]
    (bench.directory / "blocked").unlink()
    until(lambda: get(address, "/livez")[0] == 200)
    stop = bench.popen("stop", "app.py:main", "--strict")
    until(lambda: bench.is_now("stopping"))
    assert (get(address, "/livez"), get(address, "/readyz")) == ((200, "stopping\n"), (503, "stopping\n"))
    (bench.directory / "stopping").unlink()
    assert stop.wait(timeout=20) == 0


def test_what_is_spoken(bench, until):
    """One GET or HEAD, one answer, with its length and the end of the connection; anything else is told so."""
    bench.start("--control-health", "127.0.0.1:0")
    address = address_of(bench)
    with socket.create_connection(("127.0.0.1", int(address.rsplit(":", 1)[1]))):  # and one who says nothing
        raw = until(lambda: (said := talk(address, b"HEAD /readyz HTTP/1.0\r\n\r\n"))[9:12] == b"200" and said)
        metrics = talk(address, b"GET /metrics HTTP/1.1\r\nHost: here\r\nAccept: text/plain\r\n\r\n")

    assert raw.startswith(b"HTTP/1.1 200 OK\r\n")
    assert raw.endswith(b"Content-Length: 8\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n")
    assert b"\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n" in metrics
    assert metrics.endswith(b"\n")
    assert b"\nprocess_resident_memory_bytes " in metrics
    assert get(address, "/")[0] == 404
    assert get(address, "/livez", "POST")[0] == 405
    assert talk(address, b"hello\r\n\r\n").startswith(b"HTTP/1.1 400 ")
    assert talk(address, b"GET /livez\r\n\r\n").startswith(b"HTTP/1.1 400 ")
    assert talk(address, b"\x00\xff\r\n\r\n").startswith(b"HTTP/1.1 400 ")
    until(lambda: get(address, "/readyz") == (200, "running\n"))


@pytest.mark.parametrize(
    ("family", "text"),
    [(socket.AF_INET, "127.0.0.1:{}"), pytest.param(socket.AF_INET6, "[::1]:{}", id="IPv6")],
)
def test_a_port_that_is_taken(bench, until, family, text):
    """The start fails, 1, and names the address; nothing stays behind."""
    try:
        taken = socket.create_server((text.rsplit(":", 1)[0].strip("[]"), 0), family=family)
    except OSError:
        pytest.skip("this machine has no such address")
    with taken:
        address = text.format(taken.getsockname()[1])

        done = bench.dari("start", "app.py:main", "--control-health", address)

    assert done.returncode == 1
    assert f"cannot listen on [daemon.control] health = {address}: Address already in use" in done.stderr
    assert bench.status() == (3, "stopped")
    assert bench.dari("start", "app.py:main", "--control-health", address).returncode == 0
    until(lambda: get(address, "/readyz") == (200, "running\n"))


@pytest.mark.parametrize("address", ["8086", "127.0.0.1", "127.0.0.1:http", "::1:8086", "127.0.0.1:65536", ":8086"])
def test_what_is_no_address(bench, address):
    """An address has a host and a port."""
    done = bench.dari("status", "app.py:main", "--control-health", address)

    assert done.returncode == 2
    assert "must be an address and a port" in done.stderr


REPORT = {
    "name": 'the "first" \\ one',
    "state": State.RUNNING.value,
    "ready": True,
    "uptime_s": 12.5,
    "generation": 3,
    "last_reload": {"count": 4, "ok": False, "error": "no", "time": 1764541200.25},
    "loop": {"kind": "asyncio", "tasks": 7, "lag_ms": 0.25, "answers": True},
    "proc": {"cpu": 1.5, "cpu_s": 3.25, "rss": 12345678, "fds": 12, "threads": 5, "children": []},
    "log": {"level": "info", "dropped": 9},
    "pool": None,
}


def test_metrics_in_the_text_format():
    """Names, types and values, escaped; what is not known is left out."""
    text = as_text(REPORT)

    assert 'dari_info{name="the \\"first\\" \\\\ one",state="running"} 1\n' in text
    values = dict(re.findall(r"^([a-z_]+) ([0-9.e+-]+)$", text, re.MULTILINE))
    assert values == {
        "dari_ready": "1",
        "dari_uptime_seconds": "12.5",
        "dari_generation": "3",
        "dari_reloads_total": "4",
        "dari_last_reload_successful": "0",
        "dari_last_reload_timestamp_seconds": "1764541200.25",
        "dari_loop_answers": "1",
        "dari_loop_lag_seconds": "0.00025",
        "dari_tasks": "7",
        "dari_log_lines_dropped_total": "9",
        "process_cpu_seconds_total": "3.25",
        "process_resident_memory_bytes": "12345678",
        "process_open_fds": "12",
        "process_threads": "5",
    }
    for line in text.splitlines():
        assert re.fullmatch(r"# (HELP|TYPE) [a-z_]+ .+|[a-z_]+(\{.*\})? [0-9.e+-]+", line), line


def test_the_reference_says_what_the_table_says():
    """Name, type and meaning of every metric, and no other one."""
    page = (Path(__file__).parents[2] / "docs/reference/daemon-control.md").read_text()
    rows = re.findall(r"^\| `((?:dari|process)_\w+)` \| (\w+) \| (.+) \|$", page, re.MULTILINE)

    assert rows[0][0] == "dari_info"
    assert rows[1:] == [(metric.name, metric.kind, metric.help.rstrip(".")) for metric in METRICS]


def test_every_metric_has_its_own_name():
    """And counters, and only they, end in _total."""
    names = [metric.name for metric in METRICS]

    assert len(set(names)) == len(names)
    assert {metric.name.endswith("_total") for metric in METRICS if metric.kind == "counter"} == {True}
    assert not [metric.name for metric in METRICS if metric.kind == "gauge" and metric.name.endswith("_total")]
