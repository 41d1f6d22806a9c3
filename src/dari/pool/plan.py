"""What `options` ask of a job's life, beside its priority and its name. Nothing but these wishes."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from dari.pool.limits import Limit
    from dari.pool.retry import Retry

__all__ = ["Plan"]


class Plan(NamedTuple):
    """Shared by all jobs of one view. A job without any such wish has no plan at all."""

    delay: float = 0.0
    queue_timeout: float | None = None
    timeout: float | None = None
    retry: Retry | None = None
    limit: Limit | None = None
    abandon_on_cancel: bool = False
