"""What the service uses, in its own log."""

from __future__ import annotations

import json

import pytest


def reports(bench):
    # The last line may be half written.
    lines = [json.loads(line) for line in bench.log().splitlines(keepends=True) if line.endswith("\n")]
    return [line for line in lines if "rss" in line]


@pytest.mark.parametrize("backend", ["asyncio", "standalone"])
def test_a_report_now_and_then(bench, until, backend):
    """It says what psutil and the loop say, as a sentence and as fields."""
    bench.program(
        """
        import dari
        def main(ctx):
            files = [open(os.devnull) for _ in range(100)]
            ctx.ready()
            yield ctx.stopping.wait()
        """
    )
    bench.start("--log-report-every", "0.1", "--log-format", "json", "--backend", backend)

    # The loop has as long for its answer as there is between two reports: on a busy machine it misses one now and then.
    report = until(lambda: [each for each in reports(bench)[1:] if each["loop_lag"] is not None])[0]

    assert report["message"].startswith("uses cpu ")
    assert 5e6 < report["rss"] < 5e8
    assert 100 < report["descriptors"] < 150
    assert report["threads"] >= 4  # main, keeper, log, report
    assert 0 <= report["loop_lag"] < 5
    assert report["dropped"] == 0
    assert report["cpu_percent"] >= 0


def test_a_blocked_loop_is_reported_as_that(bench, until):
    """The thread that asks is not the loop's: it says that there was no answer."""
    bench.program(
        """
        import time
        async def main(ctx):
            ctx.ready()
            time.sleep(60)
        """
    )
    bench.start("--log-report-every", "0.1")

    until(lambda: "the loop did not answer" in bench.log())


def test_none_is_asked_for_by_default(bench):
    """Without report_every there is no such thread, and psutil is not imported."""
    bench.program(
        """
        import sys, threading
        async def main(ctx):
            print("psutil" in sys.modules, sorted(thread.name for thread in threading.enumerate()))
            ctx.ready()
            await ctx.stopping.wait()
        """
    )
    done = bench.dari("start", "app.py:main")

    assert done.stdout.splitlines()[0] == "False ['MainThread', 'dari-control', 'dari-keeper', 'dari-log']"
