"""A caption looked up in a table: word2vec's vector of each word, or the number of each word piece.

`word2vec`. Mikolov et al., "Distributed Representations of Words and Phrases and their Compositionality" (NeurIPS
2013), used as Everything at Once uses the GoogleNews vectors. Followed: ninatu/everything_at_once at 4daeab6,
dataset/utils.py: words are runs of word characters and apostrophes, their case is kept, and those without a vector are
dropped *before* the rest is cut to the longest length. The cut is the reader's (20 in all published configurations):
here every known word is kept.

Deviation: none in the numbers. The vectors come from any file in word2vec's text or binary format.

`wordpiece`. Numbers of word pieces (see `networks/word_pieces.py`), [CLS] first and [SEP] last, for models that learn
their own vectors of them. They are cut to a model's length by its reader, so that another length reads nothing anew.
With the option `tags` each has its word's part of speech too, for models that mask by it: `true` is by the pipeline of
Clover's authors, a name by another one (`networks/word_tags.py`).

Legend: N known words or pieces, D width of the vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..._vocabulary import ConfigError, FeatureArray, FeatureSpec, InputError, Modality, Status
from ..networks import (
    WordVectors,
    read_word_vectors,
    tokenize,
    train_word_pieces,
    train_word_vectors,
)
from ..options import checked_whole
from ..registry import BACKBONES, BackboneEntry, Learned
from ..types import Backbone, DecodedAudio, DecodedFrames

TagsOf = Callable[[Sequence[str]], list[int]]


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

    def respelled(self, text: str) -> str:
        """A question in words that have vectors: a word that has none is spelled in another case, where that has one.

        Captions are encoded as they are written, as the published features were.
        """
        spellings = ((word, word.lower(), word.capitalize(), word.upper()) for word in tokenize(text))
        return " ".join(next((one for one in ways if one in self._rows), ways[0]) for ways in spellings)

    def left_out(self, text: str) -> list[str]:
        """The words of a text that have no vector, each once, in their order."""
        return list(dict.fromkeys(word for word in tokenize(text) if word not in self._rows))


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


class WordPiece:
    """Word pieces as a backbone: a text to (N, 1) int32, or (N, 2) with tags; times are NaN, for pieces have none."""

    def __init__(self, spec: FeatureSpec, *, tokenizer: Any, weights_digest: str, tags: TagsOf | None = None) -> None:
        self.spec = spec
        self._tags = tags
        self.weights_digest = weights_digest
        self._tokenizer = tokenizer

    def encode(self, item: DecodedFrames | DecodedAudio | str) -> FeatureArray:
        """The numbers of a text's pieces, [CLS] and [SEP] around them."""
        if not isinstance(item, str):
            raise InputError(f"the backbone {self.spec.name!r} reads text, not {type(item).__name__}")
        # Half a surrogate pair cannot be encoded.
        found = self._tokenizer.encode(item.encode("utf-8", "replace").decode())
        numbers = found.ids
        if len(numbers) < _MOST_SPECIAL + 1:
            return FeatureArray.empty(self.spec, Status.NO_TEXT, "the text holds no word")
        pieces, message = found.tokens, ""
        if len(numbers) > _MOST_PIECES:  # before they are tagged, which takes time
            numbers, pieces = ([*each[: _MOST_PIECES - 1], each[-1]] for each in (numbers, pieces))
            message = f"only the first {_MOST_PIECES} word pieces were read"
        columns = np.array([numbers] if self._tags is None else [numbers, self._tags(pieces)], np.int32)
        rows = np.ascontiguousarray(columns.T)
        return FeatureArray(rows, np.full((len(rows), 2), np.nan), Status.OK, message)

    def spelled(self, numbers: Sequence[int]) -> str:
        """The words of pieces, without [CLS], [SEP] and padding."""
        return str(self._tokenizer.decode(list(numbers)))


_FEWEST_PIECES = 256  # of a vocabulary: the special ones and some letters
_MOST_PIECES = 512  # of a text that are kept, as many as BERT knows places
_MOST_SPECIAL = 2


def describe_pieces(*, vocabulary: int = 30_522, lower_case: bool = True, tags: bool | str = False) -> FeatureSpec:
    """The options: most pieces of the vocabulary (BERT's has 30,522); whether capitals and accents are taken off.

    With `tags` each piece has its word's part of speech too, for texts in English: by a pipeline of spaCy, of which
    `True` is en_core_web_sm.
    """
    from ..networks.word_tags import TAGGERS

    if not isinstance(lower_case, bool):
        raise ConfigError(
            f"the option lower_case of the backbone 'wordpiece' must be true or false, not {lower_case!r}"
        )
    if not isinstance(tags, bool) and tags not in [*TAGGERS]:
        raise ConfigError(
            "the option tags of the backbone 'wordpiece' must be false, true (en_core_web_sm) or one of"
            f" {', '.join(TAGGERS)}, not {tags!r}"
        )
    tagger = "en_core_web_sm" if tags is True else tags
    vocabulary = checked_whole("wordpiece", "vocabulary", vocabulary, lowest=_FEWEST_PIECES, highest=1_000_000)
    return FeatureSpec(
        name="wordpiece",
        modality=Modality.TEXT,
        dim=1 if tags is False else 2,
        rate_hz=None,
        sampling={
            "tokens": "WordPiece, BERT's words",
            "vocabulary": vocabulary,
            "lower_case": lower_case,
            "max_tokens": _MOST_PIECES,
            "truncation": "end, [SEP] kept",
            **({"tags": f"{tagger} {TAGGERS[tagger].version}"} if tagger else {}),
        },
        preprocessing={},
        dtype="int32",
        paper="Schuster and Nakajima, Japanese and Korean Voice Search, ICASSP 2012",
    )


def check_tags(spec: FeatureSpec) -> None:
    """Raises ConfigError where a specification has tags and what makes them is not installed."""
    from ..networks.word_tags import tagger_folder

    if "tags" in spec.sampling:
        tagger_folder(spec.sampling["tags"].split()[0])


def build_pieces(spec: FeatureSpec, *, weights: Path | None, weights_digest: str, seed: int, device: str) -> Backbone:
    """The tokenizer of a vocabulary."""
    from ..networks.word_pieces import read_word_pieces

    del seed, device
    assert weights is not None
    facts = spec.sampling
    tokenizer = read_word_pieces(weights, lower_case=facts["lower_case"], num_pieces=facts["vocabulary"])
    tags = None
    if "tags" in facts:
        from ..networks.word_tags import load_tagger, tags_of

        tags = partial(tags_of, tagger=load_tagger(facts["tags"].split()[0]))
    return WordPiece(spec, tokenizer=tokenizer, weights_digest=weights_digest, tags=tags)


BACKBONES.add(
    "word2vec",
    BackboneEntry(
        describe,
        build,
        weights="required",
        number_types=(),
        learns=Learned("word vectors", "word_vectors-{}.bin", train_word_vectors),
    ),
)
BACKBONES.add(
    "wordpiece",
    BackboneEntry(
        describe_pieces,
        build_pieces,
        weights="required",
        takes_folder=True,
        number_types=(),
        learns=Learned("word pieces", "word_pieces-{}.txt", train_word_pieces),
    ),
)
