"""Debug mode warns of a forgotten `yield`, with its line. In processes of their own: it cannot be switched off."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import asyncio, dari

def child():
    yield dari.sleep(0)
    dari.sleep(1)  # forgotten
    return 1

def main(queue):
    queue.put("item")  # forgotten
    yield from dari.sleep(0)
    yield ("sleep", 0)
    yield [child(), dari.sleep(0)]
    dari.create_task(child)
    with dari.TaskGroup() as group:
        group.create_task(coroutine)
        yield group.join()
    pool = dari.Pool(1)
    yield pool.submit(str)
    pool.submit(str)
    yield pool.run_sync(str)
    pool.run_sync(str)  # forgotten
    event = dari.Event()
    wait = event.wait()
    event.set()
    yield wait

async def coroutine():
    await dari.sleep(0)
    dari.checkpoint()  # forgotten

async def amain():
    await dari.arun(main, dari.Queue())
    await dari.sleep(0)
    dari.sleep(2)  # forgotten

dari.run(main, dari.Queue(), debug=DEBUG)
asyncio.run(amain())
"""


@pytest.mark.parametrize("how", ["debug=True", "-X dev"])
def test_a_forgotten_yield_is_warned_about_with_its_line(how, tmp_path):
    """Each forgotten operation warns where it was dropped; what is waited for, in whatever spelling, does not."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.replace("DEBUG", str(how == "debug=True")))
    options = ["-X", "dev"] if how == "-X dev" else []

    result = subprocess.run(
        [sys.executable, *options, "-W", "always::RuntimeWarning", str(program)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )

    lines = {int(line.split(":")[1]) for line in result.stderr.splitlines() if "RuntimeWarning" in line}
    expected = {number for number, line in enumerate(PROGRAM.splitlines(), 1) if "# forgotten" in line}
    assert lines == expected, result.stderr


def test_without_debug_nothing_is_warned_about(tmp_path):
    """And nothing is patched."""
    code = (
        "import dari; dari.run(lambda: (yield dari.sleep(0))); dari.sleep(1); print(hasattr(dari.Operation, '__del__'))"
    )

    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60, check=True
    )

    assert (result.stdout, result.stderr) == ("False\n", "")


CREATES = """
import dari, logging
logging.basicConfig(format="%(message)s")

def fails():
    yield
    raise ValueError("own")

def waits():
    yield dari.Event().wait()

def start():
    dari.create_task(fails)
    dari.create_task(waits)

def main():
    start()
    yield dari.sleep(0)
    print(scheduler.dump())

scheduler = dari.Scheduler(debug=DEBUG)
scheduler.create_task(main)
scheduler.run(timeout=0.01)
"""


@pytest.mark.parametrize("debug", [True, False])
def test_debug_mode_tells_where_tasks_were_created(debug, tmp_path):
    """In the dump and in the report of a failure: the user's lines, innermost first. Without it nothing is kept."""
    program = tmp_path / "program.py"
    program.write_text(CREATES.replace("DEBUG", str(debug)))

    result = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, check=True, timeout=60)

    def created_at(line, function):
        return f"\n    created at {program}:{line} in {function}"

    expected = [created_at(14, "start") + created_at(17, "main"), created_at(22, "<module>")]
    assert [text in result.stdout for text in expected] == [debug] * 2
    assert (created_at(13, "start") + created_at(17, "main") in result.stderr) == debug
    assert "ValueError: own" in result.stderr
    assert "Exception ignored" not in result.stderr
