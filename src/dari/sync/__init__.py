"""Event, Lock, Condition, Semaphore and Barrier: how tasks wait for each other. Written on operations alone.

**Handing over is one act.** A semaphore that counts its permits and wakes "somebody" loses one whenever that somebody
is cancelled on the way (asyncio's did, in several versions). Here what becomes free goes to the next waiter in the very
call that frees it: a waiter that is cancelled before was never given anything, and has left the line; one that was
given it has it, because a value that was won is delivered before any cancel. So what is free has no waiters, and
nothing can be lost on the way, or taken by somebody who came later.

In a coroutine that somebody else steps, the receiver can vanish when the value was won already; `take_back` then undoes
it.

Waiters are served by the priority that they had when they began to wait, first in first out inside. All of this belongs
to one thread: that of the schedulers (any number of them) that use the thing.
"""

from __future__ import annotations

from dari.sync.barrier import Barrier
from dari.sync.condition import Condition
from dari.sync.event import Event
from dari.sync.lock import BoundedSemaphore, Guard, Lock, Semaphore

__all__ = ["Barrier", "BoundedSemaphore", "Condition", "Event", "Guard", "Lock", "Semaphore"]
