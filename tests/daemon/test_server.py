"""The server behind the control socket and the probes: whatever callers do, it answers the next one."""

from __future__ import annotations

import contextlib
import os
import socket
import threading

import pytest

from dari.daemon.control import server
from dari.daemon.control.server import Server


@pytest.fixture
def serve(tmp_path):
    """Start a server; returns how to call it. What it says is what it was asked."""
    opened = []
    path = str(tmp_path / "socket")

    def echo(caller):
        while (line := caller.read_until(b"\n")) is not None:
            caller.send(line + b"\n")

    def start(converse=echo):
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(path)
        opened.append(listening)
        Server("test", listening, converse).start()
        return call

    def call():
        connected = socket.socket(socket.AF_UNIX)
        opened.append(connected)
        connected.connect(path)  # waits for room in the backlog; with a timeout it would not
        connected.settimeout(20)
        return connected

    yield start
    for each in opened:
        each.close() if each is not opened[0] else each.shutdown(socket.SHUT_RDWR)
    opened[0].close()


def ask(connected, line=b"ping\n"):
    connected.sendall(line)
    return connected.recv(1 << 16)


def test_one_caller_may_ask_often(serve):
    """Several requests over one connection, also in one piece or in many."""
    caller = serve()()

    assert ask(caller) == b"ping\n"
    caller.sendall(b"pi")
    assert ask(caller, b"ng\n") == b"ping\n"
    caller.sendall(b"one\ntwo\n")
    with caller.makefile("rb") as lines:
        assert [lines.readline(), lines.readline()] == [b"one\n", b"two\n"]


def test_a_crowd_that_says_nothing_keeps_nobody_out(serve):
    """Of more callers than there are places the one who has been silent longest loses his; who asks is answered."""
    call = serve()
    crowd = [call() for _ in range(300)]
    for each in crowd[::2]:
        with contextlib.suppress(BrokenPipeError):  # most of them have lost their places by now
            each.send(b"half a li")

    assert ask(call()) == b"ping\n"
    assert crowd[0].recv(1) == b""  # hung up on
    assert threading.active_count() < 100


def test_whoever_waits_for_an_answer_keeps_his_place(serve, monkeypatch):
    """When all places are taken by callers that have asked, the next one is hung up on, and they get their answers."""
    release = threading.Event()

    def slowly(caller):
        line = caller.read_until(b"\n")
        asked.release()
        release.wait(20)
        caller.send(line + b"\n")

    monkeypatch.setattr(server, "_FOR_A_PLACE", 0.05)
    asked = threading.Semaphore(0)
    call = serve(slowly)
    first = [call() for _ in range(server._MOST)]
    for each in first:
        each.sendall(b"first\n")
        assert asked.acquire(timeout=20)
    late = call()

    assert late.recv(1) == b""
    release.set()
    assert [each.recv(100) for each in first] == [b"first\n"] * len(first)


@pytest.mark.parametrize("said", [b"", b"half a line", b"x" * (1 << 20)], ids=["nothing", "half a line", "no end"])
def test_who_never_ends_his_request_is_hung_up_on(serve, monkeypatch, said):
    """By time, or by the length of what was sent."""
    monkeypatch.setattr(server, "_PATIENCE", 0.05)
    caller = serve()()
    try:
        caller.sendall(said)
        assert caller.recv(1) == b""
    except (BrokenPipeError, ConnectionResetError):  # he was still at it
        pass


def test_who_does_not_take_his_answer_is_hung_up_on(serve, monkeypatch):
    """An answer that nobody reads holds a thread for so many seconds, and no longer."""
    ended = threading.Event()

    def much(caller):
        try:
            caller.send(b"x" * (1 << 26))
        finally:
            ended.set()

    monkeypatch.setattr(server, "_PATIENCE", 0.05)
    call = serve(much)
    call()

    assert ended.wait(20)


def test_without_descriptors_callers_wait(serve):
    """Where no connection can be accepted the callers stay in the queue, and are answered when one can."""
    import resource

    call = serve()
    assert ask(call()) == b"ping\n"
    connected = call()
    assert ask(connected) == b"ping\n"
    with contextlib.ExitStack() as stack:
        # The kernel keeps a descriptor for who comes first, where somebody waits for him already: so there are two.
        waiting = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(2)]
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
        hoard = []
        try:
            with contextlib.suppress(OSError):
                while True:
                    hoard.append(os.open(os.devnull, os.O_RDONLY))
            for each in waiting:
                each.connect(connected.getpeername())
                each.settimeout(20)
                each.sendall(b"ping\n")
            assert ask(connected) == b"ping\n"
        finally:
            for fd in hoard:
                os.close(fd)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

        assert [each.recv(100) for each in waiting] == [b"ping\n"] * 2
