"""Whether a sidecar says of a shard what the shard says of itself.

A seal shows that a sidecar is as somebody wrote it, and not that it is right: with two fingerprints in each other's
place, one video's rows would be taken for another's. What decides that is compared whenever a process first opens a
shard, by a digest; all the rest when the store is verified.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..._vocabulary import FeatureArray, IntegrityError
from .base import format_of
from .records import Contents, Told, mark, same_spec
from .sidecar import Entry, Sidecar, read_sidecar

_LONG_KEY_BYTES = 1000


def promised_mark(sidecar: Sidecar) -> bytes:
    """What the `ShardFormat.mark` of a shard must be for its sidecar to be believed."""
    shard, columns = sidecar.shard, sidecar.columns
    names = map(format_of(shard.path).name_of, columns["fingerprint"])
    return mark(spec=shard.spec, dtype=shard.dtype, dim=shard.dim, names=names, num_rows=columns["num_rows"])


def check_mark(path: Path, promised: bytes) -> None:
    """Raises IntegrityError where a shard is not the one that its sidecar tells of; ValueError where it is none."""
    if format_of(path).mark(path) != promised:
        raise IntegrityError(
            f"shard {path} has other samples, rows or another specification than its sidecar says;"
            " `frameloom verify` names what differs, and `frameloom repair` mends it"
        )


def mark_disagreement(shard: Path, sidecar: Sidecar) -> str:
    """As `disagreement`, of rows. Raises as `ShardFormat.open` does."""
    agrees = format_of(shard).mark(shard) == promised_mark(sidecar)
    return "" if agrees else "its shard has other rows, or rows of another type or width"


def span_disagreement(entry: Entry, feature: FeatureArray) -> str:
    """As `disagreement`, of one sample's span, which all that has times has."""
    has_times = len(feature.times) > 0 and not np.isnan(feature.times).any()
    span = f"[{entry.start_seconds}, {entry.end_seconds}] s"
    agrees = has_times == (entry.start_seconds is not None)
    return "" if agrees else f"it says that sample {entry.key!r} spans {span}, and its rows do not"


def is_true(sidecar: bytes, shard: Path, contents: Contents) -> bool:
    """Whether a sidecar that was pieced together may stand beside a shard, whose rows are compared with it as well."""
    try:
        found = read_sidecar("pieced together", shard_path=shard, data=sidecar)
    except IntegrityError:
        return False
    if disagreement(contents, found) or mark_disagreement(shard, found):
        return False
    opened = format_of(shard).open(shard)
    try:
        from ..health.salvage import sound_samples

        samples = zip(found, sound_samples(opened, found), strict=True)
        return all(sample is not None and not span_disagreement(entry, sample.feature) for entry, sample in samples)
    finally:
        opened.close()


def disagreement(contents: Contents, sidecar: Sidecar) -> str:
    """The first thing that a sidecar says otherwise than its shard; empty when there is none."""
    if same_spec(contents.spec) != same_spec(sidecar.shard.spec):
        return "it has another specification"
    if len(contents.samples) != len(sidecar):
        return f"it tells of {len(sidecar):,} samples, and there are {len(contents.samples):,}"
    for told, entry in zip(contents.samples, sidecar, strict=True):
        for what, found, said in _compared(told, entry):
            if found != said:
                return f"it says of sample {entry.key!r} that its {what} is {said!r}, and the shard {found!r}"
    return ""


def _compared(told: Told, entry: Entry) -> Iterator[tuple[str, object, object]]:
    yield "fingerprint", told.fingerprint, entry.fingerprint
    yield "number of rows", told.num_rows, entry.num_rows
    yield "key", told.key, entry.key if told.rest is not None else _beginning(entry.key, len(told.key.encode()))
    yield "status", told.status, entry.status.value
    if told.rest is not None:
        yield "source's digest", told.rest.source_digest, entry.source_digest
        yield "message", told.rest.message, entry.message
        yield "checksum", told.rest.checksum, entry.checksum
        if told.rest.extent is not None and entry.start_seconds is not None:
            yield "span in seconds", told.rest.extent, (entry.start_seconds, entry.end_seconds)


def _beginning(key: str, num_bytes: int) -> str:
    """What an HDF5 shard keeps of a key: of a long one the beginning, and of no key the zeros at its end."""
    kept = key.encode()[:num_bytes].decode(errors="ignore") if num_bytes >= _LONG_KEY_BYTES else key
    return kept.rstrip("\0")
