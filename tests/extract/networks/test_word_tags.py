"""Parts of speech of word pieces: aligned with the pieces, with a tagger that is written here and with spaCy's."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType, ModuleType, SimpleNamespace

import numpy as np
import pytest
from frameloom import ConfigError
from frameloom.extract import backbone_spec, create_backbone
from frameloom.extract.networks.word_pieces import train_word_pieces
from frameloom.extract.networks.word_tags import load_tagger, tags_of
from frameloom.fuse import WordTag

PARTS = {
    "a": "DET",
    "black": "ADJ",
    "swan": "NOUN",
    "wants": "VERB",
    "can": "AUX",
    "not": "PART",
    "soon": "ADV",
    "t": "VERB",
}


def tagger(text: str) -> Iterator[SimpleNamespace]:
    """Cuts at blanks and before "not", as a real one cuts "cannot"; other words are proper nouns."""
    for found in re.finditer(r"can(?=not)|not|\S+", text):
        part = PARTS.get(found[0], "PROPN")
        yield SimpleNamespace(idx=found.start(), pos_=part, is_space=False)


def test_each_piece_has_the_tag_of_its_word() -> None:
    pieces = ["[CLS]", "a", "black", "sw", "##an", "wants", "soon", "[SEP]"]
    wanted = [0, 2, WordTag.ADJECTIVE, WordTag.NOUN, WordTag.CONTINUED, WordTag.VERB, WordTag.ADVERB, 0]
    assert tags_of(pieces, tagger) == wanted
    assert tags_of(["[CLS]", "[SEP]"], tagger) == [0, 0]


def test_of_a_word_that_the_tagger_cuts_the_last_part_counts() -> None:
    assert tags_of(["can", "##not", "can"], tagger) == [WordTag.OTHER, WordTag.CONTINUED, WordTag.AUXILIARY]


def test_a_piece_without_a_word_before_it_begins_one() -> None:
    assert tags_of(["##x", "##y"], tagger) == [WordTag.NOUN, WordTag.CONTINUED]


@pytest.mark.parametrize("part", ["NOUN", "PROPN", "VERB", "AUX", "ADV", "ADJ", "DET", "X"])
def test_tags_are_those_that_the_models_know(part: str) -> None:
    def of_one_part(text: str) -> list[SimpleNamespace]:
        return [SimpleNamespace(idx=0, pos_=part, is_space=False)]

    assert tags_of(["word"], of_one_part) == [WordTag.of(part)]


class Pipeline:
    meta = MappingProxyType({"version": "3.8.0"})

    def __call__(self, text: str) -> Iterator[SimpleNamespace]:
        return tagger(text)


class TestBackbone:
    @pytest.fixture
    def pieces(self, tmp_path: Path) -> Path:
        path = tmp_path / "vocab.txt"
        train_word_pieces(["a black swan wants a lake", "swans can not want"] * 3, path, vocabulary=400)
        return path

    @pytest.fixture
    def spacy(self, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
        """The package of spaCy's model, with our tagger in it."""

        module = ModuleType("en_core_web_sm")
        module.load = lambda exclude: Pipeline()
        monkeypatch.setitem(__import__("sys").modules, "en_core_web_sm", module)
        return module

    def test_a_text_has_numbers_and_tags(self, pieces: Path, spacy: ModuleType) -> None:
        plain = create_backbone("wordpiece", weights=pieces, vocabulary=400).encode("A black swan")
        tagged = create_backbone("wordpiece", weights=pieces, vocabulary=400, tags=True).encode("A black swan")
        assert tagged.values.dtype == np.int32
        assert tagged.values[:, :1].tolist() == plain.values.tolist()
        assert [tag for tag in tagged.values[:, 1].tolist() if tag != WordTag.CONTINUED] == [0, 2, 7, 3, 0]

    def test_a_long_text_keeps_its_end(self, pieces: Path, spacy: ModuleType) -> None:
        backbone = create_backbone("wordpiece", weights=pieces, vocabulary=400, tags=True)
        found = backbone.encode("swan " * 600)
        assert found.values.shape == (512, 2)
        assert found.values[-1].tolist() == [102, 0]
        assert "only the first 512" in found.message

    def test_another_version_is_refused(self, spacy: ModuleType) -> None:
        with pytest.raises(ConfigError, match=r"en_core_web_sm has version 3\.8\.0 and tags need 4\.0"):
            load_tagger("en_core_web_sm 4.0")

    def test_without_spacy_it_says_how_to_get_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(__import__("sys").modules, "en_core_web_sm", None)
        with pytest.raises(ConfigError, match=r"pip install 'frameloom\[tags\]' && python -m spacy download"):
            load_tagger("en_core_web_sm 3.8")

    def test_tags_are_of_another_feature(self) -> None:
        plain, tagged = backbone_spec("wordpiece"), backbone_spec("wordpiece", tags=True)
        assert "tags" not in plain.sampling
        assert (plain.dim, tagged.dim, tagged.sampling["tags"]) == (1, 2, "en_core_web_sm 3.8")
        with pytest.raises(ConfigError, match="tags of the backbone 'wordpiece' must be true or false"):
            backbone_spec("wordpiece", tags="yes")
