"""Does a pool keep what it should not? A million jobs each way, and the memory of the process before, meanwhile, after.

    python benchmarks/pool_memory.py [jobs=1000000]

`bounded`    so many submits through a queue of 1000 that all run
`cancelled`  so many queued while the workers are held, and cancelled, each a while after it was handed in
`delayed`    the same, but SCHEDULED, for hours

Each in a process of its own. What stands in the queue at once is bounded (WINDOW), so all three must stay flat: the
peak may be what a window costs above the beginning, and may not grow with the number of jobs. In the end no job may be
alive. Ends with 1 if one is, or if the second half of a run needed more than the first.
"""

from __future__ import annotations

import gc
import sys
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from rounds import in_its_own_process, resident_bytes, versions

from dari.pool import Job, Pool

if TYPE_CHECKING:
    from collections.abc import Callable

WINDOW = 1000  # jobs that are queued at once, and not cancelled yet
NOISE = 2_000_000  # bytes by which two looks at the same thing differ


class Figures(NamedTuple):
    before: int
    first_half: int
    second_half: int
    after: int
    jobs_alive: int
    seconds: float


def work(payload: bytearray) -> int:
    return payload[0]


def bounded(jobs: int, look: Callable[[], None]) -> None:
    with Pool(4, max_queue=WINDOW) as pool:
        for _ in range(jobs // (2 * WINDOW)):
            gate, held = threading.Event(), threading.Barrier(5)
            for _ in range(4):
                pool.submit(hold, held, gate)
            held.wait()
            for _ in range(WINDOW):  # until it is full
                pool.submit(work, bytearray(100))
            look()
            gate.set()
            for _ in range(WINDOW):  # these wait for places
                pool.submit(work, bytearray(100))


def hold(held: threading.Barrier, gate: threading.Event) -> None:
    held.wait()
    gate.wait()


def cancelled(jobs: int, look: Callable[[], None], delay: float = 0.0) -> None:
    gate = threading.Event()
    pool = Pool(2, max_queue=None)
    for _ in range(2):
        pool.submit(gate.wait)
    view = pool.options(delay=delay)
    first = view.submit(work, bytearray(100))  # stands before all that are cancelled, to the end
    window: deque[Job[int]] = deque()
    for number in range(1, jobs + 1):
        window.append(view.submit(work, bytearray(100)))
        if len(window) == WINDOW:
            assert window.popleft().cancel()
        if not number % (2 * WINDOW):
            look()
    for job in (*window, first):
        assert job.cancel()
    gate.set()
    assert pool.shutdown(timeout=10)


def delayed(jobs: int, look: Callable[[], None]) -> None:
    cancelled(jobs, look, delay=10_000.0)


def measure(run: Callable[[int, Callable[[], None]], None], jobs: int) -> Figures:
    run(jobs // 10, lambda: None)  # what the process needs once: threads, caches, the allocator's arenas
    looks: list[int] = []
    before = resident_bytes()
    started = time.perf_counter()
    run(jobs, lambda: looks.append(resident_bytes()))
    elapsed = time.perf_counter() - started
    after = resident_bytes()
    alive = sum(isinstance(each, Job) for each in gc.get_objects())
    middle = len(looks) // 2
    return Figures(before, max(looks[:middle]), max(looks[middle:]), after, alive, elapsed)


def main() -> int:
    jobs = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    print(f"{versions()}; {jobs:,} jobs each way, at most {WINDOW} stand at once; MB of RSS")
    grown = False
    for run in (bounded, cancelled, delayed):
        figures = in_its_own_process(measure, run, jobs)
        grows = figures.second_half > figures.first_half + NOISE or figures.jobs_alive > 0
        grown |= grows
        before, first, second, after = (f"{figure / 1e6:.1f}" for figure in figures[:4])
        print(
            f"{run.__name__:10} before {before}, at most {first} in the first half, {second} in the second, after"
            f" {after}; {figures.jobs_alive} jobs alive; {figures.seconds:.0f} s{'  GROWS' if grows else ''}"
        )
    return 1 if grown else 0


if __name__ == "__main__":
    sys.exit(main())
