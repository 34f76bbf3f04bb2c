"""The sidecar: a small Parquet file beside a shard, whose existence is the commit.

It says of every sample what is needed to plan work and to read, so that nothing opens a shard to find out what is in
it, and it seals itself: a digest of its own content stands in its metadata, so a flipped bit in it is found as well.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .._vocabulary import FeatureArray, FeatureSpec, IntegrityError, Status, canonical_json
from .hdf5 import REMEDY, Sample, sample_checksum

SUFFIX = ".parquet"
FORMAT_VERSION = 1
_METADATA_KEY = b"frameloom"
_COLUMNS = {
    "key": "string",
    "source_digest": "string",
    "fingerprint": "string",
    "first_row": "int64",
    "num_rows": "int64",
    "start_seconds": "float64",
    "end_seconds": "float64",
    "status": "string",
    "message": "string",
    "checksum": "int64",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardInfo:
    """One committed shard.

    Attributes:
        feature: the feature's name, which is also its folder's.
        name: file name without suffix: the first 32 digits of ``sha256``.
        path: the HDF5 file.
        num_samples: samples in it, those without rows included.
        num_bytes: size of the HDF5 file.
        sha256: of the HDF5 file.
        dim: width D of the values.
        dtype: type of the values.
        spec: canonical JSON of the specification's identity.
        code_version: version of frameloom that wrote it.
    """

    feature: str
    name: str
    path: Path
    num_samples: int
    num_bytes: int
    sha256: str
    dim: int
    dtype: str
    spec: str
    code_version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What the sidecar says of one sample.

    Attributes:
        feature: the feature's name.
        key: what a person calls it.
        source_digest: digest of the file that it came from.
        fingerprint: its name in the store.
        num_rows: T; 0 where nothing is usable.
        status: ``ok`` or what is missing or damaged.
        message: a sentence for a person, empty when ok.
        start_seconds: first instant of the stream that its rows were sampled from, or where that is not known the start
            of its earliest row; None without rows and for text.
        end_seconds: the same stream's end, or the end of its latest row; None without rows and for text.
        shard: the shard that holds it.
        first_row: its first row in the shard.
        checksum: CRC-32 of its values and times.
    """

    feature: str
    key: str
    source_digest: str
    fingerprint: str
    num_rows: int
    status: Status
    message: str
    start_seconds: float | None
    end_seconds: float | None
    shard: ShardInfo
    first_row: int
    checksum: int


@functools.cache
def code_version() -> str:
    """The version of frameloom that is running."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("frameloom")
    except PackageNotFoundError:  # run from a folder that was never installed
        return "not installed"


def encode_sidecar(samples: Sequence[Sample], *, spec: FeatureSpec, num_bytes: int, sha256: str) -> bytes:
    """The bytes of the sidecar of a shard that holds these samples."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = _columns(samples)
    facts = {
        "format": FORMAT_VERSION,
        "sha256": sha256,
        "num_bytes": num_bytes,
        "dim": spec.dim,
        "dtype": spec.dtype,
        "spec": canonical_json(spec.identity()),
        "code_version": code_version(),
    }
    facts["seal"] = _seal(columns, facts)
    schema = pa.schema(list(_COLUMNS.items()), metadata={_METADATA_KEY: canonical_json(facts)})
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns, schema=schema), sink, compression="zstd", write_page_checksum=True)
    return bytes(sink.getvalue())


def _columns(samples: Sequence[Sample]) -> dict[str, list[Any]]:
    features = [sample.feature for sample in samples]
    num_rows = [len(feature.values) for feature in features]
    spans = [_span(feature) for feature in features]
    return {
        "key": [sample.key for sample in samples],
        "source_digest": [sample.source_digest for sample in samples],
        "fingerprint": [sample.fingerprint for sample in samples],
        "first_row": [int(row) for row in np.cumsum([0, *num_rows])[:-1]],
        "num_rows": num_rows,
        "start_seconds": [start for start, _ in spans],
        "end_seconds": [end for _, end in spans],
        "status": [feature.status.value for feature in features],
        "message": [feature.message for feature in features],
        "checksum": [sample_checksum(feature.values, feature.times) for feature in features],
    }


def _span(feature: FeatureArray) -> tuple[float | None, float | None]:
    times = feature.times
    if not len(times) or np.isnan(times).any():
        return None, None
    if feature.extent is not None:
        return feature.extent
    return float(times[:, 0].min()), float(times[:, 1].max())


def _seal(columns: dict[str, list[Any]], facts: dict[str, Any]) -> str:
    content = json.dumps([columns, {name: facts[name] for name in sorted(facts) if name != "seal"}], allow_nan=False)
    return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()


def read_sidecar(path: Path, *, shard_path: Path) -> list[Entry]:
    """What a sidecar says, one entry for each sample of its shard.

    Raises:
        IntegrityError: the sidecar is not what was written, is of a newer format, or belongs to another shard.
        FileNotFoundError: there is none.
    """
    import pyarrow as pa

    data = path.read_bytes()
    try:
        columns, facts = _parse(data)
        if _seal(columns, facts) != facts["seal"]:
            raise ValueError("its content does not match its seal")
        if facts["format"] != FORMAT_VERSION:
            raise ValueError(f"its format is {facts['format']}, this version reads {FORMAT_VERSION}")
        if shard_path.stem != facts["sha256"][: len(shard_path.stem)]:
            raise ValueError("it belongs to another shard")
        return _entries(columns, _shard_info(facts, shard_path, num_samples=len(columns["key"])))
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, MemoryError) as error:
        raise IntegrityError(f"sidecar {path} cannot be trusted ({error}); {REMEDY}") from error


def _parse(data: bytes) -> tuple[dict[str, list[Any]], dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True) as file:
        table = file.read(use_threads=False)
    if table.schema.names != list(_COLUMNS):
        raise ValueError(f"its columns are {', '.join(table.schema.names)}")
    return table.to_pydict(), json.loads(table.schema.metadata[_METADATA_KEY])


def _shard_info(facts: dict[str, Any], path: Path, *, num_samples: int) -> ShardInfo:
    wanted = ("num_bytes", "sha256", "dim", "dtype", "spec", "code_version")
    return ShardInfo(
        feature=path.parent.name,
        name=path.stem,
        path=path,
        num_samples=num_samples,
        **{name: facts[name] for name in wanted},
    )


def _entries(columns: dict[str, list[Any]], shard: ShardInfo) -> list[Entry]:
    columns = {**columns, "status": [Status(status) for status in columns["status"]]}
    names = list(columns)
    rows = zip(*columns.values(), strict=True)
    return [Entry(feature=shard.feature, shard=shard, **dict(zip(names, row, strict=True))) for row in rows]
