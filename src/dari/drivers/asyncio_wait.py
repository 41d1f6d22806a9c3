"""How a coroutine of asyncio waits for what ends in another thread. Public asyncio API only.

Each loop has one mailbox: a thousand things that end together wake it once, and then give their results in one turn.
"""

from __future__ import annotations

import asyncio
from contextvars import Context
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import ref

from dari._kernel.world import AHEAD_OF_ALL, chain_priority
from dari.drivers.mailbox import Mailbox
from dari.drivers.pending import accounts
from dari.exceptions import SchedulerClosed

if TYPE_CHECKING:
    from collections.abc import Generator

    from dari.drivers.ending import Ending

__all__ = ["awaited_in", "mailbox_of", "wait_for_remote"]

T = TypeVar("T")

# By the loop's id, which is its own as long as it lives; then its entry goes. (A WeakKeyDictionary takes five times as
# long for the same, 0.4 µs of the 10 that waiting for a job costs a loop.)
_mailboxes: dict[int, tuple[Mailbox, ref[asyncio.AbstractEventLoop]]] = {}


def mailbox_of(loop: asyncio.AbstractEventLoop) -> Mailbox:
    """The mailbox of `loop`; made on the loop's own thread."""
    entry = _mailboxes.get(id(loop))
    return entry[0] if entry is not None else _new_mailbox(loop)


def _new_mailbox(loop: asyncio.AbstractEventLoop) -> Mailbox:
    number = id(loop)
    loop_ref = ref(loop, lambda _: _mailboxes.pop(number, None))  # the mailbox must not hold the loop

    def empty() -> None:
        for call in mailbox.take():
            call()

    context = Context()
    context.run(chain_priority.set, AHEAD_OF_ALL)

    def wake() -> None:
        loop = loop_ref()
        try:
            if loop is None:
                raise RuntimeError("gone")
            loop.call_soon_threadsafe(empty, context=context)
        except RuntimeError:  # the loop was closed meanwhile: nobody is left who could hear
            mailbox.close()

    mailbox = Mailbox(wake)
    _mailboxes[number] = mailbox, loop_ref
    return mailbox


def awaited_in(loop: asyncio.AbstractEventLoop) -> int:
    """How many coroutines of `loop` wait for what ends in another thread."""
    entry = _mailboxes.get(id(loop))
    return 0 if entry is None else entry[0].awaited


def wait_for_remote(remote: Ending[T], loop: asyncio.AbstractEventLoop) -> Generator[Any, Any, T]:
    """Wait for its end, in `loop`; cancelled, ask it to end, await that, and be cancelled then."""
    cancelled: asyncio.CancelledError | None = None
    if not remote.ended():
        future: asyncio.Future[None] = loop.create_future()
        mailbox = mailbox_of(loop)

        def settle() -> None:
            if not future.done():
                future.set_result(None)

        def ended() -> None:
            try:
                mailbox.put(settle)
            except SchedulerClosed:
                pass  # the loop is closed: there is nobody to tell

        remote.call_when_ended(ended)
        account = accounts.get(loop) if accounts else None
        if account is not None:
            account.waits += 1
        mailbox.awaited += 1
        try:
            while True:
                try:
                    yield from future
                    break
                except asyncio.CancelledError as error:
                    cancelled = error
                    if remote.ended():
                        break
                    remote.request_end()
                    future = loop.create_future()  # `settle` settles whichever is the present one
                    if remote.ended():
                        settle()
        finally:
            mailbox.awaited -= 1
        if account is not None:
            account.waits -= 1
    if cancelled is not None:
        # It ended by our own wish, or too late to matter: asyncio's rule is that a cancelled wait is cancelled.
        remote.give_back()
        raise cancelled
    return remote.unwrap()
