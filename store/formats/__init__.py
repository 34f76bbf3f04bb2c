"""The family of shard formats, the sidecar, and how rows are read and checked.

The door for the rest of the store. A format is one file that adds itself to `FORMATS`.
"""

from . import hdf5, webdataset  # noqa: F401 - members of FORMATS
from .base import FORMATS, REMEDY, Sample, check_samples, format_of
from .checksums import sample_checksum
from .records import Contents
from .rows import Part, ShardFile, ShardFiles, ShardGoneError
from .sidecar import (
    SUFFIX,
    Entry,
    Rows,
    ShardInfo,
    Sidecar,
    bytes_of,
    code_version,
    encode_sidecar,
    is_damaged_unread,
    one_line,
    read_sample,
    read_sidecar,
    times_part,
    values_part,
)

__all__ = [
    "FORMATS",
    "REMEDY",
    "SUFFIX",
    "Contents",
    "Entry",
    "Part",
    "Rows",
    "Sample",
    "ShardFile",
    "ShardFiles",
    "ShardGoneError",
    "ShardInfo",
    "Sidecar",
    "bytes_of",
    "check_samples",
    "code_version",
    "encode_sidecar",
    "format_of",
    "is_damaged_unread",
    "one_line",
    "read_sample",
    "read_sidecar",
    "sample_checksum",
    "times_part",
    "values_part",
]
