"""Ragged features in one HDF5 file: many videos end to end, so that one video is one slice.

Layout, with N samples, ``T_n`` rows in sample n and width D::

    values        (sum T, D)  a type of `STORED_TYPES`, chunked, fletcher32
    times         (sum T, 2)  float64 seconds, chunked, fletcher32; NaN for text
    offsets       (N + 1,)    int64; sample n is rows offsets[n] : offsets[n + 1]
    keys          (N,)        UTF-8, what a person calls each sample (the first KEY_BYTES bytes)
    fingerprints  (N,)        ASCII
    statuses      (N,)        ASCII; a sample without rows says here why
    attributes    frameloom_format, spec (JSON)

HDF5 writes into a file that takes every write (`_commit.publish_by_content`), so that it never meets a full disk, where
it has been seen to end the process. The same samples always give the same bytes: nothing in them depends on the clock.

Reading asks HDF5 once where the chunks are. They are plain bytes, each followed by its checksum, and are read from
there without HDF5 (`_rows`): its lock, its cache and its checks of whole chunks took half of the time, and a file that
it has open must not be used after a fork.
"""

from __future__ import annotations

import functools
import io
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..._vocabulary import FeatureSpec, canonical_json
from .base import FORMATS, STORED_TYPES, OpenShard, Sample
from .pages import PageSums
from .records import Contents, Told, mark, stamp_of
from .rows import RowFile, Rows, RowShard, block_checksums

SUFFIX = ".h5"
FORMAT_VERSION = 1
CHUNK_BYTES = 256 * 1024  # 256 rows of 512 half floats: the size measured fastest for random whole-video reads
KEY_BYTES = 1024
VALUE_TYPES = tuple(dtype.str for dtype in STORED_TYPES.values())
_CHECKSUM_BYTES = 4
_KEPT_LAYOUTS = 1024  # of shards that were open once; some 10 KB each


class Hdf5Format:
    """HDF5 shards, a member of `FORMATS`."""

    name = "hdf5"
    suffix = SUFFIX

    def write(self, target: io.RawIOBase, samples: Sequence[Sample], *, spec: FeatureSpec) -> None:
        """Write the shard that holds these samples in this order into an empty file."""
        write_shard_file(target, samples, spec=spec)

    def open(self, path: Path, sums: PageSums | None = None) -> OpenShard:
        """Open a shard. HDF5 parses it, so it should be known to be ours before. What is not one raises ValueError.

        Refused are links, virtual and external data sets, types other than the layout's, and filters other than its
        checksum.
        """
        return RowShard.open(path, sums, lambda *given: _layout(*given)[:2])

    def mark(self, path: Path) -> bytes:
        """The `mark` of a shard. Raises as `open` does."""
        return _layout(path, stamp_of(path))[2]

    def name_of(self, fingerprint: str) -> str:
        """What a shard calls a sample."""
        return fingerprint

    def contents(self, path: Path) -> Contents:
        """What a shard says of its samples. Raises as `open` does."""
        self.mark(path)  # what is no shard is refused here as well
        return _contents(path)


FORMATS.add(Hdf5Format.name, Hdf5Format())


def write_shard_file(target: io.RawIOBase, samples: Sequence[Sample], *, spec: FeatureSpec) -> None:
    """Write the shard that holds these samples in this order into an empty file."""
    import h5py

    with h5py.File(target, "w", libver=("earliest", "v108")) as file:
        file.attrs["frameloom_format"] = FORMAT_VERSION
        file.attrs["spec"] = canonical_json(spec.identity())
        _write_rows(file, "values", [sample.feature.values for sample in samples])
        _write_rows(file, "times", [sample.feature.times for sample in samples])
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


@functools.lru_cache(maxsize=_KEPT_LAYOUTS)
def _layout(path: Path, stamp: tuple[int, ...]) -> tuple[Rows, Rows, bytes]:
    """Where a shard's values and times are, and its mark."""
    import h5py

    del stamp  # of the file whose layout this is: another file of the same name has its own
    try:
        with h5py.File(path, "r", locking=False) as file:
            if file.attrs["frameloom_format"] != FORMAT_VERSION:
                raise ValueError(f"its format is {file.attrs['frameloom_format']}, this version reads {FORMAT_VERSION}")
            values, times = _rows(file, "values", VALUE_TYPES), _rows(file, "times", ("<f8",))
            names = _texts(file, "fingerprints")
            found = mark(
                spec=_spec(file),
                dtype=values.dtype.str,
                dim=values.dim,
                names=names,
                num_rows=_num_rows(file, num_samples=len(names), of=len(values)),
            )
    except (RuntimeError, TypeError, NotImplementedError) as error:  # what h5py makes of odd files
        raise ValueError(f"HDF5 refuses it: {error}") from error
    return values, times, found


def _contents(path: Path) -> Contents:
    import h5py

    try:
        with h5py.File(path, "r", locking=False) as file:
            keys, fingerprints, statuses = (_texts(file, name) for name in ("keys", "fingerprints", "statuses"))
            num_rows = _num_rows(file, num_samples=len(fingerprints), of=len(_rows(file, "values", VALUE_TYPES)))
            spec = _spec(file)
    except (RuntimeError, TypeError, NotImplementedError) as error:
        raise ValueError(f"HDF5 refuses it: {error}") from error
    samples = (
        Told(key=key, fingerprint=fingerprint, num_rows=count, status=status)
        for key, fingerprint, count, status in zip(keys, fingerprints, num_rows, statuses, strict=True)
    )
    return Contents(spec=spec, samples=tuple(samples))


def _spec(file: Any) -> str:
    spec = file.attrs["spec"]
    if not isinstance(spec, str):
        raise ValueError("its specification is no text")
    return spec


def _texts(file: Any, name: str) -> list[str]:
    """A data set of texts, one for each sample."""
    found = _column(file, name, "S")
    return [text.decode() for text in found.tolist()]


def _num_rows(file: Any, *, num_samples: int, of: int) -> list[int]:
    """How many of the shard's rows each sample has."""
    offsets = _column(file, "offsets", "i").astype(np.int64)
    counts: list[int] = np.diff(offsets).tolist()
    if len(counts) != num_samples or offsets[0] or offsets[-1] != of or min(counts, default=0) < 0:
        raise ValueError(f"its 'offsets' do not part its {of:,} rows among {num_samples:,} samples")
    return counts


def _column(file: Any, name: str, kind: str) -> NDArray[Any]:
    """A small data set of one dimension, plain in this file.

    Read with HDF5's own functions: this is done whenever a shard is opened, and h5py's take several times as long.
    """
    import h5py

    encoded = name.encode()
    if file.id.links.get_info(encoded).type != h5py.h5l.TYPE_HARD:
        raise ValueError(f"its {name!r} is no data set of this file")
    data = h5py.h5d.open(file.id, encoded)
    settings = data.get_create_plist()
    is_plain = settings.get_layout() == h5py.h5d.CONTIGUOUS and not settings.get_external_count()
    shape, dtype = data.shape, data.dtype
    if not is_plain or dtype.kind != kind or len(shape) != 1 or shape[0] * dtype.itemsize > file.id.get_filesize():
        raise ValueError(f"its {name!r} is {dtype} {shape}, or not stored plainly in this file")
    found = np.empty(shape, dtype)
    data.read(h5py.h5s.ALL, h5py.h5s.ALL, found)
    return found


def _rows(file: Any, name: str, types: tuple[str, ...]) -> Rows:
    import h5py

    if not isinstance(file.get(name, getlink=True), h5py.HardLink) or not isinstance(file[name], h5py.Dataset):
        raise ValueError(f"its {name!r} is no data set of this file")
    data = file[name]
    if data.dtype.str not in types or data.ndim != 2 or not data.shape[1]:
        raise ValueError(
            f"its {name!r} is {data.dtype.str} {data.shape}; (rows, columns) of {' or '.join(types)} needed"
        )
    if not data.shape[0]:
        return Rows(data.dtype, data.shape[1], starts=[0], offsets=[], learn=_learn(0))
    _check_storage(data, name)
    num_rows, chunk_rows = data.shape[0], data.chunks[0]
    offsets = _chunk_offsets(data, name, file_bytes=file.id.get_filesize())
    return Rows(
        data.dtype,
        data.shape[1],
        starts=array("q", [*range(0, num_rows, chunk_rows), num_rows]),
        offsets=offsets,
        learn=_learn(chunk_rows * data.shape[1] * data.dtype.itemsize),
    )


def _check_storage(data: Any, name: str) -> None:
    """Nothing but chunks of whole rows in this file, with their checksum and without any other filter."""
    import h5py

    settings = data.id.get_create_plist()
    if data.is_virtual or data.external or settings.get_layout() != h5py.h5d.CHUNKED:
        raise ValueError(f"its {name!r} is not stored in chunks in this file")
    filters = [settings.get_filter(number)[0] for number in range(settings.get_nfilters())]
    if filters != [h5py.h5z.FILTER_FLETCHER32] or data.chunks[1] != data.shape[1]:
        raise ValueError(
            f"its {name!r} has chunks {data.chunks} with filters {filters}; whole rows and fletcher32 needed"
        )


def _chunk_offsets(data: Any, name: str, *, file_bytes: int) -> array[int]:
    """Where each chunk begins. Every one must be there, whole and inside of the file, whatever the shape promises."""
    chunk_rows, num_bytes = data.chunks[0], data.chunks[0] * data.shape[1] * data.dtype.itemsize + _CHECKSUM_BYTES
    num_chunks = -(-data.shape[0] // chunk_rows)
    if num_chunks * num_bytes > file_bytes:
        raise ValueError(f"its {name!r} claims to be {data.shape}, more than the whole file's {file_bytes:,} bytes")
    offsets: array[int] = array("q", [-1]) * num_chunks

    def note(chunk: Any) -> None:
        if chunk.filter_mask or chunk.size != num_bytes or chunk.byte_offset + num_bytes > file_bytes:
            raise ValueError(f"a chunk of its {name!r} is not whole")
        offsets[chunk.chunk_offset[0] // chunk_rows] = chunk.byte_offset

    data.id.chunk_iter(note)
    if -1 in offsets:
        raise ValueError(f"a chunk of its {name!r} is missing")
    return offsets


def _learn(chunk_bytes: int) -> Any:
    """The function that finds the checksums of a chunk's blocks, after it has checked the chunk."""

    def learn(file: RowFile, offset: int, num_bytes: int) -> array[int]:
        data = memoryview(file.read(offset, chunk_bytes + _CHECKSUM_BYTES))
        if not _is_sound(data[:chunk_bytes], int.from_bytes(data[chunk_bytes:], "little")):
            raise ValueError(f"the chunk at byte {offset:,} does not match its checksum")
        return block_checksums(data[:num_bytes])  # the last chunk is filled up with rows that are none

    return learn


def _is_sound(data: memoryview, checksum: int) -> bool:
    return all(
        found == wanted % 65535 for found, wanted in zip(fletcher32(data), divmod(checksum, 1 << 16), strict=True)
    )


def fletcher32(data: memoryview) -> tuple[int, int]:
    """HDF5's checksum of a chunk, each half modulo 65535: the second sum of its big-endian 16-bit words, and the first.

    With words ``w_1 ... w_n`` the first sum is ``sum w_i`` and the second ``sum (n + 1 - i) w_i``. Here words are in
    rows of 512, filled up with zeros in front, which change neither: in float64 every sum of a row is exact.
    """
    width, num_words = 512, -(-len(data) // 2)
    words = np.zeros(-(-num_words // width) * width, ">u2")
    begin = 2 * (len(words) - num_words)
    words.view(np.uint8)[begin : begin + len(data)] = data
    table = words.astype(np.float64).reshape(-1, width)
    sums = table.sum(axis=1).astype(np.int64) % 65535
    weighted = (table @ np.arange(width, 0, -1.0)).astype(np.int64) % 65535
    words_after = np.arange(len(table) - 1, -1, -1) * width % 65535
    return int((weighted + words_after * sums % 65535).sum()) % 65535, int(sums.sum()) % 65535
