"""The last stage: rows of the table, written one by one, or, where none can stay, as a new table that is made aside."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from ..._files import fail_point
from ..._vocabulary import FrameloomError, LockedError
from ...store import ClipTable, exclusive_lock
from ...train.data import ClipFeatures
from ..project import Project, Resolved, keep_project
from .executor import in_batches, outcomes
from .stages import Stage, rate_name
from .state import ClipState, State, TablePlan, speech_column, table_digest
from .tasks import EmbedJob, embed_clips

CLIPS_PER_TASK = 64
ROWS_PER_COMMIT = 3000


def delete(stage: Stage, ids: tuple[str, ...]) -> int:
    deleted = stage.project.table.apply([], ids).deleted if ids else 0
    finish_table(stage.project)
    return deleted


def embed(stage: Stage, state: State, plan: TablePlan) -> tuple[int, int]:
    """Embed the clips of the plan, commit their rows, and delete the rows that must go. Returns (written, deleted)."""
    project, checkpoint = stage.project, state.checkpoint
    assert checkpoint is not None or not plan.to_embed
    begun = time.monotonic()
    written = 0
    if not plan.new_table:
        keep_project(project, state.resolved, table=project.table.name)
    table, waiting = _table_to_write(stage, state, plan)
    pending: list[dict[str, Any]] = []
    combinations, types = project.config.store.combinations, project.collection.metadata_types
    read: dict[str, Callable[[Any], Any]] = {"string": str, "double": float, "int64": int, "bool": bool}
    jobs = [
        embed_job(project, state.resolved, tuple(clip.inputs for clip in batch), combinations)
        for batch in in_batches(waiting, CLIPS_PER_TASK)
    ]
    clips = {clip.clip.clip_id: clip for clip in waiting}
    with stage.console.progress("embed", len(waiting), "clips") as advance:
        for job, outcome in outcomes(stage.executor, embed_clips, jobs):
            said = {one.clip: speech_column(project, clips[one.clip]) for one in job.clips}
            for combination, (positions, vectors) in outcome.items():
                for position, vector in zip(positions, vectors, strict=True):
                    clip = clips[job.clips[position].clip]
                    # Columns of mixed values hold text.
                    metadata = {key: read[types[key]](one) for key, one in clip.clip.metadata.items()}
                    columns = row_columns(state, clip, combination) | said[clip.clip.clip_id]
                    pending.append({**columns, "metadata": metadata, "vector": vector})
            advance(len(job.clips))
            if len(pending) >= ROWS_PER_COMMIT:
                written += _commit(stage, state, table, pending, [])[0]
                pending = []
    last, deleted = _commit(stage, state, table, pending, [] if plan.new_table else list(plan.delete_ids))
    if plan.new_table:
        deleted = len(plan.delete_ids)
        if table.exists():
            version = project.table.replace_by(table)
            fail_point("table.replaced")
            keep_project(project, state.resolved, table=project.table.name)
            _note_version(state, version)
            table.drop()
        else:  # no clip is left that could have a row
            deleted = delete(stage, plan.delete_ids)
    finish_table(project)
    newest = project.table.version()
    known = project.ledger.table_state(project.ledger_key(project.table))
    if newest is not None and checkpoint is not None and known != table_digest(project.column_types, checkpoint.digest):
        _note_version(state, newest)  # all of the table was looked at
    if waiting:
        project.ledger.record_rate(rate_name("embed", project.model_name), len(waiting), time.monotonic() - begun)
    return written + last, deleted


def _table_to_write(stage: Stage, state: State, plan: TablePlan) -> tuple[ClipTable, tuple[ClipState, ...]]:
    """The table that rows are written to, and the clips that it lacks: a new one is begun aside, or gone on with."""
    project = stage.project
    aside = ClipTable(str(project.root / "vectors" / ".next"), project.table.name)
    if not plan.new_table:
        aside.drop()
        if plan.to_embed and project.table.exists() and not project.table.count():
            project.table.drop()  # its columns may be those of another collection, or of another model
        return project.table, plan.to_embed
    stage.console.say(f"the table is made anew: {plan.new_table}; until it is whole, questions go to the one before")
    wanted = project.column_types
    try:
        aside.recover(None)
        if aside.exists() and aside.metadata_types() != dict(wanted):
            aside.drop()
        rows = aside.rows().to_pylist() if aside.exists() else []
    except FrameloomError:
        aside.drop()
        rows = []
    there = {row["id"]: (row["fingerprint"], row["row_digest"]) for row in rows}
    names = {name for clip in state.clips for name in clip.row_ids.values()}
    if extra := there.keys() - names:
        aside.discard(sorted(extra))
    done = {clip.clip.clip_id: (state.embedding_identity(clip), clip.row_digest) for clip in plan.to_embed}
    waiting = (
        clip
        for clip in plan.to_embed
        if any(there.get(name) != done[clip.clip.clip_id] for name in clip.row_ids.values())
    )
    return aside, tuple(waiting)


def embed_job(
    project: Project, resolved: Resolved, clips: tuple[ClipFeatures, ...], combinations: tuple[str, ...]
) -> EmbedJob:
    assert resolved.checkpoint is not None
    return EmbedJob(
        store=str(project.store.root),
        checkpoint=str(resolved.checkpoint.folder),
        checkpoint_digest=resolved.checkpoint.digest,
        clips=clips,
        combinations=combinations,
        limits=resolved.limits,
        device=project.config.run.device,
        threads=project.config.run.threads,
    )


def row_columns(state: State, found: ClipState, combination: str) -> dict[str, Any]:
    """A row of the table, but for its vector and metadata."""
    assert state.checkpoint is not None
    clip = found.clip
    return {
        "id": found.row_ids[combination],
        "clip": clip.clip_id,
        "video": clip.video,
        "path": found.path,
        "modalities": combination,
        "is_primary": combination == found.primary,
        "start_seconds": clip.start_seconds,
        "end_seconds": clip.end_seconds,
        "split": clip.split,
        "captions": list(clip.captions),
        "fingerprint": state.embedding_identity(found),
        "row_digest": found.row_digest,
        "model": state.checkpoint.digest,
    }


def finish_table(project: Project) -> None:
    """The end of a run of commits: small files are merged when there are many, and the ledger learns the version."""
    table, ledger = project.table, project.ledger
    try:
        with project.locked(exclusive_lock):  # while nobody reads, however many versions this minute has brought
            table.finish(is_read=False)
    except LockedError:
        table.finish()
    version = table.tend_index()
    key = project.ledger_key(table)
    if version is not None and version != ledger.table_version(key):
        ledger.set_table_version(key, version, state=ledger.table_state(key))


def _commit(
    stage: Stage, state: State, table: ClipTable, rows: list[dict[str, Any]], delete_ids: list[str]
) -> tuple[int, int]:
    """One durable commit to the project's table, or to the one that is made aside."""
    types = stage.project.column_types
    if rows:
        table.create(len(rows[0]["vector"]), types)
    if not rows and not delete_ids:
        return 0, 0
    applied = table.apply(rows, delete_ids)
    if table is stage.project.table:
        _note_version(state, applied.version)
    return applied.inserted + applied.updated, applied.deleted


def _note_version(state: State, version: int) -> None:
    """Note a durable version in the ledger, and that nothing of the table is of other columns or another model."""
    project, checkpoint = state.project, state.checkpoint
    known = "" if checkpoint is None else table_digest(project.column_types, checkpoint.digest)
    project.ledger.set_table_version(project.ledger_key(project.table), version, state=known)
