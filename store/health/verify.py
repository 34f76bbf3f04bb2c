"""The health of the shards: what is damaged, down to the sample, and how to get back to a whole store.

Looking changes nothing. Mending throws nothing away: what is damaged goes to ``.quarantine`` in the store's folder,
what is sound of it is committed anew, and what is lost is absent afterwards, so that the next sync makes it again.

Both go file by file, wherever the store lies, and trust nothing that its index says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from ..._files import file_sha256, set_aside
from ..._vocabulary import FeatureSpec, IntegrityError
from ..features import FeatureStore
from ..formats import (
    REMEDY,
    SUFFIX,
    Contents,
    Entry,
    Sample,
    ShardInfo,
    Sidecar,
    disagreement,
    format_of,
    is_as_written,
    is_true,
    mark_disagreement,
    one_line,
    read_sidecar,
    span_disagreement,
)
from ..places import OURS, LocalPlace, Place
from .findings import Finding, Kind, Repaired
from .recovered import (
    Identities,
    Identity,
    contents_of,
    damaged_keys,
    rebuilt_sidecar,
    samples_without_sidecar,
    sidecar_of,
)
from .salvage import UNREADABLE, samples_of_damaged, sound_samples, spec_in, spec_of

__all__ = ["Finding", "Kind", "Repaired", "num_shards", "quarantine_bytes", "repair_features", "verify_features"]

QUARANTINE = ".quarantine"
_AGAIN = "repair keeps what is whole; the next sync makes the lost samples anew, or they are imported again"
_NOTHING_LEFT = (
    "repair writes it anew where the shard and the collection prove it, and else sets it aside with its shard: then the"
    " next sync makes the samples anew, or they are imported again"
)
_LESS = " (without their messages, and with the spans of their rows: no more is left of imported features)"
Advance = Callable[[int], None]


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

    Attributes:
        findings: the first is of the whole, the others of samples.
        lost: key and fingerprint of each sample of which nothing is left in it.
        message: what a repair does about it.
        sidecar: what the sidecar must be, where that alone is to be written.
        spec: of the samples to keep.
        keep: gives the samples that are whole, which a repair writes into a new shard. Their numbers are not held.
    """

    findings: tuple[Finding, ...]
    message: str = ""
    lost: tuple[tuple[str, str], ...] = ()
    sidecar: bytes | None = None
    spec: FeatureSpec | None = None
    keep: Callable[[], Iterable[Sample | None]] | None = None

    @property
    def kind(self) -> Kind:
        return self.findings[0].kind


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


def _examine(place: Place, pair: _Pair, identities: Identities) -> _Verdict | None:
    """What is wrong with a shard and its sidecar; None when all is well."""
    if pair.sidecar is None:
        return _unfinished(place, pair)
    name = place.address(pair.sidecar)
    try:
        data = place.read_bytes(pair.sidecar)
    except FileNotFoundError:  # discarded since the place was listed
        return None
    except OSError as error:
        return _of_sidecar(place, pair, b"", f"{name} cannot be read ({one_line(error)})", identities)
    if pair.shard is None:
        return _of_missing(place, pair, data)
    try:
        sidecar = read_sidecar(name, shard_path=pair.shard, data=data)
    except IntegrityError as error:
        return _of_sidecar(place, pair, data, str(error).partition(f"; {REMEDY}")[0], identities)
    return _examine_both(place, pair, data, sidecar, identities)


def _examine_both(place: Place, pair: _Pair, data: bytes, sidecar: Sidecar, identities: Identities) -> _Verdict | None:
    """What is wrong with a shard whose sidecar is as somebody wrote it, or with that sidecar."""
    path = sidecar.shard.path
    try:
        sha256 = place.sha256(path)
    except OSError as error:
        return _of_shard(place, sidecar, f"it cannot be read ({one_line(error)})")
    if not sha256.startswith(path.stem):
        return _of_shard(place, sidecar, f"its SHA-256 is {sha256}, {sidecar.shard.sha256} was written")
    shard = place.fetch(path)
    sound: list[bool] = []
    try:
        told = _untrue(shard, sha256, sidecar)
        for entry, sample in zip(sidecar, _samples_of(shard, sidecar), strict=True) if not told else ():
            sound.append(sample is not None)
            told = told or (span_disagreement(entry, sample.feature) if sample is not None else "")
    except UNREADABLE as error:
        return _of_no_shard(place, sidecar, one_line(error))
    name = f"sidecar {place.address(path.with_suffix(SUFFIX))}"
    if not all(sound):
        return _of_shard(place, sidecar, "its samples are not those that its sidecar promises", sound)
    if not told and not is_as_written(data, sidecar):
        told = "a few of its bytes are not those that were written, though nobody reads these"
    return _of_sidecar(place, pair, data, f"{name} is not true: {told}", identities) if told else None


def _untrue(shard: Path, sha256: str, sidecar: Sidecar) -> str:
    """What a sidecar says of a shard that is not so; empty when it is right. Raises where the shard is none."""
    if (sha256, shard.stat().st_size) != (sidecar.shard.sha256, sidecar.shard.num_bytes):
        return "its shard has another hash or another size"
    return disagreement(format_of(shard).contents(shard), sidecar) or mark_disagreement(shard, sidecar)


def _samples_of(shard: Path, sidecar: Sidecar) -> Iterator[Sample | None]:
    opened = format_of(shard).open(shard)
    try:
        yield from sound_samples(opened, sidecar)
    finally:
        opened.close()


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
    return _Verdict(findings=(finding,))


def _named(place: Place, path: Path) -> Path | str:
    """A file as people find it: where it is remote, nothing need lie at its path."""
    return path if isinstance(place, LocalPlace) else place.address(path)


def _of_shard(place: Place, sidecar: Sidecar, problem: str, sound: Sequence[bool] | None = None) -> _Verdict:
    """A shard that is damaged. Of which samples nothing is left is found out unless it is known."""
    path = sidecar.shard.path
    if sound is None:
        sound = [sample is not None for sample in samples_of_damaged(_held(place, path), sidecar)]
    try:
        spec = spec_of(sidecar.shard)
    except IntegrityError as error:
        return _of_no_shard(place, sidecar, f"{problem}; {one_line(error)}")
    lost = [entry for entry, is_sound in zip(sidecar, sound, strict=True) if not is_sound]
    told = f"{len(lost)} of its {len(sidecar)} samples are damaged" if lost else "none of its samples is damaged"
    whole = Finding(
        kind=Kind.SHARD if lost else Kind.SHARD_METADATA,
        path=_named(place, path),
        message=f"shard {place.address(path)}: {problem}; {told}",
        remedy=_AGAIN if lost else "repair writes it anew from its samples; nothing is lost",
        feature=path.parent.name,
    )
    message = f"{len(sidecar) - len(lost)} whole samples kept in a new shard, {len(lost)} lost"
    return _Verdict(
        findings=(whole, *(_of_sample(place, entry) for entry in lost)),
        message=message if lost else "written anew from its samples, none of which was damaged",
        lost=_names_of(lost),
        spec=spec,
        keep=lambda: samples_of_damaged(_held(place, path), sidecar),
    )


def _of_no_shard(place: Place, sidecar: Sidecar, problem: str) -> _Verdict:
    """A shard that nobody damaged, and that is none: nothing but its sidecar says what its samples are."""
    path = sidecar.shard.path
    whole = Finding(
        kind=Kind.SHARD,
        path=_named(place, path),
        message=f"shard {place.address(path)} is none that can be read: {problem}",
        remedy="repair sets it aside; the next sync makes its samples anew, or they are imported again",
        feature=path.parent.name,
    )
    return _Verdict(
        findings=(whole, *(_of_sample(place, entry) for entry in sidecar)),
        message=f"set aside with its sidecar: none of its {len(sidecar)} samples can be read",
        lost=_names_of(sidecar),
    )


def _names_of(entries: Iterable[Entry]) -> tuple[tuple[str, str], ...]:
    return tuple((entry.key, entry.fingerprint) for entry in entries)


def _held(place: Place, path: Path) -> bytes:
    """What is left of a file, which may be nothing."""
    with suppress(OSError):
        return place.read_bytes(path)
    return b""


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


def _of_missing(place: Place, pair: _Pair, data: bytes) -> _Verdict:
    """A sidecar whose shard is gone."""
    assert pair.sidecar is not None
    message = f"the shard of {place.address(pair.sidecar)} is gone"
    whole = Finding(
        kind=Kind.MISSING_SHARD,
        path=_named(place, pair.sidecar),
        message=message,
        remedy=_NOTHING_LEFT,
        feature=pair.feature,
    )
    names = tuple(damaged_keys(data, None))
    return _Verdict(
        findings=(whole, *_of_unusable(whole, names, "its shard is gone")), message=_aside(len(names)), lost=names
    )


def _of_sidecar(place: Place, pair: _Pair, data: bytes, message: str, identities: Identities) -> _Verdict:
    """A sidecar that cannot be believed: all of its samples are concerned."""
    shard = _whole_shard(place, pair)
    contents = None if shard is None else contents_of(shard)
    names = tuple(damaged_keys(data, contents))
    whole = Finding(
        kind=Kind.SIDECAR,
        path=_named(place, pair.paths[0]),
        message=message,
        remedy=_NOTHING_LEFT,
        feature=pair.feature,
    )
    verdict = _Verdict(
        findings=(whole, *_of_unusable(whole, names, "the sidecar that knows it is damaged")),
        message=_aside(len(names)),
        lost=names,
    )
    if shard is None or contents is None:
        return verdict
    return _with_what_is_left(verdict, data, shard, contents, identities)


def _with_what_is_left(
    verdict: _Verdict, data: bytes, shard: Path, contents: Contents, identities: Identities
) -> _Verdict:
    """The same verdict, when the shard is what was written, with what a repair can make of that."""
    sha256 = file_sha256(shard)
    again = rebuilt_sidecar(data, shard, contents, sha256=sha256, identities=identities)
    if again is not None and is_true(again, shard, contents):
        return _mended(verdict, again, "as it was, proven by its seal")
    samples = samples_without_sidecar(shard, contents, identities)
    kept = [sample for sample in samples if sample is not None]
    if not kept:
        return verdict
    less = _LESS if any(told.rest is None for told in contents.samples) else ""
    if len(kept) == len(samples):
        again = sidecar_of(kept, contents.spec, num_bytes=shard.stat().st_size, sha256=sha256)
        if not is_true(again, shard, contents):
            return verdict
        return _mended(verdict, again, f"from its shard{less}")
    names = {sample.fingerprint for sample in kept}
    lost = tuple((told.key, told.fingerprint) for told in contents.samples if told.fingerprint not in names)
    return replace(
        verdict,
        message=f"{len(kept)} whole samples kept in a new shard{less}, {len(lost)} lost",
        lost=lost,
        spec=spec_in(contents.spec),
        keep=lambda: samples_without_sidecar(shard, contents, identities),
    )


def _mended(verdict: _Verdict, sidecar: bytes, how: str) -> _Verdict:
    remedy = f"repair writes it anew {how}; nothing is lost"
    findings = tuple(replace(finding, remedy=remedy) for finding in verdict.findings)
    return _Verdict(findings=findings, message=f"written anew {how}", sidecar=sidecar)


def _of_unusable(whole: Finding, names: Iterable[tuple[str, str]], why: str) -> Iterator[Finding]:
    for key, fingerprint in names:
        message = f"sample {key!r} ({fingerprint}) of {whole.feature} cannot be used: {why}"
        yield replace(whole, kind=Kind.SAMPLE, message=message, key=key, fingerprint=fingerprint)


def _aside(num_lost: int) -> str:
    return f"set aside with its shard: {num_lost or 'all'} samples are to be made anew, or imported again"


def _whole_shard(place: Place, pair: _Pair) -> Path | None:
    """A shard that is what was written, whatever its sidecar says: its name is the hash of its bytes."""
    if pair.shard is None:
        return None
    with suppress(OSError, IntegrityError):
        if place.sha256(pair.shard).startswith(pair.shard.stem):
            return place.fetch(pair.shard)
    return None


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
            first = verdict.findings[0]
            repaired = Repaired(kind=first.kind, path=first.path, message=verdict.message, lost=verdict.lost)
            yield repaired if dry_run else replace(repaired, kept=_mend(store, pair, verdict))
        advance(1)
    store.refresh()


def _mend(store: FeatureStore, pair: _Pair, verdict: _Verdict) -> Path | str:
    place, aside = store.place, base_of(pair.paths[0]) / QUARANTINE / pair.feature
    for path in pair.paths:
        _set_aside(place, path, aside)
    if verdict.sidecar is not None and pair.sidecar is not None:
        place.publish(pair.sidecar, verdict.sidecar, kind="sidecar", token="")
        return _named(place, aside)
    stays = None
    if verdict.keep is not None and verdict.spec is not None and pair.shard is not None:
        whole = [sample for sample in verdict.keep() if sample is not None]
        if whole:
            name = format_of(pair.shard).name
            stays = store.write_shard(pair.feature, whole, spec=verdict.spec, format=name).path
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
        set_aside(path, folder, keep=True)
    else:
        place.publish(folder / path.name, place.read_bytes(path), kind="text", token="")


def write_like(store: FeatureStore, shard: ShardInfo, samples: Sequence[Sample]) -> ShardInfo:
    """Commit samples in the format and under the specification of a shard that is there. Raises as `write_shard`."""
    return store.write_shard(shard.feature, samples, spec=spec_of(shard), format=format_of(shard.path).name)
