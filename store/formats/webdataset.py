"""Ragged features in one tar: the same samples as an HDF5 shard, written by ``webdataset``, which reads them too.

Layout, with N samples, every member a regular file::

    __frameloom__/spec.json   {"frameloom_format": 2, "num_samples": N, "spec": {...}}; webdataset passes over it
    ID.json                   the sample's record (`SampleRecord`)
    ID.times.npy              (T, 2)  float64 seconds; NaN for text
    ID.values.npy             (T, D)  a type of `STORED_TYPES`

and so on for every sample, in their order; a sample without rows has all three too, and ``status`` says why. ``ID`` is
the fingerprint, or its hash where it is not 32 hexadecimal digits: dots and slashes in what people call their videos
never become part of a member's name, where webdataset would cut it.

Raw pixels are stored as they are. As JPEG they would be other pixels than the fingerprint names, and pixels that depend
on who decodes them, so no checksum could tell damage from that; that is for a backbone's specification to say.

Rows are read by their offsets, which the sidecar has: through ``webdataset`` a window of a long video would cost the
whole of it, and a random sample the whole shard. A pipeline of ``webdataset`` reads the same files in their order.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from ..._vocabulary import ConfigError, FeatureSpec, InputError, canonical_json
from .base import FORMATS, Sample
from .records import FORMAT_VERSION, Contents, SampleRecord, check_version, record_of, sample_id, values_of

SPEC_MEMBER = "__frameloom__/spec.json"
MAX_MEMBER_BYTES = 8**11 - 1  # what an ustar header can say
MAX_JSON_BYTES = 64 * 1024 * 1024
_ENDINGS = ("json", "times.npy", "values.npy")  # in the order in which webdataset writes them
_MAX_HEADER_BYTES = 4096


class WebdatasetFormat:
    """Tar shards, a member of `FORMATS`."""

    name = "webdataset"
    suffix = ".tar"

    def write(self, target: io.RawIOBase, samples: Sequence[Sample], *, spec: FeatureSpec) -> Contents:
        """Write the shard that holds these samples in this order into an empty file.

        Raises InputError where a sample is larger than a tar can hold, and ConfigError without ``webdataset``.
        """
        try:
            from webdataset import TarWriter
        except ImportError as error:
            message = "tar shards need the package webdataset: install it, or choose the format hdf5"
            raise ConfigError(message) from error
        about = {"frameloom_format": FORMAT_VERSION, "num_samples": len(samples), "spec": spec.identity()}
        with TarWriter(target, user="", group="", mode=0o644, mtime=0, encoder=False) as writer:
            key, _, ending = SPEC_MEMBER.partition(".")
            writer.write({"__key__": key, ending: canonical_json(about).encode()})
            for sample in samples:
                feature = sample.feature
                record = canonical_json(record_of(sample).model_dump(mode="json")).encode()
                parts = (record, _npy_bytes(feature.times), _npy_bytes(feature.values))
                if (size := max(map(len, parts))) > MAX_MEMBER_BYTES or len(record) > MAX_JSON_BYTES:
                    limit = f"a tar member at most {MAX_MEMBER_BYTES:,}; use hdf5"
                    raise InputError(f"sample {sample.key!r} has {size:,} bytes, and {limit}")
                members = dict(zip(_ENDINGS, parts, strict=True))
                writer.write({"__key__": sample_id(sample.fingerprint), **members})
        return self.contents(target)  # type: ignore[arg-type]  # a raw file, which reads as any other

    def contents(self, file: BinaryIO) -> Contents:
        """What a shard says of its samples. Raises ValueError for anything but the layout: other names, links, devices,
        extended headers, sizes that do not fit, arrays whose header claims other than their size.
        """
        num_bytes = file.seek(0, io.SEEK_END)
        file.seek(0)
        members: list[tarfile.TarInfo] = []
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                for member in tar:
                    is_plain = member.isreg() and not member.issparse() and not member.pax_headers
                    if not is_plain or not 0 <= member.size <= num_bytes - member.offset_data:
                        raise ValueError(f"its member {member.name!r:.100} is not a plain file in the tar")
                    members.append(member)
        except tarfile.TarError as error:
            raise ValueError(f"it is not a tar: {error}") from error
        if not members or members[0].name != SPEC_MEMBER:
            raise ValueError(f"its first member is not {SPEC_MEMBER}")
        try:
            about = json.loads(_json_of(file, members[0]))
            spec = canonical_json(about.get("spec")) if isinstance(about, dict) else ""
        except RecursionError as error:
            raise ValueError(f"its {SPEC_MEMBER} is nested too deeply") from error
        if not isinstance(about, dict):
            raise ValueError(f"its {SPEC_MEMBER} is no object")
        check_version(about.get("frameloom_format"), getattr(file, "name", "it"))
        triples = [members[place : place + 3] for place in range(1, len(members), 3)]
        samples = tuple(SampleRecord.model_validate_json(_json_of(file, triple[0])) for triple in triples)
        if len(samples) != about.get("num_samples"):
            raise ValueError(f"it has {len(samples):,} samples of {about.get('num_samples')!r:.50}")
        dtype, dim = values_of(spec)
        places = []
        for sample, triple in zip(samples, triples, strict=True):
            name = sample_id(sample.fingerprint)
            if [member.name for member in triple] != [f"{name}.{ending}" for ending in _ENDINGS]:
                raise ValueError(f"the members of its sample {sample.key!r} are not in their places")
            times = _rows_begin(file, triple[1], np.dtype("<f8"), (sample.num_rows, 2))
            values = _rows_begin(file, triple[2], dtype, (sample.num_rows, dim))
            places.append((values, times) if sample.num_rows else (0, 0))
        values_offsets, times_offsets = zip(*places, strict=True)
        return Contents(spec=spec, samples=samples, values_offsets=values_offsets, times_offsets=times_offsets)


FORMATS.add(WebdatasetFormat.name, WebdatasetFormat())


def _npy_bytes(rows: NDArray[Any]) -> bytes:
    header = io.BytesIO()
    npy.write_array_header_1_0(header, npy.header_data_from_array_1_0(np.ascontiguousarray(rows)))
    return header.getvalue() + rows.tobytes()


def _json_of(file: BinaryIO, member: tarfile.TarInfo) -> bytes:
    if member.size > MAX_JSON_BYTES:
        raise ValueError(f"{member.size:,} bytes of JSON in {member.name}; at most {MAX_JSON_BYTES:,} are read")
    file.seek(member.offset_data)
    return file.read(member.size)


def _rows_begin(file: BinaryIO, member: tarfile.TarInfo, dtype: np.dtype[Any], shape: tuple[int, int]) -> int:
    """Where an array's rows begin in the tar, which its header and the member's size must bear out."""
    file.seek(member.offset_data)
    head = io.BytesIO(file.read(min(member.size, _MAX_HEADER_BYTES)))
    try:
        if npy.read_magic(head) != (1, 0):
            raise ValueError("another version")
        found, is_fortran, dtype_found = npy.read_array_header_1_0(head, max_header_size=_MAX_HEADER_BYTES)
    except Exception as error:  # of NumPy's parser, which is Python's own and fails in many ways
        raise ValueError(f"its {member.name} has no header of NumPy's format 1.0") from error
    if (found, is_fortran, dtype_found.str) != (shape, False, dtype.str):
        raise ValueError(f"its {member.name} is {dtype_found.str} {found}; {dtype.str} {shape} needed")
    if head.tell() + shape[0] * shape[1] * dtype.itemsize != member.size:
        raise ValueError(f"its {member.name} claims {shape[0]:,} rows and has {member.size:,} bytes")
    return member.offset_data + head.tell()
