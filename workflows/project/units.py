"""The unit of an answer: how a video without spans of its own is cut into clips. All in seconds, half-open."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from ..._vocabulary import FeatureArray

Span = tuple[float, float]


def windows_of(duration: float, *, length: float | None, stride: float | None = None) -> list[Span]:
    """Windows of one length, one after another or every `stride`; the whole video without a length.

    A window begins where at least half of it lies in the video. The last one ends with the video; with a stride, that
    is the first one that reaches so far.
    """
    if length is None or duration <= length:
        return [(0.0, duration)]
    if stride is None:
        starts = [index * length for index in range(max(1, math.floor(duration / length + 0.5)))]
        return list(pairwise([*starts, duration]))
    spans = [(0.0, length)]
    while spans[-1][1] < duration and len(spans) * stride + length / 2 <= duration:
        spans.append((len(spans) * stride, len(spans) * stride + length))
    return [*spans[:-1], (spans[-1][0], duration)]


def cuts_of(changes: FeatureArray, *, threshold: float) -> list[float]:
    """The instants at which shots change, from the feature of a detector.

    Every run of frames above the threshold is one change, however long it takes: a cut, a fade, a dissolve. It is set
    after the run's highest frame, so that shots follow one another and no frame is lost between them.
    """
    values = changes.values[:, 0].astype(np.float32)
    above = np.concatenate([[False], values > threshold, [False]])
    firsts, lasts = np.flatnonzero(~above[:-1] & above[1:]), np.flatnonzero(above[:-1] & ~above[1:])
    highest = [first + int(values[first:last].argmax()) for first, last in zip(firsts, lasts, strict=True)]
    return [float(changes.times[index, 1]) for index in highest]


def shots_of(duration: float, cuts: Sequence[float], *, shortest: float, longest: float | None) -> list[Span]:
    """Shots between cuts. One that is too short belongs to the next, or at the end to the one before.

    Args:
        duration: the end of the video.
        cuts: instants, ascending.
        shortest: shots shorter than this are joined to a neighbour.
        longest: shots longer than this are cut into as few parts as it takes; None keeps them.
    """
    starts = [0.0]
    for cut in cuts:
        if cut - starts[-1] >= shortest and duration - cut >= shortest:
            starts.append(cut)
    spans: list[Span] = []
    for start, end in pairwise([*starts, duration]):
        count = 1 if longest is None else max(1, math.ceil((end - start) / longest - 1e-9))
        spans += pairwise([*(start + (end - start) * index / count for index in range(count)), end])
    return spans
