"""A TCP echo server of generator tasks and plain sockets: `python docs/examples/echo.py [PORT]`, and Ctrl-C stops it.

Each connection is one task, which reads a piece, sends it back, and only then reads on: who sends without reading is
held back, and costs no memory. How it works is told in docs/howto/sockets-in-generator-tasks.md.
"""

from __future__ import annotations

import argparse
import socket
import sys

import dari

PIECE = 64 * 1024  # bytes read at a time, and so what one connection holds at most


def serve(listener: socket.socket) -> dari.Steps[None]:
    """Echo to whoever connects, until cancelled; the connections then end too, and are waited for."""
    with dari.TaskGroup() as group:
        while True:
            connection, peer = yield from accept(listener)
            begin(group, connection, peer)


def begin(group: dari.TaskGroup, connection: socket.socket, peer: str) -> None:
    task = group.create_task(echo, connection, peer, name=peer)
    # Not by a `with` in `echo`: of a task that is cancelled before its first step, no line runs.
    task.add_done_callback(lambda _: connection.close())


def accept(listener: socket.socket) -> dari.Steps[tuple[socket.socket, str]]:
    """The next connection, and who it is."""
    while True:
        yield dari.wait_readable(listener)
        try:
            connection, (host, port) = listener.accept()
        except (BlockingIOError, ConnectionError):
            pass  # it was there, and left before it was let in
        except OSError as error:  # no descriptors left, most likely: when connections end, there are
            print(f"cannot accept: {error}", file=sys.stderr, flush=True)
            yield dari.sleep(0.1)
        else:
            connection.setblocking(False)
            return connection, f"{host}:{port}"


def echo(connection: socket.socket, peer: str) -> dari.Steps[None]:
    """Send back what comes, to its end. What goes wrong stays here: out of the task, it would end the whole group."""
    try:
        while piece := (yield from receive(connection)):
            yield from send_all(connection, piece)
    except OSError as error:
        print(f"{peer}: {error}", file=sys.stderr, flush=True)


def receive(connection: socket.socket) -> dari.Steps[bytes]:
    """What has come, at most a piece of it; nothing when the other side has said all."""
    while True:
        yield dari.wait_readable(connection)
        try:
            return connection.recv(PIECE)
        except BlockingIOError:
            pass  # a false alarm: rare, and allowed


def send_all(connection: socket.socket, data: bytes) -> dari.Steps[None]:
    """Send `data` to its last byte, as much at a time as the connection takes."""
    rest = memoryview(data)
    while rest:
        yield dari.wait_writable(connection)
        try:
            rest = rest[connection.send(rest) :]
        except BlockingIOError:
            pass


def main(port: int) -> dari.Steps[None]:
    with socket.create_server(("127.0.0.1", port)) as listener:
        listener.setblocking(False)
        print("listening on {}:{}".format(*listener.getsockname()), flush=True)
        yield from serve(listener)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Echo over TCP, on the loopback interface.")
    parser.add_argument("port", nargs="?", type=int, default=7007, help="default: 7007; 0: any that is free")
    try:
        dari.run(main, parser.parse_args().port)
    except KeyboardInterrupt:
        print("stopped", flush=True)
