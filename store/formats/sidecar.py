"""The sidecar: a small Parquet file next to a shard, whose existence is the commit.

It has of every sample what is needed to plan work and to read rows: places, checksums, status. So nothing opens a shard
to find out what is in it. It is made of the shard alone (`Contents`), and a digest of its own columns and facts in its
metadata shows any flipped bit that would change them.
"""

from __future__ import annotations

import functools
import json
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xxhash
from numpy.typing import NDArray

from ..._vocabulary import IntegrityError, Status, canonical_json
from .base import REMEDY, TIME_BYTES
from .checksums import DIGEST_BYTES, checksum_of, num_blocks
from .records import FORMAT_VERSION, Contents, check_version, sample_id, values_of
from .rows import Part, ShardFile

SUFFIX = ".parquet"
MAX_SAMPLES = 10_000_000
MAX_BYTES = 1 << 31
COLUMNS = {
    "key": "string",
    "source_digest": "string",
    "fingerprint": "string",
    "first_row": "int64",
    "num_rows": "int64",
    "start_seconds": "double",
    "end_seconds": "double",
    "status": "string",
    "message": "string",
    "values_offset": "int64",
    "times_offset": "int64",
    "blocks": "binary",
}
_NULLABLE = ("start_seconds", "end_seconds")
_METADATA_KEY = b"frameloom"
_FACTS = ("checksum", "dim", "dtype", "format", "num_bytes", "sha256", "spec")
_STATUSES = {status.value: status for status in Status}
_SHA256 = re.compile(r"[0-9a-f]{64}")
_FEW_BYTES = 8
_WRITER = re.compile(rb"parquet-cpp-arrow version [\w.-]+")
# What Arrow and JSON make of odd bytes; Arrow's own errors are ValueError, OSError, KeyError or one of these as well.
_ODD = (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError, MemoryError)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardInfo:
    """One committed shard.

    Attributes:
        name: file name without suffix: the first 32 digits of ``sha256``.
        path: the shard's file; of a remote store, where its copy on this machine is or will be.
        num_samples: samples in it, those without rows included.
        spec: canonical JSON of the specification's identity.
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

    @property
    def row_bytes(self) -> int:
        return self.dim * np.dtype(self.dtype).itemsize


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What the sidecar says of one sample, `Sample` written.

    Attributes:
        num_rows: T; 0 where nothing is usable.
        status: ``ok`` or what is missing or damaged.
        message: a sentence for a person, empty when ok.
        start_seconds: first instant of the stream that its rows were sampled from, or where that is not known the start
            of its earliest row; None without rows and for text.
        end_seconds: the same stream's end, or the end of its latest row; None without rows and for text.
        first_row: its first row in the shard.
        values_offset: where its values begin in the shard's file.
        times_offset: where its times begin there.
        blocks: `block_checksums` of its values and times.
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
    values_offset: int
    times_offset: int
    blocks: bytes

    @property
    def num_bytes(self) -> int:
        """Size of its values and times."""
        return self.num_rows * (self.shard.row_bytes + TIME_BYTES)

    @property
    def checksum(self) -> str:
        """`sample_checksum` of its values and times."""
        return checksum_of(self.blocks)

    @property
    def sample_id(self) -> str:
        """What its members in a tar are called."""
        return sample_id(self.fingerprint)


class Rows(NamedTuple):
    """Where one array of each sample of a shard lies; one item for each sample."""

    width: int  # bytes of a row
    first_rows: list[int]  # and last the number of all rows
    offsets: list[int]  # where the array begins in the file
    digests: list[bytes]  # of its blocks

    def parts(self, spans: Sequence[tuple[int, int]], targets: Sequence[memoryview]) -> list[Part]:
        """Rows ``[first, last)`` of each span, into the bytes of its target. Raises ValueError."""
        width, first_rows, offsets, digests = self
        parts: list[Part] = []
        for (first, last), target in zip(spans, targets, strict=True):
            if not 0 <= first <= last <= first_rows[-1] or len(target) != (last - first) * width:
                raise ValueError(f"rows {first} to {last} of {first_rows[-1]} were asked for, into {len(target)} bytes")
            number, row = bisect_right(first_rows, first) - 1, first
            if first_rows[number] == first < last == first_rows[number + 1]:  # a whole sample, as most often
                parts.append(Part(offsets[number], len(target), digests[number], 0, len(target), target))
                continue
            while row < last:
                begin, end = first_rows[number], first_rows[number + 1]
                stop = min(last, end)
                if row < stop:
                    low, high = (row - begin) * width, (stop - begin) * width
                    piece = target[(row - first) * width : (stop - first) * width]
                    parts.append(Part(offsets[number], (end - begin) * width, digests[number], low, high, piece))
                row, number = stop, number + 1
        return parts


class Sidecar:
    """What one sidecar says. Columns become Python objects when they are first asked for: stores hold many samples."""

    def __init__(self, shard: ShardInfo, table: Any, fingerprints: list[str]) -> None:
        self.shard = shard
        self._table = table
        self._columns: dict[str, list[Any]] = {"fingerprint": fingerprints}
        self._made: dict[int, Entry] = {}

    def column(self, name: str) -> list[Any]:
        """One column of `COLUMNS`."""
        found = self._columns.get(name)
        if found is None:
            found = self._columns[name] = self._table.column(name).to_pylist()
        return found

    @functools.cached_property
    def _all_columns(self) -> list[tuple[str, list[Any]]]:
        return [(name, self.column(name)) for name in COLUMNS]

    @functools.cached_property
    def values(self) -> Rows:
        """Where its values lie. The checksums of times come after theirs, and are not reached."""
        return Rows(self.shard.row_bytes, self._first_rows, self.column("values_offset"), self.column("blocks"))

    @functools.cached_property
    def times(self) -> Rows:
        """Where its times lie."""
        digests = [
            blocks[len(blocks) - DIGEST_BYTES * num_blocks(TIME_BYTES * count) :]
            for blocks, count in zip(self.column("blocks"), self.column("num_rows"), strict=True)
        ]
        return Rows(TIME_BYTES, self._first_rows, self.column("times_offset"), digests)

    @property
    def _first_rows(self) -> list[int]:
        first_rows = self.column("first_row")
        return [*first_rows, first_rows[-1] + self.column("num_rows")[-1]]

    def __len__(self) -> int:
        return self.shard.num_samples

    def __iter__(self) -> Iterator[Entry]:
        return map(self.__getitem__, range(len(self)))

    def __getitem__(self, place: int) -> Entry:
        made = self._made.get(place)
        if made is None:
            fields = {name: column[place] for name, column in self._all_columns}
            fields["status"] = _STATUSES[fields["status"]]
            made = self._made[place] = Entry(feature=self.shard.feature, shard=self.shard, **fields)
        return made

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sidecar):
            return NotImplemented
        return self.shard == other.shard and bool(self._table.equals(other._table))

    __hash__ = None  # type: ignore[assignment]  # compared by content


def read_sample(file: ShardFile, entry: Entry) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """The values (T, D) and times (T, 2) of a sample. Raises ValueError where they are damaged, and OSError."""
    values, times = np.empty((entry.num_rows, entry.shard.dim), entry.shard.dtype), np.empty((entry.num_rows, 2))
    file.read([values_part(entry, values, 0), times_part(entry, times)])
    file.fetch_ahead(entry.values_offset, entry.values_offset + values.nbytes)
    return values, times


def values_part(entry: Entry, values: NDArray[Any], first: int) -> Part:
    """The values from row ``first`` on, into an array."""
    width = values.shape[1] * values.itemsize
    low = first * width
    return Part(entry.values_offset, entry.num_rows * width, entry.blocks, low, low + values.nbytes, bytes_of(values))


def times_part(entry: Entry, times: NDArray[np.float64]) -> Part:
    """All times of a sample, into an array."""
    digests = entry.blocks[-DIGEST_BYTES * num_blocks(times.nbytes) :]
    return Part(entry.times_offset, times.nbytes, digests, 0, times.nbytes, bytes_of(times))


def bytes_of(array: NDArray[Any]) -> memoryview:
    return array.reshape(-1).view(np.uint8).data


def encode_sidecar(contents: Contents, *, num_bytes: int, sha256: str) -> bytes:
    """The bytes of the sidecar of a shard that has these contents, this size and this hash."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    samples, num_rows = contents.samples, [sample.num_rows for sample in contents.samples]
    copied = ("key", "source_digest", "fingerprint", "message")
    columns = {
        **{name: [getattr(sample, name) for sample in samples] for name in copied},
        "first_row": np.cumsum([0, *num_rows])[:-1],
        "num_rows": num_rows,
        "start_seconds": [sample.extent and sample.extent[0] for sample in samples],
        "end_seconds": [sample.extent and sample.extent[1] for sample in samples],
        "status": [sample.status.value for sample in samples],
        "values_offset": contents.values_offsets,
        "times_offset": contents.times_offsets,
        "blocks": [bytes.fromhex(sample.blocks) for sample in samples],
    }
    dtype, dim = values_of(contents.spec)
    shard = {"num_bytes": num_bytes, "sha256": sha256, "dim": dim, "dtype": dtype.name, "spec": contents.spec}
    facts = {"format": FORMAT_VERSION, **shard}
    table = pa.table(columns, schema=pa.schema(list(COLUMNS.items())))
    metadata = {_METADATA_KEY: canonical_json({**facts, "checksum": _checksum(table, facts)})}
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata(metadata), sink, compression="zstd", use_dictionary=["status"])
    return bytes(sink.getvalue())


def _checksum(table: Any, facts: dict[str, Any]) -> str:
    """XXH3-128 of the facts, as canonical JSON, and of each column: what is null, the lengths of texts, the content."""
    digest = xxhash.xxh3_128(canonical_json({name: facts[name] for name in _FACTS if name != "checksum"}).encode())
    for name, kind in COLUMNS.items():
        column = table.column(name).combine_chunks()
        digest.update(np.asarray(column.is_valid()).tobytes())
        if kind in ("string", "binary"):
            offsets = np.frombuffer(column.buffers()[1], np.int32)[column.offset : column.offset + len(column) + 1]
            digest.update(np.diff(offsets).tobytes())
            digest.update(memoryview(column.buffers()[2] or b"")[offsets[0] : offsets[-1]])
        else:
            digest.update(column.fill_null(0).to_numpy(zero_copy_only=False).tobytes())
    return digest.hexdigest()


def read_sidecar(address: str, *, shard_path: Path, data: bytes) -> Sidecar:
    """What a sidecar says, one entry for each sample of its shard.

    Args:
        address: the sidecar's, for messages.
        shard_path: the shard that it belongs to.
        data: the sidecar's bytes.

    Raises:
        IntegrityError: the sidecar is not what was written, or belongs to another shard.
        OldFormatError: another version of frameloom wrote it.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(pa.BufferReader(data)) as file:
            facts = json.loads(file.schema_arrow.metadata[_METADATA_KEY])
            _check_size(file.metadata, data)
            table = file.read(use_threads=False).replace_schema_metadata(None)
            if len(table) != file.metadata.num_rows:
                raise ValueError(f"it claims {file.metadata.num_rows:,} samples, and has {len(table):,}")
        is_as_written = (
            [(field.name, str(field.type)) for field in table.schema] == list(COLUMNS.items())
            and facts.keys() == set(_FACTS)
            and _checksum(table, {**facts, "format": FORMAT_VERSION}) == facts["checksum"]
        )
        if not is_as_written:
            check_version(facts["format"], address)
        if facts["format"] != FORMAT_VERSION or not is_as_written:
            raise ValueError("its content does not match its checksum")
        if facts["sha256"][: len(shard_path.stem)] != shard_path.stem:
            raise ValueError("it belongs to another shard")
        fingerprints = table.column("fingerprint").to_pylist()
        _check(table, fingerprints, facts)
        shard = ShardInfo(
            feature=shard_path.parent.name,
            name=shard_path.stem,
            path=shard_path,
            num_samples=len(table),
            **{name: facts[name] for name in ("num_bytes", "sha256", "dim", "dtype", "spec")},
        )
        return Sidecar(shard, table, fingerprints)
    except _ODD as error:
        raise IntegrityError(f"sidecar {address} is damaged ({one_line(error)}); {REMEDY}") from error


def _check_size(metadata: Any, data: bytes) -> None:
    """Refuse a small file that would be a very large table. Raises ValueError."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    num_samples = metadata.num_rows  # of its columns nothing is asked: where a bit is flipped, that ends the process
    num_bytes = sum(metadata.row_group(number).total_byte_size for number in range(metadata.num_row_groups))
    if num_samples <= MAX_SAMPLES and num_bytes <= MAX_BYTES < num_samples * num_bytes:
        # A text may be held once, and be that of every sample: how long all are is counted before they are made.
        texts = [name for name, kind in COLUMNS.items() if kind in ("string", "binary")]
        with pq.ParquetFile(pa.BufferReader(data), read_dictionary=texts) as file:
            for chunk in (chunk for column in file.read(texts, use_threads=False).columns for chunk in column.chunks):
                num_bytes += pc.sum(pc.take(pc.binary_length(chunk.dictionary), chunk.indices)).as_py() or 0
    if num_samples > MAX_SAMPLES or num_bytes > MAX_BYTES:
        raise ValueError(f"it claims {num_samples:,} samples in {num_bytes:,} bytes")


def _check(table: Any, names: list[str], facts: dict[str, Any]) -> None:
    """Refuse numbers that no shard can have, whatever the checksum says."""
    if not len(names) or any(table.column(name).null_count for name in COLUMNS if name not in _NULLABLE):
        raise ValueError("it lacks something of a sample")
    numbers = {name: table.column(name).to_numpy() for name, kind in COLUMNS.items() if kind in ("int64", "double")}
    num_rows, num_bytes = numbers["num_rows"], facts["num_bytes"]
    if not _SHA256.fullmatch(facts["sha256"]) or type(num_bytes) is not int or not 1 <= num_bytes < 1 << 56:
        raise ValueError(f"its shard has {num_bytes!r:.50} bytes and the SHA-256 {facts['sha256']!r:.80}")
    dtype, dim = values_of(facts["spec"])
    if (dtype.name, dim) != (facts["dtype"], facts["dim"]):
        raise ValueError(f"its specification is not one of {facts['dtype']!r:.50} (T, {facts['dim']!r:.50})")
    row_bytes = dim * dtype.itemsize
    if num_rows.min() < 0 or num_rows.max() > num_bytes // row_bytes:
        raise ValueError(f"it promises up to {num_rows.max():,} rows of {row_bytes:,} bytes in {num_bytes:,} bytes")
    if (numbers["first_row"] != np.cumsum([0, *num_rows[:-1]])).any():
        raise ValueError("its samples do not lie end to end")
    for name, width in (("values_offset", row_bytes), ("times_offset", TIME_BYTES)):
        if numbers[name].min() < 0 or (numbers[name] > num_bytes - num_rows * width).any():
            raise ValueError("it has rows that lie outside of its shard")
    lengths = np.diff(np.frombuffer(table.column("blocks").combine_chunks().buffers()[1], np.int32)[: len(table) + 1])
    if (lengths != DIGEST_BYTES * (num_blocks(num_rows * row_bytes) + num_blocks(num_rows * TIME_BYTES))).any():
        raise ValueError("it lacks checksums")
    if len(set(names)) < len(names) or "" in names or not "".join(names).isascii():
        raise ValueError("its fingerprints are not ASCII texts, each of one sample")
    start, end = numbers["start_seconds"], numbers["end_seconds"]
    if (np.isnan(start) != np.isnan(end)).any() or (start > end).any():
        raise ValueError("a sample of its begins after its end")
    for status in table.column("status").unique().to_pylist():
        Status(status)


def one_line(error: BaseException | str) -> str:
    """What an error says, in one line that a terminal may show: those of Arrow and HDF5 have several."""
    text = " ".join(line.strip() for line in str(error).splitlines() if line.strip())
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in text)


def is_damaged_unread(data: bytes, again: bytes) -> bool:
    """Whether a few bytes of a sidecar that nobody reads are not those that were written.

    Args:
        data: a sidecar that says what it should.
        again: what this version writes for the same shard. Another version of Arrow may write other bytes.
    """
    if len(again) != len(data) or again == data:
        return False
    differ = np.frombuffer(again, np.uint8) != np.frombuffer(data, np.uint8)
    return _WRITER.findall(data) == _WRITER.findall(again) and int(differ.sum()) <= _FEW_BYTES


@functools.cache
def code_version() -> str:
    """The version of frameloom that is running."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("frameloom")
    except PackageNotFoundError:  # run from a folder that was never installed
        return "not installed"
