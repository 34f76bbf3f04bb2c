"""The files of a LanceDB table in a folder: which version is newest, and whether its bytes have reached the disk.

None of this loads LanceDB, which takes seconds: a run that finds nothing to do reads a copy of the plan's columns that
was kept next to the table, for as long as no file of the table has changed.

LanceDB commits by renaming a manifest into ``_versions`` and never calls fsync (measured on 0.40). So after a commit
the files that it added are synced here before anyone is told that the rows are safe.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Set
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from xxhash import xxh3_128_digest

from ..._files import file_stamp, publish, set_aside, sync_folder, sync_path
from ..._vocabulary import digest_of

if TYPE_CHECKING:
    import pyarrow as pa

_HINT = "latest_version_hint.json"
_STAMP_KEY = b"frameloom.stamp"
_DIGEST_BYTES = 16  # of the XXH3-128 that the copy of the rows begins with
_MAX_VERSION = 2**64 - 1
_V2_DIGITS = 20  # a V2 manifest is named by 2^64 - 1 - version in 20 digits, so that the newest sorts first


class TableFolder:
    """One table's folder, ``<database>/<name>.lance``, with a copy of the plan's columns next to it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._versions = path / "_versions"
        self._dropped = path.with_name(f".{path.name}.dropped")
        self._copy = path.with_name(f".{path.stem}.rows")
        self.index_record = path.with_name(f".{path.stem}.index")

    def _manifests(self) -> dict[int, Path]:
        found: dict[int, Path] = {}
        with suppress(FileNotFoundError):
            for path in self._versions.iterdir():
                if path.suffix == ".manifest" and path.stem.isdigit():
                    number = int(path.stem)
                    found[_MAX_VERSION - number if len(path.stem) == _V2_DIGITS else number] = path
        return found

    def head_version(self) -> int | None:
        """The newest version that has a manifest, readable or not; None without one."""
        return max(self._manifests(), default=None)

    def num_versions(self) -> int:
        """How many versions the table keeps."""
        return len(self._manifests())

    def files(self) -> set[Path]:
        """Every file of the table. LanceDB gives each a new name, but for the hint."""
        return {Path(folder, name) for folder, _, names in os.walk(self.path) for name in names}

    def sync_since(self, before: Set[Path]) -> None:
        """Make durable every file that is not in ``before``, and all folders that lead to it."""
        hint = self._versions / _HINT
        new = {path for path in (self.files() - before) | {hint} if path.exists()}
        for path in new:
            sync_path(path)
        folders = {path.parent for path in new}
        folders |= {parent for folder in folders for parent in folder.parents if parent.is_relative_to(self.path)}
        for folder in sorted({*folders, self.path, self.path.parent}, reverse=True):
            sync_folder(folder)

    def remove(self) -> None:
        """Remove the table: out of sight in one step, then its files."""
        self.sweep()
        self.path.rename(self._dropped)
        sync_folder(self.path.parent)
        self._copy.unlink(missing_ok=True)
        self.index_record.unlink(missing_ok=True)
        self.sweep()

    def sweep(self) -> None:
        """Remove what processes that were killed left next to the table."""
        if self._dropped.exists():
            shutil.rmtree(self._dropped)
        for kept in (self._copy, self.index_record):
            for path in self.path.parent.glob(f".{kept.name}.*.tmp"):
                path.unlink(missing_ok=True)

    def _stamp(self) -> str:
        """A digest of what tells an old file from a new one, of every file."""
        return digest_of([[str(path.relative_to(self.path)), file_stamp(path.stat())] for path in sorted(self.files())])

    def keep_rows(self, rows: pa.Table) -> None:
        """Keep a copy of these rows as what the table holds now."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        sink = pa.BufferOutputStream()
        stamped = rows.replace_schema_metadata({_STAMP_KEY: self._stamp()})
        pq.write_table(stamped, sink, compression="zstd")
        data = bytes(sink.getvalue())  # a flipped bit in Parquet's own footer would make other rows of it
        publish(self._copy, xxh3_128_digest(data) + data, kind="rows")

    def kept_rows(self) -> pa.Table | None:
        """The copy, if it can be read and every file of the table is as it was then; else None."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            kept = self._copy.read_bytes()
            digest, data = kept[:_DIGEST_BYTES], kept[_DIGEST_BYTES:]
            if xxh3_128_digest(data) != digest:
                return None
            rows = pq.read_table(pa.BufferReader(data), use_threads=False)
            stamp = (rows.schema.metadata or {}).get(_STAMP_KEY, b"")
            return rows.replace_schema_metadata(None) if stamp == self._stamp().encode() else None
        except (OSError, ValueError, pa.ArrowException):  # absent, or of another version, or a file of the table goes
            return None

    def quarantine(self, version: int) -> Path:
        """Move a manifest out of the table, so that the one before it is the newest; return its new place."""
        kept = set_aside(self._manifests()[version], self.path.parent / ".quarantine" / self.path.name)
        (self._versions / _HINT).unlink(missing_ok=True)  # it would name the version just moved
        sync_folder(self._versions)
        return kept
