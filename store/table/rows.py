"""Rows of the clip table: their schema, and the checks that every row passes before it is written."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from xxhash import xxh3_64_intdigest

from ..._vocabulary import ConfigError, InputError, canonical_json
from .filters import check_columns

if TYPE_CHECKING:
    import pyarrow as pa

TABLE_FORMAT = "3"
READABLE_FORMATS = ("2", TABLE_FORMAT)  # rows of the older one have no checksums
MAX_NORM_ERROR = 1e-3
COLUMN_TYPES = {
    "id": "string",
    "clip": "string",
    "video": "string",
    "path": "string",
    "modalities": "string",
    "is_primary": "bool",
    "start_seconds": "double",
    "end_seconds": "double",
    "split": "string",
    "captions": "captions",
    "metadata": "string",
    "fingerprint": "string",
    "row_digest": "string",
    "model": "string",
    "vector_checksum": "int64",
    "row_checksum": "int64",
    "vector": "vector",
}
METADATA_TYPES = ("string", "int64", "double", "bool")
# Names of result fields and of LanceDB's own, which a metadata column would hide.
_RESERVED = frozenset({*COLUMN_TYPES, "score", "distance"})
_COLUMN_NAME = re.compile(r"[^\W_][\w -]{0,62}")
_REQUIRED = ("id", "clip", "video", "modalities", "start_seconds", "end_seconds", "fingerprint", "row_digest", "model")
_PRIMARY_KEY = {"lance-schema:unenforced-primary-key:position": "1"}


def clip_schema(dim: int, metadata_schema: Mapping[str, str]) -> pa.Schema:
    """The table's schema for vectors of width ``dim`` and these metadata columns. Raises ConfigError or InputError."""
    import pyarrow as pa

    if dim < 1:
        raise InputError(f"vectors of width {dim}: at least 1 is needed")
    special = {"captions": pa.list_(pa.string()), "vector": pa.list_(pa.float32(), dim)}
    fields = [pa.field(name, special.get(kind, kind), nullable=name != "id") for name, kind in COLUMN_TYPES.items()]
    fields[0] = fields[0].with_metadata(_PRIMARY_KEY)
    return pa.schema([*fields, *metadata_fields(metadata_schema)], metadata={"frameloom.format": TABLE_FORMAT})


def check_metadata_schema(metadata_schema: Mapping[str, str]) -> None:
    """Raises ConfigError for metadata that cannot be columns: see `metadata_fields`. Loads no library."""
    folded: dict[str, str] = {}
    for name, kind in metadata_schema.items():
        wrong = ""
        if name.casefold() in _RESERVED:
            wrong = f"has the name of a column of ours; rename it ({', '.join(sorted(_RESERVED))})"
        elif not _COLUMN_NAME.fullmatch(name):
            allowed = "at most 63 letters, digits, blanks, '_' and '-', starting with a letter or digit"
            wrong = f"cannot be a column; allowed: {allowed}"
        elif kind not in METADATA_TYPES:
            wrong = f"has type {kind!r}; allowed: {', '.join(METADATA_TYPES)}"
        elif (other := folded.setdefault(name.casefold(), name)) != name:
            wrong = f"and {other!r} differ only in case, and filters ignore case; rename one"
        if wrong:
            raise ConfigError(f"metadata {name!r} {wrong}")


def metadata_fields(metadata_schema: Mapping[str, str]) -> list[pa.Field]:
    """One column for each metadata key. Raises ConfigError for a name that is taken or a type that is not allowed."""
    import pyarrow as pa

    check_metadata_schema(metadata_schema)
    return [pa.field(name, kind) for name, kind in metadata_schema.items()]


def rows_table(rows: pa.Table | Sequence[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """Rows as a table of the given schema, checked.

    A row's ``metadata`` may be a mapping: it is kept as JSON and spread over the metadata columns.

    Raises:
        InputError: a column is unknown, missing or of the wrong type; an id is a duplicate; a vector is not finite or
            not of length 1. Names the first id or column that is wrong.
    """
    import pyarrow as pa

    if isinstance(rows, pa.Table):
        columns: dict[str, Any] = {name: rows.column(name).combine_chunks() for name in rows.schema.names}
    elif rows:
        columns = _columns_of_rows(rows, schema)
    else:
        return schema.empty_table()
    check_columns(list(columns), schema.names)
    for name in (*_REQUIRED, "vector"):
        if name not in columns:
            raise InputError(f"rows need a column {name!r}")
    num_rows = len(columns["id"])
    # Made without the fields' own metadata, which LanceDB adds to and compares by itself.
    arrays = []
    for field in schema:
        values = columns.get(field.name, [None] * num_rows)
        try:
            arrays.append(values.cast(field.type) if isinstance(values, pa.Array) else pa.array(values, field.type))
        except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
            raise InputError(f"column {field.name!r} takes {field.type}: {error}") from error
    table = pa.Table.from_arrays(arrays, schema=schema)
    _check_values(table)
    for name, make in CHECKSUMS.items():
        if name in schema.names:  # which a table of an older format lacks
            place = schema.get_field_index(name)
            table = table.set_column(place, schema.field(place), pa.array(make(table), pa.int64()))
    return table


def _columns_of_rows(rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> dict[str, Any]:
    import pyarrow as pa

    spread = [dict(row) for row in rows]
    for row in spread:
        if isinstance(metadata := row.get("metadata"), Mapping):
            row.update(metadata, metadata=canonical_json(dict(metadata)))
    names = {name: None for row in spread for name in row}
    columns: dict[str, Any] = {name: [row.get(name) for row in spread] for name in names}
    if "vector" in columns:
        dim = schema.field("vector").type.list_size
        for row in spread:
            if (shape := np.shape(row.get("vector", ()))) != (dim,):
                raise InputError(f"row {row.get('id')!r}: its vector has shape {shape}, the table's have ({dim},)")
        flat = np.asarray(columns["vector"], dtype=np.float32).reshape(-1)
        columns["vector"] = pa.FixedSizeListArray.from_arrays(pa.array(flat), dim)
    return columns


def _check_values(table: pa.Table) -> None:
    ids = table.column("id").to_pylist()
    for name in (*_REQUIRED, "vector"):
        if table.column(name).null_count:
            first = int(np.flatnonzero(table.column(name).is_null().to_numpy())[0])
            raise InputError(f"row {ids[first]!r} has no {name}")
    if len(set(ids)) != len(ids):
        raise InputError(f"duplicate id {Counter(ids).most_common(1)[0][0]!r} in one batch")
    if bad := bad_rows(table):
        vector = table.column("vector")[bad[0]].values.to_numpy(zero_copy_only=False)
        raise InputError(
            f"row {ids[bad[0]]!r}: its vector has length {float(np.linalg.norm(vector)):g}; finite vectors of length 1"
            " are stored"
        )


def vectors_of(rows: pa.RecordBatch | pa.Table) -> np.ndarray[Any, np.dtype[np.float32]]:
    """The vectors (N, D) of rows that all have one."""
    import pyarrow as pa

    column = rows.column("vector")
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    flat: np.ndarray[Any, np.dtype[np.float32]] = column.flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(-1, column.type.list_size)


def bad_rows(batch: pa.RecordBatch | pa.Table) -> list[int]:
    """Places of the rows whose vector is missing, not finite or not of length 1."""
    import pyarrow as pa

    column = pa.table({"vector": batch.column("vector")}).column("vector").combine_chunks()
    is_there = column.is_valid().to_numpy(zero_copy_only=False)
    vectors = column.flatten().to_numpy(zero_copy_only=False).reshape(-1, column.type.list_size)
    lengths = np.zeros(len(column))  # also of those that are missing, which `flatten` leaves out
    lengths[is_there] = np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64))
    return np.flatnonzero(~(np.abs(lengths - 1) <= MAX_NORM_ERROR)).tolist()  # NaN fails every comparison


def vector_checksums(rows: pa.RecordBatch | pa.Table) -> list[int]:
    """For each row the XXH3-64 of its vector, seeded by its id, so that the vector of another row has another one."""
    vectors, names = np.ascontiguousarray(vectors_of(rows)), rows.column("id").to_pylist()
    return [
        _signed(xxh3_64_intdigest(vector.data, seed=xxh3_64_intdigest(name.encode())))
        for vector, name in zip(vectors, names, strict=True)
    ]


def row_checksums(rows: pa.RecordBatch | pa.Table) -> list[int]:
    """For each row the XXH3-64 of what its columns hold, with the vector's checksum in place of the vector.

    Empty columns do not count: a column that is added later changes no row.
    """
    names = [name for name in rows.schema.names if name not in ("vector", "row_checksum")]
    filled = ({key: value for key, value in row.items() if value is not None} for row in rows.select(names).to_pylist())
    return [_signed(xxh3_64_intdigest(json.dumps(row, sort_keys=True).encode())) for row in filled]


def _signed(number: int) -> int:
    return number - (1 << 64) if number >> 63 else number


CHECKSUMS = {"vector_checksum": vector_checksums, "row_checksum": row_checksums}  # the second is of the first as well


def altered_rows(rows: pa.RecordBatch | pa.Table) -> list[int]:
    """Places of the rows that are not as they were written, by the checksums that are among their columns."""
    kept = [name for name in CHECKSUMS if name in rows.schema.names]
    if "vector" in rows.schema.names and rows.column("vector").null_count:
        return np.flatnonzero(rows.column("vector").is_null().to_numpy(zero_copy_only=False)).tolist()
    pairs = [zip(rows.column(name).to_pylist(), CHECKSUMS[name](rows), strict=True) for name in kept]
    return sorted({place for one in pairs for place, (known, found) in enumerate(one) if known != found})


def query_vector(vector: Any, dim: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """A query as (D,) float32 of length 1. Raises InputError when it cannot be compared with anything."""
    try:
        query = np.asarray(vector, dtype=np.float32)
    except (ValueError, TypeError) as error:
        raise InputError(f"the query is not a vector of numbers: {error}") from error
    if query.shape != (dim,):
        raise InputError(f"the query vector has shape {query.shape}; this table's vectors have ({dim},)")
    length = float(np.linalg.norm(query))
    if not np.isfinite(length) or length == 0:
        raise InputError(f"the query vector has length {length:g}; it must be finite and not zero")
    return query / np.float32(length)


def metadata_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row's metadata as it was given: the JSON of its ``metadata`` column."""
    return dict(json.loads(row.get("metadata") or "{}"))
