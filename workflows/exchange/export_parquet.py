"""Export as Parquet: one row for each row of a feature; values are float32, which holds every stored type exactly."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from ..._vocabulary import InputError, canonical_json
from ..project import Project
from .plans import ExportFile, ExportJob, ExportPlan, in_groups
from .records import Header, Record

_VALUES_IN_LIST = 2**31 - 1
_ROWS_IN_GROUP = 2000


def plan_parquet(job: ExportJob) -> ExportPlan:
    """Parts of about the wanted size, each with whole features."""

    def num_bytes(record: Record) -> int:
        return record.num_rows * (job.features[record.feature].spec.dim * 4 + 24) + 64

    files: list[ExportFile] = []
    placed: list[Record] = []
    for number, group in enumerate(in_groups(job.records, num_bytes, job.shard_bytes)):
        name = f"part-{number:05d}.parquet"
        held = [record for record in group if record.num_rows]
        placed += [record.model_copy(update={"file": name}) if record.num_rows else record for record in group]
        if held:
            make = partial(_part, job.project, held, job.header)
            files.append(ExportFile(name=name, make=make, count=len(held)))
    return ExportPlan(records=placed, files=files)


def _part(project: Project, records: Sequence[Record], header: Header) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(
        [
            pa.field("video", pa.string()),
            pa.field("caption", pa.string()),
            pa.field("feature", pa.string()),
            pa.field("index", pa.int64()),
            pa.field("start_seconds", pa.float64()),
            pa.field("end_seconds", pa.float64()),
            pa.field("values", pa.list_(pa.float32())),
        ],
        metadata={"frameloom": canonical_json(header.model_dump())},
    )
    sink = pa.BufferOutputStream()
    names = [name for name in schema.names if name != "values"]  # numbers do not repeat: a dictionary only costs time
    with pq.ParquetWriter(sink, schema, compression="zstd", use_dictionary=names, write_page_checksum=True) as writer:
        for group in in_groups(records, lambda one: one.num_rows, _ROWS_IN_GROUP):
            writer.write_table(pa.concat_tables([_rows_of(project, record, schema) for record in group]))
    return bytes(sink.getvalue())


def _rows_of(project: Project, record: Record, schema: Any) -> Any:
    import pyarrow as pa

    feature = project.store.read(record.fingerprint or "")
    count, dim = feature.values.shape
    if count * dim > _VALUES_IN_LIST:
        raise InputError(f"{record.key!r}: {count} rows of {dim} are too many for one Parquet list: use --format npy")
    offsets = np.arange(0, (count + 1) * dim, dim, dtype=np.int32)
    flat = feature.values.astype(np.float32).reshape(-1)
    times = [pa.array(column, from_pandas=True) for column in feature.times.T.copy()]  # NaN becomes null
    names = [pa.array([one] * count, pa.string()) for one in (record.video, record.caption, record.feature)]
    values = pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat))
    return pa.Table.from_arrays([*names, pa.array(np.arange(count)), *times, values], schema=schema)
