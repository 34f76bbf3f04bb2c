"""Training clips of narrated videos: a random span, grown to whole sentences of its narration.

Paper: Everything at Once (arXiv 2112.04446), section 4.1. Source: ninatu/everything_at_once@4daeab6,
everything_at_once/dataset/howto_dataset.py. Sentences are (start, end) in seconds, ascending, and may touch or overlap.

What follows the code where paper and code differ:
* The paper shifts the sound "randomly by 4 seconds"; the code's coin always falls on the same side, so that the sound
  is half the shortest clip later than the words. "later" is the code, "random" the paper, "none" the ablation without.
* Only clips with words are shifted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..._vocabulary import InputError
from .tokens import HALF_WINDOW_SAMPLES, HOP_SAMPLES, SAMPLE_RATE_HZ, frame_at, frames_of_span

AudioShift = Literal["none", "later", "random"]


@dataclass(frozen=True, slots=True)
class NarratedClip:
    """One clip.

    Attributes:
        start_seconds: its first instant.
        end_seconds: the instant after its last. At least the shortest length later where there are sentences enough.
        sentences: indices of the sentences whose words it has, in the order in which their words are joined: a sentence
            added before others comes after them. Empty where nothing is said.
    """

    start_seconds: float
    end_seconds: float
    sentences: tuple[int, ...]


def random_clip(
    starts: Sequence[float], ends: Sequence[float], *, num_frames: int, min_seconds: float, draw: float
) -> NarratedClip:
    """The clip around a random instant: grown from the sentence at its start, else at its end, else without words.

    Args:
        starts: of the sentences.
        ends: of the sentences.
        num_frames: spectrogram frames of the video; the clip's start is drawn where `min_seconds` of it follow.
        min_seconds: shortest length.
        draw: a uniform random number of [0, 1).
    """
    duration_seconds = int((num_frames * HOP_SAMPLES + HALF_WINDOW_SAMPLES) / SAMPLE_RATE_HZ)
    start = draw * max(0.0, duration_seconds - min_seconds)
    end = start + min_seconds
    for instant in (start, end):
        index = max(0, int(np.searchsorted(starts, instant, side="left")) - 1)
        if len(starts) and starts[index] <= instant <= ends[index]:
            return grown_clip(starts, ends, index=index, min_seconds=min_seconds)
    return NarratedClip(start, end, ())


def grown_clip(starts: Sequence[float], ends: Sequence[float], *, index: int, min_seconds: float) -> NarratedClip:
    """A sentence, with neighbours added until it lasts `min_seconds`: of two, the one that gives the shorter span.

    On a tie the earlier one is added. A clip for which no neighbour is left stays short.
    """
    first = last = index
    sentences = [index]
    while ends[last] - starts[first] < min_seconds and (first > 0 or last < len(ends) - 1):
        is_last = last == len(ends) - 1
        if is_last or (first > 0 and ends[last] - starts[first - 1] <= ends[last + 1] - starts[first]):
            first -= 1
            sentences.append(first)
        else:
            last += 1
            sentences.append(last)
    return NarratedClip(starts[first], ends[last], tuple(sentences))


def audio_frames_of(
    clip: NarratedClip,
    *,
    min_seconds: float,
    max_frames: int,
    shift: AudioShift = "later",
    generator: np.random.Generator | None = None,
) -> slice:
    """The spectrogram frames of a clip, which may lie beyond the end of the track.

    Args:
        clip: the clip.
        min_seconds: shortest length of a clip: a shifted sound lasts so long, and is shifted by half of it.
        max_frames: frames kept at most.
        shift: whether the sound begins with the clip, later, or by a coin later or earlier.
        generator: for "random".

    Raises:
        InputError: "random" without a generator.
    """
    if not clip.sentences:
        first = frame_at(clip.start_seconds)
        return slice(first, first + max_frames)
    span = (clip.start_seconds, clip.end_seconds)
    if shift != "none":
        direction = 1
        if shift == "random":
            if generator is None:
                raise InputError("a random shift of the sound needs a generator: give np.random.default_rng(seed)")
            direction = 1 if generator.random() < 0.5 else -1
        start = max(0.0, clip.start_seconds + direction * min_seconds / 2)
        span = (start, start + min_seconds)
    frames = frames_of_span(*span)
    return slice(frames.start, min(frames.stop, frames.start + max_frames))
