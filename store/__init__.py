"""Features and vectors, kept: fingerprints, shards and their sidecars, the ledger, and the table of clip embeddings.

Knows arrays, fingerprints, shards and LanceDB; knows no model and no media. Importing it loads none of h5py, pyarrow
and lancedb: each is loaded by the first call that needs it.
"""

from ._arrays_in import npy_bytes, npz_names, read_npy, read_npy_stream, read_npz
from ._clip_rows import check_metadata_schema, metadata_of
from ._commit import FAIL_POINT_VARIABLE, FailPointError, fail_point, make_folder, publish, publish_text
from ._compact import Compaction, compact_features, num_small, plan_compaction, row_bytes, superseded
from ._features import FeatureStore, Problem
from ._filters import quoted
from ._fingerprints import embedding_fingerprint, feature_fingerprint, file_digest
from ._health import Finding, Kind, Repaired, num_shards, quarantine_bytes, repair_features, verify_features
from ._ledger import Ledger
from ._lock import ReaderHold, alone, reader_lock, writer_lock
from ._recovered import Identity
from ._shards import Sample, ShardGoneError, sample_checksum
from ._sidecar import Entry, ShardInfo, code_version
from ._table_health import repair_table, verify_table
from ._unpickle import read_pickle
from .lance import Applied, ClipTable

__all__ = [
    "FAIL_POINT_VARIABLE",
    "Applied",
    "ClipTable",
    "Compaction",
    "Entry",
    "FailPointError",
    "FeatureStore",
    "Finding",
    "Identity",
    "Kind",
    "Ledger",
    "Problem",
    "ReaderHold",
    "Repaired",
    "Sample",
    "ShardGoneError",
    "ShardInfo",
    "alone",
    "check_metadata_schema",
    "code_version",
    "compact_features",
    "embedding_fingerprint",
    "fail_point",
    "feature_fingerprint",
    "file_digest",
    "make_folder",
    "metadata_of",
    "npy_bytes",
    "npz_names",
    "num_shards",
    "num_small",
    "plan_compaction",
    "publish",
    "publish_text",
    "quarantine_bytes",
    "quoted",
    "read_npy",
    "read_npy_stream",
    "read_npz",
    "read_pickle",
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
