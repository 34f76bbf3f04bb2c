"""What is left of a damaged sidecar, and what its shard gives back of it.

Three things can make a sidecar whole. Its seal proves columns that were found again elsewhere. A tar says of its
samples all that a sidecar says. And of an HDF5 shard, which lacks digests, messages and streams' ends, the caller knows
the digests, by fingerprints that only they can give; without the rest go features that nothing here can make anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..._vocabulary import FeatureArray, FeatureSpec, Status, canonical_json
from ..formats import (
    Contents,
    OpenShard,
    Sample,
    Told,
    check_samples,
    encode_sidecar,
    format_of,
    readable_columns,
    restored_sidecar,
    sample_checksum,
)
from .salvage import UNREADABLE, spec_in

_MAGIC = b"PAR1"
_FOOTER_BEGINS = (b"\x15\x04", b"\x15\x02")  # the version that every footer of Parquet says first
_MOST_FOOTERS = 64
_LONG_KEY_BYTES = 1000


@dataclass(frozen=True, slots=True)
class Identity:
    """What a caller knows of a feature beside the store.

    Attributes:
        key: what a person calls it.
        source_digest: of the file that it came from.
        instead: for a feature that nothing here can make anew: the messages to give it, with rows and without, where
            its own is lost with its sidecar. None where it is better made anew than kept with less than it had.
    """

    key: str
    source_digest: str
    instead: tuple[str, str] | None = None


Identities = Mapping[str, Identity]


def contents_of(shard: Path) -> Contents | None:
    """What a shard says of its samples; None where it is none, whatever its name."""
    with suppress(*UNREADABLE):
        return format_of(shard).contents(shard)
    return None


def damaged_keys(sidecar: bytes, contents: Contents | None) -> list[tuple[str, str]]:
    """Key and fingerprint of every sample of a sidecar that cannot be trusted, as far as anything still says them.

    Args:
        sidecar: what is left of it.
        contents: what its shard says, where that is known to be what was written.
    """
    columns, _ = readable_columns(sidecar)
    said: list[tuple[str, str]] = []
    if {"key", "fingerprint"} <= columns.keys():
        pairs = zip(columns["key"], columns["fingerprint"], strict=True)
        said = [(key, fingerprint) for key, fingerprint in pairs if key is not None and fingerprint is not None]
    if contents is None:
        return said
    keys = {fingerprint: key for key, fingerprint in said}  # which may be longer than what a shard keeps of them
    found = [(told.key, told.fingerprint) for told in contents.samples]
    return [(long if (long := keys.get(name, key)).startswith(key) else key, name) for key, name in found]


def rebuilt_sidecar(
    sidecar: bytes, shard: Path, contents: Contents, *, sha256: str, identities: Identities
) -> bytes | None:
    """The bytes of a damaged sidecar as they were written, or None where that cannot be proven.

    Columns that are lost are found again from the others, from the shard or from what the caller knows, and the
    sidecar's seal proves that they are right. Where the seal is lost as well, nothing is proven.

    Args:
        sidecar: what is left of it.
        shard: its shard, which is what was written.
        contents: what the shard says.
        sha256: hash of the shard.
        identities: what the caller knows, by fingerprint.
    """
    for candidate in (sidecar, *_with_another_end(sidecar)):
        columns, facts = readable_columns(candidate)
        if columns and "seal" in facts:
            facts = {**facts, "sha256": sha256, "num_bytes": shard.stat().st_size}
            return _proven(columns, facts, shard, contents, identities)
    return None


def _with_another_end(sidecar: bytes) -> Iterator[bytes]:
    """A sidecar whose last eight bytes, which say where its footer begins, are as they must be for each place."""
    body, found = sidecar[4:-8], 0
    for begin in _FOOTER_BEGINS:
        place = body.rfind(begin)
        while place >= 0 and found < _MOST_FOOTERS:
            yield _MAGIC + body + (len(body) - place).to_bytes(4, "little") + _MAGIC
            place, found = body.rfind(begin, 0, place), found + 1


def _proven(
    columns: Mapping[str, list[Any]], facts: dict[str, Any], shard: Path, contents: Contents, identities: Identities
) -> bytes | None:
    finders: tuple[Callable[[], dict[str, list[Any]]], ...] = (
        lambda: {},
        lambda: {"message": [""] * len(contents.samples)},
        lambda: _from_contents(contents),
        lambda: _from_identities(contents, identities),
        lambda: _from_rows(contents, shard),
    )
    known: dict[str, list[Any]] = {}
    for find in finders:
        with suppress(*UNREADABLE):
            known |= find()
            if (found := restored_sidecar({**known, **columns}, facts)) is not None:
                return found
    return None


def _from_contents(contents: Contents) -> dict[str, list[Any]]:
    samples = contents.samples
    num_rows = [told.num_rows for told in samples]
    found: dict[str, list[Any]] = {
        "key": [told.key for told in samples],
        "fingerprint": [told.fingerprint for told in samples],
        "first_row": [0, *accumulate(num_rows)][:-1],
        "num_rows": num_rows,
        "status": [told.status for told in samples],
    }
    rests = [told.rest for told in samples if told.rest is not None]
    if len(rests) == len(samples):
        for name in ("source_digest", "message", "checksum"):
            found[name] = [getattr(rest, name) for rest in rests]
    return found


def _from_identities(contents: Contents, identities: Identities) -> dict[str, list[Any]]:
    known = [(told, identities[told.fingerprint]) for told in contents.samples]
    return {"key": [_key(*one) for one in known], "source_digest": [identity.source_digest for _, identity in known]}


def _key(told: Told, identity: Identity) -> str:
    """What the shard says, unless that is only the beginning of what the caller says."""
    is_longer = identity.key.startswith(told.key) and len(told.key.encode()) > _LONG_KEY_BYTES
    return identity.key if is_longer or identity.key.rstrip("\0") == told.key else told.key


def _from_rows(contents: Contents, path: Path) -> dict[str, list[Any]]:
    """Checksums, and where no stream's extent says otherwise, first and last instants."""
    found: dict[str, list[Any]] = {"checksum": [], "start_seconds": [], "end_seconds": []}
    shard, first = format_of(path).open(path), 0
    try:
        for told in contents.samples:
            values, times = shard.read(first, first + told.num_rows)
            start, end = _span(told, times)
            first += told.num_rows
            found["checksum"].append(sample_checksum(values, times))
            found["start_seconds"].append(start)
            found["end_seconds"].append(end)
    finally:
        shard.close()
    return found


def _span(told: Told, times: NDArray[np.float64]) -> tuple[float | None, float | None]:
    if not len(times) or np.isnan(times).any():
        return None, None
    if told.rest is not None and told.rest.extent is not None:
        return told.rest.extent
    return float(times[:, 0].min()), float(times[:, 1].max())


def samples_without_sidecar(shard: Path, contents: Contents, identities: Identities) -> list[Sample | None]:
    """The samples of a whole shard whose sidecar says nothing any more; None for those that are better made anew.

    Args:
        shard: it is what was written.
        contents: what it says.
        identities: what the caller knows, by fingerprint.
    """
    nothing: list[Sample | None] = [None] * len(contents.samples)
    if len({told.fingerprint for told in contents.samples}) < len(contents.samples):
        return nothing
    try:
        spec = spec_in(contents.spec)
        if canonical_json(spec.identity()) != contents.spec:
            return nothing
        opened = format_of(shard).open(shard)
    except UNREADABLE:
        return nothing
    found, first = list[Sample | None](), 0
    try:
        for told in contents.samples:
            found.append(_kept(opened, told, first, spec, identities.get(told.fingerprint)))
            first += told.num_rows
    finally:
        opened.close()
    return found


def _kept(shard: OpenShard, told: Told, first: int, spec: FeatureSpec, identity: Identity | None) -> Sample | None:
    if told.rest is not None:
        key, digest, message, extent = told.key, told.rest.source_digest, told.rest.message, told.rest.extent
    elif identity is not None and identity.instead is not None:
        key, digest, extent = _key(told, identity), identity.source_digest, None
        message = identity.instead[0 if told.num_rows else 1]
    else:
        return None
    try:
        values, times = shard.read(first, first + told.num_rows)
        if told.rest is not None and sample_checksum(values, times) != told.rest.checksum:
            return None
        feature = FeatureArray(values, times, Status(told.status), message, extent)
        sample = Sample(key=key, source_digest=digest, fingerprint=told.fingerprint, feature=feature)
        return check_samples([sample], spec=spec)[0]
    except UNREADABLE:  # an InputError is a ValueError
        return None


def sidecar_of(samples: Sequence[Sample], spec: str, *, num_bytes: int, sha256: str) -> bytes:
    """The sidecar of a shard that holds these samples, all of which are known."""
    return encode_sidecar(samples, spec=spec_in(spec), num_bytes=num_bytes, sha256=sha256)
