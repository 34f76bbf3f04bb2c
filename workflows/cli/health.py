"""The commands that say how a project's store is, and mend it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from ..._vocabulary import Outcome
from ..console import Console, readable_bytes, readable_seconds
from ..sync import file_lines
from .options import DEFAULT_CONFIG, AsJson, ConfigPath, Quiet, answer, open_project, show

DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done; do nothing.")]


def verify(config: ConfigPath = DEFAULT_CONFIG, as_json: AsJson = False, quiet: Quiet = False) -> None:
    """Read everything that was stored and say what is not as it was written, down to the video or caption.

    Checked are the SHA-256 of every shard and checkpoint, a checksum of every sample, every sidecar against its shard,
    the word vectors, and every row of the table: that it is there once, that its columns and its vector have their
    checksums, that it belongs to features that are there, and says what the collection says. Nothing is changed.
    Unfinished work, such as rows that are not embedded yet, is reported as a note.

    Exit codes: 0 nothing is damaged, 4 something is.

    Example: frameloom verify --json
    """
    from ..health.report import verify as verify_store

    answer(verify_store(open_project(config, read_only=True), Console(quiet=quiet)), as_json=as_json)


def repair(
    config: ConfigPath = DEFAULT_CONFIG, dry_run: DryRun = False, as_json: AsJson = False, quiet: Quiet = False
) -> None:
    """Bring a damaged store back to one that is whole. Nothing that cannot be made again is thrown away.

    Damaged files move to .quarantine in the store's folder. Whatever samples of them are whole are kept in new shards;
    those that are lost are extracted again by the next `frameloom sync`, and no others; what was imported cannot be,
    and comes back by the `frameloom import` that is named. A damaged index of a shard is rebuilt where that can be
    proven right. Rows of clips that are no more are deleted from the table.

    Exit codes: 0 the store is whole, 5 disk full, 6 another process is writing or reading.

    Example: frameloom repair --dry-run, then frameloom repair, then what it says
    """
    from ..health.report import repair as repair_store

    project = open_project(config, read_only=dry_run)
    answer(repair_store(project, Console(quiet=quiet), dry_run=dry_run), as_json=as_json)


def compact(
    config: ConfigPath = DEFAULT_CONFIG,
    drop_deleted: Annotated[
        bool, typer.Option("--drop-deleted", help="Also drop features of videos that the collection no longer has.")
    ] = False,
    drop_models: Annotated[
        bool,
        typer.Option("--drop-models", help="Also drop checkpoints that neither a table nor the configuration uses."),
    ] = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Merge many small files into few large ones, and drop what nobody reads any more.

    Shards of one feature are merged up to 256 MB; samples that a better one has superseded are left out. The table's
    files are merged, and its versions older than half a minute dropped; `sync` drops them itself when there are more
    than a few. Features of deleted videos stay, in case the videos come back, unless --drop-deleted is given, and
    checkpoints of other trainings unless --drop-models is. Can be stopped at any moment and run again; a second run
    does nothing.

    Exit codes: 0 done, 4 something is damaged (run repair first), 5 disk full, 6 another process is writing or reading.

    Example: frameloom compact --drop-deleted --dry-run
    """
    from ..health.report import compact as compact_store

    project = open_project(config, read_only=dry_run)
    dropped = {"drop_deleted": drop_deleted, "drop_models": drop_models}
    answer(compact_store(project, Console(quiet=quiet), **dropped, dry_run=dry_run), as_json=as_json)


def status(
    config: ConfigPath = DEFAULT_CONFIG,
    store: Annotated[
        bool, typer.Option("--store", help="What the store holds: sizes, coverage, failures, superseded samples.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Say what is there, what is stale and why, and what failed.

    Example: frameloom status --store
    """
    from ..health.store_status import store_lines, store_status
    from ..sync.sync import status_of

    project = open_project(config, read_only=True)
    found = store_status(project) if store else status_of(project)
    show(found, store_lines(found) if store else _status_lines(found), as_json=as_json)


def _index_line(index: dict[str, Any] | None, num_rows: int) -> str:
    if index is None:
        return "none: every row is compared"
    found = (
        f"recall@{index['top']} {index['recall']:.3f}{'' if index['is_used'] else ', too low: every row is compared'}"
    )
    ages = [readable_seconds(max(0.0, time.time() - index[name])) for name in ("built", "measured")]
    return (
        f"{index['kind']} of {index['trained_rows']} rows, {found}; built {ages[0]} ago, measured {ages[1]} ago on"
        f" {index['num_rows']} of now {num_rows} rows"
    )


def _status_lines(found: dict[str, Any]) -> Iterator[str]:
    boxes = " + ".join(f"{found[box.value]} {box.value}" for box in Outcome)
    yield f"{found['discovered']} discovered = {boxes}"
    for name, feature in found["features"].items():
        counts = _counts(found["modalities"].get(name, {}))
        several = len(feature["streams"]) > 1
        weights = "" if several else f" ({feature['weights'][:19]})"
        yield f"  {name}: {feature['backbone']}{weights}{': ' + counts if counts else ''}"
        for one in feature["streams"] if several else ():
            yield f"    {one['backbone']} ({one['weights'][:19]}): {_counts(one['statuses'])}"
    folder = found["checkpoint_folder"]
    yield f"  checkpoint: {'none yet' if folder is None else folder}"
    yield f"  table: {found['rows']} rows; store: {readable_bytes(found['store_bytes'])}"
    yield f"  index: {_index_line(found['index'], found['rows'])}"
    yield from file_lines(found["files"])
    plan = found["plan"]
    if plan["nothing_to_do"]:
        yield "everything is up to date"
    else:
        yield (
            f"stale: {len(plan['extract'])} videos to extract, {plan['embed']} clips to embed,"
            f" {plan['delete']} rows to delete, {plan['merge']} small shards to merge"
            f"{'; word vectors to train from the captions' if plan['make_word_vectors'] else ''}"
            f"{'; to train: ' + plan['train'] if plan['train'] else ''}"
        )
        seconds = plan["estimated_seconds"]
        yield f"`frameloom sync` does that in about {readable_seconds(seconds)}" if seconds else "run `frameloom sync`"
    yield from plan["notes"]


def _counts(statuses: dict[str, int]) -> str:
    return ", ".join(f"{count} {status}" for status, count in sorted(statuses.items()))
