"""Export as WebDataset: one sample for each video or clip, with all of its features, captions and metadata."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np

from ..._vocabulary import Clip, canonical_json, digest_of
from ...store.foreign import npy_bytes
from ..project import Project, Video, in_split
from .plans import ExportFile, ExportJob, ExportPlan, in_groups
from .records import Record

SAMPLES = "samples.jsonl"


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
        names = ("status", "message", "source_digest", "fingerprint", "num_rows", "start_seconds", "end_seconds")
        features = {one.feature: {name: getattr(one, name) for name in (*names, "checksum")} for one in self.media}
        return {**self.place(), "captions": list(self.captions), **self.said, "features": features}

    def place(self) -> dict[str, Any]:
        """Its video and span."""
        if self.clip is None:
            return {"video": self.video}
        return {"video": self.video, "start_seconds": self.clip.start_seconds, "end_seconds": self.clip.end_seconds}


def plan_webdataset(job: ExportJob) -> ExportPlan:
    """Shards of about the wanted size, and a list of the samples in them."""
    files: list[ExportFile] = []
    lines: list[str] = []
    shards: dict[str, str] = {}
    for number, group in enumerate(in_groups(list(_samples(job)), lambda one: one.num_bytes, job.shard_bytes)):
        name = f"shard-{number:06d}.tar"
        files.append(ExportFile(name=name, make=partial(_shard, job.project, group), count=len(group)))
        for sample in group:
            shards.setdefault(sample.video, name)
            lines.append(canonical_json({"key": sample.key, "shard": name, **sample.place()}) + "\n")
    is_placed = job.header.unit == "video"
    placed = [
        one.model_copy(update={"file": shards.get(one.video)}) if is_placed and one.video and one.num_rows else one
        for one in job.records
    ]
    return ExportPlan(records=placed, files=files, texts={SAMPLES: "".join(lines)})


def _samples(job: ExportJob) -> Iterator[_WebSample]:
    media: dict[str, list[Record]] = {}
    texts: dict[str, list[Record]] = {}
    for record in job.records:
        if record.video is not None:
            media.setdefault(record.video, []).append(record)
        else:
            texts.setdefault(record.caption or "", []).append(record)
    known = {video.video: video for video in job.project.collection.videos}
    for name, records in media.items():
        if not any(record.num_rows for record in records):
            continue
        units = _clips(job, known[name], records) if job.header.unit == "clip" else [None]
        for clip in units:
            yield _sample(job, known[name], clip, records, texts)


def _clips(job: ExportJob, video: Video, records: list[Record]) -> Iterator[Clip]:
    """The clips of the split that some feature reaches into."""
    spans = [(one.start_seconds, one.end_seconds) for one in records if one.num_rows]
    reached = [(start, end) for start, end in spans if start is not None and end is not None]
    last = max((end for _, end in reached), default=0.0)
    digest = next((one.source_digest for one in records if one.source_digest), "")
    for clip in job.project.clips_of(video, digest, last):
        is_reached = any(start < clip.end_seconds and clip.start_seconds < end for start, end in reached)
        if is_reached and (job.header.split is None or in_split(clip.split, job.header.split)):
            yield clip


def _sample(
    job: ExportJob, video: Video, clip: Clip | None, records: list[Record], texts: Mapping[str, list[Record]]
) -> _WebSample:
    part = 1.0
    if clip is not None:
        captions = clip.captions
        said: dict[str, Any] = {"split": clip.split, "metadata": dict(clip.metadata)}
        whole = max(record.end_seconds or 0.0 for record in records)
        part = min(1.0, (clip.end_seconds - clip.start_seconds) / whole)
    else:
        split = job.header.split
        spans = [span for span in video.spans if split is None or in_split(span.split, split)]
        captions = tuple(dict.fromkeys(caption for span in spans for caption in span.captions))
        said = {"spans": [asdict(span) for span in spans]}

    def num_bytes(record: Record, part: float) -> int:
        spec = job.features[record.feature].spec
        row = spec.dim * np.dtype(spec.dtype).itemsize + 16
        return round(record.num_rows * part * row) + 2048 if record.num_rows else 0

    held = [(number, one) for number, caption in enumerate(captions) for one in texts.get(caption, []) if one.num_rows]
    return _WebSample(
        key=digest_of(["video", video.video]) if clip is None else clip.clip_id,
        video=video.video,
        clip=clip,
        captions=captions,
        said=said,
        media=tuple(records),
        texts=tuple(held),
        num_bytes=sum(num_bytes(one, part) for one in records) + sum(num_bytes(one, 1.0) for _, one in held) + 2048,
    )


def _shard(project: Project, samples: Sequence[_WebSample]) -> bytes:
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
