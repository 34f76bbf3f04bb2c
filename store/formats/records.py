"""What a shard says of its samples besides their numbers: enough to write its sidecar again, byte for byte."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from ..._vocabulary import ConfigError, Status
from .base import MAX_DIM, STORED_TYPES, Sample
from .checksums import block_checksums

FORMAT_VERSION = 2
_FINGERPRINT = re.compile(r"[0-9a-f]{32}")


def sample_id(fingerprint: str) -> str:
    """What a sample's members in a tar are called: 32 or 48 hexadecimal digits."""
    if _FINGERPRINT.fullmatch(fingerprint):
        return fingerprint
    return hashlib.blake2b(fingerprint.encode(), digest_size=24).hexdigest()


class SampleRecord(BaseModel):
    """One sample of a shard; `Entry` and `Sample` say what the names mean."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    key: str
    source_digest: str
    fingerprint: Annotated[str, Field(pattern=r"\A[\x00-\x7f]+\z")]
    num_rows: Annotated[int, Field(ge=0, lt=1 << 48)]
    extent: tuple[FiniteFloat, FiniteFloat] | None
    """Seconds [start, end) of the stream that its rows were sampled from; None without rows and for text."""
    status: Status
    message: str
    blocks: Annotated[str, Field(pattern=r"\A([0-9a-f]{16})*\z")]
    """`block_checksums` of its values and times, in hexadecimal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """A shard, as it describes itself."""

    spec: str  # canonical JSON of the specification's identity
    samples: tuple[SampleRecord, ...]  # in the order of their rows
    values_offsets: tuple[int, ...]  # where the values of each begin in the file; 0 of one without rows
    times_offsets: tuple[int, ...]


class OldFormatError(ConfigError):
    """A shard or a sidecar of a format that this version does not read."""


def check_version(version: object, name: str) -> None:
    """Raises OldFormatError for a file, ``name``, of another format, and ValueError for what is not a format's number.

    What is asked about must be known to be what was written: one flipped bit makes another number of 2.
    """
    if type(version) is not int:
        raise ValueError(f"its format is {version!r:.50}, this version reads {FORMAT_VERSION}")
    if version != FORMAT_VERSION:
        raise OldFormatError(
            f"{name} is of a feature store of format {version}, and this version reads format {FORMAT_VERSION}: use the"
            " version of frameloom that wrote it, or move the store's folder away, then run `frameloom extract` or"
            " `frameloom import` again"
        )


def record_of(sample: Sample) -> SampleRecord:
    """The record of a sample that is about to be written."""
    feature, extent = sample.feature, None
    if len(feature.times) and not np.isnan(feature.times).any():
        extent = feature.extent or (float(feature.times[:, 0].min()), float(feature.times[:, 1].max()))
    return SampleRecord(
        key=sample.key,
        source_digest=sample.source_digest,
        fingerprint=sample.fingerprint,
        num_rows=len(feature.values),
        extent=extent,
        status=feature.status,
        message=feature.message,
        blocks=block_checksums(feature.values, feature.times).hex(),
    )


def values_of(spec: str) -> tuple[np.dtype[Any], int]:
    """Type and width of the values that a specification, of whatever version, gives. Raises ValueError."""
    try:
        fields = json.loads(spec)
    except RecursionError as error:
        raise ValueError("its specification is nested too deeply") from error
    if not isinstance(fields, dict):
        raise ValueError("its specification is no object")
    dtype, dim = fields.get("dtype"), fields.get("dim")
    if not isinstance(dtype, str) or dtype not in STORED_TYPES or type(dim) is not int or not 1 <= dim <= MAX_DIM:
        raise ValueError(f"its specification says {dtype!r:.50} (T, {dim!r:.50})")
    return STORED_TYPES[dtype], dim
