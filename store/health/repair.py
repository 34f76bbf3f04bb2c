"""How to get back to a whole store.

Nothing is thrown away: what is damaged goes to ``.quarantine`` in the store's folder, what is whole of it is committed
anew, and what is lost is absent afterwards, so that the next sync makes it again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from ..._files import set_aside
from ..features import FeatureStore
from ..formats import SUFFIX
from ..places import LocalPlace
from .findings import Kind, Repaired
from .samples import whole_samples, write_like
from .verify import Advance, Pair, Verdict, examine, held, pairs

QUARANTINE = ".quarantine"


def repair_features(
    store: FeatureStore, *, dry_run: bool = False, advance: Advance = lambda _count: None
) -> Iterator[Repaired]:
    """Bring the shards to a state in which `verify_features` finds nothing damaged. For the holder of both locks.

    Damaged files get a second name in ``.quarantine`` before anything else is done, so that a kill at any instant
    loses nothing, and a rerun ends in the same way. Samples of a damaged shard that are whole are committed in a new
    one before the damaged one leaves.

    Args:
        store: in a folder or in a remote place.
        dry_run: change nothing.
        advance: called with 1 after each shard.

    Raises:
        OutOfSpaceError: the disk is full; the damaged files are where they were.
        OldFormatError: the store is of another format; nothing of it is touched.
    """
    for pair in pairs(store):
        verdict = examine(store.place, pair)
        if verdict is not None and (verdict.new_sidecar or verdict.findings[0].kind is not Kind.UNFINISHED_FILE):
            first = verdict.findings[0]
            repaired = Repaired(kind=first.kind, path=first.path, message=verdict.message, lost=verdict.lost)
            yield repaired if dry_run else replace(repaired, kept=_repair(store, pair, verdict))
        advance(1)
    store.refresh()


def _repair(store: FeatureStore, pair: Pair, verdict: Verdict) -> Path | str:
    place, aside = store.place, pair.paths[0].parents[1] / QUARANTINE / pair.feature
    kept = aside if isinstance(place, LocalPlace) else place.address(aside)
    if verdict.new_sidecar is not None:
        assert pair.shard is not None
        if pair.sidecar is not None:
            _keep(store, pair.sidecar, aside)
        place.publish(pair.shard.with_suffix(SUFFIX), verdict.new_sidecar, kind="sidecar", token="")
        return kept
    for path in pair.paths:
        _keep(store, path, aside)
    new = None
    if verdict.keep is not None and pair.shard is not None:
        with held(place, pair.shard) as copy:
            whole = [sample for sample in whole_samples(copy, verdict.keep) if sample is not None]
            if whole:
                new = write_like(store, verdict.keep.shard, whole).path
    if new is None or new != pair.shard:
        place.remove(pair.paths)  # the sidecar first
    return kept


def _keep(store: FeatureStore, path: Path, folder: Path) -> None:
    if isinstance(store.place, LocalPlace):
        set_aside(path, folder, keep=True)
    else:
        store.place.publish(folder / path.name, store.place.read_bytes(path), kind="text", token="")


def quarantine_bytes(store: FeatureStore) -> int:
    """Size of what repairs of the shards have set aside."""
    return store.place.size_below(QUARANTINE)
