"""Where a loop is running already: `python -m asyncio`, and a real kernel of Jupyter."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import KernelManager

PATIENCE = 30  # seconds, for an event that must come

SETUP = """
import dari
opened = dari.Event()
finished = dari.Event()

def double(number):
    yield dari.sleep(0.001)
    return 2 * number

def background():
    yield opened.wait()
    print("it ran by itself", flush=True)
    finished.set()
    return "its result"

def start(generator):
    yield
    return dari.create_task(generator)
"""


def environment(home: Path) -> dict[str, str]:
    """Nothing of the user's: no startup files, no history, no profile."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("JUPYTER_", "IPYTHON"))}
    kept.pop("PYTHONSTARTUP", None)
    return {**kept, "HOME": str(home), "PYTHON_HISTORY": str(home / "history"), "PYTHON_BASIC_REPL": "1"}


# ---- python -m asyncio


@contextmanager
def repl(home: Path) -> Iterator[tuple[Callable[[str, str], str], Callable[[], tuple[int, str]]]]:
    """A REPL: to say something and read until something is told; and to end it."""
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "asyncio"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=home,
        env=environment(home),
    ) as process:
        out, told = process.stdout, process.stdin
        assert out is not None
        assert told is not None
        watchdog = threading.Timer(PATIENCE, process.kill)
        watchdog.start()

        def say(lines: str, until: str) -> str:
            told.write(lines)
            told.flush()
            heard = ""
            while until not in heard:
                line = out.readline()
                assert line, heard
                heard += line
            return heard

        def leave() -> tuple[int, str]:
            errors = process.communicate(timeout=PATIENCE)[1]
            return process.returncode, errors

        try:
            yield say, leave
        finally:
            watchdog.cancel()
            process.kill()


def test_python_m_asyncio(tmp_path: Path) -> None:
    """`await dari.arun(…)` works again and again; tasks run between two inputs; nothing is complained of at the end."""
    # A module, for the REPL of 3.13.0 takes no definitions of several lines unless it has a terminal.
    (tmp_path / "definitions.py").write_text(SETUP)
    with repl(tmp_path) as (say, leave):
        first = say("from definitions import *\nprint('is', await dari.arun(double, 21))\n", "is ")
        second = say("print('was', await dari.arun(double, 4))\n", "was ")
        say("task = await dari.arun(start, background)\nprint('started', task.done())\n", "started False")
        say("opened.set()\n", "it ran by itself")  # with no input after it
        result = say("print('gave', await task)\n", "gave ")
        say("opened.clear()\nwaits = await dari.arun(start, background)\nprint('waits', waits.done())\n", "waits False")
        code, errors = leave()

    assert [first.split()[-1], second.split()[-1], result.split("gave")[1].strip()] == ["42", "8", "its result"]
    assert (code, [line for line in errors.splitlines() if "Error" in line or "Warning" in line]) == (0, [])


# ---- Jupyter


class OneKernel(KernelSpecManager):
    """Knows the kernel of this Python, so that none need be installed."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=command, display_name=kernel_name, language="python")


class Notebook:
    """Cells, and what comes of them."""

    def __init__(self, manager: KernelManager, client: BlockingKernelClient) -> None:
        self.manager = manager
        self.client = client

    def execute(self, code: str) -> str:
        """Run a cell to its end; what it prints, or the error it ends with."""
        self.begin(code)
        return self.ends()

    def begin(self, code: str) -> None:
        self.request = self.client.execute(code)

    def ends(self) -> str:
        told = ""
        for kind, content, parent in self.messages():
            if kind == "stream":
                told += content["text"]
            elif kind == "error":
                told += f"{content['ename']}: {content['evalue']}"
            elif kind == "status" and content["execution_state"] == "idle" and parent == self.request:
                return told.strip()
        raise AssertionError("never")

    def hears(self, text: str) -> bool:
        """Wait until it is printed, whether a cell runs or not."""
        told = ""
        for kind, content, _ in self.messages():
            told += content["text"] if kind == "stream" else ""
            if text in told:
                return True
        raise AssertionError("never")

    def messages(self) -> Iterator[tuple[str, dict[str, Any], str]]:
        while True:
            try:
                message = self.client.get_iopub_msg(timeout=PATIENCE)
            except queue.Empty:
                raise AssertionError("the kernel says nothing") from None
            yield message["msg_type"], message["content"], message["parent_header"].get("msg_id", "")


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notebook]:
    """A kernel with the definitions of SETUP."""
    home = tmp_path_factory.mktemp("jupyter")
    # By sockets in the directory: a port that is free when it is chosen may be somebody's when the kernel comes to it.
    manager = KernelManager(
        kernel_name="this",
        kernel_spec_manager=OneKernel(),
        connection_file=str(home / "kernel.json"),
        transport="ipc",
        ip=str(home / "kernel"),
    )
    manager.start_kernel(cwd=str(home), env=environment(home), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        client = manager.client()
        client.start_channels()
        try:
            client.wait_for_ready(timeout=PATIENCE)
            notebook = Notebook(manager, client)
            assert notebook.execute(SETUP) == ""
            yield notebook
        finally:
            client.stop_channels()
    finally:
        manager.shutdown_kernel(now=True)
        manager.cleanup_resources()


def test_cells_await_arun(notebook: Notebook) -> None:
    """In one cell after the other, as often as you like; an error is the cell's."""
    told = [
        notebook.execute("print(await dari.arun(double, 21))"),
        notebook.execute("print([await dari.arun(double, n) for n in range(3)])"),
        notebook.execute("def fail():\n    yield\n    raise LookupError('not here')\nawait dari.arun(fail)"),
        notebook.execute("print(await dari.arun(double, 4))"),
    ]

    assert told == ["42", "[0, 2, 4]", "LookupError: not here", "8"]


def test_a_task_of_one_cell_ends_while_another_runs(notebook: Notebook) -> None:
    """The second cell ends only when it has."""
    notebook.execute("opened.clear(); finished.clear(); task = await dari.arun(start, background); print(task.done())")
    told = notebook.execute("print(task.done()); opened.set(); await finished.wait(); print(await task)")

    assert told.splitlines() == ["False", "it ran by itself", "its result"]


def test_a_task_runs_while_no_cell_does(notebook: Notebook) -> None:
    """Between two cells the loop goes on, and the task with it."""
    assert notebook.execute("opened.clear(); task = await dari.arun(start, background)") == ""
    assert notebook.execute("import asyncio; asyncio.get_running_loop().call_later(0.1, opened.set)") == ""
    assert notebook.hears("it ran by itself")
    assert notebook.execute("print(task.done())") == "True"


def test_interrupting_a_cell_ends_its_task(notebook: Notebook) -> None:
    """The generator cleans up, the kernel goes on."""
    # ipykernel cancels the cell in its signal handler, and does not wake a loop that sleeps: so this one wakes often.
    notebook.execute(
        "def beat():\n    while True:\n        yield dari.sleep(0.05)\nheart = await dari.arun(start, beat)"
    )
    notebook.begin(
        "ended = []\n"
        "def wait():\n"
        "    print('waiting', flush=True)\n"
        "    try:\n"
        "        yield dari.Event().wait()\n"
        "    finally:\n"
        "        ended.append('cleaned up')\n"
        "await dari.arun(wait)"
    )
    assert notebook.hears("waiting")
    notebook.manager.interrupt_kernel()
    told = notebook.ends()

    notebook.execute("heart.cancel()")

    assert told.split(":")[0] in ("KeyboardInterrupt", "CancelledError")
    assert notebook.execute("print(ended, await dari.arun(double, 4))") == "['cleaned up'] 8"
