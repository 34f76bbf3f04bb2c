"""What a person should know of a collection: files passed over, columns that miss ours by a word, rows that differ."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from ..._vocabulary import ConfigError
from ...store import check_metadata_schema
from .manifest import Scalar, Span, span_key

_SOUND_SUFFIXES = frozenset(
    {".aac", ".ac3", ".aif", ".aiff", ".amr", ".ape", ".au", ".caf", ".flac", ".m4a", ".m4b", ".mka", ".mp3", ".oga"}
    | {".ogg", ".opus", ".tta", ".voc", ".wav", ".wma", ".wv"}
)
_OTHER_SUFFIXES = frozenset(
    {".264", ".265", ".amv", ".h264", ".h265", ".hevc", ".m1v", ".m2v", ".nsv", ".nut", ".rm", ".rmvb", ".swf", ".wtv"}
)
# Other tables' names for our columns, which are taken for metadata.
_MEANT = {
    **dict.fromkeys(("start", "start_time", "starttime", "start_sec", "start_s", "begin", "onset"), "start_seconds"),
    **dict.fromkeys(("end", "end_time", "endtime", "end_sec", "end_s", "stop"), "end_seconds"),
    **dict.fromkeys(("text", "sentence", "sentences", "description", "descriptions", "transcript"), "captions"),
    **dict.fromkeys(("subset", "partition"), "split"),
}
_LONGEST_COLUMN = 60


def passed_over_notes(suffixes: Counter[str]) -> Iterator[str]:
    for kinds, why in (
        (_SOUND_SUFFIXES, "have sound alone: a pattern such as 'v/*.wav' takes them in"),
        (_OTHER_SUFFIXES, "are in a container that is not read here: convert them"),
    ):
        those = {suffix: count for suffix, count in sorted(suffixes.items()) if suffix in kinds}
        if those:
            yield f"{sum(those.values())} files ({' '.join(those)}) were passed over: they {why}"


def meant_notes(spans: Sequence[Span]) -> Iterator[str]:
    has = {
        "start_seconds": any(span.start_seconds is not None for span in spans),
        "end_seconds": any(span.end_seconds is not None for span in spans),
        "captions": any(span.captions for span in spans),
        "split": any(span.split is not None for span in spans),
    }
    for column in sorted({key for span in spans for key in span.metadata}):
        name = column.strip().casefold().replace(" ", "_")
        meant = _MEANT.get(name) or next(iter(get_close_matches(name, has, n=1, cutoff=0.8)), None)
        if meant is not None and not has[meant]:
            yield f"the column {column!r} is kept and means nothing here: did you mean {meant!r}?"


def disagreement_notes(videos: Mapping[str, Sequence[Span]]) -> Iterator[str]:
    """Columns in which rows of one clip differ, of which one value alone can be kept."""
    differing: dict[str, list[str]] = {}
    for video, spans in videos.items():
        values: dict[tuple[Any, str], Scalar] = {}
        for span in spans:
            key = None if span.start_seconds is None else span_key(span)
            for column, value in span.metadata.items():
                if value is not None and values.setdefault((key, column), value) != value:
                    differing.setdefault(column, []).append(video)
    for column, where in sorted(differing.items()):
        yield f"rows of one clip differ in the column {column!r}, such as those of {where[0]!r}: the last value is kept"


def renamed_columns(columns: Iterable[str]) -> dict[str, str]:
    """Columns that the table cannot have by their own names, and what they are called there."""
    taken, renamed = {column.casefold() for column in columns}, {}
    for column in sorted(columns):
        try:
            check_metadata_schema({column: "string"})
        except ConfigError:
            name = re.sub(r"[^\w -]+", "_", column).strip(" _-")[:_LONGEST_COLUMN] or "unnamed"
            while name.casefold() in taken or name.casefold() == column.casefold():
                name += "_"
            try:
                check_metadata_schema({name: "string"})
            except ConfigError:
                name += "_"
            taken.add(name.casefold())
            renamed[column] = name
    return renamed
