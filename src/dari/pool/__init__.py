"""Blocking work, offloaded by priority, and waited for from everywhere. `Pool` is the face; each module says its part.

stats, clock, hooks, line ← limits, retry ← plan ← job ← crew, places, watch ← sections ← ledger (all state) ← salvage
← desk (one lock) ← workers (threads) ← closing ← process, executor, flight ← mapping ← pool ← default
"""

from dari.pool.default import to_thread
from dari.pool.job import Job, JobState, current_job
from dari.pool.pool import Pool
from dari.pool.retry import Retry, RetryState
from dari.pool.stats import PoolStats

__all__ = ["Job", "JobState", "Pool", "PoolStats", "Retry", "RetryState", "current_job", "to_thread"]
