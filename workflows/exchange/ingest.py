"""Numbers that were found become features: shape, type, values and times are checked, then they are stored."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..._vocabulary import ConfigError, FeatureArray, FeatureSpec, InputError, Modality, Status
from ...store import Entry, FeatureStore, Sample, sample_checksum
from ..console import Advance, Console
from .layouts import Offer, Offered
from .matching import Matching, Target

SHARD_BYTES = 64_000_000
SHARD_SAMPLES = 2000
RATE_TOLERANCE = 0.01
NOTHING = "nothing was imported for it"
_ABSENT = {Modality.VIDEO: Status.NO_VIDEO, Modality.AUDIO: Status.NO_AUDIO, Modality.TEXT: Status.NO_TEXT}

Fingerprint = Callable[[str], str]
_Group = tuple[str, list[tuple[Target, Offer]]]


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
    return float(spec.sampling.get("rows_per_window", 1)) / (spec.rate_hz or 1.0)


def check_rate(seconds: float, spec: FeatureSpec) -> None:
    expected = step_seconds(spec)
    if abs(seconds - expected) > RATE_TOLERANCE * expected:
        raise ConfigError(
            f"rows {seconds:g} s apart are not those of {spec.name}, which are {expected:g} s apart: configure the rate"
            f" that they have, such as `options: {{rate_hz: {1 / seconds:g}}}`, where the backbone has that option"
        )


def checked_feature(offered: Offered, spec: FeatureSpec, rules: Rules, origin: str) -> FeatureArray:
    """What was offered as a feature of a specification. Raises InputError, or ConfigError for rows at another rate."""
    if not offered.values.size and offered.status is not Status.OK:
        return FeatureArray.empty(spec, offered.status, offered.message)
    values = _cast(_shaped(offered.values, spec, rules), spec, cast=rules.cast)
    times = _times(offered, len(values), spec, rules)
    if offered.checksum is not None and sample_checksum(values, times) != offered.checksum:
        raise InputError("it is damaged: its numbers are not those that were exported")
    message = f"imported from {rules.source}: {origin}" if rules.source else offered.message
    return FeatureArray(values, times, offered.status, message, extent=offered.extent)


def _shaped(values: NDArray[Any], spec: FeatureSpec, rules: Rules) -> NDArray[Any]:
    if values.dtype.kind not in "fiub":
        raise InputError(f"it holds {values.dtype}; floats or whole numbers are taken")
    if values.ndim == 1 and values.shape == (spec.dim,):
        raise InputError("it is one vector for a whole video; rows over time, of shape (T, D), are taken")
    if values.ndim != 2:
        raise InputError(f"it has shape {values.shape}; (T, {spec.dim}) is wanted")
    if rules.transposed:
        values = values.T
    if values.shape[1] != spec.dim:
        turn = values.shape[0] == spec.dim
        hint = (
            ", which is the other way round: --transposed turns it" if turn else f": {spec.name} has width {spec.dim}"
        )
        raise InputError(f"it has shape {values.shape}; (T, {spec.dim}) is wanted{hint}")
    if not len(values):
        raise InputError("it has no rows")
    return values


def _cast(values: NDArray[Any], spec: FeatureSpec, *, cast: bool) -> NDArray[Any]:
    if not np.isfinite(values).all():
        raise InputError("it holds NaN or infinity")
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        made = values.astype(spec.dtype)
    if not np.isfinite(made).all():
        raise InputError(f"its largest value, {np.abs(values).max():g}, is too large for {spec.dtype}")
    back = made.astype(values.dtype)
    if not cast and not np.array_equal(back, values):
        raise InputError(f"its {values.dtype} values lose digits as {spec.dtype}: allow that with --cast")
    if made.dtype.kind in "iu" and np.abs(made.astype(np.float64) - values).max() > 1:
        limits = np.iinfo(made.dtype)
        raise InputError(f"its values do not lie in {limits.min} to {limits.max}")
    return made


def _times(offered: Offered, count: int, spec: FeatureSpec, rules: Rules) -> NDArray[np.float64]:
    if spec.modality is Modality.TEXT:
        return np.full((count, 2), np.nan)
    if offered.times is None:
        return _even_times(count, spec, rules.seconds_per_row or step_seconds(spec))
    times = offered.times
    if times.shape != (count, 2) or not np.isfinite(times).all() or (times[:, 0] > times[:, 1]).any():
        raise InputError(f"its times have shape {times.shape} or go backwards; ({count}, 2) finite seconds are wanted")
    steps = np.diff(times[:, 0])
    if rules.source and len(steps):
        check_rate(float(np.median(steps)) or 1e-9, spec)
    return np.asarray(times, np.float64)


def _even_times(count: int, spec: FeatureSpec, seconds: float) -> NDArray[np.float64]:
    """Row after row; where a specification says that rows are centred, around the instants that they belong to."""
    starts = (np.arange(count) // int(spec.sampling.get("rows_per_window", 1))) * seconds
    if spec.sampling.get("centred"):
        starts = starts - seconds / 2
    return np.stack([np.maximum(starts, 0.0), starts + seconds], axis=1)


@dataclass(slots=True)
class Imported:
    """What became of a matching: keys that were stored, recorded as absent, refused with a reason, and there before."""

    imported: list[str] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)
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
    absent: bool = False,
    dry_run: bool = False,
) -> Imported:
    """Read, check and store every pair that the store lacks. Only for the holder of the writer lock, unless `dry_run`.

    What is wrong with one file is told of that file, and the others are taken.

    Args:
        store: where the features go.
        spec: what they are.
        fingerprint: from the digest of a source to the name that its feature has in the store.
        matching: what there is.
        rules: how numbers become features.
        console: where progress is shown.
        absent: record that targets without an offer have no such feature.
        dry_run: write nothing.
    """
    result = Imported()
    waiting = _waiting(store, fingerprint, matching, result)
    names = {entry.shard.name for name, _ in waiting if (entry := store.entry(name)) is not None}
    markers = [entry for entry in store.entries(spec.name) if entry.shard.name in names]
    stored: set[str] = set()
    with console.progress("import", len(waiting), "features") as advance:
        for batch in _batches(_samples(waiting, spec, rules, result, advance)):
            result.imported += [sample.key for sample in batch]
            stored |= {sample.fingerprint for sample in batch}
            if not dry_run:
                store.write_shard(spec.name, batch, spec=spec)
    if not dry_run:
        _drop_markers(store, spec, markers, stored)
    if absent:
        _mark_absent(store, spec, fingerprint, matching, result, dry_run=dry_run)
    return result


def _waiting(store: FeatureStore, fingerprint: Fingerprint, matching: Matching, result: Imported) -> list[_Group]:
    """Pairs that the store lacks, or of which it only says that there is nothing; those of one content together."""
    groups: dict[str, list[tuple[Target, Offer]]] = {}
    for target, offer in matching.pairs:
        name = fingerprint(target.source_digest)
        entry = store.entry(name)
        if entry is not None and not _is_marker(entry):
            result.already += 1
        else:
            groups.setdefault(name, []).append((target, offer))
    return list(groups.items())


def _is_marker(entry: Entry) -> bool:
    return not entry.num_rows and entry.message == NOTHING


def _samples(
    waiting: list[_Group], spec: FeatureSpec, rules: Rules, result: Imported, advance: Advance
) -> Iterator[Sample]:
    for name, group in waiting:
        found: list[tuple[Target, Offer, FeatureArray]] = []
        for target, offer in group:
            try:
                found.append((target, offer, checked_feature(offer.read(), spec, rules, offer.origin)))
            except (InputError, ConfigError) as error:
                result.refused.append((offer.origin, str(error)))
        advance(1)
        if not found:
            continue
        target, first, feature = found[0]
        others = [one for _, one, other in found[1:] if not np.array_equal(other.values, feature.values)]
        if others:
            reason = f"{first.origin} has other numbers, and both are for one content, that of {target.key!r}"
            result.refused += [(one.origin, reason) for one in (first, *others)]
            continue
        result.already += len(found) - 1
        yield Sample(key=target.key, source_digest=target.source_digest, fingerprint=name, feature=feature)


def _batches(samples: Iterator[Sample]) -> Iterator[list[Sample]]:
    batch: list[Sample] = []
    size = 0
    for sample in samples:
        batch.append(sample)
        size += sample.feature.values.nbytes + sample.feature.times.nbytes
        if size >= SHARD_BYTES or len(batch) >= SHARD_SAMPLES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _mark_absent(
    store: FeatureStore,
    spec: FeatureSpec,
    fingerprint: Fingerprint,
    matching: Matching,
    result: Imported,
    *,
    dry_run: bool,
) -> None:
    """Record that a target has nothing, in shards of their own, which a later import can take back."""
    taken = {fingerprint(target.source_digest) for target, _ in matching.pairs}
    nothing = FeatureArray.empty(spec, _ABSENT[spec.modality], NOTHING)
    samples: dict[str, Sample] = {}
    for target in matching.without:
        name = fingerprint(target.source_digest)
        if name not in taken and name not in store:
            result.absent.append(target.key)
            samples[name] = Sample(
                key=target.key, source_digest=target.source_digest, fingerprint=name, feature=nothing
            )
    if samples and not dry_run:
        store.write_shard(spec.name, list(samples.values()), spec=spec)


def _drop_markers(store: FeatureStore, spec: FeatureSpec, held: list[Entry], stored: set[str]) -> None:
    """Take back that something has nothing, now that it has something; what a shard says of others is said anew."""
    for shard in {entry.shard.name: entry.shard for entry in held if entry.fingerprint in stored}.values():
        others = [one for one in held if one.shard.name == shard.name and one.fingerprint not in stored]
        if others:
            store.write_shard(spec.name, [_marker(one, spec) for one in others], spec=spec)
        store.discard(shard)


def _marker(entry: Entry, spec: FeatureSpec) -> Sample:
    nothing = FeatureArray.empty(spec, entry.status, entry.message)
    return Sample(key=entry.key, source_digest=entry.source_digest, fingerprint=entry.fingerprint, feature=nothing)
