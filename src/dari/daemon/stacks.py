"""What a service is doing at this moment: every thread, and every suspended task with the line where it waits.

A thread's stack shows the loop waiting, which says nothing: what hangs are the tasks, and a suspended one is on no
stack. Each library can list its own tasks, but only for one loop, and trio's only from inside of it; a service may
have several loops, and the one that matters may be blocked. So the tasks are looked for where they all are, among the
objects that the garbage collector knows, by their type. That works from any thread, whatever the loops do.

The look must not hold on to what it passes: an object whose last reference we held would be destroyed in our thread
(a suspended generator would run its `finally` here). So it is one call of C functions from end to end, during which
the interpreter lets nobody else run: 0.1 to 0.2 s for a million objects, in which the service stands still.

What still leaks: objects that the program has frozen (`gc.freeze`), but for the tasks that the host itself knows.
"""

from __future__ import annotations

import gc
import itertools
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import Any, Final

# Objects of C between two frames, which do not say what they hold; the collector knows.
_OPAQUE: Final = frozenset({"coroutine_wrapper", "async_generator_asend", "async_generator_athrow", "anext_awaitable"})
_DEEPEST: Final = 200  # frames of one task
_NAMED: Final = 5  # of tasks that all wait in the same place


def threads() -> str:
    """Every thread but the one that asks, by name, innermost call last."""
    known = {thread.ident: thread for thread in threading.enumerate()}
    lines: list[str] = []
    for ident, frame in sys._current_frames().items():
        if ident != threading.get_ident():
            thread = known.get(ident)
            lines.append(f"thread {thread.name!r} ({thread.native_id})" if thread else f"thread {ident}, not Python's")
            lines += traceback.format_stack(frame)
    return _joined(lines)


def suspended(known: Iterable[Any]) -> str:
    """Every task of asyncio, trio and dari that has not ended. `known`: some that need not be looked for.

    Those that wait in the same place are told once, with the first of their names.
    """
    found: dict[str, list[str]] = {}
    for task in {id(task): task for task in [*known, *_all_tasks()]}.values():
        try:
            seen = _look_at(task)
        except Exception as error:  # noqa: BLE001 - it ended while we looked, or its repr is somebody's code
            seen = (f"{type(task).__name__} that cannot be shown: {error!r}", "")
        if seen is not None:
            found.setdefault(seen[1], []).append(seen[0])
    lines: list[str] = []
    for stack, titles in found.items():
        titles.sort()  # asyncio keeps its tasks in a set
        more = len(titles) - _NAMED
        lines += [*titles[:_NAMED], *([f"and {more} more, at the same place"] if more > 0 else ()), stack]
    return _joined(lines)


def _joined(lines: list[str]) -> str:
    return "\n".join(line.rstrip("\n") for line in lines if line)


def _all_tasks() -> list[Any]:
    kinds = frozenset(_kinds())
    candidates, of_type = itertools.tee(itertools.chain.from_iterable(map(gc.get_objects, (0, 1, 2))))
    return list(itertools.compress(candidates, map(kinds.__contains__, map(type, of_type))))


def _kinds() -> Iterator[type]:
    """The types of tasks of every library that is there, and all that are made from them."""
    for module, name in (("asyncio", "Task"), ("asyncio.tasks", "_PyTask"), ("trio.lowlevel", "Task"), (_OURS, "Task")):
        kind = getattr(sys.modules.get(module), name, None)
        waiting = [kind] if isinstance(kind, type) else []
        while waiting:
            kind = waiting.pop()
            yield kind
            waiting += type.__subclasses__(kind)


_OURS: Final = "dari._kernel.task"


def _look_at(task: Any) -> tuple[str, str] | None:
    """Return a title and the lines, or None when it has ended."""
    if hasattr(task, "get_coro"):
        if task.done():
            return None
        title, root = f"asyncio task {task.get_name()!r}", task.get_coro()
    elif hasattr(task, "coro"):
        if task.coro.cr_frame is None:
            return None
        title, root = f"trio task {task.name!r}", task.coro
    else:
        if task.done():
            return None
        title, root = repr(task), task._source
    running = any(getattr(root, f"{prefix}_running", False) for prefix in ("cr", "gi"))
    frames = [frame for frame in itertools.islice(_frames(root), _DEEPEST) if not _is_ours(frame)]
    lines = [line for frame in frames for line in traceback.format_list(traceback.extract_stack(frame, limit=1))]
    return title + (" is running, see its thread" if running else ""), "" if running else "".join(lines)


def _is_ours(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__", "")).startswith("dari.")


def _frames(step: Any) -> Iterator[FrameType]:
    """The frames of a suspended coroutine or generator, outermost first, through `await` and `yield from`."""
    while step is not None:
        # The three kinds have the same attributes under three prefixes. Asked of the type: an object that answers
        # to every name (a mock, a proxy) would lead round and round.
        prefix = next((prefix for prefix in ("cr", "gi", "ag") if _has(step, f"{prefix}_frame")), None)
        if prefix is not None:
            frame = getattr(step, f"{prefix}_frame")
            if frame is not None:
                yield frame
            step = getattr(step, "gi_yieldfrom" if prefix == "gi" else f"{prefix}_await")
        elif type(step).__name__ in _OPAQUE:
            held = gc.get_referents(step)
            step = next((each for each in held if _has(each, "cr_frame") or _has(each, "ag_frame")), None)
        else:
            return


def _has(step: object, name: str) -> bool:
    return hasattr(type(step), name)


class Dumper:
    """Writes all of it into the log when asked, in a thread of its own: the keeper has signals to hear.

    `dump` (the command) finds it there by its first and last line.
    """

    def __init__(self, name: str, *, tasks: Callable[[], Iterable[Any]], tell: Callable[[str], object]) -> None:
        self._name = name
        self._tasks = tasks
        self._tell = tell
        self._changing = threading.Lock()
        self._asked = self._told = 0
        self._numbers = itertools.count(1)
        self._at_work = False

    def ask(self) -> None:
        """Have it written once more, from its beginning: one that is being written may have begun too early."""
        with self._changing:
            self._asked += 1
            if self._at_work:
                return
            self._at_work = True
        threading.Thread(target=self._work, name="dari-dump", daemon=True).start()

    def _work(self) -> None:
        while True:
            with self._changing:
                if self._told == self._asked:
                    self._at_work = False
                    return
                self._told = self._asked
            self.write()

    def write(self) -> str:
        """Write it now, and return it. Any thread."""
        number = next(self._numbers)
        head = f"dump {number} of {self._name} (pid {os.getpid()})"
        parts = (head, "== threads", threads(), "== suspended tasks", suspended(self._tasks()))
        text = "\n".join((*filter(None, parts), f"end of dump {number}"))
        self._tell(text)
        return text
