"""What an import that was killed left behind, taken away: so the next one ends as if it had not been killed."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from ..._vocabulary import FeatureArray, FeatureSpec
from ...store import Entry, FeatureStore, Sample, ShardInfo
from ..console import Console
from .ingest import NOTHING

RECORDS = "imports"


def tidy(store: FeatureStore, spec: FeatureSpec, console: Console) -> None:
    """Sweep a store as `sync` does, and finish what an import had begun. Only for the holder of the writer lock."""
    for line in store.sweep():
        console.say(line)
    for path in (Path(store.root) / RECORDS).glob(".*.tmp"):
        path.unlink(missing_ok=True)
    store.refresh()
    _drop_answered(store, spec)


def _drop_answered(store: FeatureStore, spec: FeatureSpec) -> None:
    """Take back that videos have nothing, where they have something by now and the import was killed in between.

    A store in which both are said reads what it has under either, by the names of the shards.
    """
    held: dict[str, list[Entry]] = {}
    for entry in store.entries(spec.name):
        held.setdefault(entry.shard.name, []).append(entry)
    for shard in store.shards():
        here = held.get(shard.name, [])
        if shard.feature == spec.name and len(here) < shard.num_samples and _is_of_markers(store, shard):
            if here:
                store.write_shard(spec.name, [_as_it_is(entry, spec) for entry in here], spec=spec)
            store.discard(shard)


def _is_of_markers(store: FeatureStore, shard: ShardInfo) -> bool:
    """Whether a shard says nothing but that videos have nothing. Its sidecar also lists what others say better."""
    import pyarrow.parquet as pq

    data = store.place.read_bytes(shard.path.with_suffix(".parquet"))
    said: list[dict[str, Any]] = pq.read_table(io.BytesIO(data), columns=["num_rows", "message"]).to_pylist()
    return all(not one["num_rows"] and one["message"] == NOTHING for one in said)


def _as_it_is(entry: Entry, spec: FeatureSpec) -> Sample:
    nothing = FeatureArray.empty(spec, entry.status, entry.message)
    return Sample(key=entry.key, source_digest=entry.source_digest, fingerprint=entry.fingerprint, feature=nothing)
