"""How feature files of other programs lie on disk: which there are, what each is called, and how to read one.

npy             a folder of ``<id>.npy`` or ``<id>.npz``, one for each video, as the feature extractor of HowTo100M and
                the official code of Everything at Once and AVLnet write and read them: ``<id>_2d.npy``, ``<id>_3d.npz``
                (array ``features``), ``<id>_spec.npz`` (array ``arr_0``, bands x frames: `transposed`)
pickle          one pickle of many videos, as AVLnet publishes MSR-VTT and YouCook2: a list of dicts with an ``id``, or
                a dict from id to an array or to a dict of arrays
video_features  ``<stem>_<feature>.npy`` with ``<stem>_timestamps_ms.npy`` and ``<stem>_fps.npy``
frameloom       what `frameloom export --format npy` writes

Nothing here runs code of a file, and no path that a file names is opened: files are those that the folder lists.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..._registry import nearest
from ..._vocabulary import ConfigError, InputError, Status, digest_of
from ...store.foreign import npz_names, read_npy, read_npz, read_pickle
from ..project import readable_path
from .records import MANIFEST, PENDING, Record, read_manifest

_ID_KEYS = ("id", "video_id", "vid", "video", "clip_id", "key")
_ARRAY_KEYS = ("features", "arr_0")
_KNOWN_ENDINGS = ("resnet", "clip", "timm", "s3d", "r21d", "rgb", "flow", "vggish", "raft", "i3d")
_TIMES_ENDINGS = ("timestamps_ms", "fps")


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
    checksum: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """One feature that a layout has.

    Attributes:
        name: what it is called there.
        origin: where it is, for messages and mappings.
        read: reads it, and raises InputError.
        declared: reads its header alone: an array of its shape that takes no memory. None where that is not possible.
        path: the file that it fills; None where a file holds many.
        source_digest: of the file that it was made from; known of exports of ours alone.
    """

    name: str
    origin: str
    read: Callable[[], Offered]
    declared: Callable[[], NDArray[Any]] | None = None
    path: Path | None = None
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
    """Everything that a layout has: the offers, other files, and the identity that an export claims."""

    offers: list[Offer]
    ignored: list[str]
    identity: Mapping[str, Any] | None = None


def find_offers(path: Path, layout: str, choice: Choice) -> Offers:
    """Find the files to import. Raises ConfigError, or InputError for a file that cannot be trusted."""
    if layout not in _LAYOUTS:
        raise ConfigError(f"--layout {layout!r}: {nearest(layout, list(LAYOUTS))}")
    if not path.exists():
        raise ConfigError(f"{path} does not exist: name what is to be imported")
    is_file = layout == "pickle"
    if path.is_dir() == is_file:
        raise ConfigError(f"{path}: the layout {layout} is {'one file' if is_file else 'a folder'}")
    found = _LAYOUTS[layout](path, choice)
    if not found.offers:
        hint = ": `frameloom import --help` describes each"
        if choice.suffix and found.ignored:
            hint = f": none of its {len(found.ignored)} files ends in {choice.suffix!r}, such as {found.ignored[0]!r}"
        raise ConfigError(f"{path} holds nothing in the layout {layout}{hint}")
    return found


def _files(folder: Path, endings: tuple[str, ...]) -> Iterator[tuple[str, Path]]:
    """Every file below a folder that has one of these endings, by its path in the folder, sorted."""
    for place, names, files in os.walk(folder):
        names[:] = sorted(name for name in names if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and name.endswith(endings):
                path = Path(place, name)
                yield readable_path(path.relative_to(folder)), path


# One file for each video

_Times = Callable[[NDArray[Any]], NDArray[np.float64]]


def _npy_offers(folder: Path, choice: Choice) -> Offers:
    offers: list[Offer] = []
    ignored: list[str] = []
    for relative, path in _files(folder, (".npy", ".npz")):
        stem = relative[: -len(".npy")]
        if not stem.endswith(choice.suffix) or len(stem) == len(choice.suffix):
            ignored.append(relative)
            continue
        name = stem[: len(stem) - len(choice.suffix)]
        offers.append(_file_offer(name, relative, path, array=choice.array))
    return Offers(offers=offers, ignored=ignored)


def _file_offer(name: str, origin: str, path: Path, *, array: str | None = None, times: _Times | None = None) -> Offer:
    def read() -> Offered:
        values = _read_array(path, array)
        return Offered(values=values, times=None if times is None else times(values))

    declared = partial(_read_array, path, array, only_shape=True)
    return Offer(name=name, origin=origin, read=read, declared=declared, path=path)


def _read_array(path: Path, array: str | None, *, only_shape: bool = False) -> NDArray[Any]:
    if path.suffix == ".npy":
        return read_npy(path, only_shape=only_shape)
    if array is None:
        names = npz_names(path)
        array = next((name for name in _ARRAY_KEYS if name in names), None)
    return read_npz(path, array, only_shape=only_shape)


# One pickle of many videos


def _pickle_offers(path: Path, choice: Choice) -> Offers:
    data = read_pickle(path)
    if isinstance(data, dict):
        items = list(data.items())
    elif isinstance(data, list | tuple):
        items = [(_id_of(item, number, choice, path), item) for number, item in enumerate(data)]
    else:
        raise InputError(
            f"{path} holds a {type(data).__name__}: a list of dicts or a dict from video to arrays is read"
        )
    offers = []
    for number, (key, value) in enumerate(items):
        if not isinstance(key, str | bytes | int):
            raise InputError(f"{path}: the key number {number} is neither a text nor a number")
        name = key.decode("utf-8", "backslashreplace") if isinstance(key, bytes) else str(key)
        read = partial(_read_item, path, name, value, choice.array)
        offers.append(Offer(name=name, origin=f"{path.name}[{name!r}]", read=read))
    return Offers(offers=offers, ignored=[])


def _id_of(item: Any, number: int, choice: Choice, path: Path) -> Any:
    if not isinstance(item, dict):
        raise InputError(f"{path}: item {number} is a {type(item).__name__}: a list of dicts is read")
    known = [choice.id_key] if choice.id_key else [key for key in _ID_KEYS if key in item]
    if not known or known[0] not in item:
        keys = ", ".join(repr(key) for key in list(item)[:12])
        wanted = f"no key {choice.id_key!r}" if choice.id_key else "no id"
        raise InputError(f"{path}: item {number} has {wanted} among {keys}: name the id's key with --id-key")
    return item[known[0]]


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
    ending = choice.array
    if ending is None:
        known = [one for one in _KNOWN_ENDINGS if any(file.endswith(f"_{one}.npy") for file in files)]
        if len(known) != 1:
            there = f"{', '.join(known)} are there" if known else "none of its known endings is there"
            raise ConfigError(
                f"{folder}: {there}: name the ending of the wanted files with --array, such as --array resnet"
            )
        (ending,) = known
    offers: list[Offer] = []
    ignored: list[str] = []
    for relative, path in files.items():
        stem = relative.removesuffix(".npy")
        if stem.endswith(f"_{ending}"):
            name = stem.removesuffix(f"_{ending}")
            stamps, rate = (files.get(f"{name}_{one}.npy") for one in _TIMES_ENDINGS)
            times = None if stamps is None else partial(_read_times, stamps, rate)
            offers.append(_file_offer(name, relative, path, times=times))
        elif not stem.endswith(tuple(f"_{one}" for one in _TIMES_ENDINGS)):
            ignored.append(relative)
    return Offers(offers=offers, ignored=ignored)


def _read_times(stamps: Path, rate: Path | None, values: NDArray[Any]) -> NDArray[np.float64]:
    """(T, 2) seconds: a row's picture is shown as long as the frame rate says, or else until the next row."""
    starts = read_npy(stamps)
    if starts.ndim != 1 or starts.dtype.kind not in "fiu" or values.ndim < 1 or len(starts) != len(values):
        raise InputError(f"{stamps} has shape {starts.shape}, which are not the times of {values.shape} values")
    starts = starts.astype(np.float64) / 1000
    if not np.isfinite(starts).all() or (np.diff(starts) < 0).any():
        raise InputError(f"{stamps}: times must be finite and go forwards")
    length = float(np.median(np.diff(starts))) if len(starts) > 1 else 0.0
    if rate is not None:
        found = read_npy(rate)
        if found.size != 1 or found.dtype.kind not in "fiu" or not 0 < float(found.reshape(())) < 1e6:
            raise InputError(f"{rate} holds no frame rate")
        length = 1 / float(found.reshape(()))
    return np.stack([starts, starts + length], axis=1)


# Exports of ours


def _frameloom_offers(folder: Path, choice: Choice) -> Offers:
    header, records = read_manifest(folder / MANIFEST)
    if header.format != "npy":
        raise ConfigError(
            f"{folder} is an export of {header.unit}s as {header.format}: only npy exports are imported again; a"
            " project's whole store can be copied as it is"
        )
    names, wanted = list(header.features), None if choice.identity is None else digest_of(dict(choice.identity))
    same = [name for name, identity in header.features.items() if digest_of(identity) == wanted]
    if choice.array is not None:
        if choice.array not in names:
            raise ConfigError(f"{folder} holds no feature {choice.array!r}: {nearest(choice.array, names)}")
        feature = choice.array
    elif same or len(names) == 1:
        feature = (same or names)[0]
    else:
        raise ConfigError(f"{folder} holds {', '.join(names)}, none of them made as configured: choose with --array")
    # A record's file is spelled as a path can be stored, and so is the file on disk: spelling it again would change it.
    files = ((os.fsencode(path.relative_to(folder).as_posix()), path) for _, path in _files(folder, (".npy",)))
    listed = {name.decode("utf-8", "surrogateescape"): path for name, path in files}  # UTF-8 whatever the locale
    offers = []
    for record in records:
        if record.feature != feature or record.fingerprint is None or record.status == PENDING:
            continue
        origin = (record.file or f"{MANIFEST}: {record.key}").encode("utf-8", "backslashreplace").decode()
        read = partial(_read_record, record, listed.get(record.file or ""), is_same=feature in same)
        offers.append(Offer(name=record.key, origin=origin, read=read, source_digest=record.source_digest))
    return Offers(offers=offers, ignored=[], identity=header.features[feature])


def _read_record(record: Record, path: Path | None, *, is_same: bool) -> Offered:
    if problem := record.contradiction():
        raise InputError(f"{MANIFEST}: {problem}")
    extent = None
    if record.start_seconds is not None and record.end_seconds is not None:
        extent = (record.start_seconds, record.end_seconds)
    known: dict[str, Any] = {"extent": extent, "status": Status(record.status), "message": record.message}
    if not record.num_rows:
        return Offered(values=np.zeros((0, 0)), times=np.zeros((0, 2)), **known)
    if path is None:
        raise InputError(f"{record.file!r:.200} of {MANIFEST} is not a file of the export")
    values = read_npy(path)
    if len(values) != record.num_rows:
        raise InputError(f"{path}: {record.key!r} has {len(values)} rows, and {MANIFEST} says {record.num_rows}")
    times = None
    if record.video is not None:
        times = read_npy(path.with_name(path.name.removesuffix(".npy") + ".times.npy"))
    return Offered(values=values, times=times, checksum=record.checksum if is_same else None, **known)


_LAYOUTS: Mapping[str, Callable[[Path, Choice], Offers]] = {
    "npy": _npy_offers,
    "pickle": _pickle_offers,
    "video_features": _video_features_offers,
    "frameloom": _frameloom_offers,
}
LAYOUTS = tuple(_LAYOUTS)
