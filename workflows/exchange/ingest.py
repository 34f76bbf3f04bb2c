"""Validate imported arrays (shape, type, values, times) and write them as features."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..._vocabulary import ConfigError, FeatureArray, FeatureSpec, InputError, Modality, Status
from ...store import FeatureStore, Sample, sample_checksum
from ..console import Console
from .layouts import Offer, Offered
from .matching import Matching, Target

SHARD_BYTES = 64_000_000
SHARD_SAMPLES = 2000
RATE_TOLERANCE = 0.01

Fingerprint = Callable[[str], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How numbers become a feature.

    Attributes:
        seconds_per_row: distance between rows whose layout gives no times.
        transposed: whether arrays are (D, T), as spectrograms often are.
        cast: whether a value may lose digits when it takes the specification's type.
        source: what the numbers are said to come from, in messages; empty for exports of ours, which say it themselves.
    """

    seconds_per_row: float | None = None
    transposed: bool = False
    cast: bool = False
    source: str = ""


def step_seconds(spec: FeatureSpec) -> float:
    """Seconds between the starts of two rows that are not of one window."""
    return float(spec.sampling.get("rows_per_window", 1)) / (spec.rate_hz or 1.0)


def check_rate(seconds: float, spec: FeatureSpec) -> None:
    """Raises ConfigError for rows at another rate than the specification's, which is part of their identity."""
    expected = step_seconds(spec)
    if abs(seconds - expected) > RATE_TOLERANCE * expected:
        raise ConfigError(
            f"rows {seconds:g} s apart are not those of {spec.name}, which are {expected:g} s apart: configure the rate"
            f" that they have, such as `options: {{rate_hz: {1 / seconds:g}}}`, where the backbone has that option"
        )


def checked_feature(offered: Offered, spec: FeatureSpec, rules: Rules, origin: str) -> FeatureArray:
    """The offered rows as a feature of a specification. Raises InputError, or ConfigError for rows at another rate."""
    if not offered.values.size and offered.status is not Status.OK:
        return FeatureArray.empty(spec, offered.status, offered.message)
    values = _checked_values(offered.values, spec, rules)
    times = _checked_times(offered, len(values), spec, rules)
    if offered.checksum is not None and sample_checksum(values, times) != offered.checksum:
        raise InputError("it is damaged: its numbers are not those that were exported")
    message = f"imported from {rules.source}: {origin}" if rules.source else offered.message
    return FeatureArray(values, times, offered.status, message, extent=offered.extent)


def _checked_values(values: NDArray[Any], spec: FeatureSpec, rules: Rules) -> NDArray[Any]:
    if values.dtype.kind not in "fiub":
        raise InputError(f"it holds {values.dtype}; floats or whole numbers are taken")
    if values.ndim == 1 and values.shape == (spec.dim,):
        raise InputError("it is one vector for a whole video; rows over time, of shape (T, D), are taken")
    if values.ndim != 2:
        raise InputError(f"it has shape {values.shape}; (T, {spec.dim}) is wanted")
    if rules.transposed:
        values = values.T
    if values.shape[1] != spec.dim:
        hint = f": {spec.name} has width {spec.dim}"
        if values.shape[0] == spec.dim:
            hint = ", which is the other way round: --transposed turns it"
        raise InputError(f"it has shape {values.shape}; (T, {spec.dim}) is wanted{hint}")
    if not len(values):
        raise InputError("it has no rows")
    if not np.isfinite(values).all():
        raise InputError("it holds NaN or infinity")
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        made = values.astype(spec.dtype)
    if not np.isfinite(made).all():
        raise InputError(f"its largest value, {np.abs(values).max():g}, is too large for {spec.dtype}")
    back = made.astype(values.dtype)
    if not rules.cast and not np.array_equal(back, values):
        raise InputError(f"its {values.dtype} values lose digits as {spec.dtype}: allow that with --cast")
    if made.dtype.kind in "iu" and np.abs(made.astype(np.float64) - values).max() > 1:
        limits = np.iinfo(made.dtype)
        raise InputError(f"its values do not lie in {limits.min} to {limits.max}")
    return made


def _checked_times(offered: Offered, count: int, spec: FeatureSpec, rules: Rules) -> NDArray[np.float64]:
    if spec.modality is Modality.TEXT:
        return np.full((count, 2), np.nan)
    times = offered.times
    if times is None:  # row after row; where rows are centred, around the instants that they belong to
        seconds = rules.seconds_per_row or step_seconds(spec)
        starts = (np.arange(count) // int(spec.sampling.get("rows_per_window", 1))) * seconds
        if spec.sampling.get("centred"):
            starts = starts - seconds / 2
        return np.stack([np.maximum(starts, 0.0), starts + seconds], axis=1)
    if times.shape != (count, 2) or not np.isfinite(times).all() or (times[:, 0] > times[:, 1]).any():
        raise InputError(f"its times have shape {times.shape} or go backwards; ({count}, 2) finite seconds are wanted")
    steps = np.diff(times[:, 0])
    if rules.source and len(steps):
        check_rate(float(np.median(steps)) or 1e-9, spec)
    return np.asarray(times, np.float64)


@dataclass(slots=True)
class Imported:
    """The result of a matching: keys stored now, (origin, reason) of refused files, and how many were stored before."""

    imported: list[str] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)
    already: int = 0


def import_features(
    store: FeatureStore,
    spec: FeatureSpec,
    fingerprint: Fingerprint,
    matching: Matching,
    rules: Rules,
    console: Console,
    *,
    dry_run: bool = False,
) -> Imported:
    """Read, check and store every pair that the store lacks. Only for the holder of the writer lock, unless `dry_run`.

    What is wrong with one file is reported for that file, and the others are taken.

    Args:
        store: where the features go.
        spec: what they are.
        fingerprint: from the digest of a source to the name that its feature has in the store.
        matching: what there is.
        rules: how numbers become features.
        console: where progress is shown.
        dry_run: write nothing.
    """
    result = Imported()
    groups: dict[str, list[tuple[Target, Offer]]] = {}  # what is of one content, by fingerprint
    for target, offer in matching.pairs:
        name = fingerprint(target.source_digest)
        if name in store:
            result.already += 1
        else:
            groups.setdefault(name, []).append((target, offer))

    def write(batch: list[Sample]) -> None:
        result.imported += [sample.key for sample in batch]
        if batch and not dry_run:
            store.write_shard(spec.name, batch, spec=spec)

    batch: list[Sample] = []
    size = 0
    with console.progress("import", len(groups), "features") as advance:
        for name, group in groups.items():
            for sample in _sample_of(name, group, spec, rules, result):
                batch.append(sample)
                size += sample.feature.values.nbytes + sample.feature.times.nbytes
            if size >= SHARD_BYTES or len(batch) >= SHARD_SAMPLES:
                write(batch)
                batch, size = [], 0
            advance(1)
        write(batch)
    return result


def _sample_of(
    name: str, group: list[tuple[Target, Offer]], spec: FeatureSpec, rules: Rules, result: Imported
) -> Iterator[Sample]:
    """The sample of one content, if what is offered for it is right and the same; what is not becomes a refusal."""
    found: list[tuple[Target, Offer, FeatureArray]] = []
    for target, offer in group:
        try:
            found.append((target, offer, checked_feature(offer.read(), spec, rules, offer.origin)))
        except (InputError, ConfigError) as error:
            result.refused.append((offer.origin, str(error)))
    if not found:
        return
    target, first, feature = found[0]
    others = [one for _, one, other in found[1:] if not np.array_equal(other.values, feature.values)]
    if others:
        reason = f"{first.origin} has other numbers, and both are for one content, that of {target.key!r}"
        result.refused += [(one.origin, reason) for one in (first, *others)]
        return
    result.already += len(found) - 1
    yield Sample(key=target.key, source_digest=target.source_digest, fingerprint=name, feature=feature)
