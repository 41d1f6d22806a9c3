"""The line in which tasks wait for what they share. Nothing else lives here."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any, final

if TYPE_CHECKING:
    from dari._kernel.task import TaskWait

__all__ = ["Waiters"]


@final
class Waiters:
    """Waits in the order in which they are served: by priority, FIFO inside. Any of them can leave at any time."""

    __slots__ = ("_by_priority",)

    def __init__(self) -> None:
        # OrderedDict: the first of a plain dict is found by walking over all that were taken out before it.
        self._by_priority: dict[int, OrderedDict[TaskWait, Any]] = {}

    def __bool__(self) -> bool:
        return bool(self._by_priority)

    def __len__(self) -> int:
        return sum(map(len, self._by_priority.values()))

    def block(self, task: Any, what: object, item: Any = None) -> None:
        """Make `task` wait here for `what`, until it is popped or cancelled; `item` is kept with it."""
        self.add(task.block(what, self.leave), item)

    def add(self, wait: TaskWait, item: Any) -> None:
        """The last of its priority. Whoever adds it sees to its leaving."""
        waiting = self._by_priority.get(wait.priority)
        if waiting is None:
            waiting = self._by_priority[wait.priority] = OrderedDict()
        waiting[wait] = item

    def leave(self, wait: TaskWait) -> bool:
        """Take `wait` out. False: it is not here."""
        for priority, waiting in self._by_priority.items():  # not that of the task, which may have changed since
            if wait in waiting:
                del waiting[wait]
                if not waiting:
                    del self._by_priority[priority]
                return True
        return False

    def pop(self) -> tuple[TaskWait, Any]:
        """The next to be served, and the item it came with."""
        priority = min(self._by_priority)
        waiting = self._by_priority[priority]
        wait, item = waiting.popitem(last=False)
        if not waiting:
            del self._by_priority[priority]
        return wait, item
