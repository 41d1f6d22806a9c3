"""Blocking work, offloaded by priority, and waited for from everywhere. `Pool` is the face; each module says its part.

stats, clock, retry ← plan ← job ← crew, places, line, calls ← ledger (all state) ← desk (one lock) ← workers (threads)
← closing ← process, executor, flight ← mapping ← pool ← default
"""

from dari.pool.default import to_thread
from dari.pool.job import Job, JobState, current_job
from dari.pool.pool import Pool
from dari.pool.retry import Retry
from dari.pool.stats import PoolStats

__all__ = ["Job", "JobState", "Pool", "PoolStats", "Retry", "current_job", "to_thread"]
