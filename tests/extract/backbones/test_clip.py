"""CLIP: the numbers of transformers' model and of the authors' architecture, vocabularies, folders, strange texts."""

import functools
import os
import shutil
import socket
import subprocess
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from frameloom._vocabulary import ConfigError, InputError, Status
from frameloom.extract import Backbone, DecodedFrames, backbone_spec, create_backbone, weights_digest
from frameloom.extract.backbones.clip import ClipPictures, ClipTexts
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
)

SENTENCES = ["a dog does a trick", "A DOG, doing: tricks!", "dogs' tricks 2 3", "a"]


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a test asked for a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def small_tokenizer() -> CLIPTokenizer:
    """A vocabulary with merges, whose last two numbers are the special tokens."""
    letters = [chr(code) for code in (*range(ord("!"), ord("A")), *range(ord("a"), ord("z") + 1))]
    merged = ["do", "dog</w>", "tr", "tri", "tric", "trick</w>"]
    words = [*letters, *(f"{letter}</w>" for letter in letters), *merged, "<|startoftext|>", "<|endoftext|>"]
    merges = ["d o", "do g</w>", "t r", "tr i", "tri c", "tric k</w>"]
    pairs: Any = [tuple(merge.split()) for merge in merges]
    return CLIPTokenizer(vocab={word: number for number, word in enumerate(words)}, merges=pairs)


def small_clip(tokenizer: CLIPTokenizer) -> CLIPModel:
    def tower(width: int) -> dict[str, Any]:
        return {
            "hidden_size": width,
            "intermediate_size": 4 * width,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "projection_dim": 24,
        }

    vision = CLIPVisionConfig(image_size=32, patch_size=8, **tower(32))
    text = CLIPTextConfig(
        vocab_size=514,
        max_position_embeddings=16,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **tower(16),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        model = CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=24))
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.2)
    return model.eval()


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as transformers saves it: model, tokenizer and image processor."""
    folder = tmp_path_factory.mktemp("official")
    tokenizer = small_tokenizer()
    small_clip(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.fixture
def copied(official: Path, tmp_path: Path) -> Path:
    """A copy of the folder that a test may change."""
    return Path(shutil.copytree(official, tmp_path / "copy"))


def some_pictures(height: int = 32, width: int = 46) -> NDArray[np.uint8]:
    """Large patches of colour, so that pictures differ in more than their noise."""
    patches = np.random.default_rng(1).integers(0, 256, (3, 4, 6, 3), dtype=np.uint8)
    return patches.repeat(8, axis=1).repeat(8, axis=2)[:, :height, :width]


def as_frames(pictures: NDArray[np.uint8]) -> DecodedFrames:
    starts = np.arange(len(pictures), dtype=np.float64)
    return DecodedFrames(pictures, np.stack([starts, starts + 0.04], axis=1))


@torch.inference_mode()
def expected_pictures(folder: Path, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
    model = CLIPModel.from_pretrained(folder, local_files_only=True)
    processor = CLIPImageProcessor.from_pretrained(folder, local_files_only=True)
    inputs = processor([Image.fromarray(picture) for picture in pictures], return_tensors="pt")
    vectors: NDArray[np.float32] = model.visual_projection(model.vision_model(**inputs).pooler_output).numpy()
    return vectors


@torch.inference_mode()
def expected_text(folder: Path, text: str, *, tokens: bool = False) -> NDArray[np.float32]:
    model = CLIPModel.from_pretrained(folder, local_files_only=True)
    tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    output = model.text_model(**tokenizer(text, truncation=True, max_length=16, return_tensors="pt"))
    states = output.last_hidden_state[0, 1:-1] if tokens else output.pooler_output
    vectors: NDArray[np.float32] = model.text_projection(states).numpy()
    return vectors


class TestPictures:
    def test_equal_transformers_s_model_on_its_processor_s_pixels(self, official: Path) -> None:
        feature = create_backbone("test_clip", weights=official, dtype="float32").encode(as_frames(some_pictures()))
        expected = expected_pictures(official, some_pictures())
        assert np.ptp(expected, axis=0).max() > 0.02
        np.testing.assert_allclose(feature.values, expected, rtol=1e-4, atol=1e-5)

    def test_are_prepared_as_the_processor_prepares_them(self, official: Path) -> None:
        processor = CLIPImageProcessor.from_pretrained(official, local_files_only=True)
        expected = processor([Image.fromarray(picture) for picture in some_pictures()], return_tensors="pt")
        backbone: Any = create_backbone("test_clip")
        pixels = backbone.prepare(torch.from_numpy(some_pictures()[:, None].copy()))
        torch.testing.assert_close(pixels, expected["pixel_values"], rtol=1e-5, atol=1e-5, check_stride=False)

    @pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "clip.pth"])
    def test_weights_may_be_a_single_file(self, official: Path, tmp_path: Path, name: str) -> None:
        weights = load_file(official / "model.safetensors")
        path = tmp_path / name
        save_file(weights, path) if path.suffix == ".safetensors" else torch.save(weights, path)
        whole, single, alone = (
            create_backbone("test_clip", weights=where).encode(as_frames(some_pictures())).values
            for where in (official, path, tmp_path)
        )
        assert np.array_equal(whole, single)
        assert np.array_equal(whole, alone)

    def test_specification_is_clip_s(self) -> None:
        spec = backbone_spec("clip_vit_b32")
        assert (spec.dim, spec.rate_hz) == (512, 1.0)
        processor = CLIPImageProcessor()
        assert spec.preprocessing["mean"] == list(processor.image_mean)
        assert spec.preprocessing["std"] == list(processor.image_std)
        assert (spec.preprocessing["short_side"], spec.preprocessing["crop"]) == (224, 224)
        assert backbone_spec("clip_vit_l14").dim == 768


class TestTexts:
    @pytest.mark.parametrize("text", [*SENTENCES, "a dog does a trick " * 50])
    @pytest.mark.parametrize("pooling", ["sentence", "tokens"])
    def test_equal_transformers_s_model_on_its_tokenizer_s_numbers(
        self, official: Path, text: str, pooling: str
    ) -> None:
        backbone = create_backbone("test_clip_text", weights=official, dtype="float32", pooling=pooling)
        feature = backbone.encode(text)
        expected = expected_text(official, text, tokens=pooling == "tokens")
        assert feature.values.shape == expected.shape
        np.testing.assert_allclose(feature.values, expected, rtol=1e-4, atol=1e-4)
        assert np.isnan(feature.times).all()
        assert ("only the first 16 tokens" in feature.message) == (len(text) > 100)

    def test_the_vocabulary_s_two_old_files_are_enough(self, official: Path, copied: Path) -> None:
        saved = small_tokenizer().backend_tokenizer.model.save(str(copied))
        assert {Path(name).name for name in saved} == {"vocab.json", "merges.txt"}
        (copied / "tokenizer.json").unlink()
        old, new = (create_backbone("test_clip_text", weights=folder) for folder in (copied, official))
        for text in SENTENCES:
            assert np.array_equal(old.encode(text).values, new.encode(text).values)

    @pytest.mark.parametrize("text", ["", "   ", "\n\t\u00a0", "\u2028"])
    def test_an_empty_text_is_a_status(self, text: str) -> None:
        feature = create_backbone("test_clip_text").encode(text)
        assert (feature.status, feature.values.shape) == (Status.NO_TEXT, (0, 24))

    def test_without_weights_any_text_is_told_from_any_other(self) -> None:
        backbone = create_backbone("test_clip_text")
        texts = ["a dog", "a cat", "dog a", "д", "犬", "👩\u200d👧", "\x00", "\ud800", "﷽"]
        rows = [backbone.encode(text).values.tobytes() for text in texts]
        assert len(set(rows)) == len(texts)

    def test_without_weights_tokens_have_clip_s_own_numbers(self) -> None:
        """CLIP's vocabulary begins with the bytes in an order that all its users know: ``!`` is 0, ``a</w>`` is 320."""
        tokenizer = create_backbone("test_clip_text").tokenizer  # type: ignore[attr-defined]
        assert tokenizer("a ! dog é")["input_ids"] == [512, 320, 256, 67, 78, 326, 127, 358, 513]

    def test_a_huge_word_takes_no_long_time(self) -> None:
        feature = create_backbone("test_clip_text").encode("x" * 100_000)
        assert (feature.status, len(feature.values)) == (Status.OK, 1)


@functools.cache
def any_text_backbone() -> Backbone:
    return create_backbone("test_clip_text")


@settings(max_examples=40, deadline=None)
@given(st.text(st.characters(), max_size=40))
def test_any_text_gives_a_row_or_says_that_it_is_empty(text: str) -> None:
    feature = any_text_backbone().encode(text)
    assert (feature.status, len(feature.values)) in {(Status.OK, 1), (Status.NO_TEXT, 0)}


class _Gelu(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(1.702 * x)


class _Block(nn.Module):
    """A layer as the paper's supplement and the authors' key names describe it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, 2, batch_first=True)
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        layers = {"c_fc": nn.Linear(width, 4 * width), "gelu": _Gelu(), "c_proj": nn.Linear(4 * width, width)}
        self.mlp = nn.Sequential(OrderedDict(layers))

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, attn_mask=mask, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


def _layers(width: int) -> nn.Module:
    stack = nn.Module()
    stack.resblocks = nn.ModuleList([_Block(width), _Block(width)])
    return stack


class _Visual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 8, 8, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(32))
        self.positional_embedding = nn.Parameter(torch.randn(17, 32))
        self.ln_pre, self.ln_post = nn.LayerNorm(32), nn.LayerNorm(32)
        self.transformer = _layers(32)
        self.proj = nn.Parameter(torch.randn(32, 24))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv1(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.expand(len(x), 1, 32), x], dim=1) + self.positional_embedding
        x = self.ln_pre(x)
        for block in self.transformer.resblocks:
            x = block(x, None)
        return self.ln_post(x[:, 0]) @ self.proj


class AuthorsClip(nn.Module):
    """CLIP with the key names of the authors' published weights, written from the paper."""

    def __init__(self) -> None:
        super().__init__()
        self.visual = _Visual()
        self.token_embedding = nn.Embedding(514, 16)
        self.positional_embedding = nn.Parameter(torch.randn(16, 16))
        self.transformer = _layers(16)
        self.ln_final = nn.LayerNorm(16)
        self.text_projection = nn.Parameter(torch.randn(16, 24))
        self.logit_scale = nn.Parameter(torch.ones([]))

    def encode_text(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.token_embedding(tokens) + self.positional_embedding[: tokens.shape[1]]
        mask = torch.full((tokens.shape[1], tokens.shape[1]), float("-inf")).triu(1)
        for block in self.transformer.resblocks:
            x = block(x, mask)
        return self.ln_final(x)[:, tokens.argmax(dim=-1)[0]] @ self.text_projection


@pytest.fixture
def authors() -> AuthorsClip:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        model = AuthorsClip().eval()
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.3)
    return model


def test_the_authors_key_names_are_read(authors: AuthorsClip, copied: Path) -> None:
    settings_of_file = {"input_resolution": torch.tensor(32), "context_length": torch.tensor(16)}
    (copied / "model.safetensors").unlink()
    torch.save({**authors.state_dict(), **settings_of_file, "vocab_size": torch.tensor(514)}, copied / "ViT.pth")
    pictures = create_backbone("test_clip", weights=copied / "ViT.pth", dtype="float32")
    texts = create_backbone("test_clip_text", weights=copied, dtype="float32")
    frames = some_pictures(32, 32)
    inputs = pictures.prepare(torch.from_numpy(frames[:, None]))  # type: ignore[attr-defined]
    tokens = small_tokenizer()("a dog does a trick", return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        expected_frames, expected_texts = authors.visual(inputs).numpy(), authors.encode_text(tokens).numpy()
    np.testing.assert_allclose(pictures.encode(as_frames(frames)).values, expected_frames, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(texts.encode("a dog does a trick").values, expected_texts, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "count"), [("clip_vit_b32", 151_277_313), ("clip_vit_l14", 427_616_513)])
def test_the_published_ones_have_as_many_parameters_as_published(name: str, count: int) -> None:
    text = backbone_spec(f"{name}_text")
    with torch.device("meta"):
        towers = [
            ClipPictures.random_network(backbone_spec(name)),
            ClipTexts.random_network(text, ClipTexts.read_tokenizer(text, None)),
        ]
    temperature = 1
    assert sum(p.numel() for tower in towers for p in tower.parameters()) + temperature == count
    assert isinstance(towers[1], CLIPTextModelWithProjection)
    assert towers[1].config.eos_token_id == 49_407


class TestFolders:
    def test_are_named_by_what_decides_numbers(self, official: Path, copied: Path) -> None:
        digest = weights_digest("test_clip_text", official)
        assert digest.startswith("sha256:")
        (copied / "README.md").write_text("changed")
        (copied / "flax_model.msgpack").write_bytes(b"not read")
        assert weights_digest("test_clip_text", str(copied)) == digest
        assert create_backbone("test_clip_text", weights=copied).weights_digest == digest
        (copied / "tokenizer.json").write_text((copied / "tokenizer.json").read_text() + " ")
        assert weights_digest("test_clip_text", copied) != digest

    def test_the_hash_is_that_of_the_list_of_hashes(self, official: Path, copied: Path) -> None:
        counted = sorted(path.name for path in copied.iterdir() if path.suffix in (".json", ".safetensors"))
        done = subprocess.run(
            f"sha256sum {' '.join(counted)} | sha256sum",
            shell=True,
            cwd=copied,
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "LC_ALL": "C"},
        )
        assert weights_digest("test_clip", official) == f"sha256:{done.stdout.split()[0]}"

    def test_are_refused_by_those_who_read_files(self, official: Path) -> None:
        for refuse in (weights_digest, lambda name, weights: create_backbone(name, weights=weights)):
            with pytest.raises(ConfigError, match="resnet18"):
                refuse("resnet18", official)

    @pytest.mark.parametrize("name", ["test_clip", "test_clip_text"])
    def test_without_weights_or_with_several_are_refused(self, copied: Path, name: str) -> None:
        (copied / "model.safetensors").rename(copied / "one.safetensors")
        create_backbone(name, weights=copied)
        shutil.copy(copied / "one.safetensors", copied / "two.safetensors")
        with pytest.raises(ConfigError, match="several weights"):
            create_backbone(name, weights=copied)
        for path in copied.glob("*.safetensors"):
            path.unlink()
        with pytest.raises(ConfigError, match="no weights"):
            create_backbone(name, weights=copied)
        shutil.rmtree(copied)
        copied.mkdir()
        with pytest.raises(ConfigError, match="holds no weights"):
            weights_digest(name, copied)

    def test_texts_need_the_vocabulary(self, official: Path, copied: Path) -> None:
        (copied / "tokenizer.json").unlink()
        for weights in (copied, official / "model.safetensors"):
            with pytest.raises(ConfigError, match=r"tokenizer\.json or vocab\.json and merges\.txt"):
                create_backbone("test_clip_text", weights=weights)

    def test_a_damaged_vocabulary_is_refused(self, copied: Path) -> None:
        path = copied / "tokenizer.json"
        path.write_text(path.read_text()[:-200])
        with pytest.raises(InputError, match=r"vocabulary in .* is damaged"):
            create_backbone("test_clip_text", weights=copied)

    def test_a_vocabulary_that_the_network_does_not_know_is_refused(self, copied: Path) -> None:
        tokenizer = small_tokenizer()
        tokenizer.add_tokens([f"word{number}" for number in range(600)])
        tokenizer.save_pretrained(copied)
        with pytest.raises(InputError, match="the network knows 514 tokens"):
            create_backbone("test_clip_text", weights=copied)

    @pytest.mark.parametrize("name", ["test_clip", "test_clip_text"])
    def test_another_network_of_the_same_shapes_is_refused(self, copied: Path, name: str) -> None:
        """LAION's CLIPs have the shapes of the authors' and another activation."""
        path = copied / "config.json"
        path.write_text(path.read_text().replace("quick_gelu", "gelu"))
        with pytest.raises(InputError, match="hidden_act is 'gelu', not 'quick_gelu'"):
            create_backbone(name, weights=copied)
        path.write_text("{")
        with pytest.raises(InputError, match="is damaged"):
            create_backbone(name, weights=copied)

    def test_cannot_run_code(self, copied: Path) -> None:
        canary = copied / "canary"
        (copied / "evil.py").write_text(f"open({str(canary)!r}, 'w')")
        path = copied / "tokenizer_config.json"
        path.write_text('{"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}}')
        create_backbone("test_clip_text", weights=copied)
        assert not canary.exists()


def test_weights_of_another_clip_are_refused(official: Path, tmp_path: Path) -> None:
    weights = load_file(official / "model.safetensors")
    del weights["vision_model.post_layernorm.bias"]
    torch.save(weights, tmp_path / "clip.pth")
    with pytest.raises(InputError, match=r"vision_model\.post_layernorm\.bias is missing"):
        create_backbone("test_clip", weights=tmp_path / "clip.pth")


@pytest.mark.parametrize(
    ("name", "options"),
    [("test_clip", {"rate_hz": 0}), ("test_clip_text", {"pooling": "mean"}), ("test_clip_text", {"dtype": "uint8"})],
)
def test_impossible_options_are_refused(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        backbone_spec(name, **options)
