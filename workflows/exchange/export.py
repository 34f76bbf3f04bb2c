"""Features out of a store, in forms that other programs read: .npy files, Parquet, WebDataset.

Each file is written aside and renamed, so it is there whole or not at all. The manifest is written last: an export
without one is unfinished, and the same command goes on with it. A folder that holds anything else is left alone.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from ..._files import make_folder, publish
from ..._vocabulary import Clip, ConfigError, ExitCode, InputError, canonical_json, digest_of
from ...store import reader_lock
from ...store.foreign import npy_bytes
from ..console import Console, count_of, readable_bytes
from ..project import FeatureRequest, Project, Video, clips_of, in_split
from ..sync import text_digest
from .records import (
    MANIFEST,
    PENDING,
    Header,
    Record,
    chosen_wants,
    file_names,
    header_of,
    manifest_text,
    plan_digest,
    records_of,
)

Format = Literal["npy", "parquet", "webdataset"]
FORMATS: tuple[str, ...] = get_args(Format)
Unit = Literal["video", "clip"]
UNITS: tuple[str, ...] = get_args(Unit)
SAMPLES = "samples.jsonl"
_PLAN = ".export.json"
_WRITERS = 8
_PARQUET_LIMIT = 2**31 - 1
_ROWS_IN_GROUP = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportReport:
    """What was exported.

    Attributes:
        folder: where it lies.
        format: of its files.
        statuses: for each feature, how many videos or captions have each status.
        num_files: files of the export, the manifest included.
        num_bytes: their size.
        is_new: False when it was there already.
    """

    folder: Path
    format: str
    statuses: Mapping[str, Mapping[str, int]]
    num_files: int
    num_bytes: int
    is_new: bool

    @property
    def num_pending(self) -> int:
        """Features that were not extracted yet."""
        return sum(one.get(PENDING, 0) for one in self.statuses.values())

    @property
    def exit_code(self) -> int:
        """3 when something was not there to be exported yet, else 0."""
        return ExitCode.FAILURES if self.num_pending else ExitCode.OK

    def lines(self) -> Iterator[str]:
        """The report for a person."""
        verb = "exported" if self.is_new else "nothing to do, it is there already"
        yield f"{self.folder}: {verb}: {count_of(self.num_files, 'file')}, {readable_bytes(self.num_bytes)}"
        for name, counts in self.statuses.items():
            yield f"  {name}: " + ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
        if self.num_pending:
            yield f"{self.num_pending} were not extracted yet: run `frameloom extract`, then export to another folder"

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "folder": str(self.folder),
            "format": self.format,
            "statuses": {name: dict(counts) for name, counts in self.statuses.items()},
            "files": self.num_files,
            "bytes": self.num_bytes,
            "new": self.is_new,
            "exit_code": self.exit_code,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    """One file of an export: its path in the folder, what makes its bytes, and how many features it counts for."""

    name: str
    make: Callable[[], bytes]
    count: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """An export before it is written: records with the files that hold them, the files, and further small ones."""

    records: list[Record]
    files: list[_File]
    texts: Mapping[str, str]


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
    _check_choice("--format", format, FORMATS)
    _check_choice("--per", unit, UNITS)
    if unit == "clip" and format != "webdataset":
        raise ConfigError(f"--per clip goes with --format webdataset; {format} holds whole videos")
    wants = chosen_wants(project, features)
    header = header_of(wants, format=format, unit=unit, split=split)
    records = records_of(project, wants, split=split)
    if not any(record.num_rows for record in records):
        raise ConfigError(f"{project.root} holds no features of this collection yet: run `frameloom extract` first")
    identity = plan_digest(header, records, shard_mb=shard_mb, metadata=_said_of(project) if format[0] == "w" else None)
    is_new = _prepare(out, identity)
    plan = _PLANNERS[format](project, wants, header, records, shard_mb * 1_000_000)
    with reader_lock(project.root):
        _write(out, plan, header, console)
    return _report(out, format, plan, is_new)


def _check_choice(option: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise ConfigError(f"{option} {value!r}: choose {', '.join(allowed[:-1])} or {allowed[-1]}")


def _said_of(project: Project) -> list[Any]:
    """What a collection says of its videos, which WebDataset samples hold."""
    seconds = project.config.collection.clip_seconds
    rows = [[video.video, [asdict(span) for span in video.spans]] for video in project.collection.videos]
    return [seconds, digest_of(rows)]


def _prepare(out: Path, identity: str) -> bool:
    """Make the folder ready. Returns whether there is anything to do. Raises ConfigError for a folder with others."""
    make_folder(out)
    for path in out.glob(f".{_PLAN}.*.tmp"):  # of an export that was killed before its first file was there
        path.unlink(missing_ok=True)
    there = {path.name for path in out.iterdir()}
    if not there:
        publish(out / _PLAN, canonical_json({"plan": identity}).encode(), kind="text")
        return True
    try:
        known = json.loads((out / _PLAN).read_text(encoding="utf-8"))["plan"]
    except (OSError, ValueError, KeyError, TypeError):
        raise ConfigError(f"{out} is not empty: name a new folder; an export never writes over other files") from None
    if known != identity:
        raise ConfigError(
            f"{out} holds another export (of other features, videos or settings): name a new folder, or delete it"
        )
    for path in out.rglob(".*.tmp"):
        path.unlink(missing_ok=True)
    return MANIFEST not in there


def _write(out: Path, plan: _Plan, header: Header, console: Console) -> None:
    waiting = [file for file in plan.files if not (out / file.name).exists()]
    for folder in sorted({(out / file.name).parent for file in waiting}):
        make_folder(folder)
    with console.progress("export", sum(file.count for file in waiting), "features") as advance:
        for file in _published(out, waiting, num_writers=_WRITERS if header.format == "npy" else 1):
            advance(file.count)
    for name, text in {**plan.texts, MANIFEST: manifest_text(header, plan.records)}.items():
        if not (out / name).exists():
            publish(out / name, text.encode(), kind="text")


def _published(out: Path, files: Sequence[_File], *, num_writers: int) -> Iterator[_File]:
    """Publish files, several at a time: nearly all of the time of a small one is waiting for the disk."""

    def publish_one(file: _File) -> _File:
        publish(out / file.name, file.make(), kind="rows")
        return file

    with ThreadPoolExecutor(num_writers) as pool:
        try:
            yield from pool.map(publish_one, files)
        finally:
            pool.shutdown(cancel_futures=True)


def _report(out: Path, format: str, plan: _Plan, is_new: bool) -> ExportReport:
    statuses: dict[str, Counter[str]] = {}
    for record in plan.records:
        statuses.setdefault(record.feature, Counter())[record.status] += 1
    paths = [out / name for name in (*(file.name for file in plan.files), *plan.texts, MANIFEST)]
    return ExportReport(
        folder=out,
        format=format,
        statuses=statuses,
        num_files=len(paths),
        num_bytes=sum(path.stat().st_size for path in paths),
        is_new=is_new,
    )


# One file for each video


def _plan_npy(
    project: Project, _wants: Mapping[str, FeatureRequest], _header: Header, records: list[Record], _shard_bytes: int
) -> _Plan:
    names = file_names(record.video for record in records if record.video is not None)
    placed: list[Record] = []
    files: list[_File] = []
    for record in records:
        if not record.num_rows:
            placed.append(record)
            continue
        stem = names[record.video] if record.video is not None else text_digest(record.caption or "")
        name = f"{record.feature}/{stem}"
        placed.append(replace(record, file=f"{name}.npy"))
        if record.video is not None:
            files.append(_File(name=f"{name}.times.npy", make=partial(_times_bytes, project, record), count=0))
        files.append(_File(name=f"{name}.npy", make=partial(_values_bytes, project, record)))
    return _Plan(records=placed, files=files, texts={})


def _values_bytes(project: Project, record: Record) -> bytes:
    return npy_bytes(project.store.read(record.fingerprint or "").values)


def _times_bytes(project: Project, record: Record) -> bytes:
    return npy_bytes(project.store.read(record.fingerprint or "").times)


# Parquet


def _plan_parquet(
    project: Project, wants: Mapping[str, FeatureRequest], header: Header, records: list[Record], shard_bytes: int
) -> _Plan:
    files: list[_File] = []
    placed: list[Record] = []
    for number, group in enumerate(_groups(records, lambda one: _table_bytes(one, wants), shard_bytes)):
        name = f"part-{number:05d}.parquet"
        held = [record for record in group if record.num_rows]
        placed += [replace(record, file=name) if record.num_rows else record for record in group]
        if held:
            files.append(_File(name=name, make=partial(_table_of, project, held, header), count=len(held)))
    return _Plan(records=placed, files=files, texts={})


def _groups(items: Sequence[Any], size: Callable[[Any], int], limit: int) -> Iterator[list[Any]]:
    """Cut a list so that no part is larger than the limit, unless one item is."""
    group: list[Any] = []
    total = 0
    for item in items:
        if group and total + size(item) > limit:
            yield group
            group, total = [], 0
        group.append(item)
        total += size(item)
    if group:
        yield group


def _table_bytes(record: Record, wants: Mapping[str, FeatureRequest]) -> int:
    return record.num_rows * (wants[record.feature].spec.dim * 4 + 24) + 64


def _table_of(project: Project, records: Sequence[Record], header: Header) -> bytes:
    """Rows of several features as a Parquet file; values are float32, which holds every stored type exactly."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(
        [
            pa.field("video", pa.string()),
            pa.field("caption", pa.string()),
            pa.field("feature", pa.string()),
            pa.field("index", pa.int64()),
            pa.field("start_seconds", pa.float64()),
            pa.field("end_seconds", pa.float64()),
            pa.field("values", pa.list_(pa.float32())),
        ],
        metadata={"frameloom": canonical_json(asdict(header))},
    )
    sink = pa.BufferOutputStream()
    names = [name for name in schema.names if name != "values"]  # numbers do not repeat: a dictionary costs time alone
    with pq.ParquetWriter(sink, schema, compression="zstd", use_dictionary=names, write_page_checksum=True) as writer:
        for group in _groups(records, lambda one: one.num_rows, _ROWS_IN_GROUP):
            writer.write_table(pa.concat_tables([_rows_of(project, record, schema) for record in group]))
    return bytes(sink.getvalue())


def _rows_of(project: Project, record: Record, schema: Any) -> Any:
    import pyarrow as pa

    feature = project.store.read(record.fingerprint or "")
    count, dim = feature.values.shape
    if count * dim > _PARQUET_LIMIT:
        raise InputError(f"{record.key!r}: {count} rows of {dim} are too many for one Parquet list: use --format npy")
    offsets = np.arange(0, (count + 1) * dim, dim, dtype=np.int32)
    flat = feature.values.astype(np.float32).reshape(-1)
    times = [pa.array(column, from_pandas=True) for column in feature.times.T.copy()]  # NaN becomes null
    names = [pa.array([one] * count, pa.string()) for one in (record.video, record.caption, record.feature)]
    values = pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat))
    return pa.Table.from_arrays([*names, pa.array(np.arange(count)), *times, values], schema=schema)


# WebDataset


@dataclass(frozen=True, slots=True, kw_only=True)
class _WebSample:
    """One sample: its key, its span (None: the whole video), and the records of what it holds."""

    key: str
    video: str
    clip: Clip | None
    captions: tuple[str, ...]
    said: Mapping[str, Any]
    media: tuple[Record, ...]
    texts: tuple[tuple[int, Record], ...]
    num_bytes: int

    def described(self) -> dict[str, Any]:
        """The sample's JSON."""
        span = {} if self.clip is None else {
            "start_seconds": self.clip.start_seconds,
            "end_seconds": self.clip.end_seconds,
        }  # fmt: skip
        names = ("status", "message", "source_digest", "fingerprint", "num_rows", "start_seconds", "end_seconds")
        features = {one.feature: {name: getattr(one, name) for name in (*names, "checksum")} for one in self.media}
        return {"video": self.video, **span, "captions": list(self.captions), **self.said, "features": features}


def _plan_webdataset(
    project: Project, wants: Mapping[str, FeatureRequest], header: Header, records: list[Record], shard_bytes: int
) -> _Plan:
    samples = list(_web_samples(project, wants, header, records))
    files: list[_File] = []
    lines: list[str] = []
    shards: dict[str, str] = {}
    for number, group in enumerate(_groups(samples, lambda one: one.num_bytes, shard_bytes)):
        name = f"shard-{number:06d}.tar"
        files.append(_File(name=name, make=partial(_tar_of, project, group), count=len(group)))
        for sample in group:
            shards.setdefault(sample.video, name)
            span = sample.described()
            kept = {one: span[one] for one in ("video", "start_seconds", "end_seconds") if one in span}
            lines.append(canonical_json({"key": sample.key, "shard": name, **kept}) + "\n")
    placed = [
        replace(one, file=shards.get(one.video)) if header.unit == "video" and one.video and one.num_rows else one
        for one in records
    ]
    return _Plan(records=placed, files=files, texts={SAMPLES: "".join(lines)})


def _web_samples(
    project: Project, wants: Mapping[str, FeatureRequest], header: Header, records: list[Record]
) -> Iterator[_WebSample]:
    media: dict[str, list[Record]] = {}
    texts: dict[str, list[Record]] = {}
    for record in records:
        if record.video is not None:
            media.setdefault(record.video, []).append(record)
        else:
            texts.setdefault(record.caption or "", []).append(record)
    known = {video.video: video for video in project.collection.videos}
    for name, found in media.items():
        if not any(record.num_rows for record in found):
            continue
        units = _clips(project, known[name], found, header.split) if header.unit == "clip" else [None]
        for clip in units:
            yield _web_sample(known[name], clip, found, texts, wants, header.split)


def _clips(project: Project, video: Video, records: list[Record], split: str | None) -> Iterator[Clip]:
    end = max((record.end_seconds or 0.0 for record in records if record.num_rows), default=0.0)
    for clip in clips_of(video, end, clip_seconds=project.config.collection.clip_seconds):
        reached = any(_reaches(record, clip) for record in records)
        if reached and (split is None or in_split(clip.split, split)):
            yield clip


def _reaches(record: Record, clip: Clip) -> bool:
    if not record.num_rows or record.start_seconds is None or record.end_seconds is None:
        return False
    return record.start_seconds < clip.end_seconds and clip.start_seconds < record.end_seconds


def _web_sample(
    video: Video,
    clip: Clip | None,
    records: list[Record],
    texts: Mapping[str, list[Record]],
    wants: Mapping[str, FeatureRequest],
    split: str | None,
) -> _WebSample:
    spans = [span for span in video.spans if split is None or in_split(span.split, split)]
    if clip is not None:
        captions = clip.captions
        said: dict[str, Any] = {"split": clip.split, "metadata": dict(clip.metadata)}
    else:
        captions = tuple(dict.fromkeys(caption for span in spans for caption in span.captions))
        said = {"spans": [asdict(span) for span in spans]}
    length = 1.0 if clip is None else clip.end_seconds - clip.start_seconds
    whole = 1.0 if clip is None else max(record.end_seconds or 0.0 for record in records)
    held = [(number, one) for number, caption in enumerate(captions) for one in texts.get(caption, []) if one.num_rows]
    num_bytes = sum(_npy_size(one, wants, length / whole) for one in records) + 2048
    return _WebSample(
        key=digest_of(["video", video.video]) if clip is None else clip.clip_id,
        video=video.video,
        clip=clip,
        captions=captions,
        said=said,
        media=tuple(records),
        texts=tuple(held),
        num_bytes=num_bytes + sum(_npy_size(one, wants, 1.0) for _, one in held),
    )


def _npy_size(record: Record, wants: Mapping[str, FeatureRequest], part: float) -> int:
    spec = wants[record.feature].spec
    row = spec.dim * np.dtype(spec.dtype).itemsize + 16
    return round(record.num_rows * min(1.0, part) * row) + 2048 if record.num_rows else 0


def _tar_of(project: Project, samples: Sequence[_WebSample]) -> bytes:
    import tarfile

    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as tar:
        for sample in samples:
            for ending, data in _members(project, sample):
                info = tarfile.TarInfo(f"{sample.key}.{ending}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return sink.getvalue()


def _members(project: Project, sample: _WebSample) -> Iterator[tuple[str, bytes]]:
    yield "json", canonical_json(sample.described()).encode()
    for record in sample.media:
        if not record.num_rows or record.fingerprint is None:
            continue
        if sample.clip is None:
            feature = project.store.read(record.fingerprint)
        else:
            span = sample.clip
            feature = project.store.read_span(record.fingerprint, span.start_seconds, span.end_seconds)
        if len(feature.values):
            yield f"{record.feature}.npy", npy_bytes(feature.values)
            yield f"{record.feature}.times.npy", npy_bytes(feature.times)
    for number, record in sample.texts:
        yield f"{record.feature}.{number}.npy", npy_bytes(project.store.read(record.fingerprint or "").values)


_PLANNERS: Mapping[str, Callable[[Project, Mapping[str, FeatureRequest], Header, list[Record], int], _Plan]] = {
    "npy": _plan_npy,
    "parquet": _plan_parquet,
    "webdataset": _plan_webdataset,
}
