"""Export as .npy files: ``FEATURE/VIDEO.npy`` (T, D) and ``FEATURE/VIDEO.times.npy`` (T, 2)."""

from __future__ import annotations

from ...store.foreign import npy_bytes
from ..sync import text_digest
from .plans import ExportFile, ExportJob, ExportPlan
from .records import file_names


def plan_npy(job: ExportJob) -> ExportPlan:
    """One file for each video and feature, and for each caption."""
    store = job.project.store
    names = file_names(record.video for record in job.records if record.video is not None)
    placed, files = [], []
    for record in job.records:
        if not record.num_rows or record.fingerprint is None:
            placed.append(record)
            continue
        stem = names[record.video] if record.video is not None else text_digest(record.caption or "")
        name, of = f"{record.feature}/{stem}", record.fingerprint
        placed.append(record.model_copy(update={"file": f"{name}.npy"}))
        if record.video is not None:
            make = lambda of=of: npy_bytes(store.read(of).times)  # noqa: E731
            files.append(ExportFile(name=f"{name}.times.npy", make=make, count=0))
        files.append(ExportFile(name=f"{name}.npy", make=lambda of=of: npy_bytes(store.read(of).values)))  # type: ignore[misc]
    return ExportPlan(records=placed, files=files)
