"""Ragged features in one tar: the same samples as an HDF5 shard, which plain ``webdataset`` and ``tarfile`` read too.

Layout, with N samples, every member a regular file of the POSIX ustar format::

    __frameloom__/spec.json   {"frameloom_format": 1, "num_samples": N, "spec": {...}}; webdataset passes over it
    ID.json                   {"block_bytes", "checksum", "extent", "fingerprint", "key", "message", "num_rows",
                               "source_digest", "status", "times_crc32": [...], "values_crc32": [...]}
    ID.values.npy             (T, D)  a type of `STORED_TYPES`
    ID.times.npy              (T, 2)  float64 seconds; NaN for text

and so on for every sample, in their order; a sample without rows has all three too, and ``status`` says why. ``ID`` is
the fingerprint, or its hash where it is not 32 hexadecimal digits: dots and slashes in what people call their videos
never become part of a member's name, where webdataset would cut it. ``*_crc32`` are the CRC-32 of the array's blocks of
``block_bytes``, so that a window of a long video is checked without reading the rest.

Raw pixels are stored as they are. As JPEG they would be other pixels than the fingerprint names, and pixels that depend
on who decodes them, so no checksum could tell damage from that; that is for a backbone's specification to say.

Reading never unpacks anything and decodes nothing but these members: a table of offsets is made once from the headers,
and rows are read from there (`_rows`). Anything else than the layout above is refused: other names, links, devices,
sparse or extended headers, sizes that do not fit, arrays whose header claims other than their size.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import re
import tarfile
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..._vocabulary import FeatureSpec, InputError, canonical_json
from .base import FORMATS, STORED_TYPES, OpenShard, Sample, sample_checksum
from .pages import PageSums
from .records import Contents, Rest, Told, mark, stamp_of
from .rows import BLOCK_BYTES, RowFile, Rows, RowShard, block_checksums

SUFFIX = ".tar"
FORMAT_VERSION = 1
SPEC_MEMBER = "__frameloom__/spec.json"
MAX_MEMBER_BYTES = 8**11 - 1  # what an ustar header can say
MAX_JSON_BYTES = 64 * 1024 * 1024
VALUE_TYPES = tuple(dtype.str for dtype in STORED_TYPES.values())
_ENDINGS = ("json", "values.npy", "times.npy")
_BLOCK = 512
_MEMBER = re.compile(r"([0-9a-f]{32}|[0-9a-f]{48})\.(json|values\.npy|times\.npy)")
_FINGERPRINT = re.compile(r"[0-9a-f]{32}")
_ARRAY = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '([<|][fiu][1248])', 'fortran_order': False, "
    rb"'shape': \((\d{1,18}), (\d{1,18})\), \} *\n",
    re.DOTALL,
)
_KEPT_LAYOUTS = 1024  # of shards that were open once; some 50 bytes for each sample


class WebdatasetFormat:
    """Tar shards, a member of `FORMATS`."""

    name = "webdataset"
    suffix = SUFFIX

    def write(self, target: io.RawIOBase, samples: Sequence[Sample], *, spec: FeatureSpec) -> None:
        """Write the shard that holds these samples in this order into an empty file.

        Raises InputError where a sample is larger than a tar can hold.
        """
        about = {"frameloom_format": FORMAT_VERSION, "num_samples": len(samples), "spec": spec.identity()}
        _write_member(target, SPEC_MEMBER, [canonical_json(about).encode()])
        for sample in samples:
            _write_sample(target, sample)
        target.write(bytes(2 * _BLOCK))

    def open(self, path: Path, sums: PageSums | None = None) -> OpenShard:
        """Open a shard. What is not one raises ValueError; nothing but its headers is looked at."""
        return RowShard.open(path, sums, lambda *given: _layout(*given)[:2])

    def mark(self, path: Path) -> bytes:
        """The `mark` of a shard. Raises as `open` does."""
        return _layout(path, stamp_of(path))[2]

    def name_of(self, fingerprint: str) -> str:
        """What a shard calls a sample."""
        return sample_id(fingerprint)

    def contents(self, path: Path) -> Contents:
        """What a shard says of its samples. Raises as `open` does."""
        self.mark(path)  # what is no shard is refused here as well
        return _contents(path)


FORMATS.add(WebdatasetFormat.name, WebdatasetFormat())


def sample_id(fingerprint: str) -> str:
    """What a sample's members are called: 32 or 48 hexadecimal digits."""
    if _FINGERPRINT.fullmatch(fingerprint):
        return fingerprint
    return hashlib.blake2b(fingerprint.encode(), digest_size=24).hexdigest()


# Writing


def _write_sample(target: io.RawIOBase, sample: Sample) -> None:
    values = np.ascontiguousarray(sample.feature.values)
    times = np.ascontiguousarray(sample.feature.times)
    name = sample_id(sample.fingerprint)
    _write_member(target, f"{name}.json", [canonical_json(_facts(sample, values, times)).encode()])
    for ending, rows in (("values.npy", values), ("times.npy", times)):
        _write_member(target, f"{name}.{ending}", [_array_header(rows), _bytes_of(rows)])


def _facts(sample: Sample, values: NDArray[Any], times: NDArray[np.float64]) -> dict[str, Any]:
    feature = sample.feature
    return {
        "block_bytes": BLOCK_BYTES,
        "checksum": sample_checksum(values, times),
        "extent": None if feature.extent is None else list(feature.extent),
        "fingerprint": sample.fingerprint,
        "key": sample.key,
        "message": feature.message,
        "num_rows": len(values),
        "source_digest": sample.source_digest,
        "status": feature.status.value,
        "times_crc32": block_checksums(_bytes_of(times)).tolist(),
        "values_crc32": block_checksums(_bytes_of(values)).tolist(),
    }


def _bytes_of(rows: NDArray[Any]) -> memoryview:
    return rows.reshape(-1).view(np.uint8).data


def _array_header(rows: NDArray[Any]) -> bytes:
    """What ``np.save`` writes before an array's bytes, in its version 1.0."""
    says = f"{{'descr': '{rows.dtype.str}', 'fortran_order': False, 'shape': {rows.shape}, }}"
    length = -(-(10 + len(says) + 1) // 64) * 64 - 10
    return b"\x93NUMPY\x01\x00" + length.to_bytes(2, "little") + says.ljust(length - 1).encode() + b"\n"


def _write_member(target: io.RawIOBase, name: str, parts: Sequence[bytes | memoryview]) -> None:
    member = tarfile.TarInfo(name)  # of nobody, at no time
    member.size = sum(map(len, parts))
    if member.size > MAX_MEMBER_BYTES:
        raise InputError(f"{name} has {member.size:,} bytes, and a tar member at most {MAX_MEMBER_BYTES:,}; use hdf5")
    for part in (member.tobuf(tarfile.USTAR_FORMAT, "ascii"), *parts, bytes(-member.size % _BLOCK)):
        if len(part):
            target.write(part)


# Reading


@dataclass(frozen=True, slots=True)
class _Member:
    """A member: its name and where its bytes are."""

    name: str
    offset: int
    num_bytes: int
    opening: bytes


def _members(file: RowFile) -> Iterator[_Member]:
    """Every member, in order. Raises ValueError at what is no regular file of the strict ustar format."""
    place = 0
    while True:
        opening = bytes(file.read(place, min(2 * _BLOCK, file.num_bytes - place)))
        header, offset = opening[:_BLOCK], place + _BLOCK
        if len(opening) < 2 * _BLOCK:
            raise ValueError("it ends before its end mark")
        if not any(opening):
            return
        name, num_bytes = _checked_header(header, place)
        place = offset + -(-num_bytes // _BLOCK) * _BLOCK
        if place > file.num_bytes:
            raise ValueError(f"its member {name} claims {num_bytes:,} bytes, more than there are")
        yield _Member(name, offset, num_bytes, opening[_BLOCK:][:num_bytes])


def _checked_header(header: bytes, place: int) -> tuple[str, int]:
    """Name and size that a header gives. A name is one of the layout's, so no path leaves any folder."""
    where = f"the member at byte {place:,}"
    if header[257:265] != b"ustar\x0000":
        raise ValueError(f"{where} is not of the POSIX ustar format")
    if _octal(header[148:156], where) != sum(header) - sum(header[148:156]) + 8 * 0x20:
        raise ValueError(f"the header of {where} does not match its checksum")
    name = header[:100].rstrip(b"\0").decode("ascii", errors="replace")
    if header[156:157] != b"0" or any(header[157:257]):
        raise ValueError(f"{where}, {name!r}, is no regular file")
    if any(header[345:500]) or (name != SPEC_MEMBER and not _MEMBER.fullmatch(name)):
        raise ValueError(f"{where} has the name {name!r}, which no member of a shard has")
    return name, _octal(header[124:136], where)


def _octal(field: bytes, where: str) -> int:
    digits = field.rstrip(b" \0")
    if not re.fullmatch(rb"[0-7]+", digits):
        raise ValueError(f"{where} has a number that is not octal")
    return int(digits, 8)


@functools.lru_cache(maxsize=_KEPT_LAYOUTS)
def _layout(path: Path, stamp: tuple[int, ...]) -> tuple[Rows, Rows, bytes]:
    """Where a shard's values and times are, and its mark."""
    del stamp  # of the file whose layout this is: another file of the same name has its own
    file = RowFile(path)
    try:
        members = _members(file)
        about = _spec_of(next(members, None), file)
        table = _Table(about["spec"])
        while (first := next(members, None)) is not None:
            table.add(_triple(first, members))
    finally:
        file.close()
    if table.num_samples != about["num_samples"]:
        raise ValueError(f"it has {table.num_samples:,} samples of {about['num_samples']:,}")
    return table.rows("values"), table.rows("times"), table.mark()


def _contents(path: Path) -> Contents:
    file = RowFile(path)
    try:
        members = _members(file)
        about = _spec_of(next(members, None), file)
        samples = []
        while (first := next(members, None)) is not None:
            samples.append(_told(_triple(first, members)[0], file))
    finally:
        file.close()
    return Contents(spec=canonical_json(about["spec"]), samples=tuple(samples))


def _told(member: _Member, file: RowFile) -> Told:
    facts = _json_of(file, member.offset, member.num_bytes)
    texts = ("key", "fingerprint", "status", "source_digest", "message")
    extent = facts.get("extent")
    if not all(isinstance(facts.get(name), str) for name in texts) or not all(
        type(facts.get(name)) is int for name in ("num_rows", "checksum")
    ):
        raise ValueError(f"its {member.name} lacks something of its sample")
    if f"{sample_id(facts['fingerprint'])}.json" != member.name:
        raise ValueError(f"its {member.name} tells of a sample of another name")
    if extent is not None and not (isinstance(extent, list) and {type(one) for one in extent} <= {int, float}):
        raise ValueError(f"its {member.name} has an extent that is none")
    rest = Rest(
        source_digest=facts["source_digest"],
        message=facts["message"],
        extent=None if extent is None else (float(extent[0]), float(extent[1])),
        checksum=facts["checksum"],
    )
    told = {name: facts[name] for name in ("key", "fingerprint", "status", "num_rows")}
    return Told(**told, rest=rest)


def _spec_of(member: _Member | None, file: RowFile) -> dict[str, Any]:
    if member is None or member.name != SPEC_MEMBER:
        raise ValueError(f"its first member is not {SPEC_MEMBER}")
    about = _json_of(file, member.offset, member.num_bytes)
    if about.get("frameloom_format") != FORMAT_VERSION:
        raise ValueError(f"its format is {about.get('frameloom_format')!r}, this version reads {FORMAT_VERSION}")
    spec, num_samples = about.get("spec"), about.get("num_samples")
    if not isinstance(spec, dict) or not isinstance(spec.get("dim"), int) or not isinstance(num_samples, int):
        raise ValueError(f"its {SPEC_MEMBER} lacks a specification or the number of samples")
    return about


def _json_of(file: RowFile, offset: int, num_bytes: int) -> dict[str, Any]:
    if num_bytes > MAX_JSON_BYTES:
        raise ValueError(f"{num_bytes:,} bytes of JSON; at most {MAX_JSON_BYTES:,} are read")
    try:
        found = json.loads(bytes(file.read(offset, num_bytes)))
    except RecursionError as error:
        raise ValueError("its JSON is too deep") from error
    if not isinstance(found, dict):
        raise ValueError(f"the JSON at byte {offset:,} is no object")
    return found


def _triple(first: _Member, members: Iterator[_Member]) -> tuple[_Member, _Member, _Member]:
    """A sample's members: its JSON, which was read already, and the two that must follow it."""
    found = (first, next(members, None), next(members, None))
    name = first.name.partition(".")[0]
    for member, ending in zip(found, _ENDINGS, strict=True):
        if member is None or member.name != f"{name}.{ending}":
            raise ValueError(f"{name}.{ending} is missing, or is not in its place")
    return found  # type: ignore[return-value]  # none of them is None


class _Table:
    """Where the rows of all samples are, and the JSON that has their checksums."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.num_samples = 0
        dtype = STORED_TYPES.get(str(spec.get("dtype")))
        if dtype is None or spec["dim"] < 1:
            raise ValueError(f"its specification says {spec.get('dtype')!r} (T, {spec['dim']})")
        self._types = {"values": (dtype, int(spec["dim"])), "times": (np.dtype("<f8"), 2)}
        self._starts = array("q", [0])
        self._offsets: dict[str, array[int]] = {"values": array("q"), "times": array("q")}
        self._facts: list[tuple[int, int]] = []
        self._spec = spec
        self._num_rows: dict[str, int] = {}

    def add(self, members: tuple[_Member, _Member, _Member]) -> None:
        """The next sample."""
        facts, *arrays = members
        name = facts.name.partition(".")[0]
        if name in self._num_rows:
            raise ValueError(f"it has two samples {name}")
        self.num_samples += 1
        places = {name: self._place(name, member) for name, member in zip(self._types, arrays, strict=True)}
        num_rows = places["values"][1]
        if num_rows != places["times"][1]:
            raise ValueError(f"{arrays[0].name} and {arrays[1].name} do not have the same number of rows")
        self._num_rows[name] = num_rows
        if not num_rows:
            return
        self._starts.append(self._starts[-1] + num_rows)
        self._facts.append((facts.offset, facts.num_bytes))
        for part, (offset, _) in places.items():
            self._offsets[part].append(offset)

    def _place(self, name: str, member: _Member) -> tuple[int, int]:
        """Where an array's bytes begin, and how many rows it has, which its size must bear out."""
        dtype, dim = self._types[name]
        header = _ARRAY.match(member.opening)
        if header is None or header.end() != 10 + int.from_bytes(member.opening[8:10], "little"):
            raise ValueError(f"{member.name} is no array of two dimensions in NumPy's format 1.0")
        num_rows, found_dim = int(header[2]), int(header[3])
        if (header[1].decode(), found_dim) != (dtype.str, dim):
            raise ValueError(f"{member.name} is {header[1].decode()} (T, {found_dim}); {dtype.str} (T, {dim}) needed")
        if header.end() + num_rows * dim * dtype.itemsize != member.num_bytes:
            raise ValueError(f"{member.name} claims {num_rows:,} rows and has {member.num_bytes:,} bytes")
        return member.offset + header.end(), num_rows

    def mark(self) -> bytes:
        """The `mark` of a shard of these samples."""
        dtype, dim = self._types["values"]
        spec, num_rows = canonical_json(self._spec), list(self._num_rows.values())
        return mark(spec=spec, dtype=dtype.str, dim=dim, names=self._num_rows, num_rows=num_rows)

    def rows(self, name: str) -> Rows:
        """Where one array's rows are."""
        dtype, dim = self._types[name]
        offsets = self._offsets[name]
        learn = _learn(f"{name}_crc32", offsets, self._facts)
        return Rows(dtype, dim, starts=self._starts, offsets=offsets, learn=learn)


def _learn(
    name: str, offsets: Sequence[int], facts: Sequence[tuple[int, int]]
) -> Callable[[RowFile, int, int], array[int]]:
    """The function that finds the checksums of an array's blocks in its sample's JSON."""

    def learn(file: RowFile, offset: int, num_bytes: int) -> array[int]:
        found = _json_of(file, *facts[bisect_right(offsets, offset) - 1])
        checksums = found.get(name)
        if found.get("block_bytes") != BLOCK_BYTES or not isinstance(checksums, list):
            raise ValueError(f"it has no {name} of blocks of {BLOCK_BYTES:,} bytes")
        if len(checksums) != -(-num_bytes // BLOCK_BYTES):
            raise ValueError(f"it has {len(checksums):,} {name} for {num_bytes:,} bytes")
        try:
            return array("I", checksums)
        except (TypeError, OverflowError) as error:
            raise ValueError(f"its {name} are no checksums") from error

    return learn
