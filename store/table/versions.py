"""The files of a LanceDB table in a folder: which version is newest, and whether its bytes have reached the disk.

None of this loads LanceDB, which takes seconds: a run that finds nothing to do reads a copy of the plan's columns that
was kept next to the table, for as long as no file of the table has changed.

LanceDB commits by renaming a manifest into ``_versions`` and never calls fsync (measured on 0.40). So after a commit
the files that it added are synced here before anyone is told that the rows are safe.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Set
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xxhash import xxh3_128_digest, xxh3_128_hexdigest

from ..._files import file_stamp, publish, set_aside, sync_folder, sync_path
from ..._vocabulary import canonical_json, digest_of

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
        self._digests = path.with_name(f".{path.stem}.files")
        self._checked: tuple[Any, list[Path]] | None = None

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

    def commits(self) -> list[tuple[int, float]]:
        """Version and time of each manifest, newest first; what a writer drops meanwhile is left out."""
        found = []
        for version, path in sorted(self._manifests().items(), reverse=True):
            with suppress(FileNotFoundError):
                found.append((version, path.stat().st_mtime))
        return found

    def num_versions(self) -> int:
        """How many versions the table keeps."""
        return len(self._manifests())

    def num_bytes(self) -> int:
        """Size of all files of the table."""
        return sum(path.lstat().st_size for path in self.files())

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
        self._note(new)

    # Manifests, deletions and indexes have no checksums of their own, and the library trusts them: a flipped bit makes
    # other rows of them, or ends the process. Rows of data files have a checksum each (see `rows.py`).

    def _note(self, new: Set[Path]) -> None:
        """Keep the digest of each new file that is not data, and forget those of files that are gone."""
        known = {name: digest for name, digest in self._noted().items() if (self.path / name).exists()}
        for path in new:
            name = path.relative_to(self.path).as_posix()
            if path.name != _HINT and name not in known and not name.startswith(("data/", "_transactions/")):
                known[name] = xxh3_128_hexdigest(path.read_bytes())
        data = canonical_json(known).encode()
        publish(self._digests, xxh3_128_digest(data) + data, kind="files")

    def _noted(self) -> dict[str, str]:
        try:
            kept = self._digests.read_bytes()
        except FileNotFoundError:
            return {}
        digest, data = kept[:_DIGEST_BYTES], kept[_DIGEST_BYTES:]
        return dict(json.loads(data)) if xxh3_128_digest(data) == digest else {}

    def is_noted(self) -> bool:
        """Whether digests are kept, which a table that an older version wrote has none of."""
        return self._digests.exists()

    def damaged_files(self, *, also_indexes: bool = False) -> list[Path]:
        """Files that are not what was written: manifests and deletions; of indexes, which are large, on request.

        Files that were not noted, as those of a commit under way, are left out.
        """
        noted = self._noted()
        state = (self.head_version(), len(noted), file_stamp(self._digests.stat()) if noted else "")
        if not also_indexes and self._checked is not None and self._checked[0] == state:
            return self._checked[1]
        damaged = []
        for name, digest in sorted(noted.items()):
            path = self.path / name
            with suppress(FileNotFoundError):  # dropped with its version
                if (also_indexes or not name.startswith("_indices/")) and xxh3_128_hexdigest(
                    path.read_bytes()
                ) != digest:
                    damaged.append(path)
        if not also_indexes:
            self._checked = state, damaged
        return damaged

    def damaged_versions(self) -> list[int]:
        """Versions whose manifest, or whose list of deleted rows, is damaged."""
        manifests = self._manifests()
        damaged = self.damaged_files()
        # The name of a list of deleted rows says which version it was made of: later ones may use it.
        made_of = [int(path.name.split("-")[1]) for path in damaged if path.parent.name == "_deletions"]
        first = min(made_of, default=max(manifests, default=0))
        return sorted(one for one, path in manifests.items() if path in damaged or one > first)

    def remove(self) -> None:
        """Remove the table: out of sight in one step, then its files."""
        self.sweep()
        self.path.rename(self._dropped)
        sync_folder(self.path.parent)
        for path in (self._copy, self.index_record, self._digests):
            path.unlink(missing_ok=True)
        self.sweep()

    def sweep(self) -> None:
        """Remove what processes that were killed left next to the table."""
        if self._dropped.exists():
            shutil.rmtree(self._dropped)
        for kept in (self._copy, self.index_record, self._digests):
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

    def set_aside_damage(self) -> list[str]:
        """Move damaged versions out of the table, with lists of deleted rows. Returns a sentence for each."""
        kept = self.path.parent / ".quarantine" / self.path.name
        versions, lists = self.damaged_versions(), [one for one in self.damaged_files() if one.suffix != ".manifest"]
        done = [f"version {one} is not what was written; set aside as {self.quarantine(one)}" for one in versions]
        done += [f"{path.name} is not what was written; set aside as {set_aside(path, kept)}" for path in lists]
        self._note(set())
        return done

    def forget_indexes(self) -> None:
        """Set aside damaged files of indexes that the newest version no longer has."""
        for path in self.damaged_files(also_indexes=True):
            set_aside(path, self.path.parent / ".quarantine" / self.path.name)
        self._note(set())

    def quarantine(self, version: int) -> Path:
        """Move a manifest out of the table, so that the one before it is the newest; return its new place."""
        kept = set_aside(self._manifests()[version], self.path.parent / ".quarantine" / self.path.name)
        (self._versions / _HINT).unlink(missing_ok=True)  # it would name the version just moved
        sync_folder(self._versions)
        self._note(set())  # the next version has this one's name
        return kept
