"""The health of the rows of a project's table: whether they are what the collection and the store say they must be."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..._vocabulary import FrameloomError
from ...store.health import Finding, Kind, Repaired
from ..project import Project
from ..sync import lacks_word_vectors, row_columns, take_state

COMPARED_COLUMNS = (
    "clip", "video", "path", "modalities", "is_primary", "start_seconds", "end_seconds", "split", "captions",
    "fingerprint", "row_digest", "model",
)  # fmt: skip


def verify_rows(project: Project) -> Iterator[Finding]:
    """Rows against features: rows of clips that are no more, rows made from something else, rows that are missing.

    Without the word vectors nobody can say which rows there must be.
    """
    state = take_state(project)
    if lacks_word_vectors(project, state.resolved):
        return
    where = Path(project.table.uri) / f"{project.table.name}.lance"
    for name in () if state.doubted_deletion() else state.stale_ids():
        yield _row(where, Kind.ORPHANED_ROW, name, "belongs to no feature of the store", "repair or sync deletes it")
    held = _stored_rows(project)
    known = project.table.rows().select(["id", "fingerprint", "row_digest"]).to_pylist()
    planned = {row.pop("id"): row for row in known}
    damaged = {name for name in planned.keys() | held.keys() if not _holds(held.get(name, {}), planned.get(name))}
    for clip in state.clips if state.checkpoint is not None else ():
        for combination, name in clip.row_ids.items():
            wanted = row_columns(state, clip, combination)
            fingerprint, row = wanted["fingerprint"], held.get(name)
            if name in damaged:
                continue
            if row is None:
                yield _row(where, Kind.MISSING_ROW, name, "is not in the table yet", "sync embeds it", fingerprint)
            elif row["fingerprint"] != fingerprint:
                reason = "was made from other features, or by another model"
                yield _row(where, Kind.OUTDATED_ROW, name, reason, "sync embeds it anew", row["fingerprint"])
            elif row["row_digest"] == wanted["row_digest"] and not _holds({"id": name, **row}, wanted):
                damaged.add(name)
    for name in sorted(damaged):
        yield _row(where, Kind.BAD_ROW, name, "is not what was written", "repair removes it, and sync embeds it anew")


def _stored_rows(project: Project) -> dict[str, dict[str, Any]]:
    """The columns of each row on disk, without its vector and metadata."""
    columns = [name for name in COMPARED_COLUMNS if name in project.table.schema().names]
    batches = project.table.batches(["id", *columns])
    return {row.pop("id"): row for batch in batches for row in batch.to_pylist()}


def _holds(row: dict[str, Any], wanted: dict[str, Any] | None) -> bool:
    return wanted is not None and all(row.get(name) == value for name, value in wanted.items())


def _row(where: Path, kind: Kind, name: str, reason: str, remedy: str, fingerprint: str = "") -> Finding:
    message = f"row {name} {reason}"
    return Finding(kind=kind, path=where, message=message, remedy=remedy, key=name, fingerprint=fingerprint)


def unwanted_rows(project: Project) -> list[Finding]:
    found: list[Finding] = []
    # Where the collection is not there just now, nothing says that its rows are not wanted.
    with suppress(FrameloomError):
        for finding in verify_rows(project):
            if finding.kind in (Kind.ORPHANED_ROW, Kind.BAD_ROW):
                found.append(finding)  # noqa: PERF401  # what was found before an error counts
    return found


def removed(row: Finding) -> Repaired:
    message = f"{row.message}: removed, and embedded anew by the next sync"
    return Repaired(kind=row.kind, path=row.path, message=message, lost=((row.key, ""),))
