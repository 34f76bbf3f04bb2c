"""Long clips cut into equal parts, each embedded by itself and averaged ("averaging over clips", table 6).

Source: ninatu/everything_at_once@4daeab6, everything_at_once/dataset/utils.py, "cut_into_clips". The embeddings of the
parts of a clip are averaged by `_tokens.average_by_id`. No deviation in the numbers; the authors mark a part that does
not count by the id "-1".

Legend: N padded rows, P parts, D width.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Int, Shaped

from ..._vocabulary import InputError

REAL_SHARE = 0.7
"""A part after the first counts when more than this share of its spectrogram frames is real."""


def equal_parts(rows: Shaped[np.ndarray, N * D], *, num_parts: int) -> Shaped[np.ndarray, "P M *D"]:
    """Padded rows, or their mask, as `num_parts` parts of equal length.

    Raises InputError when the parts would not be equal.
    """
    if num_parts < 1 or len(rows) % num_parts:
        raise InputError(f"{len(rows)} rows cannot be cut into {num_parts} equal parts: pad them to a multiple")
    return rows.reshape(num_parts, len(rows) // num_parts, *rows.shape[1:])


def frames_of_parts(
    num_frames: int, *, num_parts: int, frames_per_part: int
) -> tuple[Int[np.ndarray, " P"], Bool[np.ndarray, " P"]]:
    """The spectrogram frames that each part is taken to have, and whether it counts.

    The first part always counts. One that does not count is given all its frames, real or not, as the authors do it.

    Args:
        num_frames: real frames of the whole clip.
        num_parts: P.
        frames_per_part: frames of a part, padding included.
    """
    left = num_frames - np.arange(num_parts) * frames_per_part
    counts = (left > REAL_SHARE * frames_per_part) | (np.arange(num_parts) == 0)
    return np.where(counts, np.minimum(left, frames_per_part), frames_per_part), counts
