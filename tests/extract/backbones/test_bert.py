"""BERT and DistilBERT: the numbers of transformers' models and tokenizer, rows, cuts, folders, strange texts."""

import functools
import shutil
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from frameloom._vocabulary import ConfigError, InputError, Status
from frameloom.extract import Backbone, backbone_spec, create_backbone, weights_digest
from frameloom.extract.backbones.bert import Bert
from helpers.children import run_python
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.torch import load_file
from transformers import (
    AutoModel,
    BertConfig,
    BertForPreTraining,
    BertTokenizer,
    DistilBertConfig,
    DistilBertForMaskedLM,
)

NAMES = ["test_bert", "test_distilbert"]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "dog", "does", "trick", "##s", "'", "!", "e", "犬"]
TEXTS = ["A dog does a trick", "dogs' TRICKS!", "unknown words", "é 犬犬 a\n\ta", "[MASK] a"]


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a test asked for a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def small_model(name: str) -> Any:
    """A model with the head that it was trained with, as it is published."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        model: Any
        if name == "test_bert":
            layers = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
            model = BertForPreTraining(BertConfig(vocab_size=517, **layers))
        else:
            layers = {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 128}
            model = DistilBertForMaskedLM(DistilBertConfig(vocab_size=517, **layers))
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


@pytest.fixture(scope="module", params=NAMES)
def official(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A backbone's name, and a folder for it as transformers saves it."""
    folder = tmp_path_factory.mktemp(request.param)
    small_model(request.param).save_pretrained(folder)
    BertTokenizer(vocab={word: number for number, word in enumerate(WORDS)}).save_pretrained(folder)
    return request.param, folder


@pytest.fixture
def copied(official: tuple[str, Path], tmp_path: Path) -> tuple[str, Path]:
    """The same, in a folder that a test may change."""
    return official[0], Path(shutil.copytree(official[1], tmp_path / "copy"))


@torch.inference_mode()
def expected_states(folder: Path, text: str, *, max_tokens: int = 512) -> NDArray[np.float32]:
    """The last layer, special tokens included."""
    tokenizer = BertTokenizer.from_pretrained(folder, local_files_only=True)
    model = AutoModel.from_pretrained(folder, local_files_only=True).eval()
    inputs = tokenizer(text, truncation=True, max_length=max_tokens, return_tensors="pt")
    inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    states: NDArray[np.float32] = model(**inputs).last_hidden_state[0].numpy()
    return states


class TestNumbers:
    @pytest.mark.parametrize("text", TEXTS)
    def test_equal_transformers_s_model_on_its_tokenizer_s_numbers(self, official: tuple[str, Path], text: str) -> None:
        name, folder = official
        states = expected_states(folder, text)
        wanted = {"tokens": states[1:-1], "cls": states[:1], "mean": states[1:-1].mean(axis=0, keepdims=True)}
        for pooling, expected in wanted.items():
            backbone = create_backbone(name, weights=folder, pooling=pooling, dtype="float32")
            feature = backbone.encode(text)
            assert (feature.status, feature.message) == (Status.OK, "")
            np.testing.assert_allclose(feature.values, expected, rtol=1e-4, atol=1e-4)
            assert np.isnan(feature.times).all()

    @pytest.mark.parametrize("max_tokens", [3, 8, 512])
    def test_a_long_text_is_cut_as_transformers_cuts_it(self, official: tuple[str, Path], max_tokens: int) -> None:
        name, folder = official
        text = "a dog does a trick " * 2000
        feature = create_backbone(name, weights=folder, max_tokens=max_tokens, dtype="float32").encode(text)
        expected = expected_states(folder, text, max_tokens=max_tokens)[1:-1]
        assert len(feature.values) == max_tokens - 2
        np.testing.assert_allclose(feature.values, expected, rtol=1e-4, atol=1e-4)
        assert feature.message == f"only the first {max_tokens} tokens were read"

    def test_a_text_that_just_fits_is_not_called_cut(self, official: tuple[str, Path]) -> None:
        name, folder = official
        backbone = create_backbone(name, weights=folder, max_tokens=6)
        assert backbone.encode("a dog does trick").message == ""
        assert backbone.encode("a dog does trick !").message == "only the first 6 tokens were read"

    def test_half_precision_is_close(self, official: tuple[str, Path]) -> None:
        name, folder = official
        whole, half = (
            create_backbone(name, weights=folder, precision=precision).encode(TEXTS[0]).values.astype(np.float32)
            for precision in ("float32", "bfloat16")
        )
        assert not np.array_equal(whole, half)
        np.testing.assert_allclose(whole, half, atol=0.1 * np.abs(whole).max())

    @pytest.mark.parametrize(
        "official", [NAMES[0], pytest.param(NAMES[1], marks=pytest.mark.slow)], indirect=True, scope="module"
    )
    def test_of_a_folder_are_read_without_transformers(self, official: tuple[str, Path]) -> None:
        """A question to BERT waits for its import, which takes seconds, where the network is transformers' own."""
        name, folder = official
        code = (
            "import sys; from frameloom import create_backbone;"
            " row = create_backbone(sys.argv[1], weights=sys.argv[2]).encode('a dog').values;"
            " print(len(row), 'transformers' in sys.modules, 'torch._dynamo' in sys.modules)"
        )
        is_theirs = name == "test_distilbert"
        assert run_python(code, name, str(folder)).split() == ["2", *([str(is_theirs)] * 2)]


class TestWeights:
    def test_old_names_of_layernorms_are_read(self, copied: tuple[str, Path], tmp_path: Path) -> None:
        """The first published files call a LayerNorm's tensors gamma and beta, and store positions."""
        name, folder = copied
        before = create_backbone(name, weights=folder).encode(TEXTS[0]).values
        endings = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
        renamed = {}
        for key, value in load_file(folder / "model.safetensors").items():
            ending = next((ending for ending in endings if key.endswith(ending)), "")
            renamed[key.removesuffix(ending) + endings.get(ending, "")] = value
        prefix = "bert." if name == "test_bert" else "distilbert."
        renamed[f"{prefix}embeddings.position_ids"] = torch.arange(512)[None]
        assert any("gamma" in key for key in renamed)
        (folder / "model.safetensors").unlink()
        torch.save(renamed, folder / "pytorch_model.bin")
        assert np.array_equal(create_backbone(name, weights=folder).encode(TEXTS[0]).values, before)

    def test_an_old_vocabulary_file_is_enough(self, official: tuple[str, Path], copied: tuple[str, Path]) -> None:
        name, folder = copied
        (folder / "tokenizer.json").unlink()
        (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
        old, new = (create_backbone(name, weights=where) for where in (folder, official[1]))
        for text in TEXTS:
            assert np.array_equal(old.encode(text).values, new.encode(text).values)

    def test_a_folder_s_vocabulary_is_part_of_its_name(
        self, official: tuple[str, Path], copied: tuple[str, Path]
    ) -> None:
        name, folder = copied
        assert weights_digest(name, folder) == weights_digest(name, official[1])
        (folder / "vocab.txt").write_text("other")
        assert weights_digest(name, folder) != weights_digest(name, official[1])

    def test_what_is_missing_is_said(self, copied: tuple[str, Path]) -> None:
        name, folder = copied
        with pytest.raises(ConfigError, match=r"folder with tokenizer\.json or vocab\.txt"):
            create_backbone(name, weights=folder / "model.safetensors")
        with pytest.raises(ConfigError, match="not a file"):
            create_backbone(name, weights=folder / "elsewhere")
        (folder / "tokenizer.json").unlink()
        with pytest.raises(ConfigError, match=r"no vocabulary in .*copy"):
            create_backbone(name, weights=folder)

    def test_of_the_other_network_are_refused(self, copied: tuple[str, Path]) -> None:
        name, folder = copied
        other = next(other for other in NAMES if other != name)
        with pytest.raises(InputError, match="these weights are not for"):
            create_backbone(other, weights=folder)

    def test_of_another_activation_are_refused(self, copied: tuple[str, Path]) -> None:
        name, folder = copied
        path = folder / "config.json"
        path.write_text(path.read_text().replace('"gelu"', '"relu"'))
        with pytest.raises(InputError, match="is 'relu', not 'gelu'"):
            create_backbone(name, weights=folder)


@pytest.mark.parametrize("name", NAMES)
class TestWithoutWeights:
    def test_a_letter_is_a_token(self, name: str) -> None:
        tokenizer = create_backbone(name).tokenizer  # type: ignore[attr-defined]
        assert tokenizer.tokenize("Dogs' é 犬") == ["d", "##o", "##g", "##s", "'", "e", "ç", "##Ĭ", "##¬"]
        assert len(create_backbone(name).encode("Dogs' é 犬").values) == 9

    def test_any_text_is_told_from_any_other(self, name: str) -> None:
        backbone = create_backbone(name)
        texts = ["a dog", "a cat", "dog a", "д", "犬", "👩\u200d👧", "\ud800", "﷽"]
        rows = [backbone.encode(text).values.tobytes() for text in texts]
        assert len(set(rows)) == len(texts)

    @pytest.mark.parametrize("text", ["", "   ", "\n\t\u00a0", "\x00"])
    @pytest.mark.parametrize("pooling", ["tokens", "cls", "mean"])
    def test_an_empty_text_is_a_status(self, name: str, text: str, pooling: str) -> None:
        feature = create_backbone(name, pooling=pooling).encode(text)
        assert (feature.status, feature.values.shape) == (Status.NO_TEXT, (0, 32))

    def test_a_huge_word_takes_no_long_time(self, name: str) -> None:
        assert len(create_backbone(name, max_tokens=64).encode("x" * 100_000).values) == 62


@functools.cache
def any_text_backbone() -> Backbone:
    return create_backbone("test_bert", max_tokens=16)


@settings(max_examples=40, deadline=None)
@given(st.text(st.characters(), max_size=40))
def test_any_text_has_rows_and_no_unknown_token_or_is_empty(text: str) -> None:
    backbone: Any = any_text_backbone()
    feature = backbone.encode(text)
    assert (feature.status is Status.OK) == (len(feature.values) > 0)
    assert feature.status in (Status.OK, Status.NO_TEXT)
    if "[" not in text:
        tokens = backbone.tokenizer(text.encode("utf-8", "replace").decode())["input_ids"]
        assert backbone.tokenizer.unk_token_id not in tokens


@pytest.mark.parametrize(
    ("name", "count"), [("bert_base_uncased", 109_482_240 - 590_592), ("distilbert_base_uncased", 66_362_880)]
)
def test_the_published_ones_have_as_many_parameters_as_published(name: str, count: int) -> None:
    """Those of transformers' base models; BERT's pooler, a layer of 768 x 768 + 768, is left out."""
    with torch.device("meta"):
        network = Bert.random_network(backbone_spec(name), Bert.read_tokenizer(backbone_spec(name), None))
    assert sum(parameter.numel() for parameter in network.parameters()) == count
    assert backbone_spec(name).dim == 768


@pytest.mark.parametrize(
    "options", [{"pooling": "max"}, {"max_tokens": 2}, {"max_tokens": 513}, {"max_tokens": 8.5}, {"precision": "int8"}]
)
def test_impossible_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        backbone_spec("bert_base_uncased", **options)
