"""The family of shard formats, and what all members share: samples and their checks.

A shard holds many samples end to end. Rows are counted over a shard's samples in order, in every format, as the sidecar
says it (`Entry.first_row`, `Entry.num_rows`). Each format is a file of its own that adds itself to `FORMATS`.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from ..._registry import Registry
from ..._vocabulary import FeatureArray, FeatureSpec, InputError, Modality, Status, ValueType, canonical_json

if TYPE_CHECKING:
    from .records import Contents

STORED_TYPES = {name: np.dtype(name).newbyteorder("<") for name in get_args(ValueType)}  # as they lie in a shard
MAX_DIM = 1 << 24
TIME_BYTES = 16  # of a row
_TIMES = np.dtype("<f8")
_CHECKED_ROWS = 1 << 16
REMEDY = "run `frameloom repair`, which keeps what is whole, and then sync again"


class ShardFormat(Protocol):
    """A way to keep samples in one file.

    Attributes:
        name: what configurations call it.
        suffix: ending of its files' names; no other format has it.
    """

    name: str
    suffix: str

    def write(self, target: io.RawIOBase, samples: Sequence[Sample], *, spec: FeatureSpec) -> Contents:
        """Write the shard that holds these samples in this order into an empty file. The same samples, the same bytes.

        The samples are as `check_samples` gives them. Returns what `contents` will say of the file.
        """
        ...

    def contents(self, file: BinaryIO) -> Contents:
        """What a shard says of its samples, and where their rows lie. Raises ValueError for anything else."""


class _Formats(Registry[ShardFormat], Mapping[str, ShardFormat]):
    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __len__(self) -> int:
        return len(self._entries)


FORMATS = _Formats("shard format")


def format_of(path: Path) -> ShardFormat:
    """The format of a shard, by its name's ending. Raises InputError."""
    for shard_format in FORMATS.values():
        if path.suffix == shard_format.suffix:
            return shard_format
    known = ", ".join(shard_format.suffix for shard_format in FORMATS.values())
    raise InputError(f"{path} is no shard: its name ends in {path.suffix!r}, and shards' names end in one of {known}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One feature of one source, on its way into a shard.

    Attributes:
        key: what a person calls it: a video's id, or a caption.
        source_digest: `Ledger.digests_of_files` of the file that it came from.
        fingerprint: `feature_fingerprint`; unique within a feature.
        feature: the numbers, or none and the reason.
    """

    key: str
    source_digest: str
    fingerprint: str
    feature: FeatureArray


def check_samples(samples: Sequence[Sample], *, spec: FeatureSpec) -> list[Sample]:
    """Samples as they are stored: little-endian, times and extents in float64. An array that is so is not copied.

    Raises InputError naming the sample that must never be stored.
    """
    if not samples:
        raise InputError("a shard needs at least one sample")
    if problem := _spec_problem(spec):
        raise InputError(f"the specification of {spec.name}: {problem}")
    seen: set[str] = set()
    for sample in samples:
        if sample.fingerprint in seen:
            raise InputError(f"sample {sample.key!r}: its fingerprint {sample.fingerprint} is twice in one shard")
        seen.add(sample.fingerprint)
        problem = _text_problem(sample) or _array_problem(sample.feature, spec) or _extent_problem(sample.feature)
        if problem:
            raise InputError(f"sample {sample.key!r} of {spec.name}: {problem}")
    return [replace(sample, feature=_as_stored(sample.feature, STORED_TYPES[spec.dtype])) for sample in samples]


def _spec_problem(spec: FeatureSpec) -> str:
    if spec.dtype not in STORED_TYPES:
        return f"values of {spec.dtype} cannot be stored; allowed: {', '.join(STORED_TYPES)}"
    if type(spec.dim) is not int or not 1 <= spec.dim <= MAX_DIM:
        return f"its width {spec.dim!r} is no whole number from 1 to {MAX_DIM:,}"
    try:
        canonical_json(spec.identity()).encode()
    except (TypeError, ValueError) as error:
        return f"it is not plain data ({error})"
    return ""


def _text_problem(sample: Sample) -> str:
    texts = (sample.fingerprint, sample.key, sample.source_digest, sample.feature.message)
    if not all(isinstance(text, str) for text in texts) or not isinstance(sample.feature.status, Status):
        return "its key, digest, fingerprint and message must be text, and its status one of Status"
    if not sample.fingerprint.isascii() or not sample.fingerprint:
        return f"fingerprint {sample.fingerprint!r} is not ASCII text"
    try:
        (sample.key + sample.source_digest + sample.feature.message).encode()
    except UnicodeEncodeError:
        return "its key, digest or message holds half a surrogate pair and cannot be written as UTF-8"
    return ""


def _array_problem(feature: FeatureArray, spec: FeatureSpec) -> str:
    values, times = feature.values, feature.times
    if type(values) is not np.ndarray or type(times) is not np.ndarray:
        return f"values and times must be NumPy arrays, not {type(values).__name__} and {type(times).__name__}"
    if values.shape[1] != spec.dim or values.dtype.newbyteorder("<") != STORED_TYPES[spec.dtype]:
        return f"values are {values.dtype} (T, {values.shape[1]}); the specification says {spec.dtype} (T, {spec.dim})"
    blocks = range(0, len(values), _CHECKED_ROWS) if values.dtype.kind == "f" else ()
    if not all(np.isfinite(values[first : first + _CHECKED_ROWS]).all() for first in blocks):
        return "values hold NaN or infinity; give it the status non_finite and no rows"
    return _times_problem(times, spec)


def _times_problem(times: NDArray[Any], spec: FeatureSpec) -> str:
    if times.dtype.kind not in "fiu":
        return f"times are {times.dtype}, and must be numbers of seconds"
    if spec.modality is Modality.TEXT:
        return "" if np.isnan(times).all() else "text has no times; they must be NaN"
    times = times.astype(_TIMES, copy=False)  # as they are stored: what is finite in a wider type may not be so there
    if not np.isfinite(times).all() or (times[:, 0] > times[:, 1]).any():
        return "times must be finite, and no interval may end before it starts"
    return ""


def _extent_problem(feature: FeatureArray) -> str:
    if feature.extent is None:
        return ""
    try:
        start, end = map(float, feature.extent)
    except (TypeError, ValueError, OverflowError):
        start, end = np.nan, np.nan
    is_span = np.isfinite([start, end]).all() and start <= end
    return "" if is_span else f"its extent {feature.extent!r} is no pair of finite seconds, the start and then the end"


def _as_stored(feature: FeatureArray, dtype: np.dtype[Any]) -> FeatureArray:
    extent = None if feature.extent is None else (float(feature.extent[0]), float(feature.extent[1]))
    values, times = feature.values.astype(dtype, copy=False), feature.times.astype(_TIMES, copy=False)
    return replace(feature, values=values, times=times, extent=extent)
