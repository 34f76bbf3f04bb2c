"""TODO door of store/formats."""

from . import hdf5, webdataset
from .agreement import check_mark, disagreement, is_true, mark_disagreement, promised_mark, span_disagreement
from .base import (
    FORMATS,
    REMEDY,
    OpenShard,
    Sample,
    SampleChecks,
    ShardFormat,
    ShardGoneError,
    ShardReader,
    check_samples,
    format_of,
    sample_checksum,
)
from .pages import PageSums, hash_with_sums
from .records import Contents, Told
from .remembered import FROM_SIDECARS, SETTLED_SECONDS, Known, Stamp, recall, remember
from .sidecar import (
    SUFFIX,
    Entry,
    ShardInfo,
    Sidecar,
    code_version,
    encode_sidecar,
    is_as_written,
    one_line,
    read_sidecar,
    readable_columns,
    restored_sidecar,
)
from .webdataset import sample_id

__all__ = [
    "FORMATS",
    "FROM_SIDECARS",
    "REMEDY",
    "SETTLED_SECONDS",
    "SUFFIX",
    "Contents",
    "Entry",
    "Known",
    "OpenShard",
    "PageSums",
    "Sample",
    "SampleChecks",
    "ShardFormat",
    "ShardGoneError",
    "ShardInfo",
    "ShardReader",
    "Sidecar",
    "Stamp",
    "Told",
    "check_mark",
    "check_samples",
    "code_version",
    "disagreement",
    "encode_sidecar",
    "format_of",
    "hash_with_sums",
    "hdf5",
    "is_as_written",
    "is_true",
    "mark_disagreement",
    "one_line",
    "promised_mark",
    "read_sidecar",
    "readable_columns",
    "recall",
    "remember",
    "restored_sidecar",
    "sample_checksum",
    "sample_id",
    "span_disagreement",
    "webdataset",
]
