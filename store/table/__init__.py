"""The table of clip embeddings in LanceDB: its rows, its filters, its commits and its versions."""

from .filters import quoted
from .lance import Applied, ClipTable
from .rows import COLUMN_TYPES, altered_rows, bad_rows, check_metadata_schema, metadata_of

__all__ = [
    "COLUMN_TYPES",
    "Applied",
    "ClipTable",
    "altered_rows",
    "bad_rows",
    "check_metadata_schema",
    "metadata_of",
    "quoted",
]
