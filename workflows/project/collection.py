"""From a configuration to a list of videos with their captions, spans, splits and metadata. Nothing is decoded here."""

from __future__ import annotations

import glob
import os
import re
import stat
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from itertools import takewhile
from pathlib import Path
from typing import NoReturn

from ..._vocabulary import Clip, ConfigError
from .manifest import MANIFEST_SUFFIXES, ONLY_LOCAL, Scalar, Span, is_address, milliseconds, read_manifest, span_key
from .notes import disagreement_notes, meant_notes, passed_over_notes, renamed_columns

PICTURE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".webp"})
VIDEO_SUFFIXES = frozenset(
    {".3g2", ".3gp", ".asf", ".avi", ".divx", ".dv", ".f4v", ".flv", ".gif", ".ivf", ".m2t", ".m2ts", ".m4v", ".mk3d"}
    | {".mkv", ".mod", ".mov", ".mp4", ".mpe", ".mpeg", ".mpg", ".mts", ".mxf", ".ogm", ".ogv", ".qt", ".tod", ".ts"}
    | {".vob", ".webm", ".wmv"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Video:
    """One video of the collection: its identity, where it lies, and its manifest rows."""

    video: str
    path: Path
    spans: tuple[Span, ...] = ()

    @property
    def has_spans(self) -> bool:
        """Whether the manifest says how it is cut."""
        return any(span.start_seconds is not None for span in self.spans)

    @property
    def is_picture(self) -> bool:
        """Whether it is a still picture, which manifests and patterns may name: a video of one frame."""
        return self.path.suffix.lower() in PICTURE_SUFFIXES


@dataclass(frozen=True, slots=True, kw_only=True)
class Collection:
    """Every video, sorted by identity.

    Attributes:
        videos: what was found or named.
        unmatched: `video` values of caption rows that name no video of the collection.
        metadata_types: name to type (``string``, ``int64``, ``double``, ``bool``) of every further manifest column.
        notes: what a person should know: files passed over, columns that are not ours by a letter, names that differ.
    """

    videos: tuple[Video, ...]
    unmatched: tuple[str, ...] = ()
    metadata_types: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def texts(self, columns: Iterable[str] = (), *, split: str | None = None) -> list[str]:
        """Captions, then the texts of further columns, each once, without empty ones; of all rows, or of one split."""
        rows = [row for video in self.videos for row in video.spans if split is None or in_split(row.split, split)]
        captions = (caption for row in rows for caption in row.captions)
        further = (text_of(row.metadata, column) for column in columns for row in rows)
        return list(dict.fromkeys(text for text in (*captions, *further) if text))


def text_of(metadata: Mapping[str, Scalar], column: str) -> str:
    """The value of a further column as text; empty for none."""
    value = metadata.get(column)
    return "" if value is None else str(value).strip()


def in_split(found: str | None, wanted: str) -> bool:
    """Whether a row belongs to a split. A collection without splits is all for training."""
    return (found or "train") == wanted


def readable_path(path: str | os.PathLike[str]) -> str:
    r"""A path as text that can be stored, with forward slashes; two paths never get one spelling.

    A byte that is not UTF-8 becomes ``\xff``, and a backslash becomes two, so that it cannot be taken for one of those.
    Names without either stay as they are.
    """
    raw = os.fsencode(Path(path).as_posix())
    return raw.replace(b"\\", b"\\\\").decode("utf-8", "backslashreplace")


def file_of(text: str) -> Path:
    """The path whose `readable_path` a text is."""
    ends = {b"\\\\": b"\\"}
    raw = re.sub(
        rb"\\\\|\\x([0-9a-f]{2})", lambda found: ends.get(found[0]) or bytes([int(found[1], 16)]), text.encode()
    )
    return Path(os.fsdecode(raw))


def native_name(text: str) -> str:
    """A name of a manifest, which is UTF-8, as this system's locale spells it."""
    return os.fsdecode(text.encode())


def discover(sources: Sequence[str], *, captions: str | None, base: Path) -> Collection:
    """Find the videos of a collection and join their captions.

    A span row has the split and the metadata of its video's rows without a span, where it has none of its own.

    Raises ConfigError when a folder does not exist or cannot be read, nothing is found, a manifest cannot be read,
    lacks a column or holds a value that is not allowed, when two sources give one video, or a video is in two splits.
    """
    found: dict[str, Video] = {}
    names: dict[Path, str] = {}
    passed_over: Counter[str] = Counter()
    disk = _Disk()
    for video in _from_sources(sources, base, passed_over, disk):
        if video.path in names:
            other = names[video.path]
            raise ConfigError(f"collection.videos gives {video.path} twice ({other!r}, {video.video!r}): name it once")
        if video.video in found:
            raise ConfigError(
                f"collection.videos: {found[video.video].path} and {video.path} have one name, {video.video!r}:"
                " name a folder above both"
            )
        found[video.video], names[video.path] = video, video.video
    if not found:
        raise ConfigError(
            f"no videos found in {', '.join(sources)}: looked for files ending in {' '.join(sorted(VIDEO_SUFFIXES))}"
        )
    unmatched: tuple[str, ...] = ()
    if captions is not None:
        _check_local(captions, "collection.captions")
        found, unmatched = _join_captions(found, _absolute(captions, base), disk)
    notes = [*disk.notes, *passed_over_notes(passed_over)]
    notes += meant_notes([span for video in found.values() for span in video.spans])
    renamed = renamed_columns({key for video in found.values() for span in video.spans for key in span.metadata})
    notes += [
        f"the column {old!r} is kept as {new!r}: its own name cannot be a column's" for old, new in renamed.items()
    ]
    found = {name: _with_columns(video, renamed) for name, video in found.items()} if renamed else found
    notes += disagreement_notes({name: video.spans for name, video in found.items()})
    videos = tuple(_settled(found[name]) for name in sorted(found))
    types: dict[str, set[str]] = {}
    kinds = {bool: "bool", int: "int64", float: "double", str: "string"}
    for span in (span for video in videos for span in video.spans):
        for key, value in span.metadata.items():
            if value is not None:
                types.setdefault(key, set()).add(kinds[type(value)])
    common = {key: "double" if several == {"int64", "double"} else "string" for key, several in types.items()}
    return Collection(
        videos=videos,
        unmatched=unmatched,
        metadata_types={key: min(one) if len(one) == 1 else common[key] for key, one in sorted(types.items())},
        notes=tuple(notes),
    )


def _with_columns(video: Video, renamed: Mapping[str, str]) -> Video:
    spans = (
        replace(span, metadata={renamed.get(key, key): value for key, value in span.metadata.items()})
        for span in video.spans
    )
    return replace(video, spans=tuple(spans))


def clips_of(video: Video, duration_seconds: float, *, units: Sequence[tuple[float, float]]) -> list[Clip]:
    """Cut a video into clips: its own spans where the manifest gives them, otherwise the units (see `units.py`).

    A span is cut at the end of the video; one that begins after it gives no clip (see `dropped_spans`). Spans that are
    one to the millisecond are one clip. Raises ConfigError when that clip would be in two splits.
    """
    spans: list[tuple[float, float, Sequence[Span]]]
    if video.has_spans:
        merged: dict[tuple[int, int], list[Span]] = {}
        for span in video.spans:
            start_ms, end_ms = _cut(span, duration_seconds)
            if start_ms < end_ms:
                merged.setdefault((start_ms, end_ms), []).append(span)
        spans = [
            (start / 1000, min(end / 1000, duration_seconds), rows) for (start, end), rows in sorted(merged.items())
        ]
    else:
        spans = [(*ends, video.spans) for ends in units]
    return [
        Clip(
            video=video.video,
            start_seconds=start,
            end_seconds=end,
            captions=tuple(dict.fromkeys(caption for row in rows for caption in row.captions)),
            split=_one_split(rows, f"{video.video!r} from {start:g} to {end:g} s"),
            metadata=_filled(rows),
        )
        for start, end, rows in spans
    ]


def dropped_spans(video: Video, duration_seconds: float) -> int:
    """How many spans of the manifest give no clip, because they begin at the end of the video or after it."""
    parts = {span_key(span): span for span in video.spans if span.start_seconds is not None}
    cuts = (_cut(span, duration_seconds) for span in parts.values())
    return sum(start >= end for start, end in cuts)


def _cut(span: Span, duration_seconds: float) -> tuple[int, int]:
    """Start and end in milliseconds, the end not after that of the video."""
    end = duration_seconds if span.end_seconds is None else min(span.end_seconds, duration_seconds)
    return milliseconds(span.start_seconds or 0.0), milliseconds(end)


def _filled(rows: Iterable[Span]) -> dict[str, Scalar]:
    """The metadata of several rows of one clip: what is not empty, the later row over the earlier."""
    return {key: value for row in rows for key, value in row.metadata.items() if value is not None}


def _one_split(rows: Iterable[Span], what: str) -> str | None:
    """The split that the rows name; rows that name none go along."""
    found = sorted({row.split for row in rows if row.split is not None})
    if len(found) > 1:
        raise ConfigError(f"{what} is in more than one split: {', '.join(found)}: give all of its rows the same one")
    return found[0] if found else None


def _settled(video: Video) -> Video:
    """The video with the split that counts in every row.

    A row without a span speaks of the whole video, and so of every span: it hands its split and metadata down. Without
    captions that is all that it does; with captions it is a clip as well, which holds every span.
    """
    whole = [span for span in video.spans if span.start_seconds is None]
    parts = [span for span in video.spans if span.start_seconds is not None]
    split = _one_split(whole, f"{video.video!r}")
    kept = [span for span in whole if span.captions or not parts]
    if kept or split is not None:
        split = _one_split([*whole, *parts], f"{video.video!r}, which has rows without a span,")
    of_span: dict[tuple[int, int | None], list[Span]] = {}
    for span in parts:
        of_span.setdefault(span_key(span), []).append(span)
    common = _filled(whole)
    settled = [replace(span, split=split) for span in kept]
    for rows in of_span.values():
        end = "its end" if rows[0].end_seconds is None else f"{rows[0].end_seconds:g} s"
        own = _one_split(rows, f"{video.video!r}, from {rows[0].start_seconds:g} s to {end},") or split
        settled += [replace(row, split=own, metadata={**common, **_filled([row])}) for row in rows]
    return replace(video, spans=tuple(settled))


def _absolute(path: str, base: Path) -> Path:
    return Path(os.path.abspath(base / os.path.expanduser(path)))  # noqa: PTH100, PTH111 - follows no links


def _from_sources(sources: Sequence[str], base: Path, passed_over: Counter[str], disk: _Disk) -> Iterator[Video]:
    roots: list[Path] = []
    seen: set[tuple[int, int]] = set()
    for source in sources:
        _check_local(source, "collection.videos")
        path = _absolute(source, base)
        try:
            mode = path.stat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            mode = 0
        except OSError as error:
            raise _unreadable(path, error) from None
        if not mode and glob.has_magic(source):
            first_magic = next(index for index, part in enumerate(path.parts) if glob.has_magic(part))
            root = Path(*path.parts[:first_magic])
            for file in _walk(root, path.parts[first_magic:], set()):
                yield Video(video=readable_path(file.relative_to(root.parent)), path=file)
        elif stat.S_ISDIR(mode):
            _check_apart(path, roots, seen)
            roots.append(path)
            for file in _walk(path, ("**", "*"), seen):
                passed_over[file.suffix.lower()] += 1
                if file.suffix.lower() in VIDEO_SUFFIXES:
                    yield Video(video=readable_path(file.relative_to(path.parent)), path=file)
        elif path.suffix.lower() in MANIFEST_SUFFIXES:
            yield from _from_manifest(path, disk)
        elif stat.S_ISREG(mode):
            yield Video(video=readable_path(path.relative_to(path.parent.parent)), path=path)
        else:
            fault = "is neither a folder nor a file" if mode else "does not exist"
            raise ConfigError(f"collection.videos: {path} {fault}: give a folder, a glob pattern or a manifest")


def source_names(sources: Sequence[str], base: Path) -> set[str]:
    """What the names of videos begin with that come from each folder or glob pattern."""
    paths = [_absolute(source, base) for source in sources]
    plain = (
        path.parts if path.exists() else takewhile(lambda part: not glob.has_magic(part), path.parts) for path in paths
    )
    return {Path(*parts).name for parts in plain}


def _check_local(source: str, key: str) -> None:
    if is_address(source):
        raise ConfigError(f"{key}: {source!r:.80} is an address: {ONLY_LOCAL}")


def _check_apart(path: Path, roots: Sequence[Path], seen: set[tuple[int, int]]) -> None:
    for other in roots:
        if path == other or other in path.parents or path in other.parents:
            raise ConfigError(f"collection.videos: {path} and {other} overlap: name the outer folder alone")
        if path.name == other.name:
            raise ConfigError(f"collection.videos: {path} and {other} have one name: name a folder above both")
    if _folder_key(path) in seen:
        raise ConfigError(f"collection.videos: {path} overlaps a folder named before it through a link: name one")


def _unreadable(path: Path, error: OSError) -> ConfigError:
    return ConfigError(
        f"collection.videos: {path} cannot be read: {error.strerror}: allow reading it, or move it out of the"
        " collection (its videos would count as removed)"
    )


def _walk(root: Path, pattern: tuple[str, ...], seen: set[tuple[int, int]]) -> Iterator[Path]:
    """The files below a folder that match a pattern.

    Links to folders are followed, after the folders themselves, and no folder is entered twice: links may go round in
    circles, and a video that can be reached in two ways keeps its own name. Raises ConfigError for what cannot be read,
    and for a link that leads nowhere, unless it has a video's name and is reported as that.
    """

    def refuse(error: OSError) -> NoReturn:
        raise _unreadable(Path(error.filename), error) from None

    starts = [root]
    while starts:
        for place, folders, files in os.walk(starts.pop(0), onerror=refuse):
            folder = Path(place)
            names = folder.relative_to(root).parts
            inside = [name for name in folders if _matches((*names, name), pattern, leading=True)]
            linked = [name for name in inside if (folder / name).is_symlink()]
            folders[:] = [name for name in inside if name not in linked]  # which `os.walk` enters next
            key = _folder_key(folder)
            if key in seen:
                folders.clear()
                continue
            seen.add(key)
            starts += [folder / name for name in sorted(linked)]
            for name in files:
                file, below = folder / name, (*names, name)
                matches = _matches(below, pattern, leading=False)
                is_asked_for = matches or _matches(below, pattern, leading=True)
                is_broken = is_asked_for and file.is_symlink() and not file.exists()
                if is_broken and file.suffix.lower() not in VIDEO_SUFFIXES:
                    raise ConfigError(
                        f"collection.videos: the link {file} leads nowhere: mount what it points to, or remove the link"
                        " (videos behind it would count as removed)"
                    )
                if matches:
                    yield file


def _folder_key(folder: Path) -> tuple[int, int]:
    try:
        found = folder.stat()
    except OSError as error:
        raise _unreadable(folder, error) from None
    return found.st_dev, found.st_ino


def _matches(names: tuple[str, ...], pattern: tuple[str, ...], *, leading: bool) -> bool:
    """Whether a path fits a pattern or, with `leading`, whether something inside a folder of that path may."""
    if not names:
        return bool(pattern) if leading else all(part == "**" for part in pattern)
    if not pattern:
        return False
    hidden = names[0].startswith(".") and not pattern[0].startswith(".")
    if pattern[0] == "**":
        deeper = not hidden and _matches(names[1:], pattern, leading=leading)
        return deeper or _matches(names, pattern[1:], leading=leading)
    return not hidden and fnmatchcase(names[0], pattern[0]) and _matches(names[1:], pattern[1:], leading=leading)


def _from_manifest(path: Path, disk: _Disk) -> Iterator[Video]:
    """One video for each file, however its rows spell it."""
    spans: dict[Path, list[Span]] = {}
    near: set[Path] = set()
    for text, span in read_manifest(path, needs_captions=False):
        name = native_name(text)
        file = disk.spelling(_absolute(name, path.parent))
        spans.setdefault(file, []).append(span)
        # ~nobody is a name, not an error.
        if file.is_relative_to(path.parent) or not Path(os.path.expanduser(name)).is_absolute():  # noqa: PTH111
            near.add(file)
    for file, rows in spans.items():
        identity = os.path.relpath(file, path.parent) if file in near else file
        yield Video(video=readable_path(identity), path=file, spans=tuple(rows))


def _file_key(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


class _Disk:
    """How names are spelled on disk: archives of other systems hold accents apart from their letters, or with them."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self._folders: dict[Path, dict[str, list[str]]] = {}

    def spelling(self, path: Path) -> Path:
        """The path as it is on disk where one name there differs in the normal form alone; otherwise as it is."""
        if path.name.isascii() and path.parent.as_posix().isascii():
            return path
        if os.path.lexists(path) or path.parent == path:
            return path
        folder = self.spelling(path.parent)
        if folder not in self._folders:
            names: dict[str, list[str]] = {}
            self._folders[folder] = names
            with suppress(OSError):
                for entry in os.listdir(folder):  # noqa: PTH208 - names alone
                    names.setdefault(unicodedata.normalize("NFC", entry), []).append(entry)
        same = self._folders[folder].get(unicodedata.normalize("NFC", path.name), [])
        if len(same) > 1:
            self.notes.append(f"{readable_path(path)!r} fits {len(same)} videos, whose names look the same: rename one")
        return folder / same[0] if len(same) == 1 else path


def _join_captions(found: dict[str, Video], manifest: Path, disk: _Disk) -> tuple[dict[str, Video], tuple[str, ...]]:
    by_path = {video.path: name for name, video in found.items()}
    by_file: dict[tuple[int, int], str] = {}
    by_target: dict[str, str] = {}  # what paths lead to through links; made for the first one that is not known
    spans: dict[str, list[Span]] = {}
    unmatched: dict[str, None] = {}
    num_rows = 0
    for name, span in read_manifest(manifest, needs_captions=True):
        num_rows += 1
        path = disk.spelling(_absolute(native_name(name), manifest.parent))
        identity = by_path.get(path)
        if identity is None:
            by_target = by_target or {
                os.path.realpath(known): by_path[known] for known in sorted(by_path, reverse=True)
            }
            identity = by_target.get(os.path.realpath(path))
        if identity is None and (key := _file_key(path)) is not None:  # in another case, on a disk that ignores case
            by_file = by_file or {_file_key(known) or (0, 0): by_path[known] for known in sorted(by_path, reverse=True)}
            identity = by_file.get(key)
        if identity is None:
            unmatched[name] = None
        else:
            spans.setdefault(identity, []).append(span)
    if not spans:
        raise ConfigError(
            f"{manifest}: none of its {num_rows} rows names a video of the collection:"
            f" `video` must be relative to the manifest, such as {os.path.relpath(min(by_path), manifest.parent)}"
        )
    joined = {name: replace(found[name], spans=(*found[name].spans, *rows)) for name, rows in spans.items()}
    return {**found, **joined}, tuple(unmatched)
