"""Features out of a store, in forms that other programs read: .npy files, Parquet, WebDataset.

Each file is written aside and renamed, so it is there whole or not at all. The manifest is written last: an export
without one is unfinished, and the same command goes on with it. A folder that holds anything else stays as it is.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import computed_field

from ..._files import is_temporary, make_folder, publish, publish_text
from ..._settings import Settings
from ..._vocabulary import ConfigError, ExitCode, canonical_json, digest_of
from ...store import reader_lock
from ..console import Console, count_of, readable_bytes
from ..project import Project, native_name
from .export_npy import plan_npy
from .export_parquet import plan_parquet
from .export_webdataset import plan_webdataset
from .plans import ExportFile, ExportJob, ExportPlan
from .records import MANIFEST, PENDING, chosen_features, header_of, manifest_text, plan_digest, records_of

UNITS = ("video", "clip")
_PLAN = ".export.json"
BYTES_A_MB = 1_000_000
_WRITERS = 8
_PLANNERS: Mapping[str, Callable[[ExportJob], ExportPlan]] = {
    "npy": plan_npy,
    "parquet": plan_parquet,
    "webdataset": plan_webdataset,
}
FORMATS = tuple(_PLANNERS)


class ExportReport(Settings):
    """The result of an export.

    Attributes:
        folder: the export's folder.
        format: of its files.
        statuses: for each feature, how many videos or captions have each status.
        files: number of files of the export, the manifest included.
        bytes: their size.
        new: False when it was there already.
    """

    folder: Path
    format: str
    statuses: Mapping[str, Mapping[str, int]]
    files: int
    bytes: int
    new: bool

    @property
    def num_pending(self) -> int:
        """Features that were not extracted yet."""
        return sum(one.get(PENDING, 0) for one in self.statuses.values())

    @computed_field  # type: ignore[prop-decorator]
    @property
    def exit_code(self) -> int:
        """3 when something was not there to be exported yet, else 0."""
        return int(ExitCode.FAILURES if self.num_pending else ExitCode.OK)

    def lines(self) -> Iterator[str]:
        """The report as text."""
        verb = "exported" if self.new else "nothing to do, it is there already"
        yield f"{self.folder}: {verb}: {count_of(self.files, 'file')}, {readable_bytes(self.bytes)}"
        for name, counts in self.statuses.items():
            yield f"  {name}: " + ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
        if self.num_pending:
            yield f"{self.num_pending} were not extracted yet: run `frameloom extract`, then export to another folder"


def export(
    project: Project,
    out: Path,
    *,
    format: str,
    features: Sequence[str] | None = None,
    split: str | None = None,
    unit: str = "video",
    shard_mb: int = 128,
    console: Console,
) -> ExportReport:
    """Write the stored features of a project into a folder.

    Args:
        project: may be read-only; nothing in it changes.
        out: a folder that is new, empty, or holds an unfinished export of the same features.
        format: one of `FORMATS`.
        features: names in the project or of backbones; None for all.
        split: only the videos (or clips) and captions of this split.
        unit: of WebDataset samples, one of `UNITS`.
        shard_mb: about how large Parquet and WebDataset files become.
        console: where progress is shown.

    Raises:
        ConfigError: nothing is stored yet, an argument is not one that is allowed, or the folder holds other things.
        IntegrityError: something stored is damaged.
        OutOfSpaceError: the disk is full; the same command goes on.
    """
    for option, value, allowed in (("--format", format, FORMATS), ("--per", unit, UNITS)):
        if value not in allowed:
            raise ConfigError(f"{option} {value!r}: choose {', '.join(allowed[:-1])} or {allowed[-1]}")
    if unit == "clip" and format != "webdataset":
        raise ConfigError(f"--per clip goes with --format webdataset; {format} holds whole videos")
    chosen = chosen_features(project, features)
    header = header_of(chosen, format=format, unit=unit, split=split)
    records = records_of(project, chosen, split=split)
    if not any(record.num_rows for record in records):
        raise ConfigError(f"{project.root} holds no features of this collection yet: run `frameloom extract` first")
    metadata: list[Any] | None = None
    if format == "webdataset":  # whose samples hold what the collection says of its videos
        rows = [[video.video, [asdict(span) for span in video.spans]] for video in project.collection.videos]
        section = project.config.collection
        metadata = [section.clip_seconds, digest_of(rows)]
        if section.stride_seconds is not None or section.shots is not None:
            metadata += [section.stride_seconds, None if section.shots is None else section.shots.model_dump()]
    is_new = _prepare(out, plan_digest(header, records, shard_mb=shard_mb, metadata=metadata))
    job = ExportJob(
        project=project, features=chosen, header=header, records=records, shard_bytes=int(shard_mb * BYTES_A_MB)
    )
    plan = _PLANNERS[format](job)
    texts = {**plan.texts, MANIFEST: manifest_text(header, plan.records)}
    with project.locked(reader_lock):
        _write_files(out, plan.files, console, num_writers=_WRITERS if format == "npy" else 1)
        for name, text in texts.items():
            if not (out / name).exists():
                publish_text(out / name, text)
    statuses: dict[str, Counter[str]] = {}
    for record in plan.records:
        statuses.setdefault(record.feature, Counter())[record.status] += 1
    paths = [out / name for name in (*(native_name(file.name) for file in plan.files), *texts)]
    num_bytes = sum(path.stat().st_size for path in paths)
    return ExportReport(folder=out, format=format, statuses=statuses, files=len(paths), bytes=num_bytes, new=is_new)


def _prepare(out: Path, identity: str) -> bool:
    """Make the folder ready. Returns whether there is anything to do. Raises ConfigError for a folder with others."""
    make_folder(out)
    for path in out.glob(f".{_PLAN}.*.tmp"):  # of an export that was killed before its first file was there
        path.unlink(missing_ok=True)
    there = {path.name for path in out.iterdir()}
    if not there:
        publish_text(out / _PLAN, canonical_json({"plan": identity}))
        return True
    try:
        known = json.loads((out / _PLAN).read_text(encoding="utf-8"))["plan"]
    except (OSError, ValueError, KeyError, TypeError):
        raise ConfigError(f"{out} is not empty: name a new folder; an export never writes over other files") from None
    if known != identity:
        raise ConfigError(
            f"{out} holds another export (of other features, videos or settings): name a new folder, or delete it"
        )
    for path in [one for one in out.rglob(".*") if is_temporary(one.name)]:
        path.unlink(missing_ok=True)
    return MANIFEST not in there


def _write_files(out: Path, files: Sequence[ExportFile], console: Console, *, num_writers: int) -> None:
    """Write what is not there yet, several at a time: nearly all of the time of a small one is waiting for the disk."""
    waiting = [file for file in files if not (out / native_name(file.name)).exists()]
    for folder in sorted({(out / native_name(file.name)).parent for file in waiting}):
        make_folder(folder)

    def write(file: ExportFile) -> int:
        publish(out / native_name(file.name), file.make(), kind="rows")
        return file.count

    with (
        console.progress("export", sum(file.count for file in waiting), "features") as advance,
        ThreadPoolExecutor(num_writers) as pool,
    ):
        try:
            for count in pool.map(write, waiting):
                advance(count)
        finally:
            pool.shutdown(cancel_futures=True)
