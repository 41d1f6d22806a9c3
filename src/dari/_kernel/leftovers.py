"""What a task must not leave behind when its code has ended: open scopes, and a `Cancelled` that has lost its scope.

Both come from a scope that does not enclose what it seems to: entered by hand, or opened in a generator that yields to
its consumer, so that the consumer's code is cancelled by it. Either way the task fails, and is told why.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dari._kernel.outcome import Error, Outcome
from dari._kernel.sites import shown
from dari.exceptions import Cancelled

if TYPE_CHECKING:
    from dari._kernel.task import Task

__all__ = ["checked"]


def checked(task: Task[Any], outcome: Outcome[Any]) -> Outcome[Any]:
    """`outcome`, or the error that says what was left behind. Takes down the scopes that are still open."""
    root = task._base if task._rare is None or task._rare.root is None else task._rare.root
    if task._scope is not root:
        scope = task._scope
        assert scope is not None
        innermost = f"{scope!r}, entered at {shown(scope._entered_at)}"
        while scope is not None and scope is not root:
            task.kernel.clear_deadline(scope)
            scope._unlink()
            if scope._members:  # the children of a task group
                scope._closed = False
                scope.cancel("the task that opened its group has ended")
            scope = scope._parent
        task._scope = root
        return _failed(f"{task!r} ended without leaving {innermost}: enter scopes by `with` only", outcome)
    if isinstance(outcome, Error) and isinstance(outcome.error, Cancelled):
        lost: Any = outcome.error._scope
        if lost is not None and lost._owner is task and lost is not root:
            return _failed(
                f"{task!r} was stopped by {lost!r} outside of its block, entered at {shown(lost._entered_at)}: a scope"
                " is opened in a task, not in a generator that yields to its consumer",
                outcome,
            )
    return outcome


def _failed(why: str, outcome: Outcome[Any]) -> Error:
    error = RuntimeError(why)
    if isinstance(outcome, Error):
        error.__cause__ = outcome.error
    return Error(error)
