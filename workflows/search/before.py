"""Which model answers: the configured one, or, while that has no rows yet, the one before."""

from __future__ import annotations

import json
import logging
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from ..._files import file_stamp
from ..._vocabulary import FrameloomError, digest_of
from ...store import quoted
from ...train import read_checkpoint
from ..project import CheckpointRef, Project, Resolved

_log = logging.getLogger(__name__)


def stamp_of(path: Path) -> str | None:
    """What changes when a file is written again; None where it is not there."""
    try:
        return file_stamp(path.stat())
    except (FileNotFoundError, NotADirectoryError):
        return None


def made_by(project: Project) -> tuple[Project, Resolved]:
    """The project, and what is resolved of it, that answers: the configured one, once its rows are there.

    Between a change of the model and the end of the sync that makes its rows, that is the model before, whose
    checkpoint says how it was configured, and whose rows are in the same table or in its own.
    """
    from ..project.config import parse_config

    resolved, table = project.resolve(), project.table
    checkpoint = resolved.checkpoint
    if table.exists() and checkpoint is not None and table.count(f"model = {quoted(checkpoint.digest)}"):
        return project, resolved
    tables = [one for one in (table, *project.other_tables()) if one.exists()]
    digests = {one.name: {row["model"] for row in one.get(columns=["model"])} for one in tables}
    models = project.root / "models"
    for path in sorted(models.glob("*/*/model.json"), key=lambda path: path.stat().st_mtime_ns, reverse=True):
        with suppress(FrameloomError, OSError, ValueError):
            meta = read_checkpoint(path.parent)
            if not any(meta.digest in some for some in digests.values()):
                continue
            config = parse_config(json.loads((path.parent / "frameloom.json").read_text(encoding="utf-8")))
            before = Project(config, project.base, read_only=project.read_only)
            if meta.digest not in digests.get(before.table.name, ()):
                continue
            for vectors in (None, *sorted(models.glob("word_*"))):
                found = before.resolve(word_vectors=vectors)
                if digest_of(found.features.identities()) == digest_of(meta.provenance.get("features", {})):
                    _log.warning("answered by the model before: `frameloom sync` makes the rows of the configured one")
                    return before, replace(found, checkpoint=CheckpointRef(folder=path.parent, digest=meta.digest))
    return project, resolved
