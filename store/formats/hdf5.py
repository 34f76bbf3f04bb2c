"""Ragged features in one HDF5 file: many videos end to end, so that one video is one slice.

Layout, with N samples, ``T_n`` rows in sample n and width D, every data set contiguous::

    values        (sum T, D)  a type of `STORED_TYPES`
    times         (sum T, 2)  float64 seconds; NaN for text
    offsets       (N + 1,)    int64; sample n is rows offsets[n] : offsets[n + 1]
    keys          (N,)        UTF-8, what a person calls each sample (the first KEY_BYTES bytes)
    samples       ()          JSON, a list of the samples' records (`SampleRecord`)
    attributes    frameloom_format, spec (JSON)

HDF5 writes into a file that takes every write (`publish_by_content`), so that it never meets a full disk, where it has
been seen to end the process. The same samples always give the same bytes: nothing in them depends on the clock. Readers
of rows take their places from the sidecar, and never open a file with HDF5.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from ..._vocabulary import FeatureSpec, canonical_json
from .base import FORMATS, TIME_BYTES, Sample
from .records import FORMAT_VERSION, Contents, SampleRecord, check_version, record_of, values_of

KEY_BYTES = 1024
_RECORDS = TypeAdapter(tuple[SampleRecord, ...])


class Hdf5Format:
    """HDF5 shards, a member of `FORMATS`."""

    name = "hdf5"
    suffix = ".h5"

    def write(self, target: io.RawIOBase, samples: Sequence[Sample], *, spec: FeatureSpec) -> Contents:
        """Write the shard that holds these samples in this order into an empty file."""
        import h5py

        keys = [sample.key.encode()[:KEY_BYTES].decode(errors="ignore").encode() for sample in samples]
        records = tuple(map(record_of, samples))
        text = canonical_json([record.model_dump(mode="json") for record in records])
        with h5py.File(target, "w", libver=("earliest", "v108")) as file:
            file.attrs["frameloom_format"] = FORMAT_VERSION
            file.attrs["spec"] = canonical_json(spec.identity())
            # Fixed length: text of variable length lies in a heap, whose bytes are not always the same.
            file.create_dataset("samples", data=np.bytes_(text.encode()), track_times=False)
            dtype = h5py.string_dtype("utf-8", max(1, *map(len, keys)))
            file.create_dataset("keys", data=np.array(keys, dtype), dtype=dtype, track_times=False)
            lengths = [len(sample.feature.values) for sample in samples]
            file.create_dataset("offsets", data=np.cumsum([0, *lengths], dtype=np.int64), track_times=False)
            values = _write_rows(file, "values", [sample.feature.values for sample in samples])
            times = _write_rows(file, "times", [sample.feature.times for sample in samples])
            return _contents(file.attrs["spec"], records, values=values, times=times)

    def contents(self, file: BinaryIO) -> Contents:
        """What a shard says of its samples. HDF5 parses it, so it must be known to be what was written.

        Raises ValueError for links, for virtual, external, chunked and compact data sets, and for other types.
        """
        import h5py

        num_bytes = file.seek(0, io.SEEK_END)
        try:
            with h5py.File(file, "r") as opened:
                version, spec = opened.attrs["frameloom_format"], opened.attrs["spec"]
                check_version(
                    version.item() if isinstance(version, np.integer) else version, getattr(file, "name", "it")
                )
                if not isinstance(spec, str):
                    raise ValueError("its specification is no text")
                records = _data_set(opened, "samples", num_bytes)
                if records.shape != () or records.dtype.kind != "S":
                    raise ValueError(f"its 'samples' are {records.dtype} {records.shape}")
                samples = _RECORDS.validate_json(records[()])
                dtype, dim = values_of(spec)
                counts = [sample.num_rows for sample in samples]
                shapes = {"values": (dtype, (sum(counts), dim)), "times": (np.dtype("<f8"), (sum(counts), 2))}
                begins = {name: _rows_begin(opened, name, *shape, num_bytes) for name, shape in shapes.items()}
        except (RuntimeError, TypeError, KeyError, OSError, NotImplementedError) as error:
            raise ValueError(f"HDF5 refuses it: {error}") from error
        return _contents(spec, samples, **begins)


FORMATS.add(Hdf5Format.name, Hdf5Format())


def _contents(spec: str, samples: tuple[SampleRecord, ...], *, values: int, times: int) -> Contents:
    """The contents of a shard whose values and times begin at these bytes."""
    dtype, dim = values_of(spec)
    counts = [sample.num_rows for sample in samples]
    firsts = [first if count else None for first, count in zip(accumulate(counts, initial=0), counts)]  # noqa: B905
    return Contents(
        spec=spec,
        samples=samples,
        values_offsets=tuple(0 if first is None else values + first * dim * dtype.itemsize for first in firsts),
        times_offsets=tuple(0 if first is None else times + first * TIME_BYTES for first in firsts),
    )


def _write_rows(file: Any, name: str, parts: list[NDArray[Any]]) -> int:
    """One data set of arrays (T_n, D) end to end, written one by one: a copy of all of them would double the memory.

    Returns where it begins in the file.
    """
    shape = (sum(map(len, parts)), parts[0].shape[1])
    rows = file.create_dataset(name, shape=shape, dtype=parts[0].dtype, track_times=False)
    first = 0
    for part in parts:
        if len(part):
            rows[first : first + len(part)] = part
        first += len(part)
    return rows.id.get_offset() or 0


def _data_set(file: Any, name: str, num_bytes: int) -> Any:
    """A data set that lies plainly in this file."""
    import h5py

    if not isinstance(file.get(name, getlink=True), h5py.HardLink) or not isinstance(file[name], h5py.Dataset):
        raise ValueError(f"its {name!r} is no data set of this file")
    data = file[name]
    is_plain = data.id.get_create_plist().get_layout() == h5py.h5d.CONTIGUOUS and not data.external
    if not is_plain or max(data.id.get_storage_size(), data.nbytes) > num_bytes:  # one text may be of any size
        raise ValueError(f"its {name!r} is not stored in one piece in this file")
    return data


def _rows_begin(file: Any, name: str, dtype: np.dtype[Any], shape: tuple[int, int], num_bytes: int) -> int:
    """Where the rows of a data set begin, all of which must be there."""
    data = _data_set(file, name, num_bytes)
    if data.dtype.str != dtype.str or data.shape != shape:
        raise ValueError(f"its {name!r} is {data.dtype.str} {data.shape}; {dtype.str} {shape} needed")
    begin, size = data.id.get_offset(), shape[0] * shape[1] * dtype.itemsize
    if size and (begin is None or begin + size > num_bytes):
        raise ValueError(f"its {name!r} is not whole")
    return begin or 0
