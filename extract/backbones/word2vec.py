"""Word2vec vectors of the words of a caption.

Mikolov et al., "Distributed Representations of Words and Phrases and their Compositionality" (NeurIPS 2013), used as
Everything at Once uses the GoogleNews vectors. Followed: ninatu/everything_at_once at 4daeab6, dataset/utils.py:
words are runs of word characters and apostrophes, their case is kept, and those without a vector are dropped *before*
the rest is cut to the longest length. The cut is the reader's (20 in all published configurations): here every known
word is kept.

Deviation: none in the numbers. The vectors come from any file in word2vec's text or binary format.

Legend: N known words, D width of the vectors.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..._vocabulary import ConfigError, FeatureArray, FeatureSpec, InputError, Modality, Status
from ..networks import WordVectors, read_word_vectors, tokenize
from ..options import checked_whole
from ..registry import BACKBONES, BackboneEntry
from ..types import Backbone, DecodedAudio, DecodedFrames


class Word2Vec:
    """Word vectors as a backbone: a text to (N, D) float32; times are NaN, for words have none."""

    def __init__(self, spec: FeatureSpec, *, table: WordVectors, weights_digest: str) -> None:
        self.spec = spec
        self.weights_digest = weights_digest
        self._rows = {word: row for row, word in enumerate(table.words)}
        self._vectors: NDArray[np.float32] = table.vectors

    def encode(self, item: DecodedFrames | DecodedAudio | str) -> FeatureArray:
        """One row for each known word of a text, in its order."""
        if not isinstance(item, str):
            raise InputError(f"the backbone {self.spec.name!r} reads text, not {type(item).__name__}")
        words = tokenize(item)
        rows = [self._rows[word] for word in words if word in self._rows]
        if not rows:
            unknown = f"{', '.join(words[:5])}{', ...' if len(words) > 5 else ''}"
            message = f"none of the words has a vector: {unknown}" if words else "the text holds no word"
            return FeatureArray.empty(self.spec, Status.NO_TEXT, message)
        return FeatureArray(self._vectors[rows], np.full((len(rows), 2), np.nan))


def describe(*, dim: int = 300) -> FeatureSpec:
    """The options: the width of the vectors."""
    return FeatureSpec(
        name="word2vec",
        modality=Modality.TEXT,
        dim=checked_whole("word2vec", "dim", dim, lowest=1, highest=10_000),
        rate_hz=None,
        sampling={"tokens": r"[\w']+", "case": "kept", "unknown": "dropped"},
        preprocessing={"l2_normalised": False},
        dtype="float32",
        paper="Mikolov et al., Distributed Representations of Words and Phrases, NeurIPS 2013",
    )


def build(spec: FeatureSpec, *, weights: Path | None, weights_digest: str, seed: int, device: str) -> Backbone:
    """The table of a file of word vectors."""
    del seed, device  # a table: nothing is random, nothing is computed
    assert weights is not None
    table = read_word_vectors(weights)
    dim = table.vectors.shape[1]
    if dim != spec.dim:
        raise ConfigError(
            f"the vectors in {weights} are {dim} wide, not {spec.dim}; give the backbone the option dim: {dim}"
        )
    return Word2Vec(spec, table=table, weights_digest=weights_digest)


BACKBONES.add("word2vec", BackboneEntry(describe, build, weights="required", number_types=()))
