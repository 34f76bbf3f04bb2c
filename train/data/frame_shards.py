"""Stored frames: the members of a tar shard, compared with their sidecar, and the pictures in them.

Nothing but plain members of the sizes that the sidecar promises is taken, whatever a header claims; names, times and
status come from the sidecar. A sample whose bytes are not those that were written is an IntegrityError.
"""

from __future__ import annotations

import io
import json
import math
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from ..._vocabulary import InputError, IntegrityError
from ...store import Entry, sample_checksum
from .frame_indices import At, Draws, Rule, clover_indices, frozen_in_time_indices, vindlu_indices

_TAR_BLOCK = 512
_MAX_NPY_HEADER_BYTES = 4096
_TIME_BYTES = 16


class Picture(NamedTuple):
    """How frames are stored: `side` x `side` pixels, as bytes or as JPEG in rows of `row_bytes`."""

    side: int
    is_jpeg: bool


def picture_of(specs: Iterable[str]) -> Picture:
    """The frame format that a specification of `pixels` (canonical JSON) states.

    Raises:
        InputError: it is that of another feature.
    """
    for spec in specs:
        identity = json.loads(spec)
        facts, dim = identity["preprocessing"], identity["dim"]
        side, is_jpeg = facts.get("crop"), facts.get("frames") == "jpeg"
        if identity["dtype"] != "uint8" or not side or facts.get("patch") or not (is_jpeg or dim == side * side * 3):
            raise InputError(f"the feature {identity['name']!r} is not made of whole frames: extract `pixels`")
        return Picture(int(side), is_jpeg)
    return Picture(0, False)


def stored_frames(
    values: NDArray[np.uint8],
    times: NDArray[np.float64],
    *,
    span: tuple[float, float] = (-math.inf, math.inf),
    num_frames: int,
    rule: Rule,
    draws: Draws | None = None,
) -> list[bytes]:
    """The frames that a rule chooses of a clip, as they are stored.

    Args:
        values: rows of the feature `pixels`.
        times: (rows, 2), in seconds; the rows of one frame follow each other and have its time.
        span: of the clip. One in which no frame lies gives the frame nearest to its middle.
        num_frames: T.
        rule: which frames.
        draws: for training; None takes the middles.
    """
    first_rows = np.flatnonzero(np.r_[True, (times[1:] != times[:-1]).any(axis=1)])
    starts, ends = times[first_rows].T
    inside = np.flatnonzero((starts < span[1]) & (ends > span[0]))
    if not len(inside):
        inside = np.array([np.abs(starts + ends - span[0] - span[1]).argmin()])
    count: int = len(inside)
    at: At = "middle" if draws is None else "random"
    if rule == "frozen_in_time":
        picked = frozen_in_time_indices(count, num_frames=num_frames, at=at, draws=draws)
    elif rule == "vindlu":
        picked = vindlu_indices(count, num_frames=num_frames, at=at, draws=draws)
    else:
        picked = clover_indices(count, num_clips=num_frames, at=at, draws=draws)
    borders = np.append(first_rows, len(values))
    return [values[borders[place] : borders[place + 1]].tobytes() for place in inside[picked]]


def random_crop(draw: np.random.Generator, side: int, min_area: float, max_aspect: float) -> tuple[int, int, int, int]:
    """Top, left, height and width of a random resized crop of a square; all of it after 10 tries, as in torchvision."""
    for _ in range(10):
        area = side * side * draw.uniform(min_area, 1)
        aspect = math.exp(draw.uniform(-math.log(max_aspect), math.log(max_aspect)))
        width, height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < width <= side and 0 < height <= side:
            return int(draw.integers(side - height + 1)), int(draw.integers(side - width + 1)), height, width
    return 0, 0, side, side


def decoded_bytes(frame: bytes, side: int) -> NDArray[np.uint8]:
    """A raw frame (H, W, C)."""
    return np.frombuffer(frame, np.uint8).reshape(side, side, 3)


def decoded_jpeg(frame: bytes, side: int) -> NDArray[np.uint8]:
    """A frame (H, W, C) stored as JPEG, zeros after its end. Raises IntegrityError for another picture."""
    from PIL import Image

    with Image.open(io.BytesIO(frame), formats=["JPEG"]) as picture:
        if (picture.size, picture.mode) != ((side, side), "RGB"):
            raise IntegrityError(f"a frame is a JPEG of {picture.size} {picture.mode}, not {side} x {side} RGB")
        return np.asarray(picture)


def read_members(shards: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """The arrays of wanted samples as `webdataset`'s own reader of tars gives members: name, bytes, shard.

    That one would believe a header whatever size it claims, unpack compressed and sparse members, and read what nobody
    wants. Here a member is a plain header followed by its bytes, and those of a wanted sample are at most as many as
    its sidecar promises.

    Raises:
        IntegrityError: a shard is not a plain tar, or ends before its end.
    """
    for shard in shards:
        limits: dict[str, int] = {}
        for entry in shard["entries"]:
            name, row_bytes = entry.sample_id, entry.shard.dim * np.dtype(entry.shard.dtype).itemsize
            limits[f"{name}.values.npy"] = _MAX_NPY_HEADER_BYTES + entry.num_rows * row_bytes
            limits[f"{name}.times.npy"] = _MAX_NPY_HEADER_BYTES + entry.num_rows * _TIME_BYTES
        try:
            with Path(shard["url"]).open("rb") as file:
                while limits and any(header := file.read(_TAR_BLOCK)):
                    member = tarfile.TarInfo.frombuf(header, "ascii", "strict")
                    if member.type != tarfile.REGTYPE or member.size < 0:
                        raise ValueError(f"its member {member.name!r:.100} is not a plain file")
                    padded = -(-member.size // _TAR_BLOCK) * _TAR_BLOCK
                    limit = limits.pop(member.name, None)
                    if limit is None:
                        file.seek(padded, io.SEEK_CUR)
                        continue
                    if member.size > limit:
                        raise ValueError(f"its member {member.name} claims {member.size:,} bytes of {limit:,}")
                    data = file.read(padded)[: member.size]
                    yield {"fname": member.name, "data": data, "__url__": shard["url"]}
        except FileNotFoundError as error:
            raise IntegrityError(f"shard {shard['url']} is gone; run sync again to make it anew") from error
        except (OSError, ValueError, tarfile.TarError) as error:
            raise IntegrityError(f"shard {shard['url']} is damaged ({error}); run verify") from error
        yield {}  # samples of two shards are not joined


def checked_arrays(entry: Entry, sample: Mapping[str, Any]) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """A sample's values and times, as they were written.

    Raises:
        IntegrityError: they are not what the sidecar says.
    """
    try:
        values = _array(sample["values.npy"], np.dtype(entry.shard.dtype), (entry.num_rows, entry.shard.dim))
        times = _array(sample["times.npy"], np.dtype("<f8"), (entry.num_rows, 2))
        if sample_checksum(values, times) != entry.checksum:
            raise ValueError("its rows do not match their checksum")
    except (KeyError, ValueError) as error:
        raise IntegrityError(
            f"sample {entry.key!r} ({entry.fingerprint}) in shard {entry.shard.path} is damaged ({error}); run repair"
        ) from error
    return values, times


def _array(data: bytes, dtype: np.dtype[Any], shape: tuple[int, int]) -> NDArray[Any]:
    """An array from NumPy's format 1.0, of the type and shape that it must have. Raises ValueError for any other."""
    header = io.BytesIO()
    npy.write_array_header_1_0(header, {"descr": dtype.str, "fortran_order": False, "shape": shape})
    if not data.startswith(header.getvalue()) or len(data) != header.tell() + math.prod(shape) * dtype.itemsize:
        raise ValueError(f"it is not {dtype.str} {shape} in NumPy's format 1.0")
    array: NDArray[Any] = np.frombuffer(data, dtype, offset=header.tell()).reshape(shape)
    return array
