"""One lock and short sections under it: how everything that a pool knows is changed, from whatever thread.

**Settle first, tell afterwards.** Inside a section no foreign code is called: no callback, no destructor of a payload,
no start of a thread; any of them might come back and want the lock. What is to be done goes into `calls`, and whoever
leaves the section makes them (`make`). So everybody who is told of something finds it true.

**Foreign code comes all the same**, uncalled: a signal handler of the main thread, and destructors, which run wherever
the garbage collector happens to. With a plain lock, a `submit` there would wait for the very section that it
interrupted, for ever (CPython PR #151482; facts/pool.md c: TPE dies of it). So the lock is reentrant, `inside` says
that a section is under way, and what comes meanwhile on the same thread is put off till its end (`later`).

**Workers never wait for the lock** in the way of locks (`take_turn`); all others do, inside of the block that gives it
back, so that Ctrl-C cannot come in between.

**What comes may raise**: Ctrl-C does, in the middle of whatever the main thread does, and so does the end of the stack.
Then the ledger counts anew what is there (`mend`), as soon as there is a stack to do it on: before the next section
relies on it. CPython lets signals in after a call and at the start of a function, so between two lines without a call
nothing can be lost: hence the shape of `perform`. Who shall wake up is woken inside of the section, for that is no
foreign code either, and cannot be lost behind it. Calls for which no stack is left are made after the next section.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from threading import RLock
from time import sleep
from typing import TYPE_CHECKING, Any, TypeVar, TypeVarTuple

from dari.exceptions import DariError
from dari.pool.calls import make

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Sections", "take_turn"]

_PATIENCE = 20  # times that others may go on first

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Sections:
    def __init__(self) -> None:
        self.lock: Any = RLock()
        self.inside = False
        self.in_doubt = False  # a section was broken off, and not mended yet
        self.calls: deque[Callable[[], object]] = deque()  # to be made after the section
        # Sections that were put off, and calls for which no stack was left.
        self.later: deque[Callable[[], object] | deque[Callable[[], object]]] = deque()

    def perform(self, step: Callable[[*Ts], T], /, *args: *Ts) -> T | None:
        """Make `step(...)` a section, then the calls that it left. Gives what it gave; None, if it is put off."""
        lock = self.lock
        calls: deque[Callable[[], object]] | None = None
        try:
            try:  # `with lock`, but a third of its cost
                lock.acquire()
                if self.inside:
                    self.later.append(partial(step, *args))
                    return None
                self.inside = True
                try:
                    if self.in_doubt:
                        self.put_right()
                    return step(*args)
                except DariError:
                    raise  # a refusal, before anything was changed
                except BaseException:
                    self.in_doubt = True
                    raise
                finally:
                    if self.later or self.calls or self.in_doubt:
                        try:
                            calls = self.leave()
                        except RecursionError:
                            self.inside = False  # no stack is left: the next section does it
                        except BaseException:
                            calls = self.leave()
                            raise
                    else:
                        self.inside = False
            finally:
                try:
                    lock.release()
                except RuntimeError:
                    pass  # Ctrl-C came while we waited for the lock: it is not ours
        finally:
            if calls:
                try:
                    make(calls)
                except RecursionError:
                    self.later += (calls,)  # without a call, for which there is no stack either
                    raise
                except BaseException:
                    make(calls)  # the rest
                    raise

    def leave(self) -> deque[Callable[[], object]] | None:
        """The last thing in a section: what is to be `make`d after it. Never what others go on filling."""
        calls: deque[Callable[[], object]] | None = None
        while True:
            if self.in_doubt:
                self.put_right()
            while self.later:
                late = self.later.popleft()
                if isinstance(late, deque):
                    self.calls += late
                else:
                    late()
            if self.calls:
                none_yet: deque[Callable[[], object]] = deque()
                calls, self.calls = self.calls, none_yet
            self.inside = False
            if not self.later:
                return calls
            self.inside = True  # one came just now, and did not see that nobody would look any more
            if calls:
                self.calls, calls = calls, None

    def put_right(self) -> None:
        """In a section: `mend` what another one, that was broken off, has left."""
        self.mend()
        self.in_doubt = False

    def mend(self) -> None:
        """A section was broken off by an error from outside."""
        raise NotImplementedError


def take_turn(lock: Any) -> None:
    """Acquire the pool's lock, for a worker: not by waiting for it.

    Who waits for a lock gets it first, and then waits for the interpreter's (the GIL), which whoever runs gives away
    only when he waits for something, this lock for instance; so each has what the other needs, and threads are
    switched twice for every job (a convoy: Blasgen et al., "The Convoy Phenomenon", 1979). Somebody holds the lock
    without the GIL only if he was interrupted in a section: let him go on, and ask again. So 10 waits for the lock are
    left of 3000 in a burst of 20 000 jobs that do nothing, which takes 0.6 of the time (benchmarks/pool.py).
    """
    for _ in range(_PATIENCE):
        if lock.acquire(False):
            return
        sleep(0)
    lock.acquire()
