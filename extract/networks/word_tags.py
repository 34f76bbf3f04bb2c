"""The part of speech of each word piece, by spaCy's small English model.

Honnibal et al., spaCy (explosion/spaCy), pipeline en_core_web_sm 3.8: OntoNotes parts of speech as universal ones.
Used as Clover uses it (LeeYN-43/Clover@fa05f2e, mmaction/datasets/pipelines/loading.py): pieces are joined to words,
these by blanks, and where spaCy cuts a word further its last part counts. Which numbers mean what: `fuse.WordTag`.

The extra "tags" brings spaCy; its model is a package of its own: `python -m spacy download en_core_web_sm`.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

from ..._vocabulary import ConfigError

_PACKAGE = "en_core_web_sm"
_INSTALL = f"pip install 'frameloom[tags]' && python -m spacy download {_PACKAGE}"
_NOT_NEEDED = ("parser", "senter", "ner", "lemmatizer")
_MARKS = frozenset({"[CLS]", "[SEP]", "[PAD]"})
_NONE, _CONTINUED, _OTHER = 0, 1, 2
_TAGS = {"NOUN": 3, "PROPN": 3, "VERB": 4, "AUX": 5, "ADV": 6, "ADJ": 7}


def load_tagger(name: str) -> Any:
    """The pipeline of a name and a version, such as "en_core_web_sm 3.8", up to the parts of speech.

    Raises:
        ConfigError: it is not installed, or another version is.
    """
    try:
        module = import_module(_PACKAGE)
    except ImportError:
        raise ConfigError(f"the option tags needs spaCy and its small English model: {_INSTALL}") from None
    pipeline = module.load(exclude=[*_NOT_NEEDED])
    version, wanted = str(pipeline.meta["version"]), name.split()[1]
    if not version.startswith(f"{wanted}."):
        raise ConfigError(f"the package {_PACKAGE} has version {version} and tags need {wanted}: {_INSTALL}")
    return pipeline


def tags_of(pieces: Sequence[str], tagger: Any) -> list[int]:
    """A tag for each piece: of the word that it begins, or that it continues one; 0 for [CLS] and [SEP]."""
    words: list[str] = []
    places: list[int] = []  # of the word that a piece begins, else -1 (none) or -2 (continued)
    for piece in pieces:
        if piece in _MARKS:
            places.append(-1)
        elif piece.startswith("##") and words:
            words[-1] += piece[2:]
            places.append(-2)
        else:
            places.append(len(words))
            words.append(piece)
    word_at = [index for index, word in enumerate(words) for _ in range(len(word) + 1)]
    parts = [_OTHER] * len(words)
    for token in tagger(" ".join(words)):
        if not token.is_space:
            parts[word_at[token.idx]] = _TAGS.get(token.pos_, _OTHER)
    return [parts[place] if place >= 0 else (_NONE if place == -1 else _CONTINUED) for place in places]
