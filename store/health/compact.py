"""Fewer and larger shards: small ones of one feature merged, samples that nobody reads left out.

The plan follows from what the store holds, and is written down (`JOURNAL_NAME`) before anything is done. Each new shard
is committed before a shard goes whose samples it took over, so a kill at any instant loses nothing; the next run first
does what the plan still asks for, and ends with the same bytes as a run that was not killed. A store that was compacted
gives an empty plan.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from ..._files import fail_point
from ..._vocabulary import InputError, IntegrityError, LockedError
from ..features import FeatureStore
from ..formats import SUFFIX, Entry, ShardInfo
from ..locks import exclusive_lock
from .samples import sample_of, write_like

JOURNAL_NAME = ".compact.json"
# One new shard is in memory while it is written. A quarter of a gigabyte is read at the disk's full speed.
DEFAULT_SHARD_BYTES = 1 << 28
MERGED_FROM = 32  # small shards of one feature: so many open as fast as one
_SAMPLE_BYTES = 256  # of a sidecar and a shard, beside the rows
_log = logging.getLogger(__name__)
Advance = Callable[[int], None]
# The samples that are read and wanted, by the shard that they are read from and by fingerprint.
Live = dict[Path, dict[str, Entry]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Compaction:
    """What a compaction or a merge does, or would do.

    Attributes:
        new_shards: fingerprints of the samples of each new shard, in order.
        old_shards: shards that go, as paths in the store's folder.
        num_shards: before.
        num_superseded: samples left out because a better or the same outcome is there as well.
        num_unwanted: samples left out because they are not wanted any more.
        dropped_bytes: size of the rows left out.
    """

    new_shards: tuple[tuple[str, ...], ...] = ()
    old_shards: tuple[str, ...] = ()
    num_shards: int = 0
    num_superseded: int = 0
    num_unwanted: int = 0
    dropped_bytes: int = 0

    @property
    def is_empty(self) -> bool:
        return not (self.new_shards or self.old_shards)

    @property
    def num_shards_after(self) -> int:
        return self.num_shards - len(self.old_shards) + len(self.new_shards)

    def as_dict(self) -> dict[str, Any]:
        return {
            "shards_before": self.num_shards,
            "shards_after": self.num_shards_after,
            "samples_moved": sum(map(len, self.new_shards)),
            "samples_superseded": self.num_superseded,
            "samples_unwanted": self.num_unwanted,
            "dropped_bytes": self.dropped_bytes,
            "nothing_to_do": self.is_empty,
        }


class _Journal(BaseModel, frozen=True):
    new: tuple[tuple[str, ...], ...]
    old: tuple[str, ...]


def plan_compaction(
    store: FeatureStore, *, wanted: Collection[str] | None = None, shard_bytes: int = DEFAULT_SHARD_BYTES
) -> Compaction:
    """What `compact_features` would do.

    A shard stays as it is when every sample of it is wanted and it is at least half as large as a new one may be. All
    others of the same feature, specification and format give their samples, in the order of keys, to new shards.

    Args:
        store: in a folder or in a remote place.
        wanted: fingerprints to keep; None keeps all.
        shard_bytes: how large a new shard may be; a larger sample has one of its own.

    Raises:
        IntegrityError: a shard or sidecar of the store cannot be trusted.
    """
    _check_sound(store)
    live = _live(store, wanted)
    new: list[tuple[str, ...]] = []
    old: list[ShardInfo] = []
    for group in _groups(store.shards()):
        merged, replaced = _merge(group, live, shard_bytes)
        new += merged
        old += replaced
    return _plan(store, new, old, live, wanted)


def _plan(
    store: FeatureStore, new: list[tuple[str, ...]], old: list[ShardInfo], live: Live, wanted: Collection[str] | None
) -> Compaction:
    dropped = [entry for shard in old for entry in _unread(store, shard, live)]
    num_unwanted = 0 if wanted is None else sum(entry.fingerprint not in wanted for entry in dropped)
    return Compaction(
        new_shards=tuple(new),
        old_shards=tuple(f"{shard.feature}/{shard.path.name}" for shard in old),
        num_shards=len(store.shards()),
        num_superseded=len(dropped) - num_unwanted,
        num_unwanted=num_unwanted,
        dropped_bytes=sum(entry.num_bytes for entry in dropped),
    )


def _check_sound(store: FeatureStore) -> None:
    store.refresh()
    if store.problems:
        first = store.place.address(store.problems[0].path)
        raise IntegrityError(
            f"{len(store.problems)} shards of {store.root} are damaged, such as {first}: run `frameloom repair` first"
        )


def superseded(store: FeatureStore) -> tuple[int, int]:
    """How many samples of the store nobody reads, as another shard holds the same one, and the size of their rows."""
    live = _live(store, None)
    entries = [entry for shard in store.shards() for entry in _unread(store, shard, live)]
    return len(entries), sum(entry.num_bytes for entry in entries)


def num_small(store: FeatureStore, *, shard_bytes: int = DEFAULT_SHARD_BYTES) -> int:
    """How many shards are less than half as large as a new one may be, and have others like them to be merged with."""
    small = [shard for shard in store.shards() if 2 * shard.num_bytes < shard_bytes]
    return sum(len(group) for group in _groups(small) if len(group) > 1)


def _live(store: FeatureStore, wanted: Collection[str] | None) -> Live:
    live: Live = {}
    for entry in store.entries():
        if wanted is None or entry.fingerprint in wanted:
            live.setdefault(entry.shard.path, {})[entry.fingerprint] = entry
    return live


def _unread(store: FeatureStore, shard: ShardInfo, live: Live) -> list[Entry]:
    """The samples of a shard that are read from another one, or not wanted."""
    here = live.get(shard.path, {})
    if len(here) == shard.num_samples:
        return []
    return [entry for entry in store.sidecar(shard.path) if entry.fingerprint not in here]


def _groups(shards: Iterable[ShardInfo]) -> Iterator[list[ShardInfo]]:
    groups: dict[tuple[str, str, str], list[ShardInfo]] = {}
    for shard in sorted(shards, key=lambda shard: str(shard.path)):
        groups.setdefault((shard.feature, shard.spec, shard.path.suffix), []).append(shard)
    yield from (groups[name] for name in sorted(groups))


def _merge(group: Sequence[ShardInfo], live: Live, shard_bytes: int) -> tuple[list[tuple[str, ...]], list[ShardInfo]]:
    """The new shards of one group, and the shards that they replace."""
    parts = {shard.path: list(live.get(shard.path, {}).values()) for shard in group}
    is_full = {path: 2 * _size(part) >= shard_bytes for path, part in parts.items()}
    loose = [shard for shard in group if len(parts[shard.path]) < shard.num_samples or not is_full[shard.path]]
    large: list[list[Entry]] = []
    small = [parts[shard.path] for shard in loose]
    while small:
        bins = _bins([entry for part in small for entry in part], shard_bytes)
        # Two neighbours are never both small, so there are fewer of them in every round.
        small = [one for one in bins if 2 * _size(one) < shard_bytes]
        large += [one for one in bins if 2 * _size(one) >= shard_bytes]
        if len(small) == 1:
            large += small
            break
    whole = [shard for shard in loose if len(parts[shard.path]) == shard.num_samples]
    as_is = {frozenset(entry.fingerprint for entry in parts[shard.path]): shard.path for shard in whole}
    names = [tuple(entry.fingerprint for entry in one) for one in large]
    stay = {as_is[frozenset(one)] for one in names if frozenset(one) in as_is}
    new = [one for one in names if frozenset(one) not in as_is]
    return sorted(new), [shard for shard in loose if shard.path not in stay]


def _bins(entries: Iterable[Entry], shard_bytes: int) -> list[list[Entry]]:
    """Entries in the order of keys, cut where the next one would be too much."""
    bins: list[list[Entry]] = []
    room = 0
    for entry in sorted(entries, key=lambda entry: (entry.key, entry.fingerprint)):
        if not bins or _size([entry]) > room:
            bins.append([])
            room = shard_bytes
        bins[-1].append(entry)
        room -= _size([entry])
    return bins


def _size(entries: Iterable[Entry]) -> int:
    return sum(entry.num_bytes + _SAMPLE_BYTES for entry in entries)


def compact_features(
    store: FeatureStore,
    *,
    wanted: Collection[str] | None = None,
    shard_bytes: int = DEFAULT_SHARD_BYTES,
    advance: Advance = lambda _count: None,
) -> Compaction:
    """Merge small shards and leave out what nobody reads. For the holder of `writer_lock` and `exclusive_lock`.

    Args:
        store: in a folder or in a remote place.
        wanted: fingerprints to keep; None keeps all. Samples that are not among them are gone for good.
        shard_bytes: how large a new shard may be.
        advance: called with the number of samples after each new shard.

    Returns:
        what was done, besides what an earlier run had left to do.

    Raises:
        IntegrityError: a sample is damaged. Nothing is lost; run repair first.
        OutOfSpaceError: the disk is full. Nothing is lost; the next run goes on from here.
    """
    store.sweep()
    _check_sound(store)
    return _apply(store, lambda: plan_compaction(store, wanted=wanted, shard_bytes=shard_bytes), wanted, advance)


def merge_small_shards(
    store: FeatureStore, *, max_bytes: int, shard_bytes: int = DEFAULT_SHARD_BYTES, progress: Advance | None = None
) -> Compaction:
    """Merge the smallest shards of each feature that has many of them. For the holder of `writer_lock`.

    A store that is read under `reader_lock` or by a training is left as it is, and so is one with damage: a later call
    does the work. Shards are taken in the order of their size, up to the last that is at most twice as large as all
    before it together, so that repeated calls rewrite a sample a few times and not once for each call.

    Args:
        store: in a folder or in a remote place.
        max_bytes: of rows that are moved at most in this call.
        shard_bytes: how large a new shard may be.
        progress: called with the number of samples after each new shard.

    Returns:
        what was done, besides what an earlier run had left to do. A reader that holds a merged shard finds its samples
        in the new one.

    Raises:
        IntegrityError, InputError: a sample is damaged, or cannot be written again; nothing is lost.
        OutOfSpaceError: the disk is full; nothing is lost, and the next run goes on from here.
    """
    advance = progress or (lambda _count: None)
    store.refresh()
    done = Compaction(num_shards=len(store.shards()))
    if plan_merge(store, max_bytes=max_bytes, shard_bytes=shard_bytes).is_empty:
        return done
    try:
        with exclusive_lock(store.place.folder):
            store.refresh()
            return _apply(store, lambda: plan_merge(store, max_bytes=max_bytes, shard_bytes=shard_bytes), None, advance)
    except LockedError as error:
        _log.info("small shards are merged another time: %s", error)
    except (IntegrityError, InputError):  # its plan cannot be carried out
        store.place.remove([store.place.folder / JOURNAL_NAME])
        raise
    return done


def plan_merge(store: FeatureStore, *, max_bytes: int, shard_bytes: int = DEFAULT_SHARD_BYTES) -> Compaction:
    """What `merge_small_shards` would do: what a run that was killed has left to do, or what is due now.

    Nothing, and at once, where few shards are small or some are damaged.
    """
    left = _left(store)
    if store.problems or (left is None and num_small(store, shard_bytes=shard_bytes) < MERGED_FROM):
        return Compaction(num_shards=len(store.shards()))
    live = _live(store, None)
    if left is not None:
        olds = {store.place.folder / name for name in left.old}
        return _plan(store, list(left.new), [shard for shard in store.shards() if shard.path in olds], live, None)
    new: list[tuple[str, ...]] = []
    old: list[ShardInfo] = []
    for group in _groups(shard for shard in store.shards() if 2 * shard.num_bytes < shard_bytes):
        if len(group) < MERGED_FROM:
            continue
        taken, num_bytes, num_taken = list[ShardInfo](), 0, 0
        for shard in sorted(group, key=lambda shard: (shard.num_bytes, shard.name)):
            if num_bytes + shard.num_bytes > max_bytes:
                break
            taken.append(shard)
            if shard.num_bytes <= 2 * num_bytes:
                num_taken = len(taken)
            num_bytes += shard.num_bytes
        taken = taken[:num_taken]
        max_bytes -= sum(shard.num_bytes for shard in taken)
        bins = _bins((entry for shard in taken for entry in live.get(shard.path, {}).values()), shard_bytes)
        new += [tuple(entry.fingerprint for entry in one) for one in bins]
        old += taken
    return _plan(store, sorted(new), old, live, None)


def _left(store: FeatureStore) -> _Journal | None:
    """What a run that was killed has left to do."""
    try:
        return _Journal.model_validate_json(store.place.read_bytes(store.place.folder / JOURNAL_NAME))
    except (FileNotFoundError, ValueError):  # damaged: the plan is made anew from what the store holds
        return None


def _apply(
    store: FeatureStore, make_plan: Callable[[], Compaction], wanted: Collection[str] | None, advance: Advance
) -> Compaction:
    """Do what a run that was killed has left to do, and then what the plan asks for, written down before."""
    base = store.place.folder
    if not store.shards():
        return Compaction()
    store.place.remove(list(base.glob(f".{JOURNAL_NAME}.*.tmp")))  # of one that was killed while it made its plan
    journal = base / JOURNAL_NAME
    if (left := _left(store)) is not None:
        _carry_out(store, base, left, wanted, advance)
        store.place.remove([journal])
    plan = make_plan()
    if not plan.is_empty:
        todo = _Journal(new=plan.new_shards, old=plan.old_shards)
        store.place.publish(journal, todo.model_dump_json().encode(), kind="text", token="")
        fail_point("compact.planned")
        _carry_out(store, base, todo, wanted, advance)
        store.place.remove([journal])
    return plan


def _carry_out(
    store: FeatureStore, base: Path, todo: _Journal, wanted: Collection[str] | None, advance: Advance
) -> None:
    committed = {shard.path for shard in store.shards()}
    olds = [path for name in todo.old if (path := base / name) in committed]
    live = _live(store, wanted)
    waiting = {path: live.get(path, {}).keys() for path in olds}
    moved: set[str] = set()
    new: set[Path] = set()

    def remove_what_moved() -> None:
        for path in [path for path in olds if waiting[path] <= moved and path not in new]:
            store.place.remove([path.with_suffix(SUFFIX), path])
            olds.remove(path)
            fail_point("compact.removed")

    for names in todo.new:
        entries = [entry for name in names if (entry := store.entry(name)) is not None]
        if len(entries) == len(names):  # less when somebody repaired the store since the plan was made
            samples = [sample_of(entry, store.read(entry.fingerprint)) for entry in entries]
            new.add(write_like(store, entries[0].shard, samples).path)
            fail_point("compact.moved")
            moved.update(names)
            remove_what_moved()
        advance(len(names))
    remove_what_moved()
    if len(moved) == sum(map(len, todo.new)):  # a kill may have come between a sidecar and its shard
        lone = {file.path for file in store.place.files()} - committed - new
        store.place.remove([path for name in todo.old if (path := base / name) in lone])
    store.close()
    store.refresh()
