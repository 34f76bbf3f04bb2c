"""How feature files of other programs lie on disk: which there are, what each is called, and how to read one.

npy             a folder of ``<id>.npy`` or ``<id>.npz``, one for each video, as the feature extractor of HowTo100M and
                the official code of Everything at Once and AVLnet write and read them: ``<id>_2d.npy``, ``<id>_3d.npz``
                (array ``features``), ``<id>_spec.npz`` (array ``arr_0``, bands x frames: `transposed`)
pickle          one pickle of many videos, as AVLnet publishes MSR-VTT and YouCook2: a list of dicts with an ``id``, or
                a dict from id to an array or to a dict of arrays
video_features  ``<stem>_<feature>.npy`` beside ``<stem>_timestamps_ms.npy`` and ``<stem>_fps.npy``
frameloom       what `frameloom export` writes

Nothing here runs code of a file, and no path that a file names is opened: files are those that the folder lists.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..._registry import nearest
from ..._vocabulary import ConfigError, InputError, Status, digest_of
from ...store.foreign import npz_names, read_npy, read_npy_stream, read_npz, read_pickle
from ..project import readable_path
from .records import MANIFEST, PENDING, Header, Record, contradiction, read_manifest

_ID_KEYS = ("id", "video_id", "vid", "video", "clip_id", "key")
_ARRAY_KEYS = ("features", "arr_0")
_KNOWN_ENDINGS = ("resnet", "clip", "timm", "s3d", "r21d", "rgb", "flow", "vggish", "raft", "i3d")
_BESIDE = ("timestamps_ms", "fps")
_MAX_PART_BYTES = 8_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Offered:
    """The numbers of one feature as they were found: values of any type and shape; times (T, 2) where they are known.

    `extent`, `status`, `message` and `checksum` are those of an export of ours.
    """

    values: NDArray[Any]
    times: NDArray[np.float64] | None = None
    extent: tuple[float, float] | None = None
    status: Status = Status.OK
    message: str = ""
    checksum: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """One feature that a layout has: what it is called there, where it is, and how it is read (raises InputError).

    `source_digest` is known of exports of ours alone: the digest of the file that it was made from.
    """

    name: str
    origin: str
    read: Callable[[], Offered]
    source_digest: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which of a layout's numbers are wanted.

    Attributes:
        array: a key inside of files, or an ending of their names, or a feature of an export; None where one is there.
        suffix: what file names have after the video's id, such as ``_2d``.
        id_key: the key of a pickled dict that holds the video's id.
        identity: what the project asks for, by which an export's feature is known.
    """

    array: str | None = None
    suffix: str = ""
    id_key: str | None = None
    identity: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Offers:
    """Everything that a layout has: the offers, files that are none, and the identity that an export claims."""

    offers: list[Offer]
    ignored: list[str]
    identity: Mapping[str, Any] | None = None


def find_offers(path: Path, layout: str, choice: Choice) -> Offers:
    """What there is to import. Raises ConfigError, or InputError for a file that cannot be trusted."""
    if layout not in _LAYOUTS:
        raise ConfigError(f"--layout {layout!r}: {nearest(layout, list(LAYOUTS))}")
    if not path.exists():
        raise ConfigError(f"{path} does not exist: name what is to be imported")
    wants_file = layout == "pickle"
    if path.is_dir() == wants_file:
        raise ConfigError(f"{path}: the layout {layout} is {'one file' if wants_file else 'a folder'}")
    found = _LAYOUTS[layout](path, choice)
    if not found.offers:
        raise ConfigError(f"{path} holds nothing in the layout {layout}{_suffix_hint(found, choice)}")
    return found


def _suffix_hint(found: Offers, choice: Choice) -> str:
    if choice.suffix and found.ignored:
        return f": none of its {len(found.ignored)} files ends in {choice.suffix!r}, such as {found.ignored[0]!r}"
    return ": `frameloom import --help` describes each"


def _files(folder: Path, endings: tuple[str, ...]) -> Iterator[tuple[str, Path]]:
    """Every file below a folder that has one of these endings, by its path in the folder, sorted."""
    for place, names, files in os.walk(folder):
        names[:] = sorted(name for name in names if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and name.endswith(endings):
                path = Path(place, name)
                yield readable_path(path.relative_to(folder)), path


# One file for each video


def _npy_offers(folder: Path, choice: Choice) -> Offers:
    offers: list[Offer] = []
    ignored: list[str] = []
    for relative, path in _files(folder, (".npy", ".npz")):
        stem = relative[: -len(".npy")]
        if not stem.endswith(choice.suffix) or len(stem) == len(choice.suffix):
            ignored.append(relative)
            continue
        name = stem[: len(stem) - len(choice.suffix)]
        offers.append(Offer(name=name, origin=relative, read=partial(_read_array, path, choice.array)))
    return Offers(offers=offers, ignored=ignored)


def _read_array(path: Path, array: str | None) -> Offered:
    if path.suffix == ".npy":
        return Offered(values=read_npy(path))
    if array is None:
        names = npz_names(path)
        array = next((name for name in _ARRAY_KEYS if name in names), None)
    return Offered(values=read_npz(path, array))


# One pickle of many videos


def _pickle_offers(path: Path, choice: Choice) -> Offers:
    data = read_pickle(path)
    if isinstance(data, dict):
        items = [(_text_of(key), value) for key, value in data.items()]
    elif isinstance(data, list | tuple):
        items = [(_id_of(item, number, choice, path), item) for number, item in enumerate(data)]
    else:
        raise InputError(
            f"{path} holds a {type(data).__name__}: a list of dicts or a dict from video to arrays is read"
        )
    unnamed = [number for number, (name, _) in enumerate(items) if name is None]
    if unnamed:
        raise InputError(f"{path}: the key number {unnamed[0]} is neither a text nor a number")
    offers = [
        Offer(name=name, origin=f"{path.name}[{name!r}]", read=partial(_read_item, path, name, value, choice.array))
        for name, value in items
        if name is not None
    ]
    return Offers(offers=offers, ignored=[])


def _text_of(key: Any) -> str | None:
    if isinstance(key, bytes):
        return key.decode("utf-8", "backslashreplace")
    return str(key) if isinstance(key, str | int) else None


def _id_of(item: Any, number: int, choice: Choice, path: Path) -> str | None:
    if not isinstance(item, dict):
        raise InputError(f"{path}: item {number} is a {type(item).__name__}: a list of dicts is read")
    known = [choice.id_key] if choice.id_key else [key for key in _ID_KEYS if key in item]
    if not known or known[0] not in item:
        keys = ", ".join(repr(key) for key in list(item)[:12])
        wanted = f"no key {choice.id_key!r}" if choice.id_key else "no id"
        raise InputError(f"{path}: item {number} has {wanted} among {keys}: name the id's key with --id-key")
    return _text_of(item[known[0]])


def _read_item(path: Path, name: str, value: Any, array: str | None) -> Offered:
    if isinstance(value, dict):
        arrays = {key: one for key, one in value.items() if isinstance(one, np.ndarray)}
        if array is None and len(arrays) == 1:
            (array,) = arrays
        if array is None or array not in arrays:
            what = "says not which array" if array is None else f"has no array {array!r}"
            keys = ", ".join(repr(key) for key in arrays) or "none"
            raise InputError(f"{path}[{name!r}] {what}: there are {keys}; choose with --array")
        value = arrays[array]
    if not isinstance(value, np.ndarray):
        raise InputError(f"{path}[{name!r}] is a {type(value).__name__}, not an array")
    return Offered(values=value)


# video_features


def _video_features_offers(folder: Path, choice: Choice) -> Offers:
    files = dict(_files(folder, (".npy",)))
    ending = choice.array or _only_ending(folder, list(files))
    offers: list[Offer] = []
    ignored: list[str] = []
    for relative, path in files.items():
        stem = relative.removesuffix(".npy")
        if stem.endswith(f"_{ending}"):
            name = stem.removesuffix(f"_{ending}")
            beside = {one: files.get(f"{name}_{one}.npy") for one in _BESIDE}
            offers.append(Offer(name=name, origin=relative, read=partial(_read_stamped, path, beside)))
        elif not stem.endswith(tuple(f"_{one}" for one in _BESIDE)):
            ignored.append(relative)
    return Offers(offers=offers, ignored=ignored)


def _only_ending(folder: Path, files: Sequence[str]) -> str:
    found = [one for one in _KNOWN_ENDINGS if any(file.endswith(f"_{one}.npy") for file in files)]
    if len(found) != 1:
        there = f"{', '.join(found)} are there" if found else "none of its known endings is there"
        raise ConfigError(
            f"{folder}: {there}: name the ending of the wanted files with --array, such as --array resnet"
        )
    return found[0]


def _read_stamped(path: Path, beside: Mapping[str, Path | None]) -> Offered:
    values = read_npy(path)
    stamps, rate = beside["timestamps_ms"], beside["fps"]
    if stamps is None:
        return Offered(values=values)
    starts = read_npy(stamps)
    if starts.ndim != 1 or starts.dtype.kind not in "fiu" or values.ndim < 1 or len(starts) != len(values):
        raise InputError(f"{stamps} has shape {starts.shape}, which are not the times of {values.shape} values")
    starts = starts.astype(np.float64) / 1000
    if not np.isfinite(starts).all() or (np.diff(starts) < 0).any():
        raise InputError(f"{stamps}: times must be finite and go forwards")
    return Offered(values=values, times=np.stack([starts, starts + _row_seconds(starts, rate)], axis=1))


def _row_seconds(starts: NDArray[np.float64], rate: Path | None) -> float:
    """How long the picture of a row is shown: by the frame rate, or else until the next row."""
    if rate is not None:
        found = read_npy(rate)
        if found.size != 1 or found.dtype.kind not in "fiu" or not 0 < float(found.reshape(())) < 1e6:
            raise InputError(f"{rate} holds no frame rate")
        return 1 / float(found.reshape(()))
    return float(np.median(np.diff(starts))) if len(starts) > 1 else 0.0


# Exports of ours


def _frameloom_offers(folder: Path, choice: Choice) -> Offers:
    header, records = read_manifest(folder / MANIFEST)
    if header.unit != "video" or header.format not in _READERS:
        raise ConfigError(f"{folder} is an export of {header.unit}s as {header.format}: export whole videos instead")
    feature = _exported_feature(folder, header, choice)
    if header.format == "webdataset" and any(one.feature == feature and one.video is None for one in records):
        raise ConfigError(
            f"{folder} is a webdataset export: features of captions, such as {feature!r}, are imported from npy and"
            " parquet exports"
        )
    # A record's file is spelled as a path can be stored, and so is the file on disk: spelling it again would change it.
    listed = {path.relative_to(folder).as_posix(): path for _, path in _files(folder, (".npy", ".parquet", ".tar"))}
    is_same = choice.identity is not None and digest_of(dict(choice.identity)) == digest_of(header.features[feature])
    offers = [
        Offer(
            name=record.key,
            origin=_as_utf8(record.file or f"{MANIFEST}: {record.key}"),
            read=partial(_read_record, header, record, listed.get(record.file or ""), is_same=is_same),
            source_digest=record.source_digest,
        )
        for record in records
        if record.feature == feature and record.fingerprint is not None and record.status != PENDING
    ]
    return Offers(offers=offers, ignored=[], identity=header.features[feature])


def _as_utf8(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def _exported_feature(folder: Path, header: Header, choice: Choice) -> str:
    names = list(header.features)
    if choice.array is not None:
        if choice.array not in names:
            raise ConfigError(f"{folder} holds no feature {choice.array!r}: {nearest(choice.array, names)}")
        return choice.array
    wanted = None if choice.identity is None else digest_of(choice.identity)
    same = [name for name, identity in header.features.items() if digest_of(identity) == wanted]
    if same or len(names) == 1:
        return (same or names)[0]
    raise ConfigError(f"{folder} holds {', '.join(names)}, none of them made as configured: choose with --array")


def _read_record(header: Header, record: Record, path: Path | None, *, is_same: bool) -> Offered:
    if problem := contradiction(record):
        raise InputError(f"{MANIFEST}: {problem}")
    extent = None
    if record.start_seconds is not None and record.end_seconds is not None:
        extent = (float(record.start_seconds), float(record.end_seconds))
    known: dict[str, Any] = {"extent": extent, "status": Status(record.status), "message": record.message}
    if not record.num_rows:
        return Offered(values=np.zeros((0, 0)), times=np.zeros((0, 2)), **known)
    if path is None:
        raise InputError(f"{record.file!r:.200} of {MANIFEST} is not a file of the export")
    values, times = _READERS[header.format](path, record)
    if len(values) != record.num_rows:
        raise InputError(f"{path}: {record.key!r} has {len(values)} rows, and {MANIFEST} says {record.num_rows}")
    return Offered(values=values, times=times, checksum=record.checksum if is_same else None, **known)


_Found = tuple[NDArray[Any], NDArray[np.float64] | None]


def _read_npy_record(path: Path, record: Record) -> _Found:
    times = path.with_name(path.name.removesuffix(".npy") + ".times.npy")
    return read_npy(path), read_npy(times) if record.video is not None else None


def _read_parquet_record(path: Path, record: Record) -> _Found:
    table, places = _parquet_part(path)
    if (record.feature, record.key) not in places:
        raise InputError(f"{path} has no rows of {record.key!r}")
    first, last = places[record.feature, record.key]
    rows = table.slice(first, last - first).combine_chunks()
    lists = rows.column("values").chunk(0)
    flat = lists.flatten().to_numpy(zero_copy_only=False)
    if (
        len(flat) % (last - first)
        or lists.null_count
        or (lists.value_lengths().to_numpy() != len(flat) // (last - first)).any()
    ):
        raise InputError(f"{path}: the rows of {record.key!r} are not all of one width")
    times = [rows.column(name).to_numpy() for name in ("start_seconds", "end_seconds")]
    is_video = record.video is not None
    return flat.reshape(last - first, -1), np.stack(times, axis=1).astype(np.float64) if is_video else None


@lru_cache(maxsize=1)
def _parquet_part(path: Path) -> tuple[Any, dict[tuple[str, str], tuple[int, int]]]:
    """One part of an export with the place of each feature in it. Neighbours are read one after the other."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = ["video", "caption", "feature", "start_seconds", "end_seconds", "values"]
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            groups = [file.metadata.row_group(number).total_byte_size for number in range(file.metadata.num_row_groups)]
            if sum(groups) > _MAX_PART_BYTES:
                raise InputError(f"{path} unpacks to {sum(groups):,} bytes; at most {_MAX_PART_BYTES:,} are read")
            table = file.read(columns=names, use_threads=False)
        keys = [table.column(name).to_pylist() for name in ("feature", "video", "caption")]
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise InputError(f"{path} cannot be read: {' '.join(str(error).split())[:200]}") from error
    places: dict[tuple[str, str], tuple[int, int]] = {}
    for row, (feature, video, caption) in enumerate(zip(*keys, strict=True)):
        key = (feature, caption if video is None else video)
        first, last = places.get(key, (row, row))
        if last != row:
            raise InputError(f"{path}: the rows of {key[1]!r} are not together")
        places[key] = (first, row + 1)
    return table, places


def _read_tar_record(path: Path, record: Record) -> _Found:
    key = f"{digest_of(['video', record.video])}.{record.feature}"
    return _tar_array(path, f"{key}.npy"), _tar_array(path, f"{key}.times.npy")


def _tar_array(path: Path, name: str) -> NDArray[Any]:
    import tarfile

    try:
        place, size = _tar_members(path)[name]
        with path.open("rb") as file:
            file.seek(place)
            return read_npy_stream(_Part(file, size), num_bytes=size)  # type: ignore[arg-type]
    except KeyError:
        raise InputError(f"{path} has no {name}") from None
    except (OSError, EOFError, ValueError, tarfile.TarError) as error:
        raise InputError(f"{path}: {name}: {error}") from error


@lru_cache(maxsize=1)
def _tar_members(path: Path) -> dict[str, tuple[int, int]]:
    """Where each file of a tar lies. Links and devices are not among them."""
    import tarfile

    with tarfile.open(path, "r:") as tar:
        return {member.name: (member.offset_data, member.size) for member in tar if member.isreg()}


class _Part:
    """So many bytes of a file, from where it is."""

    def __init__(self, file: Any, size: int) -> None:
        self._file, self._left = file, size

    def read(self, count: int = -1) -> bytes:
        data: bytes = self._file.read(self._left if count < 0 else min(count, self._left))
        self._left -= len(data)
        return data


_READERS: Mapping[str, Callable[[Path, Record], _Found]] = {
    "npy": _read_npy_record,
    "parquet": _read_parquet_record,
    "webdataset": _read_tar_record,
}
_LAYOUTS: Mapping[str, Callable[[Path, Choice], Offers]] = {
    "npy": _npy_offers,
    "pickle": _pickle_offers,
    "video_features": _video_features_offers,
    "frameloom": _frameloom_offers,
}
LAYOUTS = tuple(_LAYOUTS)
