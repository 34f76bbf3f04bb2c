"""Ragged features in one HDF5 file: many videos end to end, so that one video is one slice.

Layout, with N samples, ``T_n`` rows in sample n and width D::

    values        (sum T, D)  float16 | float32 | uint8, chunked, fletcher32
    times         (sum T, 2)  float64 seconds, chunked, fletcher32; NaN for text
    offsets       (N + 1,)    int64; sample n is rows offsets[n] : offsets[n + 1]
    keys          (N,)        UTF-8, what a person calls each sample (the first KEY_BYTES bytes)
    fingerprints  (N,)        ASCII
    statuses      (N,)        ASCII; a sample without rows says here why
    attributes    frameloom_format, spec (JSON)

HDF5 writes into a file that takes every write (`_commit.publish_by_content`), so that it never meets a full disk, where
it has been seen to end the process. The same samples always give the same bytes: nothing in them depends on the clock.
"""

from __future__ import annotations

import io
import os
import threading
import zlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._vocabulary import FeatureArray, FeatureSpec, InputError, IntegrityError, Modality, canonical_json

SUFFIX = ".h5"
FORMAT_VERSION = 1
CHUNK_BYTES = 256 * 1024  # 256 rows of 512 half floats: the size measured fastest for random whole-video reads
KEY_BYTES = 1024
MAX_OPEN_FILES = 128
_CHECKED_ROWS = 1 << 16
REMEDY = "delete this shard and its .parquet sidecar and run sync again, which extracts its videos anew"


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


def check_samples(samples: Sequence[Sample], *, spec: FeatureSpec) -> None:
    """Refuse what must never be stored. Raises InputError naming the sample."""
    if not samples:
        raise InputError("a shard needs at least one sample")
    seen: set[str] = set()
    for sample in samples:
        if sample.fingerprint in seen:
            raise InputError(f"sample {sample.key!r}: its fingerprint {sample.fingerprint} is twice in one shard")
        seen.add(sample.fingerprint)
        problem = _text_problem(sample) or _array_problem(sample.feature, spec)
        if problem:
            raise InputError(f"sample {sample.key!r} of {spec.name}: {problem}")


def _text_problem(sample: Sample) -> str:
    if not sample.fingerprint.isascii() or not sample.fingerprint:
        return f"fingerprint {sample.fingerprint!r} is not ASCII text"
    try:
        (sample.key + sample.source_digest + sample.feature.message).encode()
    except UnicodeEncodeError:
        return "its key, digest or message holds half a surrogate pair and cannot be written as UTF-8"
    return ""


def _array_problem(feature: FeatureArray, spec: FeatureSpec) -> str:
    values, times = feature.values, feature.times
    if values.shape[1] != spec.dim or values.dtype != np.dtype(spec.dtype):
        return f"values are {values.dtype} (T, {values.shape[1]}); the specification says {spec.dtype} (T, {spec.dim})"
    blocks = range(0, len(values), _CHECKED_ROWS)
    if not all(np.isfinite(values[first : first + _CHECKED_ROWS]).all() for first in blocks):
        return "values hold NaN or infinity; give it the status non_finite and no rows"
    if spec.modality is Modality.TEXT:
        return "" if np.isnan(times).all() else "text has no times; they must be NaN"
    if not np.isfinite(times).all() or (times[:, 0] > times[:, 1]).any():
        return "times must be finite, and no interval may end before it starts"
    return ""


def sample_checksum(values: NDArray[Any], times: NDArray[np.float64]) -> int:
    """CRC-32 of a sample's numbers, values first: finds every single flipped bit."""
    return zlib.crc32(_buffer(times), zlib.crc32(_buffer(values)))


def _buffer(array: NDArray[Any]) -> memoryview:
    """An array's bytes in C order, not copied where they lie so already."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def write_shard_file(target: io.RawIOBase, samples: Sequence[Sample], *, spec: FeatureSpec) -> None:
    """Write the shard that holds these samples in this order into an empty file."""
    import h5py

    with h5py.File(target, "w", libver=("earliest", "v108")) as file:
        file.attrs["frameloom_format"] = FORMAT_VERSION
        file.attrs["spec"] = canonical_json(spec.identity())
        _write_rows(file, "values", [sample.feature.values for sample in samples])
        _write_rows(file, "times", [np.asarray(sample.feature.times, np.float64) for sample in samples])
        lengths = [len(sample.feature.values) for sample in samples]
        file.create_dataset("offsets", data=np.cumsum([0, *lengths], dtype=np.int64), track_times=False)
        _write_texts(file, "keys", [_clipped(sample.key) for sample in samples])
        _write_texts(file, "fingerprints", [sample.fingerprint.encode() for sample in samples])
        _write_texts(file, "statuses", [sample.feature.status.value.encode() for sample in samples])


def _write_rows(file: Any, name: str, parts: list[NDArray[Any]]) -> None:
    """One data set of arrays (T_n, D) end to end, written one by one: a copy of all of them would double the memory."""
    num_rows, dim, dtype = sum(map(len, parts)), parts[0].shape[1], parts[0].dtype
    if not num_rows:
        file.create_dataset(name, shape=(0, dim), dtype=dtype, track_times=False)
        return
    chunk_rows = min(num_rows, max(1, CHUNK_BYTES // (dim * dtype.itemsize)))
    rows = file.create_dataset(
        name, shape=(num_rows, dim), dtype=dtype, chunks=(chunk_rows, dim), fletcher32=True, track_times=False
    )
    first = 0
    for part in parts:
        if len(part):
            rows[first : first + len(part)] = part
        first += len(part)


def _write_texts(file: Any, name: str, texts: list[bytes]) -> None:
    import h5py

    # Fixed length: variable-length text lives in a heap that no checksum covers.
    dtype = h5py.string_dtype("utf-8", max(1, *map(len, texts)))
    file.create_dataset(name, data=np.array(texts, dtype=dtype), dtype=dtype, track_times=False)


def _clipped(key: str) -> bytes:
    return key.encode()[:KEY_BYTES].decode(errors="ignore").encode()


class ShardReader:
    """Open shards, a bounded number at a time. Safe in threads and after a fork.

    Args:
        check: called with a shard's path before this process first opens it, to refuse a file that is not what was
            committed. HDF5's parser is never shown a file that it did not write.
    """

    def __init__(self, check: Callable[[Path], None]) -> None:
        self._check = check
        self._checked: dict[Path, tuple[int, int, int]] = {}
        self._forget()

    def _forget(self) -> None:
        self._open: OrderedDict[Path, _OpenShard] = OrderedDict()
        self._lock = threading.RLock()
        self._process = os.getpid()

    def close(self) -> None:
        """Close every file."""
        with self._lock:
            while self._open:
                self._open.popitem()[1].file.close()

    def read(self, path: Path, *, first: int, last: int) -> tuple[NDArray[Any], NDArray[np.float64]]:
        """Rows ``[first, last)`` of values and times. Raises IntegrityError naming the shard."""
        rows: tuple[NDArray[Any], NDArray[np.float64]]
        rows = self._use(path, lambda shard: (shard.values[first:last], shard.times[first:last]))
        return rows

    def read_times(self, path: Path, *, first: int, last: int) -> NDArray[np.float64]:
        """Rows ``[first, last)`` of times (T, 2). Raises IntegrityError naming the shard."""
        times: NDArray[np.float64] = self._use(path, lambda shard: shard.times[first:last])
        return times

    def _use(self, path: Path, use: Callable[[_OpenShard], Any]) -> Any:
        if self._process != os.getpid():  # the parent's files are the parent's
            self._forget()
        with self._lock:
            try:
                return use(self._shard(path))
            except FileNotFoundError as error:
                raise IntegrityError(f"shard {path} is gone; run sync again to make it anew") from error
            except (OSError, KeyError, ValueError) as error:  # a chunk whose checksum is wrong, among others
                raise IntegrityError(f"shard {path} cannot be read ({error}); {REMEDY}") from error

    def _shard(self, path: Path) -> _OpenShard:
        import h5py

        if path in self._open:
            self._open.move_to_end(path)
            return self._open[path]
        self._check_once(path)
        while len(self._open) >= MAX_OPEN_FILES:
            self._open.popitem(last=False)[1].file.close()
        file = h5py.File(path, "r", locking=False)
        self._open[path] = _OpenShard(file, file["values"], file["times"])
        return self._open[path]

    def _check_once(self, path: Path) -> None:
        status = path.stat()
        stamp = (status.st_ino, status.st_size, status.st_mtime_ns)
        if self._checked.get(path) != stamp:
            self._check(path)
            self._checked[path] = stamp


@dataclass(frozen=True, slots=True)
class _OpenShard:
    file: Any
    values: Any
    times: Any
