"""Which frames represent a video: the published rules, as indices into its decoded frames.

Each rule chooses frames among the `length` frames that a video has. `at="middle"` is what the authors do for testing,
`at="random"` for training; a random rule takes `Draws`, which gives the authors' own numbers for a seed. Instants in
place of indices, for video whose frame rate is not constant, are `sampling.Segments`.

Sources: `frozen_in_time_indices` m-bain/frozen-in-time, base/base_dataset.py, which MILES (TencentARC/MCQ@3555a9b) and
All-in-one (showlab/all-in-one) took over; `vindlu_indices` klauscc/VindLU@3046548, dataset/video_utils.py;
`clover_indices` LeeYN-43/Clover@fa05f2e, mmaction/datasets/pipelines/loading.py ("SampleFrames", as TSN does it).

Deviations, each on purpose:
- Frozen in Time at random raises where a segment has one frame; here that frame is taken.
- Its OpenCV reader then decodes the frame *before* the index; here an index is the frame.
- Indices are integers throughout; Clover's lie inside the video (it takes them modulo its length).
"""

from __future__ import annotations

import itertools
import random
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ..._vocabulary import InputError

At = Literal["middle", "random"]
Rule = Literal["frozen_in_time", "vindlu", "clover"]
Indices = NDArray[np.int64]


class Draws:
    """The random numbers of the authors' code: Python's generator and NumPy's old one, both with the same seed."""

    def __init__(self, seed: int) -> None:
        self._python = random.Random(seed)  # noqa: S311 - nothing here is secret
        self._numpy = np.random.RandomState(seed)

    def one_of(self, candidates: range) -> int:
        """One of them (``random.choice``)."""
        return self._python.choice(candidates)

    def below(self, bound: int, *, count: int) -> Indices:
        """`count` integers from 0 to `bound` - 1 (``numpy.random.randint``)."""
        return self._numpy.randint(bound, size=count).astype(np.int64)

    def subset(self, length: int, *, count: int) -> Indices:
        """`count` different ones of the first `length` integers, ascending (``numpy.random.permutation``)."""
        return np.sort(self._numpy.permutation(length)[:count]).astype(np.int64)


def frozen_in_time_indices(length: int, *, num_frames: int, at: At = "middle", draws: Draws | None = None) -> Indices:
    """Frozen in Time, MILES, All-in-one: one frame from each of ``min(num_frames, length)`` equal segments.

    At random, the last frame of a segment is never drawn, as in the authors' code.

    Args:
        length: frames of the video.
        num_frames: frames wanted. A shorter video gives all its frames, and the reader pads with black ones.
        at: ``middle`` or ``random``.
        draws: for ``random``.

    Returns:
        Ascending indices, (min(num_frames, length),).

    Raises:
        InputError: a count below 1, an unknown `at`, or ``random`` without draws.
    """
    draws = _checked(length, num_frames, at, draws)
    edges = _edges(length, num_frames)
    if draws is None:
        return (edges[:-1] + edges[1:] - 1) // 2
    spans = itertools.pairwise(edges.tolist())
    return np.array([draws.one_of(range(a, max(a + 1, b - 1))) for a, b in spans], np.int64)


def vindlu_indices(length: int, *, num_frames: int, at: At = "middle", draws: Draws | None = None) -> Indices:
    """VindLU, the base of T2V2T: one frame from each of the equal segments; a short video repeats its last frame.

    At random, the last frame of a segment is never drawn; where some segment has one frame alone, the frames are a
    random subset of the video instead.

    Returns:
        Ascending indices, (num_frames,).

    Raises:
        InputError: as `frozen_in_time_indices`.
    """
    draws = _checked(length, num_frames, at, draws)
    edges = _edges(length, num_frames)
    count, spans = len(edges) - 1, itertools.pairwise(edges.tolist())
    if draws is None:
        indices = (edges[:-1] + edges[1:] - 1) // 2
    elif np.diff(edges).min() > 1:
        indices = np.array([draws.one_of(range(a, b - 1)) for a, b in spans])
    else:
        indices = draws.subset(length, count=count)
    return np.concatenate([indices, np.full(num_frames - count, indices[-1])]).astype(np.int64)


def clover_indices(
    length: int,
    *,
    num_clips: int,
    clip_frames: int = 1,
    frame_interval: int = 1,
    at: At = "middle",
    draws: Draws | None = None,
) -> Indices:
    """Clover (TSN): `num_clips` short clips of `clip_frames` frames each, `frame_interval` frames apart.

    The clips' starts lie in equal parts of what is left when one clip is taken off the end: in their middles, or at
    random in them. Where such a part is smaller than one frame, random starts lie anywhere, or evenly spread in a video
    of no more frames than clips; in one shorter than a clip they are 0. Indices beyond the end begin again at 0.

    Returns:
        Indices clip after clip, (num_clips * clip_frames,). Inside the video; random clips may overlap.

    Raises:
        InputError: as `frozen_in_time_indices`.
    """
    draws = _checked(length, min(num_clips, clip_frames, frame_interval), at, draws)
    room = length - clip_frames * frame_interval + 1
    if draws is None:
        each = max(room, 0) / num_clips
        starts = (np.arange(num_clips) * each + each / 2).astype(np.int64)
    else:
        starts = _clover_random(room, length=length, num_clips=num_clips, draws=draws)
    indices: Indices = (starts[:, None] + np.arange(clip_frames) * frame_interval).reshape(-1) % length
    return indices


def _clover_random(room: int, *, length: int, num_clips: int, draws: Draws) -> Indices:
    each = room // num_clips
    if each > 0:
        return np.arange(num_clips) * each + draws.below(each, count=num_clips)
    if room > 1 and length > num_clips:
        return np.sort(draws.below(room, count=num_clips))
    if each == 0:
        return np.around(np.arange(num_clips) * (room / num_clips)).astype(np.int64)
    return np.zeros(num_clips, np.int64)


def _edges(length: int, num_frames: int) -> Indices:
    """The borders of the segments: M + 1 integers from 0 to the length."""
    edges: Indices = np.linspace(0, length, min(num_frames, length) + 1).astype(np.int64)
    return edges


def _checked(length: int, count: int, at: At, draws: Draws | None) -> Draws | None:
    """The draws that a rule needs: None for the middles."""
    if length < 1 or count < 1:
        raise InputError(f"frames are chosen from at least one, and at least one of them; got {length} and {count}")
    if at not in get_args(At):
        raise InputError(f"frames are chosen at {' or '.join(get_args(At))}, not {at!r}")
    if at == "random" and draws is None:
        raise InputError("random frames need a generator: give draws=Draws(seed)")
    return draws if at == "random" else None
