"""Content of a project's store: sizes, how much of the collection each feature covers, failures, unused bytes."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ..._vocabulary import Outcome
from ...store import reader_lock
from ...store.health import num_small, quarantine_bytes, superseded
from ..console import count_of, readable_bytes
from ..project import ImportRecord, Project
from ..sync import Survey, stream_of, survey, text_digest

MANY_SHARDS = 1000  # a store of as many opens noticeably later


def num_bytes(folder: Path) -> int:
    """Size of all files below a folder; 0 without any."""
    return sum((Path(where) / name).lstat().st_size for where, _, names in os.walk(folder) for name in names)


def store_status(project: Project) -> dict[str, Any]:
    """`frameloom status --store`: sizes, counts, coverage, failures by class, superseded bytes."""
    with project.locked(reader_lock):
        found = survey(project)
        num_superseded, superseded_bytes = superseded(project.store)
        table, problems = Path(project.table.uri), project.store.problems
        return {
            "store": str(project.root),
            "bytes": project.store.num_bytes(),
            "shards": len(project.store.shards()),
            "small_shards": num_small(project.store),
            "samples": len(project.store),
            "features": _features(project, found),
            "superseded": {"samples": num_superseded, "bytes": superseded_bytes},
            "damaged": [{"path": project.store.place.address(one.path), "message": one.message} for one in problems],
            "table": {"rows": project.table.count() if project.table.exists() else 0, "bytes": num_bytes(table)},
            "models_bytes": num_bytes(project.root / "models"),
            "quarantine_bytes": _quarantine_bytes(project),
        }


def _quarantine_bytes(project: Project) -> int:
    """The size of shards and checkpoints that repairs set aside, which need not lie in one folder."""
    root, where = project.root, project.store.root
    is_apart = not (isinstance(where, Path) and where.resolve() == root.resolve())
    return num_bytes(root / ".quarantine") + (quarantine_bytes(project.store) if is_apart else 0)


def _features(project: Project, found: Survey) -> list[dict[str, Any]]:
    """Each feature folder: what it holds, and how much of the collection it covers where the configuration wants it."""
    covered = _coverage(project, found)
    held: dict[str, list[Any]] = {}
    for entry in project.store.entries():
        held.setdefault(entry.feature, []).append(entry)
    return [
        {
            "feature": name,
            "wanted": name in covered,
            "samples": len(entries := held.get(name, [])),
            "shards": sum(shard.feature == name for shard in project.store.shards()),
            "row_bytes": sum(entry.num_bytes for entry in entries),
            **covered.get(name, {"covered": 0, "absent": 0, "of": 0}),
            "failures": _failures(entries),
        }
        for name in sorted({*held, *covered})
    ]


def _failures(entries: Iterable[Any]) -> dict[str, int]:
    boxes = (Outcome.REJECTED, Outcome.QUARANTINED)
    return dict(sorted(Counter(one.status.value for one in entries if one.status.outcome in boxes).items()))


def _coverage(project: Project, found: Survey) -> dict[str, dict[str, int]]:
    """Of each wanted feature: how many videos or captions have rows of it, have nothing for it, and there are."""
    streams = [one for state in found.videos for one in state.streams]
    wanted = dict.fromkeys((want.name for want in project.extracted), len(found.videos))
    text = project.features().text
    if text is not None:
        absent, captions = ImportRecord.absent_in(project.root), project.texts()
        streams += [stream_of(project, text, text_digest(caption), absent) for caption in captions]
        wanted[text.name] = len(captions)
    covered = {}
    for name, number in wanted.items():
        entries = [one.entry for one in streams if one.request.name == name and one.entry is not None]
        rows, nothing = sum(one.num_rows > 0 for one in entries), sum(one.status.is_absence for one in entries)
        covered[name] = {"covered": rows, "absent": nothing, "of": number}
    return covered


def store_lines(found: dict[str, Any]) -> Iterator[str]:
    """`store_status` as lines of text."""
    size = readable_bytes(found["bytes"])
    yield f"{found['store']}: {size} in {count_of(found['shards'], 'shard')}, {count_of(found['samples'], 'sample')}"
    for one in found["features"]:
        covers = f"{one['covered']} of {one['of']} covered" if one["wanted"] else "not in the configuration"
        covers += f", {one['absent']} have nothing for it" if one["absent"] else ""
        failed = "".join(f", {count} {status}" for status, count in one["failures"].items())
        held = f"{count_of(one['samples'], 'sample')}, {readable_bytes(one['row_bytes'])} in {one['shards']} shards"
        yield f"  {one['feature']}: {covers}; {held}{failed}"
    yield f"  table: {found['table']['rows']} rows, {readable_bytes(found['table']['bytes'])}"
    yield f"  models: {readable_bytes(found['models_bytes'])}"
    if found["small_shards"] >= MANY_SHARDS:
        small = count_of(found["small_shards"], "small shard")
        yield f"  {small}: `frameloom compact` merges them, and every command opens the store faster"
    gone = found["superseded"]
    if gone["samples"]:
        rows = readable_bytes(gone["bytes"])
        yield f"  superseded: {count_of(gone['samples'], 'sample')}, {rows}: `frameloom compact` drops them"
    if found["quarantine_bytes"]:
        yield f"  quarantine: {readable_bytes(found['quarantine_bytes'])} set aside by repair"
    for one in found["damaged"]:
        yield f"  damaged: {one['message']}: `frameloom repair`"
