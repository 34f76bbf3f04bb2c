"""What is left in a damaged shard, and in a damaged sidecar.

A shard's bytes follow from its samples, and the sidecar knows all of a sample but its numbers. So the shard is written
again twice, into temporary files, once with rows of zeros and once with rows of ones: where the two agree, a byte does
not depend on the numbers and is put right in a copy of the damaged shard; the rest of the copy is what the disk still
holds. The copy opens whatever was hit, no parser is shown damage, and each sample's checksum says whether its numbers
are those that were written.
"""

from __future__ import annotations

import io
import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from .._vocabulary import FeatureArray, FeatureSpec, IntegrityError, Modality
from ._shards import OpenShard, Sample, format_of, sample_checksum
from ._sidecar import Entry, ShardInfo, readable_columns, restored_sidecar

_log = logging.getLogger(__name__)
_BLOCK_BYTES = 1 << 22
# What a reader makes of bytes that it was not meant to see.
_UNREADABLE = (OSError, ValueError, KeyError, IndexError, TypeError, RuntimeError, MemoryError, IntegrityError)


@dataclass(frozen=True, slots=True)
class Identity:
    """What a caller knows of a feature beside the store: what a person calls it, and the digest of its source."""

    key: str
    source_digest: str


def spec_of(shard: ShardInfo) -> FeatureSpec:
    """The specification that a shard was written with, as far as it has part in fingerprints."""
    fields = json.loads(shard.spec)
    return FeatureSpec(**{**fields, "modality": Modality(fields["modality"])})


def sample_of(entry: Entry, feature: FeatureArray) -> Sample:
    """A stored sample, ready to be written into another shard, where its entry will say the same."""
    extent = None if entry.start_seconds is None else (entry.start_seconds, entry.end_seconds or 0.0)
    return Sample(
        key=entry.key,
        source_digest=entry.source_digest,
        fingerprint=entry.fingerprint,
        feature=FeatureArray(feature.values, feature.times, entry.status, entry.message, extent),
    )


def sound_samples(shard: OpenShard, entries: Sequence[Entry], *, verify: bool = True) -> Iterator[Sample | None]:
    """Each entry's sample where its checksum holds, in order; None where it does not or cannot be read.

    Args:
        shard: open.
        entries: of this shard.
        verify: whether the format's own checksums count as well. What they cover may be more than one sample.
    """
    for entry in entries:
        feature = _empty(entry)
        if entry.num_rows:
            try:
                values, times = shard.read(entry.first_row, entry.first_row + entry.num_rows, verify=verify)
                feature = FeatureArray(values, times)
            except _UNREADABLE:
                yield None
                continue
        is_whole = feature.values.shape == (entry.num_rows, entry.shard.dim)
        is_whole = is_whole and feature.values.dtype == np.dtype(entry.shard.dtype)
        yield sample_of(entry, feature) if is_whole and _checksum(feature) == entry.checksum else None


def _checksum(feature: FeatureArray) -> int:
    return sample_checksum(feature.values, feature.times)


def _empty(entry: Entry) -> FeatureArray:
    return FeatureArray(np.zeros((0, entry.shard.dim), entry.shard.dtype), np.zeros((0, 2)))


def samples_of_damaged(held: bytes, entries: Sequence[Entry]) -> Iterator[Sample | None]:
    """`sound_samples` of a shard that is not what was written, whatever was hit.

    Args:
        held: what is left of the shard.
        entries: what its sidecar says of its samples.
    """
    found = [None if entry.num_rows else sample_of(entry, _empty(entry)) for entry in entries]
    for copied in (_mended_copy, _plain_copy):
        if None not in found:
            break
        try:
            with copied(held, entries) as copy:
                shard = format_of(copy).open(copy)
                try:
                    for number, sample in enumerate(sound_samples(shard, entries, verify=False)):
                        found[number] = found[number] or sample
                finally:
                    shard.close()
        except _UNREADABLE as error:
            _log.info("%s, read as a %s: %s", entries[0].shard.path, copied.__name__.strip("_"), error)
    yield from found


@contextmanager
def _plain_copy(held: bytes, entries: Sequence[Entry]) -> Iterator[Path]:
    """A damaged shard as it is, of a format whose lengths may depend on numbers. Raises ValueError for HDF5.

    HDF5's library is never shown damage; the other formats are read by code of ours, which refuses what it must.
    """
    if entries[0].shard.path.suffix == ".h5":
        raise ValueError("a damaged HDF5 file is not opened")
    with tempfile.TemporaryDirectory(prefix="frameloom-salvage-") as folder:
        copy = Path(folder, entries[0].shard.path.name)
        copy.write_bytes(held)
        yield copy


@contextmanager
def _mended_copy(held: bytes, entries: Sequence[Entry]) -> Iterator[Path]:
    """A copy of a damaged shard in which every byte that does not depend on the samples' numbers is right.

    Raises ValueError when this version would lay the shard out in another way than the one that wrote it.
    """
    shard = entries[0].shard
    with tempfile.TemporaryDirectory(prefix="frameloom-salvage-") as folder:
        skeletons = [Path(folder, f"{fill}{shard.path.suffix}") for fill in (0x00, 0xFF)]
        for skeleton, fill in zip(skeletons, (0x00, 0xFF), strict=True):
            _write_skeleton(skeleton, entries, fill)
            if skeleton.stat().st_size != shard.num_bytes:
                raise ValueError("this version lays shards out in another way than the one that wrote it")
        copy = Path(folder, shard.path.name)
        with copy.open("wb") as target:
            _overlay(io.BytesIO(held), skeletons, target)
        yield copy


def _write_skeleton(path: Path, entries: Sequence[Entry], fill: int) -> None:
    samples = [sample_of(entry, _filled(entry, fill)) for entry in entries]
    with path.open("xb+", buffering=0) as target:
        format_of(path).write(target, samples, spec=spec_of(entries[0].shard))


def _filled(entry: Entry, fill: int) -> FeatureArray:
    """Numbers in every byte of which stands `fill`. One row in memory, whatever the length."""
    shard = entry.shard
    value = np.full(np.dtype(shard.dtype).itemsize, fill, np.uint8).view(shard.dtype)[0]
    time = np.full(8, fill, np.uint8).view(np.float64)[0]
    values = np.broadcast_to(np.asarray(value), (entry.num_rows, shard.dim))
    return FeatureArray(values, np.broadcast_to(np.asarray(time), (entry.num_rows, 2)))


def _overlay(damaged: io.BytesIO, skeletons: Sequence[Path], target: io.BufferedWriter) -> None:
    with skeletons[0].open("rb") as zeros, skeletons[1].open("rb") as ones:
        while block := zeros.read(_BLOCK_BYTES):
            first = np.frombuffer(block, np.uint8)
            second = np.frombuffer(ones.read(len(block)), np.uint8)
            # What is missing at the end of a shard that was cut stands here as zeros.
            held = np.frombuffer(damaged.read(len(block)).ljust(len(block), b"\0"), np.uint8)
            target.write(np.where(first == second, first, held).tobytes())


def damaged_keys(sidecar: bytes, shard: Path | None) -> list[tuple[str, str]]:
    """Key and fingerprint of every sample of a sidecar that cannot be trusted, as far as anything still says them.

    Args:
        sidecar: what is left of it.
        shard: its shard, where that is known to be what was written.
    """
    columns, _ = readable_columns(sidecar)
    if {"key", "fingerprint"} <= columns.keys():
        return list(zip(columns["key"], columns["fingerprint"], strict=True))
    return [] if shard is None or shard.suffix != ".h5" else _keys_in_hdf5(shard)


def _keys_in_hdf5(path: Path) -> list[tuple[str, str]]:
    import h5py

    with suppress(*_UNREADABLE), h5py.File(path, "r", locking=False) as file:
        columns = [[text.decode() for text in file[name][:]] for name in ("keys", "fingerprints")]
        return list(zip(*columns, strict=True))
    return []


def rebuilt_sidecar(
    sidecar: bytes, shard: Path, *, sha256: str, identities: Mapping[str, Identity] | None = None
) -> bytes | None:
    """The bytes of a damaged sidecar as they were written, or None where that cannot be proven.

    One column that is lost is found again from the others, from the shard or from what the caller knows, and the
    sidecar's seal proves that it is right. Where the seal is lost as well, nothing is proven: the digests, messages and
    times that only a sidecar holds decide what is made of a video later.

    Args:
        sidecar: what is left of it.
        shard: its shard, which is what was written.
        sha256: hash of the shard.
        identities: what the caller knows, by fingerprint.
    """
    columns, facts = readable_columns(sidecar)
    if not columns or "seal" not in facts:
        return None
    facts = {**facts, "sha256": sha256, "num_bytes": shard.stat().st_size}
    finders: tuple[Callable[[], dict[str, list[Any]]], ...] = (
        lambda: {},
        lambda: _from_columns(columns),
        lambda: _from_identities(columns, identities or {}),
        lambda: _from_shard(columns, shard),
    )
    known: dict[str, list[Any]] = {}
    for find in finders:
        with suppress(*_UNREADABLE):
            known |= find()
            if (found := restored_sidecar({**known, **columns}, facts)) is not None:
                return found
    return None


def _from_columns(columns: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    num_samples = len(next(iter(columns.values())))
    found: dict[str, list[Any]] = {"message": [""] * num_samples, "status": ["ok"] * num_samples}
    if "num_rows" in columns:
        found["first_row"] = [int(row) for row in np.cumsum([0, *columns["num_rows"]])[:-1]]
    return found


def _from_identities(columns: Mapping[str, list[Any]], identities: Mapping[str, Identity]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    if "fingerprint" in columns and all(one in identities for one in columns["fingerprint"]):
        known = [identities[one] for one in columns["fingerprint"]]
        found = {"key": [one.key for one in known], "source_digest": [one.source_digest for one in known]}
    return found


def _from_shard(columns: Mapping[str, list[Any]], path: Path) -> dict[str, list[Any]]:
    """Checksums, and where no stream's extent says otherwise, first and last instants."""
    bounds = [*columns["first_row"], columns["first_row"][-1] + columns["num_rows"][-1]]
    found: dict[str, list[Any]] = {"checksum": [], "start_seconds": [], "end_seconds": []}
    shard = format_of(path).open(path)
    try:
        for first, last in pairwise(bounds):
            values, times = shard.read(first, last)
            has_times = len(times) > 0 and not np.isnan(times).any()
            found["checksum"].append(sample_checksum(values, times))
            found["start_seconds"].append(float(times[:, 0].min()) if has_times else None)
            found["end_seconds"].append(float(times[:, 1].max()) if has_times else None)
    finally:
        shard.close()
    return found


def link_aside(path: Path, folder: Path) -> Path:
    """Give a file a second name in a folder, durably, so that it is kept when the first name goes. Once for each file.

    Where a file system knows no second names, it is copied.
    """
    import shutil

    from ._commit import make_folder, sync_folder, sync_path

    make_folder(folder)
    serial, kept = 0, folder / path.name
    while kept.exists():
        if kept.samefile(path):
            return kept
        serial += 1
        kept = folder / f"{path.name}.{serial}"
    try:
        os.link(path, kept)
    except OSError:
        shutil.copy2(path, kept)
        sync_path(kept)
    sync_folder(folder)
    return kept
