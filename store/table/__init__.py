"""TODO door of store/table."""

from .filters import quoted
from .lance import Applied, ClipTable
from .rows import COLUMN_TYPES, bad_vectors, check_metadata_schema, metadata_of, vectors_of

__all__ = [
    "COLUMN_TYPES",
    "Applied",
    "ClipTable",
    "bad_vectors",
    "check_metadata_schema",
    "metadata_of",
    "quoted",
    "vectors_of",
]
