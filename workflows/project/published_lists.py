"""From the lists that data sets are published with to manifests: which videos, which spans, what is said of them.

msrvtt     .csv with ``video_id`` and ``sentence`` (the test list of 1000 clips), or MSRVTT_data.json (``videos`` with
           ``video_id`` and ``split``, ``sentences`` with ``video_id`` and ``caption``)
youcook2   .csv with ``video_id``, ``start``, ``end`` and ``text`` (the list of 3350 validation clips), or
           youcookii_annotations_trainval.json (``database``: by video its ``subset`` and ``annotations``)
howto100m  .json or .pkl of the narration: by video ``start``, ``end`` and ``text``, lists of the same length; or one
           such .csv of a video, named by it

A row of a manifest is one span of a video with its captions (`manifest.py`). A test list gives a row for each of its
lines. Nothing is downloaded, and nothing in a file is run.

Deviations: a sentence of a narration that lasts no millisecond, or that has no word, is left out and counted.
"""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from ..._files import publish_text
from ..._registry import nearest
from ..._settings import Settings
from ..._vocabulary import ConfigError, ExitCode
from ...store.foreign import read_pickle
from .collection import VIDEO_SUFFIXES
from .manifest import SPLITS, Row, milliseconds, read_csv
from .plain import text_fault

Kind = TypeVar("Kind", str, list[Any])

_SUBSETS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "validate", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


class ManifestReport(Settings):
    """The result of a conversion: the rows and videos written, and those left out.

    Left out are videos of the list that are not in the folder, and sentences without a word or of no length.
    """

    path: str
    rows: int
    videos: int
    without_file: tuple[str, ...]
    left_out: int

    exit_code: ClassVar[int] = ExitCode.OK

    def lines(self) -> Iterator[str]:
        yield f"{self.path}: {self.rows} rows of {self.videos} videos"
        if self.without_file:
            yield f"  {len(self.without_file)} videos are not in the folder, such as {self.without_file[0]!r}"
        if self.left_out:
            yield f"  {self.left_out} sentences have no word or no length and were left out"


def write_published_manifest(
    kind: str, path: Path, out: Path, *, videos: Path | None = None, suffix: str = ".mp4", split: str | None = None
) -> ManifestReport:
    """Write the manifest of a published list.

    Args:
        kind: one of `KINDS`.
        path: the list.
        out: the manifest to write, .jsonl.
        videos: folder of the videos, searched through for a file named by each id; rows of videos that are not there
            are left out. None: every video is taken to be next to the manifest.
        suffix: ending of the videos' files where `videos` is None.
        split: of all rows, in place of what the list says.

    Raises:
        ConfigError: an unknown kind, a list that cannot be read (names the file and the row), a folder that does not
            exist, or no row left.
    """
    if kind not in _READERS:
        raise ConfigError(f"list {kind!r}: {nearest(kind, list(KINDS))}")
    if out.suffix != ".jsonl":
        raise ConfigError(f"{out}: a manifest of captions is written as .jsonl")
    if split is not None and split not in SPLITS:
        raise ConfigError(f"split {split!r} is not one of {', '.join(SPLITS)}")
    files = None if videos is None else _files_by_id(videos, out.parent)
    written: list[str] = []
    named: dict[str, None] = {}
    without: dict[str, None] = {}
    left_out = 0
    for row in _READERS[kind](path):
        name, start, end = row["video"], row.get("start_seconds"), row.get("end_seconds")
        file = f"{name}{suffix}" if files is None else files.get(name)
        lasts = end is None or milliseconds(end) > milliseconds(start or 0.0)
        if not lasts or not any(caption.strip() for caption in row["captions"]):
            left_out += 1
        elif file is None:
            without[name] = None
        else:
            named[name] = None
            for text in (file, *row["captions"]):
                if text_fault(text) is not None:
                    raise ConfigError(f"{path}, {file!a}: {text!a:.60} holds an invalid character: remove it")
            found = {**row, "video": file, "split": split or row["split"]}
            written.append(json.dumps(found, ensure_ascii=False) + "\n")
    if not written:
        raise ConfigError(f"{path}: none of its videos is in {videos}" if without else f"{path} holds no caption")
    publish_text(out, "".join(written))
    return ManifestReport(
        path=str(out), rows=len(written), videos=len(named), without_file=tuple(without), left_out=left_out
    )


def _files_by_id(videos: Path, near: Path) -> dict[str, str]:
    """The file of each video of a folder by its id, as a path relative to the manifest."""
    if not videos.is_dir():
        raise ConfigError(f"{videos} is not a folder: name the one that holds the videos")
    found: dict[str, str] = {}
    for place, folders, files in os.walk(videos):
        folders.sort()
        for file in (Path(place, name) for name in sorted(files)):
            if file.suffix.lower() in VIDEO_SUFFIXES:
                path = os.path.relpath(file, near)
                if file.stem in found:
                    raise ConfigError(
                        f"{videos}: {found[file.stem]} and {path} are both {file.stem!r}: keep one of them"
                    )
                found[file.stem] = path
    return found


def _msrvtt(path: Path) -> Iterator[Row]:
    if path.suffix == ".csv":
        for _, row in _csv_rows(path, ("video_id", "sentence")):
            yield {"video": row["video_id"], "captions": [row["sentence"]], "split": "test"}
        return
    data = _object(path, _json(path), ("videos", "sentences"))
    captions: dict[str, list[str]] = {}
    for number, one in enumerate(_field(data, "sentences", list, path), 1):
        where = f"{path}, sentence {number}"
        captions.setdefault(_field(one, "video_id", str, where), []).append(_field(one, "caption", str, where))
    for number, one in enumerate(_field(data, "videos", list, path), 1):
        where = f"{path}, video {number}"
        name, split = _field(one, "video_id", str, where), _field(one, "split", str, where)
        if name not in captions:
            raise ConfigError(f"{where}: {name!r} has no sentence")
        yield {"video": name, "captions": captions[name], "split": _split(split, where)}


def _youcook2(path: Path) -> Iterator[Row]:
    if path.suffix == ".csv":
        for number, row in _csv_rows(path, ("video_id", "start", "end", "text")):
            span = _span(row["start"], row["end"], f"{path}, row {number}")
            yield {"video": row["video_id"], **span, "captions": [row["text"]], "split": "val"}
        return
    database = _object(path, _json(path), ("database",))["database"]
    for name, about in _object(path, database, ()).items():
        where = f"{path}, {name!r}"
        split = _split(_field(about, "subset", str, where), where)
        for one in _field(about, "annotations", list, where):
            segment = one.get("segment") if isinstance(one, dict) else None
            if not isinstance(segment, list) or len(segment) != 2:
                raise ConfigError(f"{where}: an annotation needs a `segment` of two numbers, found {segment!r:.60}")
            sentence = _field(one, "sentence", str, where)
            yield {"video": name, **_span(segment[0], segment[1], where), "captions": [sentence], "split": split}


def _howto100m(path: Path) -> Iterator[Row]:
    if path.suffix == ".csv":
        for number, row in _csv_rows(path, ("start", "end", "text")):
            span = _span(row["start"], row["end"], f"{path}, row {number}")
            yield {"video": path.stem, **span, "captions": [row["text"]], "split": "train"}
        return
    data = read_pickle(path) if path.suffix in (".pkl", ".pickle") else _json(path)
    for name, about in _object(path, data, ()).items():
        where = f"{path}, {name!r}"
        columns = []
        for key in ("start", "end", "text"):
            if not isinstance(about, Mapping) or key not in about:
                raise ConfigError(f"{where}: it needs start, end and text, and has no {key}")
            values = about[key]
            if isinstance(values, str | bytes) or not hasattr(values, "__iter__"):
                raise ConfigError(f"{where}: {key} must be a list, found {values!r:.60}")
            columns.append(list(values))
        if len({len(column) for column in columns}) > 1:
            raise ConfigError(f"{where}: start, end and text have {[len(column) for column in columns]} values")
        spans = [(_span(start, end, where), text) for start, end, text in zip(*columns, strict=True)]
        for span, text in sorted(spans, key=lambda one: one[0]["start_seconds"]):
            # NaN, pandas' mark of a missing text, where nothing is said.
            is_missing = text is None or (isinstance(text, float) and math.isnan(text))
            yield {"video": name, **span, "captions": ["" if is_missing else str(text)], "split": "train"}


_READERS: Mapping[str, Callable[[Path], Iterator[Row]]] = {
    "howto100m": _howto100m,
    "msrvtt": _msrvtt,
    "youcook2": _youcook2,
}
KINDS = tuple(_READERS)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read as JSON in UTF-8: {error}") from None


def _csv_rows(path: Path, needed: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    try:
        columns, rows = read_csv(path)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path} cannot be read as csv in UTF-8: {error}") from None
    for name in needed:
        if name not in columns:
            raise ConfigError(f"{path}: no column `{name}`: found {', '.join(columns) or 'nothing'}")
    for number, values in enumerate(rows, 1):
        row = dict(zip(columns, values, strict=True))
        if not all(row[name] for name in needed if name != "text"):
            raise ConfigError(f"{path}, row {number}: {', '.join(needed)} must be given")
        yield number, row


def _object(where: Any, value: Any, needed: tuple[str, ...]) -> Mapping[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise ConfigError(f"{where}: an object was expected, found a {type(value).__name__}")
    for key in needed:
        if key not in value:
            raise ConfigError(f"{where}: no `{key}`: found {', '.join(list(value)[:10]) or 'nothing'}")
    return value


def _field(value: Any, key: str, kind: type[Kind], where: Any) -> Kind:
    """A list, or a text that is not empty."""
    found = value.get(key) if isinstance(value, dict) else None
    if not isinstance(found, kind) or found == "":
        raise ConfigError(f"{where}: `{key}` must be a {'text' if kind is str else 'list'}, found {found!r:.60}")
    return found


def _split(name: str, where: str) -> str:
    if name not in _SUBSETS:
        raise ConfigError(f"{where}: split {name!r} is not one of {', '.join(sorted(_SUBSETS))}")
    return _SUBSETS[name]


def _span(start: Any, end: Any, where: str) -> dict[str, float]:
    try:
        span = {"start_seconds": float(start), "end_seconds": float(end)}
    except (TypeError, ValueError, OverflowError):
        raise ConfigError(f"{where}: start {start!r:.40} and end {end!r:.40} must be seconds") from None
    if not 0 <= span["start_seconds"] <= span["end_seconds"] < float("inf"):
        raise ConfigError(f"{where}: {start} to {end} s is no span: 0 <= start <= end is needed")
    return span
