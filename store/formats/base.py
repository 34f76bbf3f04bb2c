"""The family of shard formats, and what all members share: samples, their checks and checksums, and the open shards.

A shard holds many samples end to end. Rows are counted over a shard's samples in order, in every format, as the sidecar
says it (`Entry.first_row`, `Entry.num_rows`). Each format is a file of its own that adds itself to `FORMATS`.
"""

from __future__ import annotations

import io
import os
import threading
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from ..._registry import Registry
from ..._vocabulary import (
    FeatureArray,
    FeatureSpec,
    InputError,
    IntegrityError,
    Modality,
    Status,
    ValueType,
    canonical_json,
)
from .pages import KeptSums, PageSums
from .records import Contents

MAX_OPEN_FILES = 128
STORED_TYPES = {name: np.dtype(name).newbyteorder("<") for name in get_args(ValueType)}  # as they lie in a shard
MAX_DIM = 1 << 24
_TIMES = np.dtype("<f8")
_CHECKED_ROWS = 1 << 16
REMEDY = "run `frameloom repair`, which keeps what is whole, and then sync again"
_Result = TypeVar("_Result")


class OpenShard(Protocol):
    """One shard, open for reading. Any number of threads may read at once.

    It gives its file back when it is closed or, at the latest, when nobody holds it any more.
    """

    def read(self, first: int, last: int, *, verify: bool = True) -> tuple[NDArray[Any], NDArray[np.float64]]:
        """Rows ``[first, last)``: values (T, D) and times (T, 2). Raises OSError, ValueError or KeyError on damage.

        Without ``verify`` the caller checks them, by `sample_checksum`.
        """
        ...

    def read_into(
        self, spans: Sequence[tuple[int, int]], targets: Sequence[memoryview], *, verify: bool = True
    ) -> None:
        """Values of rows ``[first, last)`` of each span into the bytes of its target. Raises as `read` does."""
        ...

    def read_times(self, first: int, last: int) -> NDArray[np.float64]:
        """Rows ``[first, last)`` of times (T, 2), verified; perhaps not to be written to. Raises as `read` does."""
        ...

    def close(self) -> None:
        """Give its file back. Nobody reads after that."""
        ...


class ShardFormat(Protocol):
    """A way to keep samples in one file.

    Attributes:
        name: what configurations call it.
        suffix: ending of its files' names; no other format has it.
    """

    name: str
    suffix: str

    def write(self, target: io.RawIOBase, samples: Sequence[Sample], *, spec: FeatureSpec) -> None:
        """Write the shard that holds these samples in this order into an empty file. The same samples, the same bytes.

        The samples are as `check_samples` gives them.
        """
        ...

    def open(self, path: Path, sums: PageSums | None = None) -> OpenShard:
        """Open a shard. What is not one raises ValueError, KeyError or OSError and does no harm.

        Args:
            path: of the file.
            sums: of its pages, when they are known: what is read is then compared with these.
        """
        ...

    def mark(self, path: Path) -> bytes:
        """`_told.mark` of what a shard says itself; quick where the shard is opened as well. Raises as `open` does."""
        ...

    def name_of(self, fingerprint: str) -> str:
        """What the `mark` of a shard has for a sample."""
        ...

    def contents(self, path: Path) -> Contents:
        """What a shard says of its samples, all of which is read. Raises as `open` does."""
        ...


class _Formats(Registry[ShardFormat], Mapping[str, ShardFormat]):
    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __len__(self) -> int:
        return len(self._entries)


FORMATS = _Formats("shard format")


def format_of(path: Path) -> ShardFormat:
    """The format of a shard, by its name's ending. Raises InputError."""
    for shard_format in FORMATS.values():
        if path.suffix == shard_format.suffix:
            return shard_format
    known = ", ".join(shard_format.suffix for shard_format in FORMATS.values())
    raise InputError(f"{path} is no shard: its name ends in {path.suffix!r}, and shards' names end in one of {known}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One feature of one source, on its way into a shard.

    Attributes:
        key: what a person calls it: a video's id, or a caption.
        source_digest: `file_digest` of the file that it came from.
        fingerprint: `feature_fingerprint`; unique within a feature.
        feature: the numbers, or none and the reason.
    """

    key: str
    source_digest: str
    fingerprint: str
    feature: FeatureArray


def check_samples(samples: Sequence[Sample], *, spec: FeatureSpec) -> list[Sample]:
    """Samples as they are stored: little-endian, times and extents in float64. An array that is so is not copied.

    Raises InputError naming the sample that must never be stored.
    """
    if not samples:
        raise InputError("a shard needs at least one sample")
    if problem := _spec_problem(spec):
        raise InputError(f"the specification of {spec.name}: {problem}")
    seen: set[str] = set()
    for sample in samples:
        if sample.fingerprint in seen:
            raise InputError(f"sample {sample.key!r}: its fingerprint {sample.fingerprint} is twice in one shard")
        seen.add(sample.fingerprint)
        problem = _text_problem(sample) or _array_problem(sample.feature, spec) or _extent_problem(sample.feature)
        if problem:
            raise InputError(f"sample {sample.key!r} of {spec.name}: {problem}")
    return [replace(sample, feature=_as_stored(sample.feature, STORED_TYPES[spec.dtype])) for sample in samples]


def _spec_problem(spec: FeatureSpec) -> str:
    if spec.dtype not in STORED_TYPES:
        return f"values of {spec.dtype} cannot be stored; allowed: {', '.join(STORED_TYPES)}"
    if type(spec.dim) is not int or not 1 <= spec.dim <= MAX_DIM:
        return f"its width {spec.dim!r} is no whole number from 1 to {MAX_DIM:,}"
    try:
        canonical_json(spec.identity()).encode()
    except (TypeError, ValueError) as error:
        return f"it is not plain data ({error})"
    return ""


def _text_problem(sample: Sample) -> str:
    texts = (sample.fingerprint, sample.key, sample.source_digest, sample.feature.message)
    if not all(isinstance(text, str) for text in texts) or not isinstance(sample.feature.status, Status):
        return "its key, digest, fingerprint and message must be text, and its status one of Status"
    if not sample.fingerprint.isascii() or not sample.fingerprint:
        return f"fingerprint {sample.fingerprint!r} is not ASCII text"
    try:
        (sample.key + sample.source_digest + sample.feature.message).encode()
    except UnicodeEncodeError:
        return "its key, digest or message holds half a surrogate pair and cannot be written as UTF-8"
    return ""


def _array_problem(feature: FeatureArray, spec: FeatureSpec) -> str:
    values, times = feature.values, feature.times
    if type(values) is not np.ndarray or type(times) is not np.ndarray:
        return f"values and times must be NumPy arrays, not {type(values).__name__} and {type(times).__name__}"
    if values.shape[1] != spec.dim or values.dtype.newbyteorder("<") != STORED_TYPES[spec.dtype]:
        return f"values are {values.dtype} (T, {values.shape[1]}); the specification says {spec.dtype} (T, {spec.dim})"
    blocks = range(0, len(values), _CHECKED_ROWS) if values.dtype.kind == "f" else ()
    if not all(np.isfinite(values[first : first + _CHECKED_ROWS]).all() for first in blocks):
        return "values hold NaN or infinity; give it the status non_finite and no rows"
    return _times_problem(times, spec)


def _times_problem(times: NDArray[Any], spec: FeatureSpec) -> str:
    if times.dtype.kind not in "fiu":
        return f"times are {times.dtype}, and must be numbers of seconds"
    if spec.modality is Modality.TEXT:
        return "" if np.isnan(times).all() else "text has no times; they must be NaN"
    times = times.astype(_TIMES, copy=False)  # as they are stored: what is finite in a wider type may not be so there
    if not np.isfinite(times).all() or (times[:, 0] > times[:, 1]).any():
        return "times must be finite, and no interval may end before it starts"
    return ""


def _extent_problem(feature: FeatureArray) -> str:
    if feature.extent is None:
        return ""
    try:
        start, end = map(float, feature.extent)
    except (TypeError, ValueError, OverflowError):
        start, end = np.nan, np.nan
    is_span = np.isfinite([start, end]).all() and start <= end
    return "" if is_span else f"its extent {feature.extent!r} is no pair of finite seconds, the start and then the end"


def _as_stored(feature: FeatureArray, dtype: np.dtype[Any]) -> FeatureArray:
    extent = None if feature.extent is None else (float(feature.extent[0]), float(feature.extent[1]))
    values, times = feature.values.astype(dtype, copy=False), feature.times.astype(_TIMES, copy=False)
    return replace(feature, values=values, times=times, extent=extent)


def sample_checksum(values: NDArray[Any], times: NDArray[np.float64]) -> int:
    """CRC-32 of a sample's numbers, values first: finds every single flipped bit."""
    return zlib.crc32(_contiguous(times), zlib.crc32(_contiguous(values)))


def _contiguous(array: NDArray[Any]) -> memoryview:
    """An array's bytes in C order, not copied where they lie so already."""
    return np.ascontiguousarray(array).data


class SampleChecks:
    """Whether samples are what was written, each time that one is read.

    The first time a sample's CRC-32 is computed. That takes longer than to read it from memory, so a sum over its words
    is noted, and every later reading is compared with that. A changed bit changes the sum, whatever else it is next to.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[str, int], tuple[int, int]] = {}

    def holds(self, fingerprint: str, checksum: int, values: NDArray[Any], times: NDArray[np.float64]) -> bool:
        """Whether these numbers, contiguous in C order, are those that have this `sample_checksum`."""
        found = (_sum_of_words(values), zlib.crc32(_contiguous(times)))
        known = self._known.get((fingerprint, checksum))
        if known is None:
            if sample_checksum(values, times) != checksum:
                return False
            known = self._known[fingerprint, checksum] = found
        return found == known


def _sum_of_words(values: NDArray[Any]) -> int:
    """The sum of an array's 64-bit words, modulo 2 to the 64th; bytes that are left over count as one more word."""
    if not values.shape[1] * values.itemsize & 7:
        return int(np.add.reduce(values.view(np.uint64), axis=None))
    data = values.reshape(-1).view(np.uint8)
    whole = len(data) & ~7
    words = np.add.reduce(data[:whole].view(np.uint64))
    return (int(words) + int.from_bytes(data[whole:].data, "little")) & ~(-1 << 64)


class ShardReader:
    """Open shards, a bounded number at a time. Safe in threads and after a fork.

    Args:
        check: called with a shard's path before this process first opens it, to refuse a file that is not what was
            committed. No parser is ever shown a file that it did not write. It gives the sums of the file's pages, or
            None, and then what is read is compared with the shard's own checksums.
    """

    def __init__(self, check: Callable[[Path], PageSums | None]) -> None:
        self._check = check
        self._checked: dict[Path, tuple[int, int, int]] = {}
        self._sums = KeptSums()
        self._open: dict[Path, OpenShard] = {}  # in the order in which they were opened
        self._opening = threading.RLock()
        self._process = os.getpid()

    def close(self) -> None:
        """Close every file, those that another thread reads at this moment as soon as it has done so."""
        self._open = {}

    def read(
        self, path: Path, *, first: int, last: int, verify: bool = True
    ) -> tuple[NDArray[Any], NDArray[np.float64]]:
        """Rows ``[first, last)`` of values and times. Raises IntegrityError naming the shard.

        Whoever compares whole samples with their checksums need not have them verified here as well.
        """
        return self._use(path, lambda shard: shard.read(first, last, verify=verify))

    def read_into(
        self, path: Path, spans: Sequence[tuple[int, int]], targets: Sequence[memoryview], *, verify: bool = True
    ) -> None:
        """Values of rows ``[first, last)`` of each span into the bytes of its target. Raises IntegrityError."""
        self._use(path, lambda shard: shard.read_into(spans, targets, verify=verify))

    def read_times(self, path: Path, *, first: int, last: int) -> NDArray[np.float64]:
        """Rows ``[first, last)`` of times (T, 2). Raises IntegrityError naming the shard."""
        return self._use(path, lambda shard: shard.read_times(first, last))

    def _use(self, path: Path, use: Callable[[OpenShard], _Result]) -> _Result:
        try:
            return use(self._shard(path))
        except (OSError, KeyError, ValueError) as error:
            raise _explained(path, error) from error

    def _shard(self, path: Path) -> OpenShard:
        """The open shard. Whoever holds it may read from it, even when it is forgotten here meanwhile."""
        return self._open.get(path) or self._open_shard(path)

    def _open_shard(self, path: Path) -> OpenShard:
        if self._process != os.getpid():  # another thread of the parent may have held the lock when this was forked
            self._opening, self._process = threading.RLock(), os.getpid()
        with self._opening:
            known = self._open.get(path)
            if known is not None:
                return known
            shard = format_of(path).open(path, self._check_once(path))
            shards = self._open  # another thread may close all of them meanwhile, and then these are not kept
            while len(shards) >= MAX_OPEN_FILES:
                shards.pop(next(iter(shards)))
            shards[path] = shard
            return shard

    def _check_once(self, path: Path) -> PageSums | None:
        """Check a file that has not been checked as it is now. Returns the sums of its pages while they are kept."""
        status = path.stat()
        stamp = (status.st_ino, status.st_size, status.st_mtime_ns)
        if self._checked.get(path) != stamp:
            self._sums.keep(path, self._check(path))
            self._checked[path] = stamp
        return self._sums.get(path)


class ShardGoneError(IntegrityError):
    """A shard is not there any more."""


def _explained(path: Path, error: Exception) -> Exception:
    if isinstance(error, InputError):
        return error
    if isinstance(error, FileNotFoundError):
        return ShardGoneError(f"shard {path} is gone; run sync again to make it anew")
    return IntegrityError(f"shard {path} cannot be read ({error}); {REMEDY}")
