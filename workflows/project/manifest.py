"""Manifests: tables (.csv, .jsonl, .parquet) that say what videos show: spans, captions, splits and metadata."""

from __future__ import annotations

import ast
import csv
import io
import json
import math
import re
import tokenize
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from ..._vocabulary import ConfigError
from .plain import text_fault

MANIFEST_SUFFIXES = frozenset({".csv", ".jsonl", ".parquet"})
SPLITS = ("train", "val", "test")
ONLY_LOCAL = "only local files can be read for now: download them and give their path"
LONGEST_SECONDS = 1e9
_OWN_COLUMNS = frozenset({"video", "captions", "caption", "start_seconds", "end_seconds", "split"})
_PYTHON_LIST = re.compile(r"\s*\[\s*(u?['\"]|np\.|array\()")
_PYTHON_TUPLE = re.compile(r"\s*(\(\s*['\"].*,.*\)|\{\s*['\"].*['\"]\s*\})\s*", re.DOTALL)
_INT64 = range(-(2**63), 2**63)
# Numbers as a program writes them: a zero in front (007) marks a name, which a number would lose.
_KINDS: tuple[tuple[re.Pattern[str], Callable[[str], str | int | float | bool]], ...] = (
    (re.compile(r"-?(0|[1-9][0-9]*)"), int),
    (
        re.compile(r"-?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)(e[+-]?[0-9]+)?|[+-]?(nan|inf|infinity)", re.IGNORECASE),
        float,
    ),
    (re.compile(r"true|false", re.IGNORECASE), lambda text: text.casefold() == "true"),
)

Scalar = str | int | float | bool | None
Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """One row of a manifest: what is said of a video, or of a part of it (start and end are None for the whole)."""

    captions: tuple[str, ...] = ()
    start_seconds: float | None = None
    end_seconds: float | None = None
    split: str | None = None
    metadata: Mapping[str, Scalar] = field(default_factory=dict)


def is_address(text: str) -> bool:
    """Whether a text is a URL, such as s3://bucket/a.mp4, and not a path."""
    return "://" in text


def milliseconds(seconds: float) -> int:
    """The form of an instant in a clip's identity: spans that agree in milliseconds are one clip."""
    return round(seconds * 1000)


def span_key(span: Span) -> tuple[int, int | None]:
    """What makes spans of one video one clip: their instants in milliseconds."""
    return milliseconds(span.start_seconds or 0.0), None if span.end_seconds is None else milliseconds(span.end_seconds)


def read_manifest(path: Path, *, needs_captions: bool) -> Iterator[tuple[str, Span]]:
    """The rows of a manifest as (video, span). Raises ConfigError that names the file and the row."""
    reader = {".csv": _csv_rows, ".jsonl": _jsonl_rows, ".parquet": _parquet_rows}.get(path.suffix.lower())
    if reader is None:
        raise ConfigError(f"{path}: a manifest ends in .csv, .jsonl or .parquet")
    if not path.is_file():
        raise ConfigError(f"{path} does not exist: give a .csv, .jsonl or .parquet file with a column `video`")
    try:
        for number, row in enumerate(reader(path), 1):
            try:
                found = None if row is None else _read_row(row, needs_captions=needs_captions)
            except RecursionError:
                raise ConfigError(
                    f"{path}, row {number}: lists are nested too deeply to be read: flatten them"
                ) from None
            except ValueError as fault:
                raise ConfigError(f"{path}, row {number}: {fault}") from None
            if found is not None:
                yield found
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path} cannot be read as {path.suffix[1:]} in UTF-8: {error}") from None


def _read_row(row: Row | str, *, needs_captions: bool) -> tuple[str, Span]:
    """A row's video and span. Raises ValueError for what a row cannot hold."""
    if isinstance(row, str):
        line = row
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:  # also for integers of more digits than Python reads
            raise ValueError(f"not valid JSON: {error}") from None
        if not isinstance(row, dict):
            raise ValueError(f"expected an object, found {line[:40]!r}")
    found = ", ".join(map(str, row)) or "nothing"
    if "video" not in row:
        raise ValueError(f"no column `video`: found {found}")
    if needs_captions and "captions" not in row and "caption" not in row:
        raise ValueError(f"no column `captions` (a list) or `caption`: found {found}")
    captions = _captions(row)
    _check_unicode({**row, "captions": captions})
    name = row["video"]
    if not isinstance(name, str) or not name or "\0" in name:
        raise ValueError(f"`video` must be a path, found {name!r:.60}")
    if is_address(name):
        raise ValueError(f"`video` is the address {name!r:.80}: {ONLY_LOCAL}")
    start, end = _seconds(row, "start_seconds"), _seconds(row, "end_seconds")
    begin = start or 0.0
    if end is not None and end <= begin:
        raise ValueError(f"end_seconds {end} is not after start_seconds {begin}")
    if end is not None and milliseconds(end) == milliseconds(begin):
        raise ValueError(f"the span {begin} to {end} s is shorter than a millisecond: lengthen it")
    split = row.get("split") or None
    if split is not None and split not in SPLITS:
        raise ValueError(f"split {split!r} is not one of {', '.join(SPLITS)}")
    return name, Span(
        captions=tuple(" ".join(one.split()) for one in captions if one.strip()),
        start_seconds=begin if end is not None else start,
        end_seconds=end,
        split=split,
        metadata={key: _scalar(value) for key, value in row.items() if key not in _OWN_COLUMNS},
    )


def _check_unicode(row: Row) -> None:
    for key, value in row.items():
        for text in (key, *(value if isinstance(value, list | tuple) else (value,))):
            if isinstance(text, str) and "surrogate" in (text_fault(text) or ""):
                raise ValueError(
                    f"{key!a:.40} has {text!a:.60}, which holds half a character (a lone surrogate) and cannot be"
                    " stored: write it anew as UTF-8, and rename files whose names are not UTF-8"
                )


def _captions(row: Row) -> Sequence[str]:
    """The sentences of a row: `captions`, or `caption` where that is empty; a text may be a list of them.

    A list in a text is that of JSON, or what pandas writes for a list of Python.
    """
    given = (row.get("captions"), row.get("caption"))
    value: Any = next((one for one in given if one not in (None, "") and one == one), ())  # noqa: PLR0124  # not NaN
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.lstrip().startswith("[") else [value]
        except json.JSONDecodeError:
            value = _python_list(value) if _PYTHON_LIST.match(value) else [value]
        except ValueError as error:
            raise ValueError(f"captions must be a list of sentences: {error}") from None
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str) and _PYTHON_TUPLE.fullmatch(value[0]):
        with suppress(ValueError, SyntaxError, TypeError, MemoryError):  # a sentence may begin so
            found = ast.literal_eval(value[0].strip())
            if isinstance(found, tuple | set) and all(isinstance(one, str) for one in found):
                value = found if isinstance(found, tuple) else sorted(found)
    if not isinstance(value, list | tuple) or not all(isinstance(one, str) for one in value):
        raise ValueError(f"captions must be a sentence or a list of sentences, found {value!r:.60}")
    return value


def _python_list(text: str) -> Any:
    """The sentences in a text that begins like a list of Python. Raises ValueError where it cannot be read as one."""
    try:
        found = ast.literal_eval(text.strip())
        tokens = tokenize.generate_tokens(io.StringIO(text.strip()).readline)
        kinds = [token.type for token in tokens if token.type != tokenize.NL]
    except (ValueError, SyntaxError, MemoryError, tokenize.TokenError):
        raise ValueError(
            f"captions begin like a list and cannot be read as one, found {text!r:.60}: write a JSON list of sentences"
        ) from None
    if any(pair == (tokenize.STRING, tokenize.STRING) for pair in pairwise(kinds)):
        raise ValueError(f"captions are a list without commas, found {text!r:.60}: write a JSON list of sentences")
    return found


def _seconds(row: Row, key: str) -> float | None:
    value = row.get(key)
    if value is None or value == "":
        return None
    try:
        seconds = float(value)
    except (TypeError, ValueError, OverflowError):
        seconds = math.nan
    if not 0 <= seconds <= LONGEST_SECONDS:
        raise ValueError(f"{key} must be seconds from 0 to {LONGEST_SECONDS:g}, found {str(value)!r:.60}")
    return seconds


def _scalar(value: Any) -> Scalar:
    """A value as a column can hold it: integers beyond 64 bits as text, NaN and infinity as empty."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, int) and value not in _INT64:
        return str(value)
    if isinstance(value, str | int | None):
        return value
    return json.dumps(value, default=str) if isinstance(value, list | dict) else str(value)


def _jsonl_rows(path: Path) -> Iterator[str | None]:
    """Lines, so that a fault is that of a line; pyarrow.json refuses columns whose values have several types."""
    with path.open(encoding="utf-8-sig") as file:
        for line in file:
            yield line.strip() or None


def _csv_rows(path: Path) -> Iterator[Row]:
    """Rows whose metadata have the types that all values of their columns agree on."""
    columns, rows = read_csv(path)
    texts = zip(columns, zip(*rows, strict=True), strict=False)
    typed = [values if name in _OWN_COLUMNS else _typed(values) for name, values in texts]
    for row in zip(*typed, strict=True):
        yield dict(zip(columns, row, strict=True))


def read_csv(path: Path) -> tuple[list[str], list[list[str]]]:
    """The columns and the rows of a CSV file, as texts. Raises ConfigError for duplicate columns and uneven rows.

    Not by pyarrow.csv, which takes types from what it reads first and NULL for a missing value.
    """
    found: list[list[str]] = []
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines: list[str] = []
        for row in csv.reader(_kept(file, lines)):
            if len(lines) > 1:  # which a quote may do that nothing closes, and then it takes what follows for its own
                _check_quotes(lines, f"{path}, row {len(found)}")
            lines.clear()
            if row:
                found.append(row)
    columns, *rows = found or [[]]
    _check_distinct(columns, path)
    for number, row in enumerate(rows, 1):
        if len(row) != len(columns):
            raise ConfigError(f"{path}, row {number}: {len(row)} values, and the header has {len(columns)} columns")
    return columns, rows


def _kept(lines: Iterable[str], kept: list[str]) -> Iterator[str]:
    for line in lines:
        kept.append(line)
        yield line


def _check_quotes(lines: Sequence[str], where: str) -> None:
    try:
        list(csv.reader(lines, strict=True))
    except csv.Error:
        opening = next((line for line in lines if line.count('"') % 2), lines[0]).strip()
        raise ConfigError(
            f"{where}: a quote opens that is never closed, so that {len(lines) - 1} more lines would belong to it:"
            f" close it, or double it to mean a quote: {opening!r:.80}"
        ) from None


def _check_distinct(columns: Sequence[str], path: Path) -> None:
    for name, count in Counter(columns).items():
        if count > 1:
            raise ConfigError(f"{path}: duplicate column {name!r} in the header: rename or remove one")


def _typed(texts: Sequence[str]) -> list[Scalar]:
    """A column as int64, double or bool where all its values are such, otherwise as text; empty values are None."""
    bare = [text.strip() for text in texts]
    filled = {text for text in bare if text}
    # An integer that 64 bits cannot hold is a name as well: a double would round it.
    integers = filter(_KINDS[0][0].fullmatch, filled)
    has_names = any(len(one) > 20 or int(one) not in _INT64 for one in integers)
    for pattern, read in () if has_names else _KINDS:
        if all(map(pattern.fullmatch, filled)):
            values: dict[str, Scalar] = {text: read(text) for text in filled}
            return [values.get(text) for text in bare]
    return [text if text.strip() else None for text in texts]


def _parquet_rows(path: Path) -> list[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        _check_distinct(pq.read_schema(path).names, path)
        rows: list[Row] = pq.read_table(path).to_pylist()
    except (pa.ArrowException, OverflowError, ValueError) as error:
        raise ConfigError(f"{path} is not a Parquet file that can be read: {error}") from None
    return rows
