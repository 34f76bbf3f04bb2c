"""The health of the shards: what is damaged, down to the sample, and how to get back to a whole store.

Looking changes nothing. Mending throws nothing away: what is damaged goes to ``.quarantine`` in the store's folder,
what is sound of it is committed anew, and what is lost is absent afterwards, so that the next sync makes it again.

Both go file by file, wherever the store lies, and trust nothing that its index says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from .._vocabulary import IntegrityError
from ._features import FeatureStore
from ._places import OURS, LocalPlace, Place, file_sha256
from ._salvage import (
    Identity,
    damaged_keys,
    link_aside,
    rebuilt_sidecar,
    samples_of_damaged,
    sound_samples,
    spec_of,
)
from ._shards import Sample, format_of
from ._sidecar import SUFFIX, Entry, ShardInfo, Sidecar, read_sidecar

QUARANTINE = ".quarantine"
_AGAIN = "repair keeps what is whole, and the next sync makes the lost samples anew"
Advance = Callable[[int], None]


class Kind(StrEnum):
    """What a finding is about. The list is closed."""

    SAMPLE = "sample"
    SHARD = "shard"
    SHARD_METADATA = "shard_metadata"
    SIDECAR = "sidecar"
    MISSING_SHARD = "missing_shard"
    TABLE = "table"
    BAD_ROW = "bad_row"
    DOUBLE_ROW = "double_row"
    CHECKPOINT = "checkpoint"
    WORD_VECTORS = "word_vectors"
    # Nothing is damaged: work that a later run finishes.
    UNFINISHED_FILE = "unfinished_file"
    ORPHANED_ROW = "orphaned_row"
    OUTDATED_ROW = "outdated_row"
    MISSING_ROW = "missing_row"


_NOTES = frozenset({Kind.UNFINISHED_FILE, Kind.ORPHANED_ROW, Kind.OUTDATED_ROW, Kind.MISSING_ROW})


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is not as it was written, or not finished.

    Attributes:
        kind: what it is about.
        path: the file, or the table's folder; the address of a file that does not lie on this machine.
        message: what is wrong.
        remedy: what can be had again, and how.
        feature: name of the feature; empty where none is concerned.
        key: what a person calls the sample, or the id of the row; empty where none is concerned.
        fingerprint: of the sample or the row.
    """

    kind: Kind
    path: Path | str
    message: str
    remedy: str
    feature: str = ""
    key: str = ""
    fingerprint: str = ""

    @property
    def is_damage(self) -> bool:
        """Whether something that was written is no longer what was written."""
        return self.kind not in _NOTES

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        names = ("kind", "path", "feature", "key", "fingerprint", "message", "remedy")
        return {name: str(getattr(self, name)) for name in names} | {"damage": self.is_damage}


@dataclass(frozen=True, slots=True, kw_only=True)
class Repaired:
    """What one repair did, or with ``dry_run`` would do.

    Attributes:
        kind: of the finding that it answers.
        path: the file that was damaged, as `Finding` has it.
        message: what was done.
        kept: where the damaged files are kept: a folder or an address.
        lost: key and fingerprint of each sample that is gone until the next sync.
    """

    kind: Kind
    path: Path | str
    message: str
    kept: Path | str | None = None
    lost: tuple[tuple[str, str], ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "kind": str(self.kind),
            "path": str(self.path),
            "message": self.message,
            "kept": None if self.kept is None else str(self.kept),
            "lost": [{"key": key, "fingerprint": fingerprint} for key, fingerprint in self.lost],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pair:
    """A shard and its sidecar as the place lists them; one of them may be absent."""

    shard: Path | None
    sidecar: Path | None

    @property
    def paths(self) -> list[Path]:
        return [path for path in (self.sidecar, self.shard) if path is not None]

    @property
    def feature(self) -> str:
        return self.paths[0].parent.name


@dataclass(frozen=True, slots=True, kw_only=True)
class _Verdict:
    """What is wrong with one pair.

    `lost` holds the samples of which nothing is left in it, and `sound` says whether a repair can write the others
    into a new shard.
    """

    findings: tuple[Finding, ...]
    kind: Kind
    entries: tuple[Entry, ...] = ()
    lost: tuple[tuple[str, str], ...] = ()
    sidecar: bytes | None = None


def verify_features(store: FeatureStore, *, advance: Advance = lambda _count: None) -> Iterator[Finding]:
    """Read every byte of every shard and sidecar, and yield what is not as it was written.

    Args:
        store: in a folder or in a remote place.
        advance: called with 1 after each shard.
    """
    for pair in _pairs(store):
        if (verdict := _examine(store.place, pair, {})) is not None:
            yield from verdict.findings
        advance(1)


def num_shards(store: FeatureStore) -> int:
    """How many shards `verify_features` and `repair_features` look at, damaged and unfinished ones included."""
    return len(_pairs(store))


def _pairs(store: FeatureStore) -> list[_Pair]:
    found: dict[tuple[str, str], dict[bool, Path]] = {}
    for file in store.place.files():
        if OURS.fullmatch(file.path.name):
            pair = found.setdefault((file.path.parent.name, file.path.stem), {})
            pair[file.path.suffix == SUFFIX] = file.path
    return [_Pair(shard=found[name].get(False), sidecar=found[name].get(True)) for name in sorted(found)]


def _examine(place: Place, pair: _Pair, identities: Mapping[str, Identity]) -> _Verdict | None:
    """What is wrong with a shard and its sidecar; None when all is well."""
    if pair.sidecar is None:
        return _unfinished(place, pair)
    name = place.address(pair.sidecar)
    try:
        data = place.read_bytes(pair.sidecar)
    except FileNotFoundError:  # discarded since the place was listed
        return None
    except OSError as error:
        return _of_sidecar(place, pair, b"", Kind.SIDECAR, f"{name} cannot be read ({error})", None)
    if pair.shard is None:
        return _of_sidecar(place, pair, data, Kind.MISSING_SHARD, f"the shard of {name} is gone", None)
    try:
        sidecar = read_sidecar(name, shard_path=pair.shard, data=data)
        _check_counts(place, sidecar)
    except IntegrityError as error:
        message = str(error).partition("; ")[0]
        return _of_sidecar(place, pair, data, Kind.SIDECAR, message, _sidecar_again(place, pair, data, identities))
    return _examine_shard(place, pair.shard, sidecar)


def _unfinished(place: Place, pair: _Pair) -> _Verdict:
    path = pair.paths[0]
    where = place.address(path)
    finding = Finding(
        kind=Kind.UNFINISHED_FILE,
        path=_named(place, path),
        message=f"{where} has no sidecar: a writer is at work, or was stopped before it had committed it",
        remedy="nothing was promised of it; the next sync removes it and does its work again",
        feature=pair.feature,
    )
    return _Verdict(findings=(finding,), kind=finding.kind)


def _named(place: Place, path: Path) -> Path | str:
    """A file as people find it: where it is remote, nothing need lie at its path."""
    return path if isinstance(place, LocalPlace) else place.address(path)


def _check_counts(place: Place, entries: Sequence[Entry]) -> None:
    row = 0
    for entry in entries:
        if entry.first_row != row or entry.num_rows < 0:
            raise IntegrityError(
                f"sample {entry.key!r} of {place.address(entry.shard.path)} begins at row {entry.first_row}, not {row}"
            )
        row += entry.num_rows


def _examine_shard(place: Place, path: Path, sidecar: Sidecar) -> _Verdict | None:
    problem = _file_problem(place, path, sidecar.shard)
    if problem:
        sound = [sample is not None for sample in samples_of_damaged(_held(place, path), sidecar)]
    else:
        shard = format_of(path).open(place.fetch(path))
        try:
            sound = [sample is not None for sample in sound_samples(shard, sidecar)]
        finally:
            shard.close()
        problem = "its samples are not those that its sidecar promises"
        if all(sound):
            return None
    lost = [entry for entry, is_sound in zip(sidecar, sound, strict=True) if not is_sound]
    kind = Kind.SHARD if lost else Kind.SHARD_METADATA
    told = f"{len(lost)} of its {len(sidecar)} samples are damaged" if lost else "none of its samples is damaged"
    whole = Finding(
        kind=kind,
        path=_named(place, path),
        message=f"shard {place.address(path)}: {problem}; {told}",
        remedy=_AGAIN if lost else "repair writes it anew from its samples; nothing is lost",
        feature=path.parent.name,
    )
    return _Verdict(
        findings=(whole, *(_of_sample(place, entry) for entry in lost)),
        kind=kind,
        entries=tuple(sidecar),
        lost=tuple((entry.key, entry.fingerprint) for entry in lost),
    )


def _held(place: Place, path: Path) -> bytes:
    """What is left of a file, which may be nothing."""
    with suppress(OSError):
        return place.read_bytes(path)
    return b""


def _file_problem(place: Place, path: Path, shard: ShardInfo) -> str:
    try:
        found = place.sha256(path)
    except OSError as error:
        return f"it cannot be read ({error})"
    return "" if found == shard.sha256 else f"its SHA-256 is {found}, {shard.sha256} was written"


def _of_sample(place: Place, entry: Entry) -> Finding:
    return Finding(
        kind=Kind.SAMPLE,
        path=_named(place, entry.shard.path),
        message=f"sample {entry.key!r} ({entry.fingerprint}) of {entry.feature} is damaged",
        remedy="repair sets it aside, and the next sync makes it anew from its source",
        feature=entry.feature,
        key=entry.key,
        fingerprint=entry.fingerprint,
    )


def _of_sidecar(place: Place, pair: _Pair, data: bytes, kind: Kind, message: str, again: bytes | None) -> _Verdict:
    """A sidecar that says nothing any more, or says it of a shard that is gone: all of its samples are concerned."""
    names = damaged_keys(data, _whole_shard(place, pair))
    remedy = "repair sets it aside, with its shard, and the next sync makes the samples anew"
    if again is not None:
        remedy = "repair writes it anew as it was; nothing is lost"
    path = _named(place, pair.paths[0])
    whole = Finding(kind=kind, path=path, message=message, remedy=remedy, feature=pair.feature)
    why = "its shard is gone" if kind is Kind.MISSING_SHARD else "the sidecar that knows it is damaged"
    samples = (
        replace(
            whole,
            kind=Kind.SAMPLE,
            message=f"sample {key!r} ({fingerprint}) of {pair.feature} cannot be used: {why}",
            key=key,
            fingerprint=fingerprint,
        )
        for key, fingerprint in names
    )
    lost = () if again is not None else tuple(names)
    return _Verdict(findings=(whole, *samples), kind=kind, lost=lost, sidecar=again)


def _whole_shard(place: Place, pair: _Pair) -> Path | None:
    """A shard that is what was written, whatever its sidecar says: its name is the hash of its bytes."""
    if pair.shard is None:
        return None
    with suppress(OSError, IntegrityError):
        if place.sha256(pair.shard).startswith(pair.shard.stem):
            return place.fetch(pair.shard)
    return None


def _sidecar_again(place: Place, pair: _Pair, data: bytes, identities: Mapping[str, Identity]) -> bytes | None:
    shard = _whole_shard(place, pair)
    if shard is None:
        return None
    return rebuilt_sidecar(data, shard, sha256=file_sha256(shard), identities=identities)


def repair_features(
    store: FeatureStore,
    *,
    identities: Mapping[str, Identity] | None = None,
    dry_run: bool = False,
    advance: Advance = lambda _count: None,
) -> Iterator[Repaired]:
    """Bring the shards to a state in which `verify_features` finds nothing damaged. For the holder of the writer lock.

    Damaged files get a second name in ``.quarantine`` before anything else is done, so that a kill at any instant
    loses nothing, and a rerun ends in the same way. Samples of a damaged shard that are whole are committed in a new
    one before the damaged one leaves.

    Args:
        store: in a folder or in a remote place.
        identities: what the caller knows of features, by fingerprint: it can prove a damaged sidecar right.
        dry_run: change nothing.
        advance: called with 1 after each shard.

    Raises:
        OutOfSpaceError: the disk is full; the damaged files are where they were.
    """
    for pair in _pairs(store):
        verdict = _examine(store.place, pair, identities or {})
        if verdict is not None and verdict.kind is not Kind.UNFINISHED_FILE:
            repaired = _planned(verdict)
            yield repaired if dry_run else replace(repaired, kept=_mend(store, pair, verdict))
        advance(1)
    store.refresh()


def _planned(verdict: _Verdict) -> Repaired:
    path = verdict.findings[0].path
    num_lost = len(verdict.lost)
    if verdict.kind is Kind.SHARD_METADATA:
        message = "written anew from its samples, none of which was damaged"
    elif verdict.kind is Kind.SHARD:
        num_kept = len(verdict.entries) - num_lost
        message = f"{num_kept} whole samples kept in a new shard, {num_lost} lost"
    elif verdict.sidecar is not None:
        message = "written anew as it was, proven by its seal"
    else:
        message = f"set aside with its shard: {num_lost or 'all'} samples are to be made anew"
    return Repaired(kind=verdict.kind, path=path, message=message, lost=verdict.lost)


def _mend(store: FeatureStore, pair: _Pair, verdict: _Verdict) -> Path | str:
    place, aside = store.place, base_of(pair.paths[0]) / QUARANTINE / pair.feature
    for path in pair.paths:
        _set_aside(place, path, aside)
    if verdict.sidecar is not None and pair.sidecar is not None:
        place.publish(pair.sidecar, verdict.sidecar, kind="sidecar", token="")
        return _named(place, aside)
    stays = None
    if verdict.entries and pair.shard is not None:
        held = _held(place, pair.shard)
        whole = [sample for sample in samples_of_damaged(held, verdict.entries) if sample is not None]
        if whole:
            stays = write_like(store, verdict.entries[0].shard, whole).path
    if stays is None or stays != pair.shard:
        place.remove(pair.paths)  # the sidecar first
    return _named(place, aside)


def quarantine_bytes(store: FeatureStore) -> int:
    """Size of what repairs of the shards have set aside."""
    return store.place.size_below(QUARANTINE)


def base_of(path: Path) -> Path:
    """The folder of a store that a shard or sidecar lies in, or its copy."""
    return path.parents[1]


def _set_aside(place: Place, path: Path, folder: Path) -> None:
    if isinstance(place, LocalPlace):
        link_aside(path, folder)
    else:
        place.publish(folder / path.name, place.read_bytes(path), kind="text", token="")


def write_like(store: FeatureStore, shard: ShardInfo, samples: Sequence[Sample]) -> ShardInfo:
    """Commit samples in the format and under the specification of a shard that is there. Raises as `write_shard`."""
    return store.write_shard(shard.feature, samples, spec=spec_of(shard), format=format_of(shard.path).name)
