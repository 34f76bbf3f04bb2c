"""TODO door of store/health."""

from .compact import Compaction, compact_features, num_small, plan_compaction, row_bytes, superseded
from .recovered import Identity
from .table import repair_table, verify_table
from .verify import Finding, Kind, Repaired, num_shards, quarantine_bytes, repair_features, verify_features

__all__ = [
    "Compaction",
    "Finding",
    "Identity",
    "Kind",
    "Repaired",
    "compact_features",
    "num_shards",
    "num_small",
    "plan_compaction",
    "quarantine_bytes",
    "repair_features",
    "repair_table",
    "row_bytes",
    "superseded",
    "verify_features",
    "verify_table",
]
