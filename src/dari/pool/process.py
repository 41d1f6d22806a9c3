"""What pools owe the process they live in: an exit that comes, and a fork that does not hang the child.

**Exit.** Workers are daemon threads, so the interpreter does not wait for them; `atexit` does, by its own clock: what
is queued runs on until `exit_timeout` of its pool, then what is stuck is named on stderr, and the process goes.

**Fork.** The child has one thread, the one that forked. It has no workers, and a lock that another thread held stays
locked for ever. So every pool's lock is taken before the fork: no job is caught half-moved. In the child each pool
gets a new lock and forgets its workers, and unfinished jobs fail with WorkerLost: they run in the parent. Nobody is
*told* so in the child: callbacks would act a second time there, and whoever waited did not come along.
"""

from __future__ import annotations

import atexit
import os
import sys
from _thread import allocate_lock
from threading import RLock
from time import monotonic
from typing import TYPE_CHECKING
from weakref import WeakSet

from dari.pool.closing import wait_until_idle

if TYPE_CHECKING:
    from dari.pool.desk import Desk
    from dari.pool.workers import Threads

__all__ = ["register"]

_crews: WeakSet[Threads] = WeakSet()
_lock = allocate_lock()
_held: list[Desk] = []


def register(crew: Threads) -> None:
    with _lock:
        _crews.add(crew)


def _before_fork() -> None:
    _lock.acquire()
    _held[:] = [crew.desk for crew in _crews]
    for desk in _held:
        desk.lock.acquire()


def _after_fork_in_parent() -> None:
    for desk in _held:
        desk.lock.release()
    _held.clear()
    _lock.release()


def _after_fork_in_child() -> None:
    for crew in _crews:
        crew.desk.lock = RLock()
        crew.desk.lose_everything()
        crew.forked()
    _held.clear()
    _lock.release()


def _at_exit() -> None:
    with _lock:
        crews = list(_crews)
    started = monotonic()
    for crew in crews:
        crew.desk.close(cancel=False)
    for crew in crews:
        desk = crew.desk
        began = min(started, desk.given_up)  # who left a block by an error has waited there already
        if not wait_until_idle(desk, max(0.0, began + desk.exit_timeout - monotonic())):
            _name_the_stuck(crew)
            desk.close(cancel=True, ask=True)  # nothing starts now that could not end


def _name_the_stuck(crew: Threads) -> None:
    desk = crew.desk
    now = monotonic()
    with desk.lock:
        stuck = [(worker.name, job) for worker in crew.at_work() for job in worker.stack()[:1]]
    stats = desk.stats()
    queued = stats.scheduled + stats.queued
    jobs = "1 job" if desk.unfinished == 1 else f"{desk.unfinished} jobs"
    lines = [f"dari: the process exits without {jobs} of pool {desk.name!r}, after {desk.exit_timeout} s:"]
    lines += [f"  {job!r} on {name}, running for {now - job._started_at:.1f} s" for name, job in stuck]
    if queued:
        lines.append(f"  {queued} more never started")
    if sys.stderr is not None:
        sys.stderr.write("\n".join(lines) + "\n")
        sys.stderr.flush()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
atexit.register(_at_exit)
