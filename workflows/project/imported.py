"""Features that were made elsewhere: an identity of their own, which claims nothing, and the records of their imports.

``weights: imported:NAME`` says that a feature's numbers came from another program, under a name that the user chose.
They never count as features of published weights, and nothing is ever extracted under that identity.

Each import leaves a record in the store's folder. It says where the numbers came from, and which videos have none:
nothing is stored for those, and nothing waits for them.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from ..._files import make_folder, publish_text
from ..._vocabulary import ConfigError, canonical_json, digest_of

PREFIX = "imported:"
ALLOWED_SECONDS = 60.0
"""How long after their video imported rows may end, where the import does not say it."""
_log = logging.getLogger(__name__)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def imported_weights(weights: str | None) -> str | None:
    """The weights' digest for a fingerprint when they are ``imported:NAME``; None for any others.

    Raises ConfigError for a name with other characters than letters, digits, ``.``, ``_`` and ``-``.
    """
    if weights is None or not weights.startswith(PREFIX):
        return None
    if not _NAME.fullmatch(weights.removeprefix(PREFIX)):
        raise ConfigError(
            f"weights: {weights!r:.100}: after {PREFIX!r} goes a name of at most 64 letters, digits, '.', '_' and '-'"
        )
    return weights


@lru_cache
def _warn_of(path: Path) -> None:
    """Say that a record is damaged; once, although a run reads the records several times."""
    _log.warning(
        "%s is damaged, and nobody knows which videos it says have no feature: delete it, and run its `frameloom import"
        " --absent` again",
        path,
    )


class ImportRecord(BaseModel):
    """One import: what it was asked for, and what it had nothing for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    feature: str
    """The project's name for it."""
    identity: Mapping[str, Any]
    """Specification and weights of the feature."""
    layout: str
    path: str
    array: str | None = None
    suffix: str = ""
    id_key: str | None = None
    mapping: str | None = None
    cast: bool = False
    transposed: bool = False
    seconds_per_row: float | None = None
    allow_length: float | None = None
    vouched: bool = False
    """Whether the user confirms that the configured weights made the numbers."""
    code_version: str = ""
    absent: Mapping[str, str] = {}
    """Fingerprints of features that do not exist, by video or caption."""

    @staticmethod
    def folder(root: Path) -> Path:
        """Where the records of a store's imports are."""
        return root / "imports"

    @classmethod
    def all_in(cls, root: Path) -> list[ImportRecord]:
        """The records of a store's imports, but for those that cannot be read: a warning names each of these once."""
        found = []
        for path in sorted(cls.folder(root).glob("*.json")):
            try:
                found.append(cls.model_validate_json(path.read_bytes()))
            except (OSError, ValidationError):
                _warn_of(path)
        return found

    @classmethod
    def absent_in(cls, root: Path) -> frozenset[str]:
        """Fingerprints of the features that imports had nothing for. What is stored counts more."""
        return frozenset(name for record in cls.all_in(root) for name in record.absent.values())

    def write(self, root: Path) -> None:
        """Keep the record, in place of that of the same import before."""
        facts = self.model_dump(mode="json")
        name = digest_of({key: value for key, value in facts.items() if key != "absent"})
        make_folder(self.folder(root))
        publish_text(self.folder(root) / f"{name}.json", canonical_json(facts) + "\n")
