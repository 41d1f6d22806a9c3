"""The socket example, docs/examples/echo.py, on real sockets: its tasks in this process, and the program by itself."""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import os
import random
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import dari

EXAMPLE = Path(__file__).parents[1] / "docs" / "examples" / "echo.py"
PATIENCE = 30  # seconds, for an event that must come
RESET = b"\1\0\0\0\0\0\0\0"  # SO_LINGER on, for 0 seconds: close() throws away what is unsent, and resets
RESET_BY_PEER = errno.ECONNRESET, os.strerror(errno.ECONNRESET)


def load_example() -> Any:
    spec = importlib.util.spec_from_file_location("echo", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


echo = load_example()

Connect = Callable[[], dari.Steps[socket.socket]]


def with_server(client: Callable[[Connect], dari.Steps[Any]]) -> Any:
    """Run a client task beside the server, and give its result; both are tasks of one scheduler."""

    def main() -> dari.Steps[Any]:
        with socket.create_server(("127.0.0.1", 0)) as listener, contextlib.ExitStack() as opened:
            listener.setblocking(False)

            def connect() -> dari.Steps[socket.socket]:
                connection = opened.enter_context(socket.socket())
                connection.setblocking(False)
                connection.connect_ex(listener.getsockname())
                yield dari.wait_writable(connection)
                return connection

            server = dari.create_task(echo.serve, listener)
            result = yield from client(connect)
            server.cancel()
            with contextlib.suppress(dari.TaskCancelledError):
                yield server
            return result

    return dari.run(main, timeout=PATIENCE)


def ask(connection: socket.socket, payload: bytes) -> dari.Steps[bytes]:
    """Send all and say so, beside reading to the end: what comes back."""

    def speak() -> dari.Steps[None]:
        yield from echo.send_all(connection, payload)
        connection.shutdown(socket.SHUT_WR)

    with dari.TaskGroup() as group:
        group.create_task(speak)
        pieces = []
        while piece := (yield from echo.receive(connection)):
            pieces.append(piece)
        yield group.join()
    return b"".join(pieces)


def connect_and_ask(connect: Connect, payload: bytes) -> dari.Steps[bytes]:
    return (yield from ask((yield from connect()), payload))


def noise(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


# ---- the tasks


def test_many_clients_at_once() -> None:
    """Five hundred open connections, each of which gets its own bytes back."""

    def client(connect: Connect) -> dari.Steps[list[bytes]]:
        connections = []
        for _ in range(500):
            connections.append((yield from connect()))
        with dari.TaskGroup() as group:
            tasks = [group.create_task(ask, each, noise(n, 100)) for n, each in enumerate(connections)]
            yield group.join()
        return [task.result() for task in tasks]

    # Both ends of each connection are descriptors of this process.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 2048:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(2048, hard), hard))
    try:
        answers = with_server(client)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert answers == [noise(n, 100) for n in range(500)]


def test_payloads_larger_than_any_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Megabytes come back whole and in order, by sends that take a part of what they are given."""
    sent: list[tuple[int, int]] = []

    class Small(socket.socket):
        """A connection whose buffer holds less than a piece."""

        def send(self, data: Any, flags: int = 0) -> int:
            taken = super().send(data, flags)
            sent.append((taken, len(data)))
            return taken

    accept = socket.socket.accept

    def accept_small(listener: socket.socket) -> tuple[socket.socket, Any]:
        connection, address = accept(listener)
        small = Small(fileno=connection.detach())
        small.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16_384)
        return small, address

    monkeypatch.setattr(socket.socket, "accept", accept_small)

    def client(connect: Connect) -> dari.Steps[list[bytes]]:
        with dari.TaskGroup() as group:
            tasks = [group.create_task(connect_and_ask, connect, noise(seed, 1_000_000)) for seed in range(3)]
            yield group.join()
        return [task.result() for task in tasks]

    assert with_server(client) == [noise(seed, 1_000_000) for seed in range(3)]
    assert any(taken < offered for taken, offered in sent)


def test_who_sends_without_reading_is_held_back_alone() -> None:
    """When the buffers are full it cannot send; meanwhile, others are served; what it sent comes back when it reads."""

    def client(connect: Connect) -> dari.Steps[tuple[int, int, bytes]]:
        greedy = yield from connect()
        sent = 0
        while True:
            with dari.move_on_after(0.2) as held_back:
                yield dari.wait_writable(greedy)
                sent += greedy.send(bytes(1 << 20))
            if held_back.cancelled_caught:
                break
        other = yield from connect_and_ask(connect, b"other")
        greedy.shutdown(socket.SHUT_WR)
        got = 0
        while piece := (yield from echo.receive(greedy)):
            got += len(piece)
        return sent, got, other

    sent, got, other = with_server(client)

    assert (got, other) == (sent, b"other")


def test_a_reset_harms_no_other(capfd: pytest.CaptureFixture[str]) -> None:
    """Clients that break off, while the server reads and while it sends, are told of by name; the others go on."""

    def client(connect: Connect) -> dari.Steps[tuple[list[bytes], list[str]]]:
        names = []
        early, late = (yield from connect()), (yield from connect())
        for payload in (b"x", noise(1, 1_000_000)):  # waits for more; cannot get rid of what it has
            broken = yield from connect()
            names.append("{}:{}".format(*broken.getsockname()))
            with dari.move_on_after(0.05):
                yield from echo.send_all(broken, payload)
                yield dari.sleep(1)
            broken.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            broken.close()
        return [(yield from ask(early, noise(2, 200_000))), (yield from ask(late, b"late"))], names

    answers, names = with_server(client)

    assert answers == [noise(2, 200_000), b"late"]
    assert capfd.readouterr().err.splitlines() == [f"{name}: {ConnectionResetError(*RESET_BY_PEER)}" for name in names]


def test_a_client_that_is_gone_before_it_is_let_in() -> None:
    """It costs nobody anything."""

    def client(connect: Connect) -> dari.Steps[bytes]:
        hasty = yield from connect()
        hasty.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        hasty.close()
        return (yield from connect_and_ask(connect, b"patient"))

    assert with_server(client) == b"patient"


def test_out_of_descriptors(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """It says so, lets those be served who are in, and takes in the next when it can."""
    accept = socket.socket.accept
    refusals = iter([OSError(errno.EMFILE, "Too many open files"), ConnectionAbortedError(), BlockingIOError()])

    def accept_or_not(listener: socket.socket) -> tuple[socket.socket, Any]:
        for refusal in refusals:
            raise refusal
        return accept(listener)

    monkeypatch.setattr(socket.socket, "accept", accept_or_not)

    assert with_server(lambda connect: connect_and_ask(connect, b"in")) == b"in"
    assert capfd.readouterr().err == "cannot accept: [Errno 24] Too many open files\n"


@pytest.mark.parametrize("accepts", [0, 1, 2])
def test_stopping_leaves_nothing_open(accepts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before a client was let in, or between that and the first step of its task: all is closed."""
    accept = echo.accept
    left = accepts

    def accept_and_stop(listener: socket.socket) -> dari.Steps[tuple[socket.socket, str]]:
        nonlocal left
        if left == 0:
            dari.current_task().cancel()
        left -= 1
        accepted = yield from accept(listener)
        if left == 0:
            dari.current_task().cancel()
        return accepted

    def main() -> dari.Steps[list[str]]:
        with socket.create_server(("127.0.0.1", 0)) as listener, contextlib.ExitStack() as opened:
            listener.setblocking(False)
            clients = [opened.enter_context(socket.create_connection(listener.getsockname())) for _ in range(2)]
            with pytest.raises(dari.TaskCancelledError):
                yield dari.create_task(echo.serve, listener)
            listener.close()
            ends = []
            for client in clients:
                client.setblocking(False)
                ends.append((yield from end_of(client)))
            return ends

    def end_of(client: socket.socket) -> dari.Steps[str]:
        try:
            return "closed" if (yield from echo.receive(client)) == b"" else "was sent something"
        except ConnectionResetError:
            return "was never let in"

    monkeypatch.setattr(echo, "accept", accept_and_stop)
    before = open_sockets()
    ends = dari.run(main, timeout=PATIENCE)

    assert ends == ["closed"] * accepts + ["was never let in"] * (2 - accepts)
    assert open_sockets() == before


def open_sockets() -> set[str]:
    found = set()
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the one that lists them
            found.add(os.readlink(f"/proc/self/fd/{number}"))
    return {name for name in found if name.startswith("socket:")}


# ---- the program


@contextlib.contextmanager
def program(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], tuple[str, int]]]:
    """The example as a process, when it listens, and where."""
    with subprocess.Popen(
        [sys.executable, "-W", "error", EXAMPLE, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            host, port = process.stdout.readline().removeprefix("listening on ").split(":")
            yield process, (host, int(port))
        finally:
            process.kill()


def blocking_ask(address: tuple[str, int], payload: bytes) -> bytes:
    """The same as `ask`, in threads."""
    with socket.create_connection(address, PATIENCE) as connection:

        def speak() -> None:
            connection.sendall(payload)
            connection.shutdown(socket.SHUT_WR)

        speaker = threading.Thread(target=speak)
        speaker.start()
        pieces = []
        while piece := connection.recv(100_000):
            pieces.append(piece)
        speaker.join()
        return b"".join(pieces)


def test_program_serves_and_is_stopped_by_ctrl_c() -> None:
    """Clients in threads are served; Ctrl-C hangs up on who is still connected, and ends it with 0 and no traceback."""
    with program("0") as (process, address):
        with dari.Pool(8) as pool:
            answers = [
                job.result() for job in [pool.submit(blocking_ask, address, noise(n, 500_000)) for n in range(8)]
            ]
        with socket.create_connection(address, PATIENCE) as silent:
            silent.sendall(b"hello")
            heard = silent.recv(5, socket.MSG_WAITALL)
            process.send_signal(signal.SIGINT)
            output = process.communicate(timeout=PATIENCE)
            left = silent.recv(1)

    assert answers == [noise(n, 500_000) for n in range(8)]
    assert (heard, left) == (b"hello", b"")
    assert (process.returncode, output) == (0, ("stopped\n", ""))


def test_program_idles_without_work() -> None:
    """With a silent client it waits in the kernel of the machine: no processor time goes by."""
    with program("0") as (process, address), socket.create_connection(address, PATIENCE) as silent:
        silent.sendall(b"x")
        silent.recv(1)
        before = processor_time(process.pid)
        select.select([silent], [], [], 0.5)
        spent = processor_time(process.pid) - before

    assert spent <= 0.05


def processor_time(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_program_says_why_it_does_not_start() -> None:
    """A port that is taken, or none at all."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ends = [
            subprocess.run(
                [sys.executable, EXAMPLE, port], capture_output=True, text=True, timeout=PATIENCE, check=False
            )
            for port in (str(taken.getsockname()[1]), "echo")
        ]

    assert [end.returncode for end in ends] == [1, 2]
    assert ["Address already in use" in ends[0].stderr, "invalid int value: 'echo'" in ends[1].stderr] == [True, True]
