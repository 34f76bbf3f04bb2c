"""Features and vectors, kept: fingerprints, shards and their sidecars, the ledger, and the table of clip embeddings.

Knows arrays, fingerprints, shards and LanceDB; knows no model and no media. Importing it loads none of h5py, pyarrow
and lancedb: each is loaded by the first call that needs it.
"""

from .features import FeatureStore
from .fingerprints import embedding_fingerprint, feature_fingerprint
from .formats import Entry, Sample, ShardGoneError, ShardInfo, code_version, sample_checksum
from .health import Finding, compact_features, repair_features, verify_features
from .ledger import Ledger, hash_file
from .locks import SharedLock, exclusive_lock, reader_lock, writer_lock
from .table import ClipTable, check_metadata_schema, metadata_of, quoted

__all__ = [
    "ClipTable",
    "Entry",
    "FeatureStore",
    "Finding",
    "Ledger",
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
    "hash_file",
    "metadata_of",
    "quoted",
    "reader_lock",
    "repair_features",
    "sample_checksum",
    "verify_features",
    "writer_lock",
]
