"""From stored features to the token rows of one clip, as Everything at Once prepares them.

Source: ninatu/everything_at_once@4daeab6, everything_at_once/dataset/utils.py. Rates and lengths of the paper's own
features: ResNet-152 at 1 row a second, ResNeXt-101 at 1.5; spectrogram frames of 10 ms at 16 kHz.

Deviation: with 2D features alone the authors' "nearest" and "max_pool" feed the same rows twice and double the width;
here one stream stays one stream.

Legend: N rows, D width, T frames.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Float, Int, Real
from numpy.typing import NDArray

if TYPE_CHECKING:
    from .rows import Padded

Rounding = Literal["inherited", "accurate"]
LongVideo = Literal["clip", "nearest", "max_pool"]

SAMPLE_RATE_HZ = 16_000
HOP_SAMPLES = 160
HALF_WINDOW_SAMPLES = 200
_CHUNK_VALUES = 65_536  # which stay in a core's cache while they are squared, summed and divided


def rows_of_span(
    start_seconds: float, end_seconds: float, *, rate_hz: float, rounding: Rounding = "inherited"
) -> slice:
    """The feature rows of a span.

    "inherited" is the authors' training and retrieval: int(start * rate) to int(end * rate), the last included.
    "accurate" is their step localisation: floor to ceil, the last excluded.
    """
    first, last = start_seconds * rate_hz, end_seconds * rate_hz
    if rounding == "inherited":
        return slice(int(first), int(last) + 1)
    return slice(math.floor(first), math.ceil(last))


def frames_of_span(start_seconds: float, end_seconds: float) -> slice:
    """The spectrogram frames of a span: frame k is centred on sample 160 k + 200 (librosa's time_to_frames)."""
    return slice(frame_at(start_seconds), frame_at(end_seconds))


def frame_at(seconds: float) -> int:
    """The spectrogram frame at an instant, never below 0."""
    return max(0, (int(seconds * SAMPLE_RATE_HZ) - HALF_WINDOW_SAMPLES) // HOP_SAMPLES)


def as_float32(rows: Real[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """A float32 copy in C order. torch converts float16 many times faster than NumPy, numbers to the same bits."""
    if rows.dtype != np.float16 or not rows.flags.writeable or any(step < 0 or step % 2 for step in rows.strides):
        return rows.astype(np.float32, order="C")
    import torch

    values: NDArray[np.float32] = torch.from_numpy(rows).float().contiguous().numpy()
    return values


def unit_rows(rows: Real[np.ndarray, "*B N D"]) -> Float[np.ndarray, "*B N D"]:
    """Every row over its Euclidean length, float32. A row of zeros stays zeros."""
    unit = as_float32(rows)
    flat = unit.reshape(math.prod(rows.shape[:-1]), rows.shape[-1])
    num_rows = max(1, _CHUNK_VALUES // max(1, rows.shape[-1]))
    for first in range(0, len(flat), num_rows):
        part = flat[first : first + num_rows]
        part /= np.maximum(np.linalg.norm(part, axis=-1, keepdims=True), 1e-12)
    return unit


def resample_nearest(rows: Real[np.ndarray, "N D"], *, num_rows: int) -> Real[np.ndarray, "M D"]:
    """Row i comes from row floor(i * N / num_rows)."""
    return rows[np.arange(num_rows) * len(rows) // num_rows]


def join_streams(
    streams: Sequence[Real[np.ndarray, "_ _"]], *, max_tokens: int, how: LongVideo = "clip"
) -> Float[np.ndarray, "N D"]:
    """The video tokens of a clip from one or more feature streams, 2D before 3D (section 4.1, backbones).

    Every stream is brought to the length of the last one, cut or resampled to `max_tokens`, each row normalised, and
    the streams are laid side by side.

    Args:
        streams: each (rows, width), in the order in which they are joined.
        max_tokens: rows kept at most.
        how: what happens to a longer clip: "clip" keeps its beginning, "nearest" samples evenly, "max_pool" pools by
            floor(rows / max_tokens) and then samples (as "nearest" where that is 1 for any stream).

    Returns:
        No rows at all when any stream has none: such a clip counts as having no video.
    """
    num_rows = len(streams[-1])
    if min(len(stream) for stream in streams) == 0:
        return np.zeros((0, sum(stream.shape[1] for stream in streams)), np.float32)
    if how == "clip" or num_rows <= max_tokens:
        same_length = [resample_nearest(stream, num_rows=num_rows)[:max_tokens] for stream in streams]
    else:
        kernels = [len(stream) // max_tokens for stream in streams]
        if how == "max_pool" and min(kernels) > 1:
            pairs = [(stream, kernel, len(stream) // kernel) for stream, kernel in zip(streams, kernels, strict=True)]
            streams = [rows[: n * kernel].reshape(n, kernel, -1).max(axis=1) for rows, kernel, n in pairs]
        same_length = [resample_nearest(stream, num_rows=max_tokens) for stream in streams]
    return np.concatenate([unit_rows(stream) for stream in same_length], axis=1)


def join_padded(
    streams: Sequence[Padded], *, max_tokens: int
) -> tuple[Float[np.ndarray, "B N D"], Int[np.ndarray, " B"]]:
    """`join_streams` with "clip" of several clips at once, to the same bits, and the rows of each of them."""
    *others, last = streams
    has_all = np.all([stream.num_rows > 0 for stream in streams], axis=0)
    num_rows = np.where(has_all, np.minimum(last.num_rows, max_tokens), 0)
    steps = np.arange(num_rows.max(initial=0))
    is_row = steps < num_rows[:, None]
    joined = []
    for stream in others:
        picked = steps * stream.num_rows[:, None] // np.maximum(last.num_rows, 1)[:, None]
        for place, nearest in stream.nearest.items():
            picked[place, : num_rows[place]] = nearest[: num_rows[place]]
        joined.append(stream.values[np.arange(len(num_rows))[:, None], np.where(is_row, picked, 0)])
    units = [unit_rows(rows) for rows in (*joined, last.values[:, : len(steps)])]
    for rows in units:
        rows[~is_row] = 0
    return (np.concatenate(units, axis=2) if others else units[0]), num_rows


def max_over_time(streams: Sequence[Real[np.ndarray, "_ _"]]) -> Float[np.ndarray, " D"]:
    """One row for a whole clip (AVLnet's input): each stream's maximum over time, normalised, laid side by side."""
    return np.concatenate([unit_rows(stream.max(axis=0, keepdims=True))[0] for stream in streams])


def average_by_id(ids: Sequence[str], embeddings: Real[np.ndarray, "N E"]) -> tuple[list[str], Real[np.ndarray, "M E"]]:
    """Average the embeddings of the parts of one clip ("averaging over clips", table 6).

    Rows of the same id become their mean, in the order of the sorted ids; rows with the id "-1" are dropped. When no id
    occurs twice, everything stays as it is, order included.
    """
    if len(set(ids)) == len(ids):
        return list(ids), embeddings
    kept = sorted(set(ids) - {"-1"})
    named = np.array(ids)
    return kept, np.stack([embeddings[named == name].mean(axis=0) for name in kept])
