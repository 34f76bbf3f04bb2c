"""Transcripts as rows, so that they are stored, checked, merged and read by spans as any other feature.

A row is a word, or the next part of a long one: uint8 (T, `ROW_BYTES`), with the word's own time. Byte 0 says where
words and segments begin, byte 1 is the probability in 255ths, the rest is UTF-8, padded with zeros. Words keep the
blanks before them, so that those of any span, joined, are its text, in languages that write none as well.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from ..._vocabulary import FeatureArray, FeatureSpec

ROW_BYTES = 32
_HEAD = 2
_CONTINUES, _WORD, _SEGMENT = range(3)


@dataclass(frozen=True, slots=True)
class Word:
    """One word, with the blank before it, and when it is said: ``[start_seconds, end_seconds)``."""

    text: str
    start_seconds: float
    end_seconds: float
    probability: float


@dataclass(frozen=True, slots=True)
class Segment:
    """Words that are said together, about a sentence; at least one."""

    words: tuple[Word, ...]

    @property
    def text(self) -> str:
        return "".join(word.text for word in self.words).strip()

    @property
    def start_seconds(self) -> float:
        return self.words[0].start_seconds

    @property
    def end_seconds(self) -> float:
        return self.words[-1].end_seconds


def is_transcript(spec: FeatureSpec) -> bool:
    """Whether rows of this specification are words."""
    return spec.sampling.get("rows") == "words"


def rows_of(segments: Iterable[Segment]) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """The rows (T, `ROW_BYTES`) of segments in order of time, and their times (T, 2), which never go back."""
    rows: list[bytes] = []
    times: list[tuple[float, float]] = []
    for segment in segments:
        kind = _SEGMENT
        for word in segment.words:
            data = word.text.replace("\0", "").encode("utf-8", "replace")
            for first in range(0, len(data), ROW_BYTES - _HEAD):
                part = data[first : first + ROW_BYTES - _HEAD]
                kind = kind if first == 0 else _CONTINUES
                head = bytes([kind, round(255 * min(max(word.probability, 0.0), 1.0))])
                rows.append((head + part).ljust(ROW_BYTES, b"\0"))
                times.append((word.start_seconds, word.end_seconds))
            kind = _WORD if data else kind
    values = np.frombuffer(b"".join(rows), np.uint8).reshape(-1, ROW_BYTES).copy()
    spans = np.array(times, np.float64).reshape(-1, 2)
    starts = np.fromiter(accumulate(spans[:, 0], max), np.float64, len(spans))
    ends = np.fromiter(accumulate(np.maximum(spans[:, 1], starts), max), np.float64, len(spans))
    return values, np.stack([starts, ends], axis=1)


def segments_of(feature: FeatureArray) -> list[Segment]:
    """The segments of a transcript, or of a span of it, whose first may have begun before it."""
    found: list[list[tuple[bytes, int, tuple[float, float]]]] = []
    for row, (start, end) in zip(feature.values, feature.times.tolist(), strict=True):
        kind, probability, part = int(row[0]), int(row[1]), row[_HEAD:].tobytes().rstrip(b"\0")
        if kind == _SEGMENT or not found:
            found.append([])
        if kind == _CONTINUES and found[-1]:
            part = found[-1].pop()[0] + part
        found[-1].append((part, probability, (start, end)))
    return [
        Segment(tuple(Word(data.decode("utf-8", "replace"), *span, number / 255) for data, number, span in words))
        for words in found
    ]
