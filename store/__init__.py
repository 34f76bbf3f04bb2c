"""Features and vectors, kept: fingerprints, shards and their sidecars, the ledger, and the table of clip embeddings.

Knows arrays, fingerprints, shards and LanceDB; knows no model and no media. Importing it loads none of h5py, pyarrow
and lancedb: each is loaded by the first call that needs it.
"""

from ._clip_rows import check_metadata_schema, metadata_of
from ._commit import FAIL_POINT_VARIABLE, FailPointError, fail_point, publish_text
from ._features import FeatureStore, Problem
from ._filters import quoted
from ._fingerprints import embedding_fingerprint, feature_fingerprint, file_digest
from ._ledger import Ledger
from ._lock import writer_lock
from ._sidecar import Entry, ShardInfo, code_version
from .hdf5 import Sample
from .lance import Applied, ClipTable

__all__ = [
    "FAIL_POINT_VARIABLE",
    "Applied",
    "ClipTable",
    "Entry",
    "FailPointError",
    "FeatureStore",
    "Ledger",
    "Problem",
    "Sample",
    "ShardInfo",
    "check_metadata_schema",
    "code_version",
    "embedding_fingerprint",
    "fail_point",
    "feature_fingerprint",
    "file_digest",
    "metadata_of",
    "publish_text",
    "quoted",
    "writer_lock",
]
