"""What is found when a store is looked at, and what a repair says that it did."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from ..formats import one_line


class Kind(StrEnum):
    """What a finding is about. The list is closed."""

    SAMPLE = "sample"
    SHARD = "shard"
    SHARD_METADATA = "shard_metadata"
    SIDECAR = "sidecar"
    MISSING_SHARD = "missing_shard"
    TABLE = "table"
    BAD_ROW = "bad_row"
    DOUBLE_ROW = "double_row"
    CHECKPOINT = "checkpoint"
    WORD_VECTORS = "word_vectors"
    # Nothing is damaged: work that a later run finishes.
    UNFINISHED_FILE = "unfinished_file"
    ORPHANED_ROW = "orphaned_row"
    OUTDATED_ROW = "outdated_row"
    MISSING_ROW = "missing_row"


_NOTES = frozenset({Kind.UNFINISHED_FILE, Kind.ORPHANED_ROW, Kind.OUTDATED_ROW, Kind.MISSING_ROW})


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is not as it was written, or not finished.

    Attributes:
        path: the file, or the table's folder; the address of a file that does not lie on this machine.
        message: what is wrong, in one line.
        remedy: what can be had again, and how.
        feature: name of the feature; empty where none is concerned.
        key: what a person calls the sample, or the id of the row; empty where none is concerned.
        fingerprint: of the sample or the row.
    """

    kind: Kind
    path: Path | str
    message: str
    remedy: str
    feature: str = ""
    key: str = ""
    fingerprint: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "message", one_line(self.message))  # those of libraries may have several

    @property
    def is_damage(self) -> bool:
        """Whether something that was written is no longer what was written."""
        return self.kind not in _NOTES

    def as_dict(self) -> dict[str, Any]:
        names = ("kind", "path", "feature", "key", "fingerprint", "message", "remedy")
        return {name: str(getattr(self, name)) for name in names} | {"damage": self.is_damage}


@dataclass(frozen=True, slots=True, kw_only=True)
class Repaired:
    """What one repair did, or with ``dry_run`` would do.

    Attributes:
        kind: of the finding that it answers, as is the path.
        kept: where the damaged files are kept: a folder or an address.
        lost: key and fingerprint of each sample that is gone until the next sync.
    """

    kind: Kind
    path: Path | str
    message: str
    kept: Path | str | None = None
    lost: tuple[tuple[str, str], ...] = ()

    def as_dict(self) -> dict[str, Any]:
        return {
            "kind": str(self.kind),
            "path": str(self.path),
            "message": self.message,
            "kept": None if self.kept is None else str(self.kept),
            "lost": [{"key": key, "fingerprint": fingerprint} for key, fingerprint in self.lost],
        }
