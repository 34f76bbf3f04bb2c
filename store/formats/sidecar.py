"""The sidecar: a small Parquet file beside a shard, whose existence is the commit.

It says of every sample what is needed to plan work and to read, so that nothing opens a shard to find out what is in
it, and it seals itself: a digest of its own content stands in its metadata, so a flipped bit in it is found as well.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, overload

import numpy as np

from ..._vocabulary import FeatureArray, FeatureSpec, IntegrityError, Status, canonical_json
from .base import MAX_DIM, REMEDY, STORED_TYPES, Sample, sample_checksum

SUFFIX = ".parquet"
FORMAT_VERSION = 1
MAX_SAMPLES = 10_000_000
MAX_BYTES = 1 << 31
_METADATA_KEY = b"frameloom"
_ARROW_NAMES = {"float64": "double"}
_TIME_BYTES = 16  # of a row
_FEW_BYTES = 8
_ARROW = re.compile(r"parquet-cpp-arrow version \d+\.\d+\.\d+")
_SHA256 = re.compile(r"[0-9a-f]{64}")
COLUMNS = {
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
        path: the shard's file; of a remote store, where its copy on this machine is or will be.
        num_samples: samples in it, those without rows included.
        num_bytes: size of its file.
        sha256: of its file.
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


class Sidecar(Sequence[Entry]):
    """What one sidecar says: the entries of its samples, each made when it is first asked for: stores hold very many.

    Attributes:
        shard: the shard that it stands beside.
        fingerprints: of its samples, in order.

    Args:
        shard: the shard.
        columns: what sidecars say, one item for each sample of theirs.
        first: the place in them of this sidecar's first sample. Others may share the columns: thousands of short lists
            would keep Python's collector of garbage busy.
    """

    def __init__(self, shard: ShardInfo, columns: dict[str, list[Any]], first: int = 0) -> None:
        self.shard = shard
        self._columns = columns
        self._first = first
        self.fingerprints: list[str] = self._column("fingerprint")
        self._made: dict[int, Entry] = {}
        for status in set(self._column("status")):
            Status(status)  # a status that is none is found here, and not when somebody asks for the entry

    def _column(self, name: str) -> list[Any]:
        return self._columns[name][self._first : self._first + self.shard.num_samples]

    @property
    def columns(self) -> dict[str, list[Any]]:
        """What it says of each sample, in order."""
        return {name: self._column(name) for name in self._columns}

    def __len__(self) -> int:
        return len(self.fingerprints)

    @overload
    def __getitem__(self, place: int) -> Entry: ...
    @overload
    def __getitem__(self, place: slice) -> list[Entry]: ...
    def __getitem__(self, place: int | slice) -> Entry | list[Entry]:
        if isinstance(place, slice):
            return [self[number] for number in range(*place.indices(len(self)))]
        place = place + len(self) if place < 0 else place
        made = self._made.get(place)
        if made is None:
            made = self._made[place] = self._make(place)
        return made

    def _make(self, place: int) -> Entry:
        if not 0 <= place < len(self.fingerprints):
            raise IndexError(place)
        fields = {name: column[self._first + place] for name, column in self._columns.items()}
        fields["status"] = Status(fields["status"])
        return Entry(feature=self.shard.feature, shard=self.shard, **fields)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sidecar):
            return NotImplemented
        return self.shard == other.shard and self.columns == other.columns

    __hash__ = None  # type: ignore[assignment]  # compared by content

    def status(self, place: int) -> Status:
        """What became of one sample."""
        return Status(self._columns["status"][self._first + place])


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
    return _encode(columns, {**facts, "seal": _seal(columns, facts)})


def _encode(columns: dict[str, list[Any]], facts: dict[str, Any]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(list(COLUMNS.items()), metadata={_METADATA_KEY: canonical_json(facts)})
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


def read_sidecar(path: Path | str, *, shard_path: Path, data: bytes | None = None) -> Sidecar:
    """What a sidecar says, one entry for each sample of its shard.

    Args:
        path: the sidecar; what people call it, where its bytes are given.
        shard_path: the shard that it stands beside.
        data: the sidecar's bytes, where they have been fetched.

    Raises:
        IntegrityError: the sidecar is not what was written, is of a newer format, or belongs to another shard.
        FileNotFoundError: there is none.
    """
    data = Path(path).read_bytes() if data is None else data
    try:
        columns, facts = _parse(data)
        if _seal(columns, facts) != facts["seal"]:
            raise ValueError("its content does not match its seal")
        if facts["format"] != FORMAT_VERSION:
            raise ValueError(f"its format is {facts['format']!r:.50}, this version reads {FORMAT_VERSION}")
        _check_facts(facts, columns)
        if shard_path.stem != facts["sha256"][: len(shard_path.stem)]:
            raise ValueError("it belongs to another shard")
        return Sidecar(_shard_info(facts, shard_path, num_samples=len(columns["key"])), columns)
    except _ODD as error:
        raise IntegrityError(f"sidecar {path} cannot be trusted ({one_line(error)}); {REMEDY}") from error


# What Arrow and JSON make of odd bytes; Arrow's own errors are ValueError, OSError, KeyError or one of these as well.
_ODD = (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError, MemoryError)


def one_line(error: BaseException | str) -> str:
    """What an error says, in one line that a terminal may show: those of Arrow and HDF5 have several."""
    text = " ".join(line.strip() for line in str(error).splitlines() if line.strip())
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in text)


def is_as_written(data: bytes, sidecar: Sidecar) -> bool:
    """Whether the bytes of a sidecar that is right are those that were written: some of them nobody reads.

    They are compared with what this version would write. Another version of Arrow may write others, and then nothing
    is known; a disk changes a few bytes at a time, and never their number.
    """
    again = rewritten(data, sidecar)
    if len(again) != len(data) or _is_of_another_arrow(data, again):
        return True
    differ = np.frombuffer(again, np.uint8) != np.frombuffer(data, np.uint8)
    return not 0 < int(differ.sum()) <= _FEW_BYTES


def _is_of_another_arrow(data: bytes, again: bytes) -> bool:
    """Whether two files name different versions of Arrow, and do name versions."""
    names = [_written_by(one) for one in (data, again)]
    return names[0] != names[1] and all(map(_ARROW.fullmatch, names))


def _written_by(data: bytes) -> str:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with suppress(UnicodeDecodeError):
        return str(pq.read_metadata(pa.BufferReader(data)).created_by)
    return ""


def rewritten(data: bytes, sidecar: Sidecar) -> bytes:
    """The bytes of a sidecar that is right, as this version writes them."""
    return _encode(sidecar.columns, _parse(data)[1])


def restored_sidecar(columns: Mapping[str, list[Any]], facts: Mapping[str, Any]) -> bytes | None:
    """A sidecar from columns and facts that were pieced together, or None where they are not proven to be right.

    The proof is the seal among the facts, which every column and every fact has part in.
    """
    ordered = {name: list(columns.get(name, ())) for name in COLUMNS}
    if len({len(column) for column in ordered.values()}) != 1 or _seal(ordered, dict(facts)) != facts.get("seal"):
        return None
    return _encode(ordered, dict(facts))


def readable_columns(damaged: bytes) -> tuple[dict[str, list[Any]], dict[str, Any]]:
    """The columns and facts of a damaged sidecar whose own checksums hold; they may still be wrong together.

    Every column has an item of its type, or None, for each sample that the sidecar claims to have.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, list[Any]] = {}
    facts: Any = {}
    with suppress(*_ODD), pq.ParquetFile(pa.BufferReader(damaged), page_checksum_verification=True) as file:
        _check_promise(file.metadata)
        schema, num_samples = file.schema_arrow, file.metadata.num_rows
        for name, type in COLUMNS.items():
            with suppress(*_ODD):
                found = file.read([name], use_threads=False).column(name)
                if len(found) == num_samples and str(schema.field(name).type) == _ARROW_NAMES.get(type, type):
                    columns[name] = found.to_pylist()
        facts = json.loads(schema.metadata[_METADATA_KEY])
    return columns, facts if isinstance(facts, dict) else {}


def _parse(data: bytes) -> tuple[dict[str, list[Any]], dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True) as file:
        _check_promise(file.metadata)
        table = file.read(use_threads=False)
    found = {field.name: str(field.type) for field in table.schema}
    if list(found.items()) != [(name, _ARROW_NAMES.get(type, type)) for name, type in COLUMNS.items()]:
        raise ValueError(f"its columns are {', '.join(f'{name} ({type})' for name, type in found.items())}")
    columns = table.to_pydict()
    _check_columns(columns)
    facts = json.loads(table.schema.metadata[_METADATA_KEY])
    if not isinstance(facts, dict):
        raise ValueError("its facts are no object")
    return columns, facts


def _check_promise(promised: Any) -> None:
    """Refuse a small file that would be a very large table."""
    num_bytes = sum(promised.row_group(number).total_byte_size for number in range(promised.num_row_groups))
    if promised.num_rows > MAX_SAMPLES or num_bytes > MAX_BYTES:
        raise ValueError(f"it claims {promised.num_rows:,} samples in {num_bytes:,} bytes")


def _check_columns(columns: dict[str, list[Any]]) -> None:
    """Refuse numbers that no shard can have, whatever the seal says: anybody can seal a lie."""
    known = [name for name in COLUMNS if name not in ("start_seconds", "end_seconds")]
    if not columns["key"] or any(None in columns[name] for name in known):
        raise ValueError("it lacks samples, or something of one")
    if min(columns["num_rows"]) < 0 or columns["first_row"] != [0, *accumulate(columns["num_rows"])][:-1]:
        raise ValueError("its samples do not lie end to end")
    if min(columns["checksum"]) < 0 or max(columns["checksum"]) >> 32:
        raise ValueError("it has checksums that are none")
    names = columns["fingerprint"]
    if len(set(names)) < len(names) or "" in names or not "".join(names).isascii():
        raise ValueError("its fingerprints are not ASCII texts, each of one sample")
    for start, end in zip(columns["start_seconds"], columns["end_seconds"], strict=True):
        if (start is None) != (end is None) or (start is not None and not start <= end):
            raise ValueError(f"a sample of its begins at {start} and ends at {end} s")


def _check_facts(facts: dict[str, Any], columns: dict[str, list[Any]]) -> None:
    """Refuse a shard that cannot be, whatever the seal says."""
    sha256, num_bytes, spec = facts["sha256"], facts["num_bytes"], facts["spec"]
    if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
        raise ValueError(f"its shard's SHA-256 is {sha256!r:.80}")
    if type(num_bytes) is not int or num_bytes < 1:
        raise ValueError(f"its shard has {num_bytes!r:.50} bytes")
    if not isinstance(facts["code_version"], str) or not isinstance(spec, str):
        raise ValueError("its specification or the version that wrote it is no text")
    dim, dtype = facts["dim"], facts["dtype"]
    if type(dim) is not int or not 1 <= dim <= MAX_DIM or dtype not in tuple(STORED_TYPES):
        raise ValueError(f"it promises values of {dtype!r:.50} (T, {dim!r:.50})")
    if _values_of(spec) != (dtype, dim):
        raise ValueError(f"its specification is not one of {dtype} (T, {dim})")
    num_rows = sum(columns["num_rows"])
    if num_rows * (dim * STORED_TYPES[dtype].itemsize + _TIME_BYTES) > num_bytes:
        raise ValueError(f"it promises {num_rows:,} rows of {dtype} (T, {dim}) in {num_bytes:,} bytes")


@functools.lru_cache(maxsize=256)
def _values_of(spec: str) -> tuple[Any, Any]:
    """Type and width of the values that a specification, of whatever version, gives."""
    try:
        fields = json.loads(spec)
    except RecursionError as error:
        raise ValueError("its specification is too deep") from error
    if not isinstance(fields, dict):
        raise ValueError("its specification is no object")
    return fields.get("dtype"), fields.get("dim")


def _shard_info(facts: dict[str, Any], path: Path, *, num_samples: int) -> ShardInfo:
    wanted = ("num_bytes", "sha256", "dim", "dtype", "spec", "code_version")
    return ShardInfo(
        feature=path.parent.name,
        name=path.stem,
        path=path,
        num_samples=num_samples,
        **{name: facts[name] for name in wanted},
    )
