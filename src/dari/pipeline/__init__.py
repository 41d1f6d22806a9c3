"""Pipeline: items that stream through stages, each stage a task (or several) of its own.

Neighbours are joined by a bounded queue, so a slow stage holds back the fast ones before it, up to the source. The end
of the stream travels as `Queue.shutdown()`. One supervising task holds a task group of all the stages: whatever stops
one stops all, and it ends when the last one really has.

Read `stages` (what each kind of stage does), `line` (how they live and die together), `pipeline` (the face).
"""

from __future__ import annotations

from dari.pipeline.pipeline import Pipeline

__all__ = ["Pipeline"]
