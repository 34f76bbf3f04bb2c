"""What is damaged in the shards, down to the sample. Looking changes nothing, and trusts nothing that an index says."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from ..._files import file_sha256
from ..._vocabulary import IntegrityError
from ..features import FeatureStore, pairs_of
from ..formats import (
    REMEDY,
    Entry,
    Sidecar,
    encode_sidecar,
    format_of,
    is_damaged_unread,
    one_line,
    read_sidecar,
)
from ..places import LocalPlace, Place
from .findings import Finding, Kind
from .samples import spec_of, whole_samples

REMEDY_AGAIN = "repair keeps what is whole; the next sync makes the lost samples anew, or they are imported again"
REMEDY_NOTHING_LEFT = "repair sets it aside; the next sync makes its samples anew, or they are imported again"
REMEDY_WRITTEN_ANEW = "repair writes it anew from its samples; nothing is lost"
REMEDY_NO_LOSS = "repair writes it anew from its shard; nothing is lost"
Advance = Callable[[int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A shard and its sidecar as the place lists them; one of them may be absent."""

    shard: Path | None
    sidecar: Path | None

    @property
    def paths(self) -> list[Path]:
        """The sidecar first."""
        return [path for path in (self.sidecar, self.shard) if path is not None]

    @property
    def feature(self) -> str:
        return self.paths[0].parent.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What is wrong with one pair."""

    findings: tuple[Finding, ...]  # the first is of the whole, the others of samples
    message: str = ""  # what a repair does about it
    lost: tuple[tuple[str, str], ...] = ()  # key and fingerprint of each sample of which nothing is left
    new_sidecar: bytes | None = None  # what the sidecar must be, where that alone is to be written
    keep: Sidecar | None = None  # of a damaged shard whose whole samples go into a new shard


def verify_features(store: FeatureStore, *, advance: Advance = lambda _count: None) -> Iterator[Finding]:
    """Read every byte of every shard and sidecar, and yield what is not as it was written.

    Args:
        store: in a folder or in a remote place.
        advance: called with 1 after each shard.

    Raises OldFormatError, a ConfigError, for a store of another format.
    """
    for pair in pairs(store):
        if (verdict := examine(store.place, pair)) is not None:
            yield from verdict.findings
        advance(1)


def num_shards(store: FeatureStore) -> int:
    """How many shards `verify_features` and `repair_features` look at, damaged and unfinished ones included."""
    return len(pairs(store))


def pairs(store: FeatureStore) -> list[Pair]:
    """Every shard or sidecar with its counterpart."""
    return [
        Pair(shard=shard.path if shard else None, sidecar=sidecar.path if sidecar else None)
        for sidecar, shard in pairs_of(store.place.files())
    ]


def examine(place: Place, pair: Pair) -> Verdict | None:
    """What is wrong with a shard and its sidecar; None when all is well."""
    sidecar, problem, data = None, "", b""
    if pair.sidecar is not None:
        name = place.address(pair.sidecar)
        try:
            data = place.read_bytes(pair.sidecar)
            sidecar = read_sidecar(name, shard_path=pair.shard or pair.sidecar, data=data)
        except FileNotFoundError:  # discarded since the place was listed
            return None
        except OSError as error:
            problem = f"{name} cannot be read ({one_line(error)})"
        except IntegrityError as error:
            problem = str(error).partition(f"; {REMEDY}")[0]
    if pair.shard is None:
        assert pair.sidecar is not None
        message = f"the shard of {place.address(pair.sidecar)} is gone"
        whole = _finding(place, pair, Kind.MISSING_SHARD, pair.sidecar, message, REMEDY_NOTHING_LEFT)
        return _set_aside(whole, sidecar, "cannot be used: its shard is gone")
    return _examine_shard(place, pair, pair.shard, sidecar, data, problem)


def _examine_shard(
    place: Place, pair: Pair, path: Path, sidecar: Sidecar | None, data: bytes, problem: str
) -> Verdict | None:
    """What is wrong with a shard, or with its sidecar, of which ``problem`` is known, in comparison."""
    damage, is_shard, again = "", True, b""
    try:
        sha256 = place.sha256(path)
        if not sha256.startswith(path.stem):
            damage = f"its SHA-256 is {sha256}, and {path.stem}... was written"
    except OSError as error:
        damage = f"it cannot be read ({one_line(error)})"
    if not damage:
        shard = place.fetch(path)
        if not isinstance(place, LocalPlace) and not file_sha256(shard).startswith(path.stem):
            place.forget(path)  # no parser is shown a copy on this machine that is damaged
            shard = place.fetch(path)
        try:
            with shard.open("rb") as file:
                contents = format_of(shard).contents(file)
            again = encode_sidecar(contents, num_bytes=shard.stat().st_size, sha256=sha256)
            truth = read_sidecar("made anew", shard_path=path, data=again)
        except (OSError, ValueError, MemoryError, IntegrityError) as error:
            damage, is_shard = f"it is not a shard: {one_line(error)}", False
    if pair.sidecar is None:
        return _unfinished(place, pair, again or None)
    if damage:
        return _damaged_shard(place, pair, sidecar, problem, damage, is_shard=is_shard)
    if any(sample is None for sample in whole_samples(shard, truth)):
        return _damaged_shard(place, pair, truth, problem, "its samples are not those that it promises")
    if sidecar is not None and sidecar != truth:
        problem = f"sidecar {place.address(pair.sidecar)} says other things than its shard"
    elif sidecar is not None and is_damaged_unread(data, again):
        problem = f"sidecar {place.address(pair.sidecar)} has a few other bytes than were written, which nobody reads"
    if not problem:
        return None
    whole = _finding(place, pair, Kind.SIDECAR, pair.sidecar, problem, REMEDY_NO_LOSS)
    samples = _of_samples(whole, truth, "cannot be used: its sidecar is damaged")
    return Verdict(findings=(whole, *samples), message="written anew from its shard", new_sidecar=again)


def _unfinished(place: Place, pair: Pair, again: bytes | None) -> Verdict:
    """A shard without sidecar. Where it is whole, a repair commits it: its sidecar may be what was lost."""
    path = pair.paths[0]
    message = f"{place.address(path)} has no sidecar: a writer is at work or was stopped, or the sidecar was lost"
    remedy = "nothing was promised of it; the next sync removes it and does its work again"
    if again is not None:
        remedy = "`frameloom repair` writes its sidecar, and so does a sync that makes the same shard again"
    finding = _finding(place, pair, Kind.UNFINISHED_FILE, path, message, remedy)
    return Verdict(findings=(finding,), message="its sidecar written from its shard", new_sidecar=again)


def _damaged_shard(
    place: Place, pair: Pair, sidecar: Sidecar | None, problem: str, damage: str, *, is_shard: bool = True
) -> Verdict:
    """A shard that is not what was written. Its sidecar, where that is whole, says which samples are left."""
    assert pair.shard is not None
    message = "; ".join(filter(None, (f"shard {place.address(pair.shard)}: {damage}", problem)))
    whole = _finding(place, pair, Kind.SHARD, pair.shard, message, REMEDY_NOTHING_LEFT)
    if sidecar is None or not is_shard:
        return _set_aside(whole, sidecar, "cannot be used: its shard is not one")
    try:
        spec_of(sidecar.shard)
    except IntegrityError as error:
        whole = replace(whole, message=f"{whole.message}; {one_line(error)}")
        return _set_aside(whole, sidecar, "cannot be used: its shard is damaged")
    with held(place, pair.shard) as copy:
        is_whole = [sample is not None for sample in whole_samples(copy, sidecar)]
    lost = [entry for entry, kept in zip(sidecar, is_whole, strict=True) if not kept]
    if not lost:
        message = f"{whole.message}; none of its samples is damaged"
        finding = replace(whole, kind=Kind.SHARD_METADATA, message=message, remedy=REMEDY_WRITTEN_ANEW)
        message = "written anew from its samples, none of which was damaged"
        return Verdict(findings=(finding,), message=message, keep=sidecar)
    message = f"{whole.message}; {len(lost)} of its {len(sidecar)} samples are damaged"
    whole = replace(whole, message=message, remedy=REMEDY_AGAIN)
    return Verdict(
        findings=(whole, *_of_samples(whole, lost, "is damaged")),
        message=f"{len(sidecar) - len(lost)} whole samples kept in a new shard, {len(lost)} lost",
        lost=tuple((entry.key, entry.fingerprint) for entry in lost),
        keep=sidecar,
    )


@contextmanager
def held(place: Place, path: Path) -> Iterator[Path]:
    """What a place holds of a file, however damaged: the file itself, or a copy that goes when the block ends."""
    if isinstance(place, LocalPlace):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="frameloom-held-") as folder:
        copy = Path(folder, path.name)
        with suppress(OSError):
            copy.write_bytes(place.read_bytes(path))
        yield copy


def _set_aside(whole: Finding, sidecar: Sidecar | None, why: str) -> Verdict:
    """A pair of which nothing is left."""
    lost = tuple((entry.key, entry.fingerprint) for entry in sidecar or ())
    return Verdict(
        findings=(whole, *(_of_samples(whole, sidecar, why) if sidecar else ())),
        message=f"set aside: {len(lost) or 'all'} samples are to be made anew, or imported again",
        lost=lost,
    )


def _of_samples(whole: Finding, entries: Iterable[Entry], what: str) -> Iterator[Finding]:
    for entry in entries:
        message = f"sample {entry.key!r} ({entry.fingerprint}) of {whole.feature} {what}"
        yield replace(whole, kind=Kind.SAMPLE, message=message, key=entry.key, fingerprint=entry.fingerprint)


def _finding(place: Place, pair: Pair, kind: Kind, path: Path, message: str, remedy: str) -> Finding:
    where = path if isinstance(place, LocalPlace) else place.address(path)  # of a remote file none may lie at its path
    return Finding(kind=kind, path=where, message=message, remedy=remedy, feature=pair.feature)
