"""Stored samples, ready to be written into another shard."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ..._vocabulary import FeatureArray, FeatureSpec, IntegrityError, Modality
from ..features import FeatureStore
from ..formats import Entry, Sample, ShardFile, ShardInfo, Sidecar, format_of, one_line, read_sample


def sample_of(entry: Entry, feature: FeatureArray) -> Sample:
    """A stored sample. Its entry in another shard will say the same."""
    extent = None if entry.start_seconds is None else (entry.start_seconds, entry.end_seconds or 0.0)
    return Sample(
        key=entry.key,
        source_digest=entry.source_digest,
        fingerprint=entry.fingerprint,
        feature=FeatureArray(feature.values, feature.times, entry.status, entry.message, extent),
    )


def whole_samples(path: Path, sidecar: Sidecar) -> Iterator[Sample | None]:
    """Each sample of a shard that may be damaged, in order; None where it is not what was written.

    Args:
        path: what is left of the shard; it need not be there.
        sidecar: says where its samples lie.
    """
    try:
        file = ShardFile(path)
    except OSError:
        file = None
    for entry in sidecar:
        feature = FeatureArray(np.zeros((0, entry.shard.dim), entry.shard.dtype), np.zeros((0, 2)))
        if entry.num_rows:
            try:
                if file is None:
                    raise OSError
                feature = FeatureArray(*read_sample(file, entry))
            except (OSError, ValueError, MemoryError):
                yield None
                continue
        yield sample_of(entry, feature)


def spec_of(shard: ShardInfo) -> FeatureSpec:
    """The specification that a shard was written with, as far as it has part in fingerprints. Raises IntegrityError."""
    try:
        fields = json.loads(shard.spec)
        return FeatureSpec(**{**fields, "modality": Modality(fields["modality"])})
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        reason = f"its specification is not one of this version ({one_line(error)})"
        raise IntegrityError(f"shard {shard.path}: {reason}; another version of frameloom wrote it") from error


def write_like(store: FeatureStore, shard: ShardInfo, samples: Sequence[Sample]) -> ShardInfo:
    """Commit samples in the format and under the specification of a shard that is there. Raises as `write_shard`."""
    return store.write_shard(shard.feature, samples, spec=spec_of(shard), format=format_of(shard.path).name)
