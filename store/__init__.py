"""Features and vectors, kept: fingerprints, shards and their sidecars, the ledger, and the table of clip embeddings.

Knows arrays, fingerprints, shards and LanceDB; knows no model and no media. Importing it loads none of h5py, pyarrow
and lancedb: each is loaded by the first call that needs it.
"""

from .features import FeatureStore, Problem
from .fingerprints import embedding_fingerprint, feature_fingerprint, file_digest
from .formats import Entry, Sample, ShardGoneError, ShardInfo, code_version, sample_checksum
from .health import (
    Compaction,
    Finding,
    Kind,
    Repaired,
    compact_features,
    merge_small_shards,
    num_shards,
    num_small,
    plan_compaction,
    quarantine_bytes,
    repair_features,
    repair_table,
    row_bytes,
    superseded,
    verify_features,
    verify_table,
)
from .ledger import Ledger
from .locks import SharedLock, exclusive_lock, reader_lock, writer_lock
from .table import Applied, ClipTable, check_metadata_schema, metadata_of, quoted

__all__ = [
    "Applied",
    "ClipTable",
    "Compaction",
    "Entry",
    "FeatureStore",
    "Finding",
    "Kind",
    "Ledger",
    "Problem",
    "Repaired",
    "Sample",
    "ShardGoneError",
    "ShardInfo",
    "SharedLock",
    "check_metadata_schema",
    "code_version",
    "compact_features",
    "embedding_fingerprint",
    "exclusive_lock",
    "feature_fingerprint",
    "file_digest",
    "merge_small_shards",
    "metadata_of",
    "num_shards",
    "num_small",
    "plan_compaction",
    "quarantine_bytes",
    "quoted",
    "reader_lock",
    "repair_features",
    "repair_table",
    "row_bytes",
    "sample_checksum",
    "superseded",
    "verify_features",
    "verify_table",
    "writer_lock",
]
