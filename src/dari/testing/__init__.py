"""Testing programs: in virtual time, under many schedules, on every loop.

In virtual time the clock stands still while tasks run; when nothing is ready it jumps to the next deadline. Hours of
sleeping take milliseconds, and the same program takes the same steps every time. It does not jump while something
outside could still wake a task: a job of a pool, a future of a thread, a child process, a descriptor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dari.testing.onlookers import wait_all_blocked
from dari.testing.programs import explore, run

__all__ = ["VirtualEventLoop", "explore", "run", "wait_all_blocked"]

if TYPE_CHECKING:
    from dari.testing.asyncio_loop import VirtualEventLoop
else:  # who tests generators only shall not pay for asyncio

    def __getattr__(name: str) -> Any:
        if name != "VirtualEventLoop":
            raise AttributeError(f"module 'dari.testing' has no attribute {name!r}")
        from dari.testing.asyncio_loop import VirtualEventLoop

        globals()[name] = VirtualEventLoop
        return VirtualEventLoop

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
