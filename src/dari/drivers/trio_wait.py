"""How a task of trio waits for what ends in another thread."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import trio
from trio import lowlevel

from dari.drivers.pending import accounts

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from dari.drivers.ending import Ending

__all__ = ["wait_for_remote_in_trio"]

T = TypeVar("T")


def wait_for_remote_in_trio(remote: Ending[T]) -> Generator[Any, Any, T]:
    """Wait for its end; cancelled, ask it to end, await that, and be cancelled then."""
    return _wait(remote).__await__()


async def _wait(remote: Ending[T]) -> T:
    if remote.ended():
        await lowlevel.cancel_shielded_checkpoint()
    else:
        await _until_ended(remote)
    return remote.unwrap()


async def _until_ended(remote: Ending[Any]) -> None:
    token = lowlevel.current_trio_token()
    waiting: lowlevel.Task | None = lowlevel.current_task()
    cancelled: Callable[[], Any] | None = None

    def settle() -> None:
        nonlocal waiting
        if waiting is not None:
            task, waiting = waiting, None
            lowlevel.reschedule(task)

    def ended() -> None:
        try:
            token.run_sync_soon(settle)
        except trio.RunFinishedError:
            pass  # the program has ended: there is nobody to tell

    def abort(raise_cancel: Callable[[], Any]) -> lowlevel.Abort:
        nonlocal cancelled
        cancelled = raise_cancel
        remote.request_end()
        return lowlevel.Abort.FAILED  # its real end is awaited

    remote.call_when_ended(ended)
    account = accounts.get(token)
    if account is not None:
        account.waits += 1
    await lowlevel.wait_task_rescheduled(abort)
    if account is not None:
        account.waits -= 1
    if cancelled is not None:
        # It ended by our own wish, or too late to matter: a wait that was cancelled is cancelled.
        remote.give_back()
        cancelled()
