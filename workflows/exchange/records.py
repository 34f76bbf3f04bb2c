"""What leaves a project and what comes into one: records of features, the manifest, and names of files for videos.

A manifest is JSON lines: first what the export is (`Header`), then one `Record` for each video and feature, also for
those without numbers, so that nothing is left out silently. Records name a file by its bytes' digest and a feature by
its fingerprint, so that what comes back is recognised wherever it lies and whatever it is called.
"""

from __future__ import annotations

import hashlib
import json
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path, PurePosixPath
from typing import Any

from ..._registry import nearest
from ..._vocabulary import ConfigError, InputError, Modality, Outcome, Status, canonical_json, digest_of
from ...store import Entry, code_version, feature_fingerprint
from ..project import FeatureRequest, Project, Video, in_split
from ..sync import survey, text_digest

MANIFEST = "manifest.jsonl"
FORMAT_VERSION = 1
PENDING = "pending"
MAX_MANIFEST_LINE = 1_000_000
_MAX_NAME_BYTES = 180  # of 255, which also hold an ending and, while the file is written, a prefix
_MAX_PATH_BYTES = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One feature of one video, or of one caption.

    Attributes:
        video: the video's identity in its collection; None for the feature of a caption.
        caption: the sentence; None for the feature of a video.
        feature: what the project calls it: ``video``, ``audio``, ``text``.
        status: ``ok``, ``pending`` (not extracted yet), or why there are no numbers or not all.
        message: a sentence for a person.
        source_digest: of the video's bytes, or of the sentence; None where the file could not be read.
        fingerprint: the feature's name in the store.
        num_rows: T.
        start_seconds: as `Entry` has it.
        end_seconds: as `Entry` has it.
        checksum: CRC-32 of values and times.
        file: the file that holds it, from the export's folder, with forward slashes; None without numbers.
    """

    video: str | None
    caption: str | None
    feature: str
    status: str
    message: str
    source_digest: str | None
    fingerprint: str | None = None
    num_rows: int = 0
    start_seconds: float | None = None
    end_seconds: float | None = None
    checksum: int | None = None
    file: str | None = None

    @property
    def key(self) -> str:
        """What a person calls it."""
        return self.video if self.video is not None else self.caption or ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What an export is: its format, its unit (``video`` or ``clip``), what identifies each feature's numbers."""

    format: str
    features: Mapping[str, Mapping[str, Any]]
    unit: str = "video"
    split: str | None = None
    code_version: str = ""
    frameloom_export: int = FORMAT_VERSION


def header_of(wants: Mapping[str, FeatureRequest], *, format: str, unit: str, split: str | None) -> Header:
    """The header of an export of these features."""
    identities = {name: want.identity() for name, want in wants.items()}
    return Header(format=format, features=identities, unit=unit, split=split, code_version=code_version())


def chosen_wants(project: Project, names: Sequence[str] | None) -> dict[str, FeatureRequest]:
    """The features that the project asks for, by what it calls them: all, or those named by that or by their backbone.

    Raises UnknownNameError for a name that is neither.
    """
    found = {str(name): want for name, want in project.features().named().items()}
    if not names:
        return found
    chosen: dict[str, FeatureRequest] = {}
    for name in names:
        fitting = {key: want for key, want in found.items() if name in (key, want.spec.name)}
        if not fitting:
            known = [*found, *(want.spec.name for want in found.values())]
            raise ConfigError(f"the configuration asks for no feature {name!r}: {nearest(name, known)}")
        chosen |= fitting
    return chosen


def records_of(project: Project, wants: Mapping[str, FeatureRequest], *, split: str | None) -> list[Record]:
    """A record for each video and each caption of a split (or of all) and each feature. Files are hashed, not opened.

    Raises ConfigError when the split has no video.
    """
    found = [state.file for state in survey(project).videos if split is None or is_in_split(state.file.video, split)]
    if not found:
        raise ConfigError(f"no video of the collection is in the split {split!r}: name another, or leave --split out")
    media = {name: want for name, want in wants.items() if want.modality is not Modality.TEXT}
    texts = {name: want for name, want in wants.items() if want.modality is Modality.TEXT}
    records = [_video_record(project, file, name, want) for name, want in media.items() for file in found]
    for name, want in texts.items():
        captions = project.texts(split=split)
        records += [_caption_record(project, caption, name, want) for caption in captions]
    return records


def is_in_split(video: Video, split: str) -> bool:
    """Whether any of a video's rows belongs to a split."""
    return any(in_split(span.split, split) for span in video.spans) if video.spans else in_split(None, split)


def _video_record(project: Project, file: Any, name: str, want: FeatureRequest) -> Record:
    record = Record(
        video=file.video.video,
        caption=None,
        feature=name,
        status=file.status.value,
        message=file.message,
        source_digest=file.digest,
    )
    return record if file.digest is None else _stored(project, record, want)


def _caption_record(project: Project, caption: str, name: str, want: FeatureRequest) -> Record:
    digest = text_digest(caption)
    return _stored(
        project,
        Record(video=None, caption=caption, feature=name, status=PENDING, message="", source_digest=digest),
        want,
    )


def _stored(project: Project, record: Record, want: FeatureRequest) -> Record:
    assert record.source_digest is not None
    fingerprint = feature_fingerprint(record.source_digest, want.spec, want.weights_digest)
    entry: Entry | None = project.store.entry(fingerprint)
    if entry is None:
        return replace(record, status=PENDING, message="not extracted yet", fingerprint=fingerprint)
    names = ("num_rows", "start_seconds", "end_seconds", "checksum", "message")
    known = {name: getattr(entry, name) for name in names}
    return replace(record, status=entry.status.value, fingerprint=fingerprint, **known)


# Names of files


def file_names(keys: Iterable[str]) -> dict[str, str]:
    """A path below a folder for each key, mirroring it: no two alike on any file system, none outside the folder.

    A key that cannot be a path as it is (absolute, with ``..``, too long, or alike to another but for case or spelling
    in Unicode) becomes one that ends in ``~`` and its digest.
    """
    keys = list(dict.fromkeys(keys))
    plain = {key: key if _is_plain(key) else _with_digest(key) for key in keys}
    alike = Counter(_folded(name) for name in plain.values())
    folders = {_folded(str(folder)) for name in plain.values() for folder in PurePosixPath(name).parents}

    def clashes(name: str) -> bool:
        mine = _folded(name)
        is_folder = any(mine + ending in folders for ending in (".npy", ".times.npy"))
        return alike[mine] > 1 or is_folder or (mine.endswith(".times") and mine.removesuffix(".times") in alike)

    return {key: _with_digest(key) if clashes(name) else name for key, name in plain.items()}


def _is_plain(key: str) -> bool:
    parts = key.split("/")
    is_short = len(key.encode()) <= _MAX_PATH_BYTES and all(len(part.encode()) <= _MAX_NAME_BYTES for part in parts)
    return is_short and "~" not in key and "\0" not in key and not any(part in ("", ".", "..") for part in parts)


def _with_digest(key: str) -> str:
    stem = PurePosixPath(key).name.encode()[:80].decode(errors="ignore").replace("~", "_")
    return f"_renamed/{stem or 'video'}~{digest_of(key)}"


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


# The manifest


def manifest_text(header: Header, records: Sequence[Record]) -> str:
    """The manifest of an export."""
    return "".join(canonical_json(one) + "\n" for one in (asdict(header), *map(asdict, records)))


def plan_digest(header: Header, records: Sequence[Record], **how: Any) -> str:
    """What identifies an export: the same collection, store, features and settings give the same."""
    text = manifest_text(header, records) + canonical_json(how)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def read_manifest(path: Path) -> tuple[Header, list[Record]]:
    """Read the manifest of an export. Raises InputError when it is not one, or says what none of ours says."""
    try:
        lines = _manifest_lines(path)
        header = _checked_header(next(lines, {}))
        records = [_checked_record(line) for line in lines]
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise InputError(f"{path} is not the manifest of an export: {str(error)[:200]}") from error
    return header, records


def _manifest_lines(path: Path) -> Iterator[Any]:
    with path.open(encoding="utf-8") as file:
        while line := file.readline(MAX_MANIFEST_LINE):
            if not line.endswith("\n"):
                raise ValueError("it is cut, or a line is too long")
            yield json.loads(line)


def _checked(kind: type[Any], data: Any) -> Any:
    names = {field.name for field in fields(kind)}
    if not isinstance(data, dict) or not set(data) <= names:
        raise ValueError(f"a line holds {data!r:.80}")
    return kind(**data)


def _checked_header(data: Any) -> Header:
    header: Header = _checked(Header, data)
    if header.frameloom_export != FORMAT_VERSION:
        raise ValueError(f"its format is {header.frameloom_export!r:.20}; {FORMAT_VERSION} is read")
    if header.unit not in ("video", "clip") or not isinstance(header.format, str):
        raise ValueError(f"it holds {header.unit!r:.40} as {header.format!r:.40}")
    features = header.features
    if not isinstance(features, dict) or not features or not all(isinstance(one, dict) for one in features.values()):
        raise ValueError(f"its features are {features!r:.80}")
    canonical_json([header.format, features]).encode()  # fails for what has no digest: NaN, half a surrogate pair
    return header


def _checked_record(data: Any) -> Record:
    record: Record = _checked(Record, data)
    texts = (record.feature, record.status, record.message)
    maybe = (record.video, record.caption, record.source_digest, record.fingerprint, record.file)
    if not all(isinstance(one, str) for one in texts) or not all(isinstance(one, str | None) for one in maybe):
        raise ValueError(f"a line holds {data!r:.80}")
    seconds, maximum = (record.start_seconds, record.end_seconds), sys.float_info.max
    if not all(one is None or _is_number(one, int | float, -maximum, maximum) for one in seconds):
        raise ValueError(f"seconds are {seconds!r:.80}; finite numbers are wanted")
    checksum = record.checksum
    if not _is_number(record.num_rows, int, 0) or not (checksum is None or _is_number(checksum, int, 0, 0xFFFFFFFF)):
        raise ValueError(f"there are {record.num_rows!r:.40} rows with the checksum {checksum!r:.40}")
    if record.status != PENDING:
        Status(record.status)
    return record


def _is_number(value: Any, kind: Any, least: float, most: float = float("inf")) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool) and least <= value <= most


def contradiction(record: Record) -> str:
    """Why what a record says cannot be true of a feature, or be stored; empty where it can."""
    texts = (record.video, record.caption, record.message, record.source_digest, record.fingerprint, record.file)
    try:
        "".join(one or "" for one in texts).encode()
    except UnicodeEncodeError:
        return "its texts hold half a surrogate pair and cannot be written as UTF-8"
    start, end = record.start_seconds, record.end_seconds
    if start is not None and end is not None and start > end:
        return f"it ends at {end:g} s, before it starts at {start:g} s"
    if record.num_rows and (record.status == PENDING or not _has_rows(Status(record.status))):
        return f"its status is {record.status}, and it has {record.num_rows} rows"
    return ""


def _has_rows(status: Status) -> bool:
    return status is Status.OK or status.outcome is Outcome.PARTIAL
