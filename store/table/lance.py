"""The clip table: one row for each clip and combination of modalities, in LanceDB.

LanceDB gives atomic commits and search. Added here is what it does not promise (each was measured on version 0.40):
data that survives a power cut (it never calls fsync), a way back from a torn newest manifest (which makes every open
fail), rows that are never double, and vectors that are never NaN or zero (``merge_insert`` takes both).

Writing calls are for the holder of the store's writer lock. There is one such process at a time; readers need no lock
and always see the newest version.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..._files import fail_point, make_folder
from ..._vocabulary import ConfigError, InputError, IntegrityError
from .connection import Connection
from .filters import bracketed, check_columns, id_filters
from .held import HeldIds
from .index import IndexRecord, published, read_record, tend
from .nearest import PinnedVersion
from .recovery import recover
from .rows import (
    CHECKSUMS,
    COLUMN_TYPES,
    clip_schema,
    metadata_fields,
    query_vector,
    rows_table,
)
from .versions import TableFolder

if TYPE_CHECKING:
    import pyarrow as pa

_TABLE_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
MAX_TOP = 10_000
MAX_COMMITS = 512  # until a run merges the table's files: a manifest lists every file, and is written by each commit
MAX_VERSIONS = 64  # a run that leaves more merges and drops the old ones at its end
FEW_VERSIONS = 8  # the same of a table that is cheap to write again
SMALL_BYTES = 64 * 2**20
KEEP_SECONDS = 600.0  # readers open the newest version, and are through with it by then
UNREAD_SECONDS = 30.0  # the same where nobody holds the readers' lock: a question takes less, and is asked again if not
_ALL_SECONDS = 10 * 365 * 86400.0
_PLAN_COLUMNS = ("id", "video", "fingerprint", "row_digest")


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """What one `ClipTable.apply` did: rows inserted, updated and deleted, and the durable version that holds them."""

    inserted: int
    updated: int
    deleted: int
    version: int


class ClipTable:
    """Clip embeddings by id.

    Args:
        uri: a folder, or a URL that LanceDB opens.
        name: the table's name: small letters, digits and ``_``, at most 63.
    """

    def __init__(self, uri: str | Path, name: str = "clips") -> None:
        if not _TABLE_NAME.fullmatch(name):
            raise ConfigError(
                f"table name {name!r}: at most 63 of a-z, 0-9 and '_' are allowed, starting with a letter"
            )
        self.uri = str(uri)
        self.name = name
        self._folder = None if "://" in self.uri else TableFolder(Path(self.uri) / f"{name}.lance")
        self._lance = Connection(self.uri, name, self._folder)
        self._held = HeldIds(self._lance)
        self._num_commits = 0  # since files were last merged
        self._reading: tuple[Any, PinnedVersion] | None = None

    def __repr__(self) -> str:
        return f"ClipTable({self.uri!r}, {self.name!r})"

    def __reduce__(self) -> tuple[type[ClipTable], tuple[str, str]]:  # a copy in another process connects by itself
        return ClipTable, (self.uri, self.name)

    def exists(self) -> bool:
        """Whether the table has been created."""
        return self._lance.exists()

    def version(self) -> int | None:
        """The newest version, as other processes see it too; None without a table. Cheap for a table in a folder."""
        if self._folder is not None:
            return self._folder.head_version()
        return int(self._lance.open().version) if self.exists() else None

    def schema(self) -> pa.Schema:
        """The table's columns."""
        return self._lance.open().schema

    def dim(self) -> int:
        """Width of the table's vectors."""
        return int(self.schema().field("vector").type.list_size)

    def count(self, where: str | None = None) -> int:
        """Number of rows, or of those that a filter matches. Raises InputError for a filter that is wrong."""
        table = self._lance.open()
        with self._lance.translated(where, table):
            return int(table.count_rows(bracketed(where)))

    def rows(self) -> pa.Table:
        """``id``, ``video``, ``fingerprint`` and ``row_digest`` of every row, in the order of ids.

        LanceDB is not loaded for a table in a folder whose files are those of the last `finish`.

        Raises:
            IntegrityError: the table cannot be read, or holds an id more than once.
        """
        if self._folder is not None and self.exists() and (kept := self._folder.kept_rows()) is not None:
            return kept
        return self._read_rows()

    def _read_rows(self) -> pa.Table:
        import pyarrow.compute as pc

        table = self._lance.open()
        with self._lance.translated():
            rows = table.search().select(list(_PLAN_COLUMNS)).to_arrow().replace_schema_metadata(None)
        rows = rows.sort_by("id")
        ids = rows.column("id")
        if num_duplicates := pc.sum(pc.equal(ids.slice(1), ids.slice(0, max(0, len(ids) - 1)))).as_py():
            raise IntegrityError(f"{self._lance.name} holds {num_duplicates} duplicate rows; {self._lance.remedy}")
        return rows

    def batches(self, columns: Sequence[str], *, num_rows: int = 8192) -> Iterator[pa.RecordBatch]:
        """Every row as the disk holds it, in no order and unchecked. Raises IntegrityError when it cannot be read."""
        table = self._lance.open()
        with self._lance.translated():
            yield from table.search().select(list(columns)).to_batches(num_rows)

    def get(
        self, where: str | None = None, *, ids: Sequence[str] | None = None, columns: Sequence[str] | None = None
    ) -> list[dict[str, Any]]:
        """Rows as dictionaries.

        Args:
            where: an SQL condition; with ``ids``, both must hold.
            ids: these rows, in this order; an id that is not there is left out. Without it, all rows by id.
            columns: what to return; without it, everything but the vector.

        Raises:
            InputError: the filter or a column is wrong.
        """
        table = self._lance.open()
        wanted = _shown_columns(table.schema.names, columns)
        filters: Iterable[str | None] = [bracketed(where)]
        if ids is not None:
            ids = list(dict.fromkeys(ids))
            filters = (one if where is None else f"({one}) AND ({where})" for one in id_filters(ids))
        found: dict[str, dict[str, Any]] = {}
        with self._lance.translated(where, table):
            for one in filters:
                search = table.search() if one is None else table.search().where(one)
                rows = search.select(list(dict.fromkeys(["id", *wanted]))).to_arrow().to_pylist()
                found.update({row["id"]: row for row in rows})
        order = sorted(found) if ids is None else [one for one in ids if one in found]
        return [{column: found[one][column] for column in wanted} for one in order]

    def search(
        self, vector: Any, *, where: str | None = None, top: int = 10, columns: Sequence[str] | None = None
    ) -> list[dict[str, Any]]:
        """The rows nearest to a vector by cosine similarity, best first.

        Args:
            vector: (D,) of any length but zero.
            where: an SQL condition over the table's columns, applied before the search.
            top: how many, from 1 to `MAX_TOP`.
            columns: what to return beside ``score``; without it, everything but the vector.

        Returns:
            rows with ``score`` = cosine similarity, in [-1, 1]. Rows of equal score are in the order of ids, also when
            only some of them fit.

        Raises:
            InputError: the vector, the filter, a column or ``top`` is wrong.
        """
        return self.search_many([vector], where=where, top=top, columns=columns)[0]

    def search_many(
        self, vectors: Any, *, where: str | None = None, top: int = 10, columns: Sequence[str] | None = None
    ) -> list[list[dict[str, Any]]]:
        """`search` for each of several vectors (Q, D): one pass over vectors in memory, one version of the table."""
        found: list[list[dict[str, Any]]] = self._answered(PinnedVersion.nearest_many, vectors, where, top, columns)
        return found

    def search_text(
        self, words: str, vector: Any, *, where: str | None = None, top: int = 10, columns: Sequence[str] | None = None,
        column: str = "captions",
    ) -> list[dict[str, Any]]:  # fmt: skip
        """The rows whose captions hold words best, by BM25 over all captions of the table; rows with none are left out.

        Nothing in ``words`` has a meaning of its own. They are looked for in ``column``, captions or another one with a
        full-text index. ``vector`` (D,) is what ``score`` compares with; None: it is 0. The rest is as for `search`.
        Returns rows with ``words``, the BM25, best first, and ``score``. Raises InputError as `search` does.
        """

        def ask(pinned: PinnedVersion, asked: Any, *how: Any) -> list[dict[str, Any]]:
            return pinned.with_words(words, asked[0] if asked else None, *how, text=column)

        return self._answered(ask, [] if vector is None else [vector], where, top, columns)  # type: ignore[no-any-return]

    def _answered(
        self, ask: Callable[..., Any], vectors: Any, where: str | None, top: int, columns: Sequence[str] | None
    ) -> Any:
        """What the newest version answers. A version whose files a writer drops meanwhile gives way to a newer one."""
        if not 1 <= top <= MAX_TOP:
            raise InputError(f"top = {top}: from 1 to {MAX_TOP:,} results can be asked for")
        attempts_left = 3
        while True:
            attempts_left -= 1
            pinned = self._pinned()
            wanted = _shown_columns(pinned.names, columns)
            try:
                asked = [query_vector(one, pinned.dim) for one in vectors]
                with self._lance.translated(where, pinned.table):
                    return ask(pinned, asked, where, top, wanted)
            except IntegrityError:
                if not attempts_left or self.version() == pinned.version:
                    raise

    def _pinned(self) -> PinnedVersion:
        """The newest version, and what was read of it for questions before."""
        record = self.index_record()
        state = (self.version(), record)
        if self._reading is None or self._reading[0] != state:
            with self._lance.translated():
                table = self._lance.open()
                self._reading = state, PinnedVersion(table, published(table, record), self._lance.open_async)
        return self._reading[1]

    def index_record(self) -> IndexRecord | None:
        """What was last measured of the vector index; None without one. Tables at an address have none."""
        return None if self._folder is None else read_record(self._folder.index_record)

    def create(self, dim: int, metadata_schema: Mapping[str, str]) -> None:
        """Make an empty table, durably. One that exists already with the same width is kept, and gets missing columns.

        Args:
            dim: width of the vectors.
            metadata_schema: a column for each metadata key: ``string``, ``int64``, ``double`` or ``bool``.

        Raises:
            ConfigError: a key has the name of one of our columns, or the table that exists is of another width or type.
        """
        schema = clip_schema(dim, metadata_schema)
        if self.exists():
            if (known := self.dim()) != dim:
                raise ConfigError(
                    f"table {self.name!r} in {self.uri} holds vectors of width {known}, and the model gives {dim}; name"
                    " another table, or delete this one"
                )
            self.add_metadata_columns(metadata_schema)
            return
        if self._folder is not None:
            make_folder(self._folder.path.parent)
        with self._commit():
            self._lance.database().create_table(self.name, schema=schema)

    def metadata_types(self) -> dict[str, str]:
        """Name and type of the metadata columns that the table has."""
        return {field.name: str(field.type) for field in self.schema() if field.name not in COLUMN_TYPES}

    def add_metadata_columns(self, metadata_schema: Mapping[str, str]) -> None:
        """Add the metadata columns that are not there yet; they are empty in the rows that exist.

        Raises:
            ConfigError: a column exists with another type, or a name is not allowed.
        """
        table = self._lance.open()
        known = {field.name: field.type for field in table.schema}
        new = []
        for field in metadata_fields(metadata_schema):
            if field.name not in known:
                new.append(field)
            elif known[field.name] != field.type:
                raise ConfigError(
                    f"metadata {field.name!r} is {field.type}, and the table's column is {known[field.name]}; rename"
                    " it, or name another table"
                )
        if new:
            with self._commit():
                table.add_columns(new)

    def apply(self, upserts: pa.Table | Sequence[Mapping[str, Any]], delete_ids: Sequence[str] = ()) -> Applied:
        """Write rows by id and remove others, durably; what it returns has survived.

        Rows are written before others are removed, so that a kill in between leaves too many rows and never too few.
        The ids of the table are read by the first call of a run (`held.py`); afterwards a commit costs what its rows
        cost, however many others there are: new rows are appended, and only rows that replace others are merged.

        Args:
            upserts: rows to insert, or to put in place of those with the same id. `rows_table` says how.
            delete_ids: rows to remove; an id that is not there is not counted.

        Raises:
            InputError: a row must not be stored, an id is a duplicate in the batch, or is both written and removed.
            IntegrityError: LanceDB's counts are not what they must be.
            OutOfSpaceError: the disk is full; the table is as it was.
        """
        table = self._lance.open()
        batch = rows_table(upserts, table.schema)
        names = batch.column("id").to_pylist()
        removed = set(delete_ids)
        if both := removed.intersection(names):
            raise InputError(f"the id {min(both)!r} is both written and removed")
        held = self._held.among(table, [*names, *removed])
        is_held = [name in held for name in names]
        doomed = sorted(removed & held)
        version, updated = int(table.version), sum(is_held)
        if names or doomed:
            right = table.count_rows() + len(names) - updated - len(doomed)
            self._held.version = None  # until all of it is known to have succeeded
            with self._commit():
                if names:
                    self._upsert(table, batch, is_held)
                if doomed:
                    num_deleted = sum(table.delete(where).num_deleted_rows for where in id_filters(doomed))
                    _expect("deleted", num_deleted, len(doomed))
                    fail_point("table.deleted")
            held.update(names)
            held.difference_update(doomed)
            table = self._lance.open()
            if (found := table.count_rows()) != right:
                said = f"{self._lance.name} holds {found:,} rows after the commit, {right:,} are right"
                raise IntegrityError(f"{said}; {self._lance.remedy}")
            version = int(table.version)
            self._num_commits += 1
            if self._num_commits >= MAX_COMMITS:
                version = self.optimize(keep_seconds=KEEP_SECONDS)
            self._held.version = version
        return Applied(inserted=len(names) - updated, updated=updated, deleted=len(doomed), version=version)

    def _upsert(self, table: Any, batch: pa.Table, is_held: Sequence[bool]) -> None:
        """Append what is new, for `merge_insert` reads the ids of the whole table (measured: 0.3 s for a million)."""
        import pyarrow as pa
        import pyarrow.compute as pc

        mask = pa.array(is_held, pa.bool_())
        if not all(is_held):
            table.add(batch.filter(pc.invert(mask)))
        if any(is_held):
            merge = table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
            result = merge.execute(batch.filter(mask))
            _expect("inserted", result.num_inserted_rows, 0)
            _expect("updated", result.num_updated_rows, sum(is_held))
        fail_point("table.upserted")

    def finish(self, *, is_read: bool = True) -> int | None:
        """The end of a run that wrote: merge small files when there are many, and keep a copy of the plan's columns.

        Args:
            is_read: somebody may hold the readers' lock. Without it, also versions younger than `KEEP_SECONDS` go.

        Returns the version afterwards, which is durable; None without a table.
        """
        if not self.exists():
            return None
        self._held.forget()
        folder = self._folder
        # Merging rewrites a vector index, too, which must then be measured again.
        is_small = folder is not None and not folder.index_record.exists() and folder.num_bytes() <= SMALL_BYTES
        if self.num_versions() > (FEW_VERSIONS if is_small else MAX_VERSIONS):
            self.optimize(keep_seconds=KEEP_SECONDS if is_read else UNREAD_SECONDS)
        elif folder is not None and folder.kept_rows() is None:
            folder.keep_rows(self._read_rows())
        return self.version()

    def tend_index(self) -> int | None:
        """Build, measure and publish the vector index where the table is large, and again where it has grown.

        Readers use an index only after its recall was measured; else, and where it stays below `MIN_RECALL`, every row
        is compared. It comes after `finish`, since merging rewrites an index. Returns the version.
        """
        if (folder := self._folder) is not None and self.exists():
            tend(self._lance.open, folder.index_record, self._commit)
            if folder.kept_rows() is None:
                folder.keep_rows(self._read_rows())
        return self.version()

    def discard(self, ids: Sequence[str]) -> int:
        """Remove every row that has one of these ids, durably, also duplicates. Returns the version."""
        table = self._lance.open()
        with self._commit():
            for where in id_filters(ids):
                table.delete(where)
        if self._folder is not None:
            self._folder.keep_rows(self._read_rows())
        return int(self._lance.open().version)

    def optimize(self, *, keep_seconds: float = KEEP_SECONDS) -> int:
        """Merge small files and drop versions older than ``keep_seconds``. Returns the version afterwards.

        Raises:
            IntegrityError: the table has other rows afterwards.
        """
        table = self._lance.open()
        before = self.rows()
        # Merged files are durable before the versions that they replace are dropped.
        for seconds in (_ALL_SECONDS, max(keep_seconds, 0.001)):
            with self._commit():
                age = datetime.timedelta(seconds=seconds)
                table.optimize(cleanup_older_than=age, delete_unverified=True)  # safe: the caller is the only writer
        rows = self._read_rows()
        self._num_commits = 0
        if rows != before:
            raise IntegrityError(
                f"{self._lance.name} held {before.num_rows:,} rows before its files were merged and holds"
                f" {rows.num_rows:,}, or other ones; {self._lance.remedy}"
            )
        if self._folder is not None:
            self._folder.keep_rows(rows)
        return int(self._lance.open().version)

    def damaged_files(self) -> list[Path]:
        """Files of manifests, deletions and indexes that are not what was written."""
        return [] if self._folder is None else self._folder.damaged_files(also_indexes=True)

    def num_versions(self) -> int:
        """How many versions are kept, the newest included."""
        return len(self._lance.open().list_versions()) if self._folder is None else self._folder.num_versions()

    def commits(self) -> list[tuple[int, float]]:
        """Version and time (seconds since the epoch) of each commit that is kept, newest first; none at an address."""
        return [] if self._folder is None else self._folder.commits()

    def drop_indexes(self) -> None:
        """Remove the indexes and set aside those of their files that are damaged; the next run builds them again."""
        table = self._lance.open()
        with self._commit():
            for index in table.list_indices():
                table.drop_index(index.name)
        if self._folder is not None:
            self._folder.index_record.unlink(missing_ok=True)
            self._folder.forget_indexes()

    def replace_by(self, other: ClipTable) -> int:
        """Hold the rows and columns of another table, by one commit. Returns the durable version, or IntegrityError."""
        import pyarrow as pa

        schema = other.schema()
        rows = pa.RecordBatchReader.from_batches(schema, other.batches(schema.names))
        with self._commit():
            table = self._lance.database().create_table(self.name, data=rows, schema=schema, mode="overwrite")
        _expect("holds", int(table.count_rows()), other.count())
        if self._folder is not None:
            self._folder.index_record.unlink(missing_ok=True)  # of an index that this version does not have
            self._folder.keep_rows(self._read_rows())
        self._held.forget()
        return int(table.version)

    def drop(self) -> None:
        """Remove the table with all its versions. A table that is not there is no error."""
        if self.exists():
            if self._folder is not None:
                self._folder.remove()
            else:
                self._lance.database().drop_table(self.name)

    @contextmanager
    def _commit(self) -> Iterator[None]:
        """Make durable whatever the block commits; turn a full disk into OutOfSpaceError."""
        before = None if self._folder is None else self._folder.files()
        with self._lance.translated():
            yield
        if self._folder is not None and before is not None:
            fail_point("table.committed")
            with self._lance.translated():
                self._folder.sync_since(before)
        fail_point("table.synced")

    def recover(self, last_durable_version: int | None) -> list[str]:
        """Bring the table to a version that opens, before the first read of a run; see `recovery.recover`."""
        return [] if self._folder is None else recover(self._lance, self._folder, self.rows, last_durable_version)


def _shown_columns(names: Sequence[str], columns: Sequence[str] | None) -> list[str]:
    if columns is None:
        return [name for name in names if name not in ("vector", *CHECKSUMS)]
    check_columns(columns, names)
    return list(columns)


def _expect(what: str, found: int, expected: int) -> None:
    if found != expected:
        raise IntegrityError(f"LanceDB says that it {what} {found} rows where {expected} are right; run sync again")
