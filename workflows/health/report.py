"""The health of a project's store: verify, repair, compact.

Verify changes nothing. Repair throws nothing away that cannot be made again. Compact is the one command that takes
files away from under readers, so it runs only while there are none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, SerializerFunctionWrapHandler, computed_field, field_serializer, model_serializer

from ..._settings import Settings
from ..._vocabulary import ConfigError, ExitCode, FrameloomError, IntegrityError
from ...store import ClipTable, exclusive_lock, reader_lock, writer_lock
from ...store.health import (
    Compaction,
    Finding,
    Kind,
    Repaired,
    compact_features,
    num_shards,
    plan_compaction,
    repair_features,
    repair_table,
    verify_features,
    verify_table,
)
from ..console import Console, count_of, readable_bytes
from ..project import Project
from ..sync import take_state, text_digest
from .identities import imported_features, imports_of_lost
from .models import drop_model, repair_models, unused_models, verify_models
from .rows import removed, unwanted_rows, verify_rows
from .store_status import num_bytes

# Who opened the table before compaction began may still be reading an old version of it, and asks again within that.
KEPT_VERSIONS_SECONDS = 30.0
NOTES_SHOWN = 3


class HealthReport(Settings, arbitrary_types_allowed=True):
    """The result of `verify`.

    Attributes:
        findings: damage first.
        shards: number of shards that were read.
        rows: number of rows of the table; None where it cannot be read or is not there.
        skipped: what could not be looked at, and why.
    """

    findings: tuple[Finding, ...]
    shards: int
    rows: int | None
    skipped: tuple[str, ...] = ()

    @property
    def damage(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.is_damage)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def damaged(self) -> int:
        """How many findings are damage."""
        return len(self.damage)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def exit_code(self) -> int:
        """0, or 4 where something is damaged."""
        return int(ExitCode.INTEGRITY if self.damage else ExitCode.OK)

    @field_serializer("findings")
    def _as_objects(self, findings: tuple[Finding, ...]) -> list[dict[str, Any]]:
        return [finding.as_dict() for finding in findings]

    def lines(self) -> Iterator[str]:
        """The report as text: all damage, and of each kind of unfinished work the first few."""
        for finding in self.damage:
            yield f"{finding.kind}: {finding.message}"
        notes = [finding for finding in self.findings if not finding.is_damage]
        for kind, count in Counter(finding.kind for finding in notes).items():
            for finding in [finding for finding in notes if finding.kind is kind][:NOTES_SHOWN]:
                yield f"note: {finding.kind}: {finding.message}"
            if count > NOTES_SHOWN:
                yield f"note: {kind}: {count - NOTES_SHOWN} more (--json names them)"
        yield from (f"not looked at: {reason}" for reason in self.skipped)
        rows = "no table" if self.rows is None else count_of(self.rows, "row")
        looked_at = f"{count_of(self.shards, 'shard')}, {rows}"
        if damaged := self.damaged:
            yield f"{looked_at}: {damaged} damaged: `frameloom repair` keeps what is whole and says what is next"
        else:
            yield f"{looked_at}: nothing is damaged"


def verify(project: Project, console: Console) -> HealthReport:
    """Read everything that the store holds, and compare shards, sidecars, checkpoints and table with each other."""
    with project.locked(reader_lock):
        total = num_shards(project.store)
        with console.progress("verify", total, "shards") as advance:
            findings = list(verify_features(project.store, advance=advance))
        findings += verify_models(project)
        of_table = list(verify_table(project.table))
        findings += of_table
        for other in project.other_tables():
            findings += verify_table(other)
        readable = project.table.exists() and not any(one.kind is Kind.TABLE for one in of_table)
        skipped: list[str] = []
        if readable and not of_table:
            try:
                findings += verify_rows(project)
            except FrameloomError as error:  # the collection or the checkpoint cannot be read
                if isinstance(error, IntegrityError) and not any(one.is_damage for one in findings):
                    where, remedy = Path(project.table.uri), "repair sets it aside"
                    findings.append(Finding(kind=Kind.TABLE, path=where, message=str(error), remedy=remedy))
                skipped.append(f"which rows belong to which features: {error}")
        return HealthReport(
            findings=tuple(sorted(findings, key=lambda finding: not finding.is_damage)),
            shards=total,
            rows=project.table.count() if readable else None,
            skipped=tuple(skipped),
        )


class RepairReport(Settings, arbitrary_types_allowed=True):
    """The result of a repair, done or planned.

    Attributes:
        repaired: each thing that was mended or set aside.
        orphaned_rows: rows deleted that belonged to no feature.
        dry_run: whether nothing was done.
        num_to_make: of what is lost, how much `sync` makes anew.
        imports: for each import of which something is lost, how to get that back: `sync` cannot make it.
    """

    repaired: tuple[Repaired, ...]
    orphaned_rows: int
    dry_run: bool
    num_to_make: int = Field(exclude=True)
    imports: tuple[str, ...] = ()

    exit_code: ClassVar[int] = ExitCode.OK  # what is left is whole

    def lines(self) -> Iterator[str]:
        """The report as text."""
        if self.dry_run and (self.repaired or self.orphaned_rows):
            yield "would do, without --dry-run:"
        for one in self.repaired:
            yield f"{one.kind}: {one.path}: {one.message}"
            for key, fingerprint in one.lost:
                yield f"  lost: {_shown(key)}{f' ({fingerprint})' if fingerprint else ''}"
        if self.orphaned_rows:
            yield f"rows of clips that are no more, deleted: {self.orphaned_rows}"
        kept = sorted({str(one.kept) for one in self.repaired if one.kept is not None})
        if kept:
            yield f"what was damaged is kept in {', '.join(kept)}: delete it when you need it no more"
        if not self.repaired and not self.orphaned_rows:
            yield "nothing to repair"
        elif self.num_to_make:
            yield "next: `frameloom sync` makes what is lost anew, and nothing else"
        yield from self.imports

    @field_serializer("repaired")
    def _as_objects(self, repaired: tuple[Repaired, ...]) -> list[dict[str, Any]]:
        return [one.as_dict() for one in repaired]


def _shown(key: str) -> str:
    """A key as a terminal may show it: whoever wrote the shard has chosen it."""
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in key)


def repair(project: Project, console: Console, *, dry_run: bool = False) -> RepairReport:
    """Set damage aside, keep what is whole, and delete rows that belong to nothing.

    Raises:
        LockedError: another process is writing to the store, or reading it.
    """
    with project.locked(reader_lock) if dry_run else project.locked(writer_lock, exclusive_lock):
        return _repair(project, console, dry_run=dry_run)


def _repair(project: Project, console: Console, *, dry_run: bool) -> RepairReport:
    with console.progress("repair", num_shards(project.store), "shards") as advance:
        imported = imported_features(project)
        mended = list(repair_features(project.store, dry_run=dry_run, advance=advance))
    imports = imports_of_lost(project, mended, imported)
    mended += repair_models(project, dry_run)
    for other in project.other_tables():
        mended += _repaired_table(project, other, dry_run)
    of_table = _repaired_table(project, project.table, dry_run)
    orphans: tuple[str, ...] = ()
    if project.table.exists() and not any(one.kind is Kind.TABLE and dry_run for one in of_table):
        unwanted = unwanted_rows(project)
        orphans = tuple(one.key for one in unwanted if one.kind is Kind.ORPHANED_ROW)
        of_table += [removed(one) for one in unwanted if one.kind is Kind.BAD_ROW]
        if unwanted and not dry_run:
            project.table.discard([one.key for one in unwanted])
            _note_version(project, project.table)
    return RepairReport(
        repaired=(*mended, *of_table),
        orphaned_rows=len(orphans),
        dry_run=dry_run,
        num_to_make=sum(_num_to_make(one, imported) for one in (*mended, *of_table)),
        imports=tuple(imports),
    )


def _num_to_make(repaired: Repaired, imported: Mapping[str, bool]) -> int:
    if repaired.kind in (Kind.CHECKPOINT, Kind.WORD_VECTORS, Kind.TABLE):
        return 1
    # What the collection does not know any more is made by nobody, unless the collection itself could not be read.
    return sum(not imported.get(fingerprint, bool(imported and fingerprint)) for _, fingerprint in repaired.lost)


def _repaired_table(project: Project, table: ClipTable, dry_run: bool) -> list[Repaired]:
    known = project.ledger.table_version(project.ledger_key(table))
    mended = list(repair_table(table, last_durable_version=known, dry_run=dry_run))
    if mended and not dry_run:
        _note_version(project, table)
    return mended


def _note_version(project: Project, table: ClipTable) -> None:
    key = project.ledger_key(table)
    project.ledger.set_table_version(key, table.version() or 0, state=project.ledger.table_state(key))


class CompactReport(Settings, arbitrary_types_allowed=True):
    """The result of a compaction, done or planned.

    Attributes:
        plan: of the shards.
        bytes_before: size of shards and sidecars.
        bytes_after: the same afterwards; None of a dry run.
        table_bytes_before: size of the table's files.
        table_bytes_after: the same afterwards; None of a dry run.
        table_versions: how many of its versions are left; None of a dry run, or without a table.
        models: checkpoints and words that were dropped, as paths in the store's folder.
        dry_run: whether nothing was done.
    """

    plan: Compaction
    bytes_before: int
    bytes_after: int | None
    table_bytes_before: int
    table_bytes_after: int | None
    table_versions: int | None = None
    models: tuple[str, ...] = ()
    dry_run: bool

    exit_code: ClassVar[int] = ExitCode.OK  # whatever cannot be done is an error

    def lines(self) -> Iterator[str]:
        """The report as text."""
        plan = self.plan
        if plan.is_empty:
            yield f"shards: {plan.num_shards}, nothing to do"
        else:
            would = "would become" if self.dry_run else "became"
            yield f"shards: {plan.num_shards} {would} {plan.num_shards_after}"
            yield f"  superseded samples dropped: {plan.num_superseded}"
            yield f"  samples of deleted videos dropped: {plan.num_unwanted}"
            yield f"  rows dropped: {readable_bytes(plan.dropped_bytes)}"
        if self.bytes_after is not None and self.table_bytes_after is not None:
            yield f"features: {readable_bytes(self.bytes_before)}, now {readable_bytes(self.bytes_after)}"
            yield f"table: {readable_bytes(self.table_bytes_before)}, now {readable_bytes(self.table_bytes_after)}"
        for path in self.models:
            yield f"{path}: {'would be ' if self.dry_run else ''}dropped"
        if self.table_versions is not None and self.table_versions > 1:
            young = f"the newest, and those younger than {KEPT_VERSIONS_SECONDS:g} s, which a question may be reading"
            yield f"  {self.table_versions} versions are kept: {young}"

    @model_serializer(mode="wrap")
    def _flat(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {**self.plan.as_dict(), **{name: value for name, value in dump(self).items() if name != "plan"}}


def compact(
    project: Project, console: Console, *, drop_deleted: bool = False, drop_models: bool = False, dry_run: bool = False
) -> CompactReport:
    """Merge small shards, leave out superseded samples, and merge the files of the table.

    Versions of the table younger than `KEPT_VERSIONS_SECONDS` stay: a question may be reading them.

    Args:
        project: the project.
        console: for progress.
        drop_deleted: also leave out features of videos and captions that the collection no longer has.
        drop_models: also drop checkpoints and words that neither a table nor the configuration uses.
        dry_run: change nothing.

    Raises:
        LockedError: another process is writing to the store, or reading it.
        ConfigError: `drop_deleted`, and a video of the collection cannot be read just now.
        IntegrityError: something is damaged; nothing is lost.
    """
    before, table_before = project.store.num_bytes(), num_bytes(Path(project.table.uri))
    unused = list(unused_models(project)) if drop_models and dry_run else []
    if dry_run:
        plan = plan_compaction(project.store, wanted=_wanted(project) if drop_deleted else None)
    else:
        with project.locked(writer_lock, exclusive_lock):
            wanted = _wanted(project) if drop_deleted else None  # not before: a sync may have added features meanwhile
            with console.progress("compact", len(project.store), "samples") as advance:
                plan = compact_features(project.store, wanted=wanted, advance=advance)
            for table in (project.table, *project.other_tables()):
                _compact_table(project, table)
            unused = list(unused_models(project)) if drop_models else []
            for path in unused:
                drop_model(path)
    return CompactReport(
        plan=plan,
        models=tuple(str(path.relative_to(project.root)) for path in unused),
        bytes_before=before,
        bytes_after=None if dry_run else project.store.num_bytes(),
        table_bytes_before=table_before,
        table_bytes_after=None if dry_run else num_bytes(Path(project.table.uri)),
        table_versions=project.table.num_versions() if not dry_run and project.table.exists() else None,
        dry_run=dry_run,
    )


def _compact_table(project: Project, table: ClipTable) -> None:
    table.recover(project.ledger.table_version(project.ledger_key(table)))
    if table.exists():
        table.optimize(keep_seconds=KEPT_VERSIONS_SECONDS)
        table.tend_index()
        if table.version() != project.ledger.table_version(project.ledger_key(table)):
            _note_version(project, table)


def _wanted(project: Project) -> set[str]:
    """Fingerprints of everything that was made from what the collection has now, also by other backbones."""
    vars(project).pop("collection", None)  # as it is now, and not as it was when it was first asked for
    state = take_state(project)
    if doubted := state.doubted_deletion():
        raise ConfigError(f"--drop-deleted: {doubted}")
    found = state.survey
    unknown = [state.file.video.path for state in found.videos if state.file.digest is None]
    if unknown:
        raise ConfigError(
            f"--drop-deleted: {count_of(len(unknown), 'video')} cannot be read just now, such as {unknown[0]}: nothing"
            " says which features are theirs; make them readable or take them out of the collection"
        )
    sources = {state.file.digest for state in found.videos}
    sources |= {text_digest(caption) for caption in project.texts()}
    return {entry.fingerprint for entry in project.store.entries() if entry.source_digest in sources}
