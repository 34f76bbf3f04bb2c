"""The manifest of an export: what each video and feature has, and the names of files for videos.

A manifest is JSON lines: first what the export is (`Header`), then one `Record` for each video and feature, also for
those without numbers, so that nothing is left out silently. Records name a file by its bytes' digest and a feature by
its fingerprint, so that what comes back is recognised wherever it lies and whatever it is called.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, field_validator

from ..._registry import nearest
from ..._vocabulary import ConfigError, InputError, Modality, Outcome, Status, canonical_json, digest_of
from ...store import code_version
from ..project import FeatureRequest, ImportRecord, Project, Video, in_split
from ..sync import stream_of, survey, text_digest

MANIFEST = "manifest.jsonl"
PENDING = "pending"
MAX_MANIFEST_LINE = 1_000_000
_MAX_NAME_BYTES = 180  # of 255, which also hold an ending and, while the file is written, a prefix
_MAX_PATH_BYTES = 1000
_STRICT = ConfigDict(frozen=True, extra="forbid", strict=True)


class Record(BaseModel):
    """One feature of one video, or of one caption."""

    model_config = _STRICT

    video: str | None
    """The video's identity in its collection; None for the feature of a caption."""
    caption: str | None
    """The sentence; None for the feature of a video."""
    feature: str
    """Its name in the project: ``video``, ``audio``, ``text``."""
    status: str
    """``ok``, ``pending`` (not extracted yet), or why there are no numbers or not all."""
    message: str
    source_digest: str | None
    """Of the video's bytes, or of the sentence; None where the file could not be read."""
    fingerprint: str | None = None
    """The feature's name in the store."""
    num_rows: int = Field(0, ge=0)
    start_seconds: FiniteFloat | None = None
    end_seconds: FiniteFloat | None = None
    checksum: str | None = Field(None, pattern=r"\A[0-9a-f]{16}\z")
    """`sample_checksum` of values and times."""
    file: str | None = None
    """The file that holds it, from the export's folder, with forward slashes; None without numbers."""

    @field_validator("status")
    @classmethod
    def _known_status(cls, status: str) -> str:
        return status if status == PENDING else Status(status).value

    @property
    def key(self) -> str:
        """The video, or the caption."""
        return self.video if self.video is not None else self.caption or ""

    def contradiction(self) -> str:
        """Why what it says cannot be true of a feature, or be stored; empty where it can."""
        texts = (self.video, self.caption, self.message, self.source_digest, self.fingerprint, self.file)
        try:
            "".join(one or "" for one in texts).encode()
        except UnicodeEncodeError:
            return "its texts hold half a surrogate pair and cannot be written as UTF-8"
        start, end = self.start_seconds, self.end_seconds
        if start is not None and end is not None and start > end:
            return f"it ends at {end:g} s, before it starts at {start:g} s"
        status = None if self.status == PENDING else Status(self.status)
        if self.num_rows and (status is None or (status is not Status.OK and status.outcome is not Outcome.PARTIAL)):
            return f"its status is {self.status}, and it has {self.num_rows} rows"
        return ""


class Header(BaseModel):
    """The header of an export: its format, its unit, and the identity of each feature's numbers."""

    model_config = _STRICT

    format: str
    features: dict[str, dict[str, Any]] = Field(min_length=1)
    unit: Literal["video", "clip"] = "video"
    split: str | None = None
    code_version: str = ""
    frameloom_export: Literal[1] = 1

    @field_validator("features")
    @classmethod
    def _has_a_digest(cls, features: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        canonical_json(features).encode()  # fails for NaN and half a surrogate pair
        return features


def header_of(features: Mapping[str, FeatureRequest], *, format: str, unit: str, split: str | None) -> Header:
    """The header of an export of these features."""
    identities = {name: request.identity() for name, request in features.items()}
    return Header.model_validate(
        {"format": format, "features": identities, "unit": unit, "split": split, "code_version": code_version()}
    )


def chosen_features(project: Project, names: Sequence[str] | None) -> dict[str, FeatureRequest]:
    """The features that the project asks for, by what it calls them: all, or those named by that or by their backbone.

    Raises ConfigError for a name that is neither.
    """
    found = {str(name): request for name, request in project.features().named().items()}
    if not names:
        return found
    chosen: dict[str, FeatureRequest] = {}
    for name in names:
        fitting = {key: request for key, request in found.items() if name in (key, request.name)}
        if not fitting:
            known = [*found, *(request.name for request in found.values())]
            raise ConfigError(f"the configuration asks for no feature {name!r}: {nearest(name, known)}")
        chosen |= fitting
    return chosen


def records_of(project: Project, features: Mapping[str, FeatureRequest], *, split: str | None) -> list[Record]:
    """A record for each video and each caption of a split (or of all) and each feature. Files are hashed, not opened.

    Raises ConfigError when the split has no video.
    """
    files = [state.file for state in survey(project).videos]
    if split is not None:  # a video is in the split of any of its rows
        files = [one for one in files if any(in_split(name, split) for name in _splits(one.video))]
    if not files:
        raise ConfigError(f"no video of the collection is in the split {split!r}: name another, or leave --split out")
    absent = ImportRecord.absent_in(project.root)
    records: list[Record] = []
    for name, request in features.items():
        if request.modality is Modality.TEXT:
            sources: list[tuple[Any, ...]] = [
                (None, caption, text_digest(caption), Status.OK, "") for caption in project.texts(split=split)
            ]
        else:
            sources = [(one.video.video, None, one.digest, one.status, one.message) for one in files]
        for video, caption, digest, status, message in sources:
            facts: dict[str, Any] = {"feature": name, "video": video, "caption": caption, "source_digest": digest}
            facts |= {"status": status.value, "message": message}
            if digest is not None:
                stream = stream_of(project, request, digest, absent)
                facts |= {"status": PENDING, "message": "not extracted yet", "fingerprint": stream.fingerprint}
                if stream.entry is not None:
                    kept = ("message", "num_rows", "start_seconds", "end_seconds", "checksum")
                    facts |= {"status": stream.entry.status.value} | {one: getattr(stream.entry, one) for one in kept}
            records.append(Record(**facts))
    return records


def _splits(video: Video) -> list[str | None]:
    return [span.split for span in video.spans] or [None]


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
    return "".join(canonical_json(one.model_dump()) + "\n" for one in (header, *records))


def plan_digest(header: Header, records: Sequence[Record], **how: Any) -> str:
    """The identity of an export: the same collection, store, features and settings give the same."""
    text = manifest_text(header, records) + canonical_json(how)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def read_manifest(path: Path) -> tuple[Header, list[Record]]:
    """Read the manifest of an export. Raises InputError when it is not one, or holds what an export never writes."""
    header: Header | None = None
    records: list[Record] = []
    try:
        with path.open(encoding="utf-8") as file:
            while line := file.readline(MAX_MANIFEST_LINE):
                if not line.endswith("\n"):
                    raise ValueError("it is cut, or a line is too long")
                data = json.loads(line)
                if header is None:
                    header = Header.model_validate(data)
                else:
                    records.append(Record.model_validate(data))
        if header is None:
            raise ValueError("it is empty")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        problem = f"{'.'.join(map(str, first['loc']))}: {first['input']!r:.80}: {first['msg']}"
        raise InputError(f"{path} is not the manifest of an export: {problem}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not the manifest of an export: {str(error)[:200]}") from error
    return header, records
