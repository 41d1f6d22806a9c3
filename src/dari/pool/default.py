"""The process's own pool, for who needs no pool of their own. Nothing but `to_thread`, and when that pool is made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, ParamSpec, TypeVar

from dari.pool.pool import Pool

if TYPE_CHECKING:
    from collections.abc import Callable

    from dari._kernel.contract import Operation

__all__ = ["to_thread"]

P = ParamSpec("P")
T = TypeVar("T")

_pools: Final[dict[str, Pool]] = {}


def to_thread(fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Operation[T]:
    """`await` or `yield` it: call `fn(*args, **kwargs)` on a thread, and wait for the result.

    As `pool.run_sync`, on a pool of the process, which is made at the first call: the context and the priority of who
    calls this come along, who waits owns, and a full queue is waited for.
    """
    pool = _pools.get("to_thread")
    if pool is None:  # two threads at once: the pool of the one is used by both, the other has no threads and goes
        pool = _pools.setdefault("to_thread", Pool(thread_name_prefix="to_thread"))
    return pool.run_sync(fn, *args, **kwargs)
