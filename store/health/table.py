"""The health of the clip table: whether it opens, every row once, every vector one that can be compared.

LanceDB's files hold no checksums. Each row has one of its columns and one of its vector, and the files that say which
rows there are have one each (see `rows.py` and `versions.py`); a table that an older version wrote has none of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..._vocabulary import IntegrityError
from ..table import COLUMN_TYPES, ClipTable, altered_rows, bad_rows, metadata_of
from .findings import Finding, Kind, Repaired

_REMEDY = "repair removes the row, and the next sync embeds the stored features anew"


def verify_table(table: ClipTable) -> Iterator[Finding]:
    """Read every row of the newest version, and yield what is not as it must be. A table that is not there is well."""
    if not table.exists():
        return
    where = Path(table.uri) / f"{table.name}.lance"
    remedy = "repair sets the versions aside that cannot be read, and the next sync embeds what is missing"
    files = table.damaged_files()
    for path in files:
        yield Finding(kind=Kind.TABLE, path=path, message=f"{path.name} is not what was written", remedy=remedy)
    if files:
        return
    ids: Counter[str] = Counter()
    bad, altered, contradicting = set[str](), set[str](), set[str]()
    try:
        for batch in table.batches(table.schema().names):
            batch.validate(full=True)
            names = batch.column("id").to_pylist()
            ids.update(names)
            bad.update(names[row] for row in bad_rows(batch))
            altered.update(names[row] for row in altered_rows(batch))
            contradicting.update(_contradicting_rows(batch))
    except (IntegrityError, ValueError) as error:  # of Arrow: a text that is not UTF-8, or a list without its items
        message = str(error).partition("; ")[0]
        yield Finding(kind=Kind.TABLE, path=where, message=message, remedy=remedy)
        return
    wrong = [(Kind.DOUBLE_ROW, name, f"is there {ids[name]} times") for name in sorted(ids) if ids[name] > 1]
    wrong += [(Kind.BAD_ROW, name, "has a vector that is not of length 1") for name in sorted(bad)]
    wrong += [(Kind.BAD_ROW, name, "has metadata that its columns contradict") for name in sorted(contradicting - bad)]
    wrong += [(Kind.BAD_ROW, name, "is not what was written") for name in sorted(altered - bad - contradicting)]
    for kind, name, what in wrong:
        yield Finding(kind=kind, path=where, message=f"row {name} {what}", remedy=_REMEDY, key=name)


def _contradicting_rows(batch: Any) -> Iterator[str]:
    """Ids of rows whose metadata are not those of their metadata columns."""
    names = [name for name in batch.schema.names if name not in COLUMN_TYPES]
    for row in batch.select(["id", "metadata", *names]).to_pylist():
        try:
            metadata = metadata_of(row)
        except ValueError:
            metadata = {"": ""}
        if {**dict.fromkeys(names), **metadata} != {name: row[name] for name in names}:
            yield row["id"]


def repair_table(table: ClipTable, *, last_durable_version: int | None, dry_run: bool = False) -> Iterator[Repaired]:
    """Bring the table to a state in which `verify_table` finds nothing. For the holder of the writer lock.

    A newest version that cannot be read is set aside, also one that was acknowledged: the version before it holds most
    rows, and a sync embeds the others anew. The caller then notes the version that is the newest.
    """
    findings = list(verify_table(table))
    if any(finding.kind is Kind.TABLE for finding in findings):
        where = Path(table.uri) / f"{table.name}.lance"
        if dry_run:
            yield Repaired(kind=Kind.TABLE, path=where, message="versions that cannot be read would be set aside")
            return
        try:
            done = table.recover(last_durable_version)
        except IntegrityError:
            done = []
        if not done or any(finding.kind is Kind.TABLE for finding in verify_table(table)):
            done += table.recover(None)  # also what was acknowledged: a version that opens is better than none
        if table.exists() and table.damaged_files():
            table.drop_indexes()
            done.append("its indexes were damaged and are dropped; the next sync builds them again")
        for message in done:
            yield Repaired(kind=Kind.TABLE, path=where, message=message, kept=where.parent / ".quarantine" / where.name)
        findings = list(verify_table(table))
    ids = sorted({finding.key for finding in findings if finding.key})
    if ids and not dry_run:
        table.discard(ids)
    for finding in findings:
        message = f"{finding.message}: removed, and embedded anew by the next sync"
        yield Repaired(kind=finding.kind, path=finding.path, message=message, lost=((finding.key, ""),))
