"""What is left in a damaged shard. What is left of a damaged sidecar, `_recovered` says.

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
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ..._vocabulary import FeatureArray, FeatureSpec, IntegrityError, Modality
from ..formats import Entry, OpenShard, Sample, ShardInfo, format_of, one_line, sample_checksum

_log = logging.getLogger(__name__)
_BLOCK_BYTES = 1 << 22
_SLACK_BYTES = 1 << 28
# What a reader makes of bytes that it was not meant to see.
UNREADABLE = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    MemoryError,
    IntegrityError,
)


def spec_of(shard: ShardInfo) -> FeatureSpec:
    """The specification that a shard was written with, as far as it has part in fingerprints. Raises IntegrityError."""
    try:
        return spec_in(shard.spec)
    except ValueError as error:
        raise IntegrityError(f"shard {shard.path}: {error}; another version of frameloom wrote it") from error


def spec_in(text: str) -> FeatureSpec:
    """A specification from its JSON. Raises ValueError where it has other fields than this version's."""
    try:
        fields = json.loads(text)
        return FeatureSpec(**{**fields, "modality": Modality(fields["modality"])})
    except UNREADABLE as error:
        raise ValueError(f"its specification is none of this version's ({one_line(error)})") from error


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
            except UNREADABLE:
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
        except UNREADABLE as error:
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

    Raises ValueError when most of it is gone, or when this version would lay it out in another way than it was.
    """
    shard = entries[0].shard
    if shard.num_bytes > 2 * len(held) + _SLACK_BYTES:
        raise ValueError(f"of {shard.num_bytes:,} bytes {len(held):,} are left")
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
