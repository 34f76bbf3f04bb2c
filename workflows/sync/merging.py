"""Small shards are merged at the end of a run, a bounded part of them at a time."""

from __future__ import annotations

import time

from ..._vocabulary import FrameloomError, IntegrityError
from ...store.health import Compaction, merge_small_shards, plan_merge
from ..project import Project
from .stages import Stage

MERGE_BYTES = 2_000_000_000
"""Of rows that one run moves at most when it merges small shards."""


def merge(stage: Stage) -> tuple[int, tuple[str, ...]]:
    """Merge a bounded part of many small shards. Returns how many went, and a note where that failed."""
    try:
        planned = planned_merge(stage.project)
        if planned.is_empty:
            return 0, ()
        begun = time.monotonic()
        with stage.console.progress("merge", sum(map(len, planned.new_shards)), "samples") as advance:
            merged = len(merge_small_shards(stage.project.store, max_bytes=MERGE_BYTES, progress=advance).old_shards)
        if merged:
            stage.project.ledger.record_rate("merge", merged, time.monotonic() - begun)
        return merged, ()
    except FrameloomError as error:
        return 0, (f"note: small shards were not merged: {error}",)


def planned_merge(project: Project) -> Compaction:
    """The small shards that the next run merges; none of a store that must be repaired first."""
    try:
        return plan_merge(project.store, max_bytes=MERGE_BYTES)
    except IntegrityError:
        return Compaction()
