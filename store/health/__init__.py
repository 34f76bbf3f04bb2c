"""The health of a store: what is damaged, how to repair it, and how to keep it compact."""

from .compact import (
    Compaction,
    compact_features,
    merge_small_shards,
    num_small,
    plan_compaction,
    plan_merge,
    superseded,
)
from .findings import Finding, Kind, Repaired
from .repair import quarantine_bytes, repair_features
from .table import repair_table, verify_table
from .verify import num_shards, verify_features

__all__ = [
    "Compaction",
    "Finding",
    "Kind",
    "Repaired",
    "compact_features",
    "merge_small_shards",
    "num_shards",
    "num_small",
    "plan_compaction",
    "plan_merge",
    "quarantine_bytes",
    "repair_features",
    "repair_table",
    "superseded",
    "verify_features",
    "verify_table",
]
