"""Batches for fusion models, and tiny random dual encoders of transformers, saved as users have them.

And a stand-in for faster-whisper, which CI need not have, by its public class: it hears tones as words.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pytest
import torch
from frameloom.fuse import FusionModel, ModelConfig, Tokens
from frameloom.fuse.base import Embeddings
from frameloom.fuse.objectives import norm_softmax_loss, unit
from frameloom.fuse.registry import MODELS, register_model
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

# Every registered test_* model takes rows of these widths.
WIDTHS = {"text": 12, "video": 24, "audio": 40, "speech": 12}
LENGTHS = {"text": (5, 3, 1, 4), "video": (6, 2, 4, 1), "audio": (32, 20, 7, 16), "speech": (2, 7, 3, 1)}


def tokens_of(lengths: tuple[int, ...], width: int, *, seed: int, num_rows: int | None = None) -> Tokens:
    """Random rows; what lies beyond a sample's length is noise that must not matter."""
    generator = torch.Generator().manual_seed(seed)
    num_rows = num_rows or max(*lengths, 1)
    values = torch.randn(len(lengths), num_rows, width, generator=generator)
    return Tokens(values, torch.arange(num_rows) < torch.tensor(lengths)[:, None])


# Every registered test_* model that takes pixels reads pictures of so many pixels a side, ids below so many, and room
# for so many frames and tokens at least.
PICTURE, VOCABULARY, FRAMES = 32, 40, 6
PIXEL_LENGTHS = {"text": (5, 3, 4, 6), "video": (4, 2, 1, 3)}


def pixels_of(name: str, lengths: tuple[int, ...], *, seed: int) -> Tokens:
    """Random normalised pictures, or token ids from 1; what lies beyond a sample's length is noise too."""
    generator = torch.Generator().manual_seed(seed)
    shape = (len(lengths), max(*lengths, 1))
    mask = torch.arange(shape[1]) < torch.tensor(lengths)[:, None]
    if name == "text":
        return Tokens(torch.randint(1, VOCABULARY, shape, generator=generator), mask)
    return Tokens(torch.randn(*shape, 3, PICTURE, PICTURE, generator=generator), mask)


WORDS = (
    "a",
    "dog",
    "cat",
    "does",
    "trick",
    "photo",
    "of",
    "the",
    "red",
    "green",
    "blue",
    "picture",
    "tone",
    "A",
    "Dog",
)
_SPECIAL = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3}
POSITIONS = 16
_TEXT = {
    "vocab_size": 24,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": POSITIONS,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_VISION = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}
_SQUARE = {"height": 32, "width": 32}
_CUT = {"size": {"shortest_edge": 32}, "crop_size": _SQUARE}


class Made(NamedTuple):
    """A network, and what prepares its pictures or sound."""

    network: Any
    processor: Any


def _transformers() -> Any:
    import transformers

    return transformers


def clip(name: str = "CLIP", processor: str = "CLIPImageProcessor", **how: Any) -> Made:
    t = _transformers()
    text, vision = ({**part, "projection_dim": 12} for part in (_TEXT, _VISION))
    if name == "AltCLIP":
        text |= {"project_dim": 10, "max_position_embeddings": POSITIONS + 1}
    config = getattr(t, f"{name}Config")(text_config=text, vision_config=vision, projection_dim=12)
    return Made(getattr(t, f"{name}Model")(config), getattr(t, processor)(**(how or _CUT)))


def siglip() -> Made:
    t = _transformers()
    config = t.SiglipConfig(text_config={**_TEXT, "projection_size": 16}, vision_config=_VISION)
    return Made(t.SiglipModel(config), t.SiglipImageProcessor(size=_SQUARE))


def siglip2() -> Made:
    """NaFlex: any number of patches up to 20, in the picture's own shape."""
    t = _transformers()
    vision = {**{key: value for key, value in _VISION.items() if key != "image_size"}, "num_patches": 16}
    config = t.Siglip2Config(text_config={**_TEXT, "projection_size": 16}, vision_config=vision)
    return Made(t.Siglip2Model(config), t.Siglip2ImageProcessor(patch_size=8, max_num_patches=20))


def blip(name: str = "BlipModel") -> Made:
    t = _transformers()
    text = {**_TEXT, "encoder_hidden_size": 16, "projection_dim": 12}
    config = t.BlipConfig(text_config=text, vision_config=_VISION, projection_dim=12, image_text_hidden_size=10)
    return Made(getattr(t, name)(config), t.BlipImageProcessor(size=_SQUARE))


def align() -> Made:
    t = _transformers()
    vision = {
        "image_size": 32,
        "width_coefficient": 1.0,
        "depth_coefficient": 1.0,
        "in_channels": [32, 8],
        "out_channels": [8, 16],
        "kernel_sizes": [3, 3],
        "strides": [1, 2],
        "num_block_repeats": [1, 1],
        "expand_ratios": [1, 2],
        "depthwise_padding": [],
        "hidden_dim": 16,
    }
    config = t.AlignConfig(text_config=_TEXT, vision_config=vision, projection_dim=16)
    how = {"size": {"height": 40, "width": 40}, "do_center_crop": True, "crop_size": _SQUARE, "do_normalize": False}
    return Made(
        t.AlignModel(config), t.EfficientNetImageProcessor(**how, rescale_factor=1 / 127.5, rescale_offset=True)
    )


def x_clip() -> Made:
    t = _transformers()
    mit = {"hidden_size": 12, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = {**_VISION, "num_frames": 4, **{f"mit_{key}": value for key, value in mit.items()}}
    config = t.XCLIPConfig(
        text_config=_TEXT, vision_config=vision, projection_dim=12, prompt_layers=1, prompt_num_attention_heads=2
    )
    return Made(t.XCLIPModel(config), t.VideoMAEImageProcessor(**_CUT))


def clap(*, is_fused: bool = False) -> Made:
    t = _transformers()
    audio = {
        "window_size": 4,
        "num_mel_bins": 16,
        "spec_size": 128,
        "patch_size": 8,
        "patch_stride": [8, 8],
        "hidden_size": 16,
        "patch_embeds_hidden_size": 8,
        "depths": [1, 1],
        "num_attention_heads": [2, 2],
        "num_hidden_layers": 2,
        "projection_dim": 12,
        "enable_fusion": is_fused,
        "aff_block_r": 2,
    }
    text = {**_TEXT, "max_position_embeddings": POSITIONS + 1, "projection_dim": 12}
    config = t.ClapConfig(text_config=text, audio_config=audio, projection_dim=12)
    truncation = "fusion" if is_fused else "rand_trunc"
    return Made(t.ClapModel(config), t.ClapFeatureExtractor(feature_size=16, truncation=truncation))


PICTURES: dict[str, Callable[[], Made]] = {
    "clip": clip,
    "metaclip_2": lambda: clip("MetaClip2"),
    "altclip": lambda: clip("AltCLIP"),
    "chinese_clip": lambda: clip("ChineseCLIP", "ChineseCLIPImageProcessor", size=_SQUARE, crop_size=_SQUARE),
    "siglip": siglip,
    "siglip2": siglip2,
    "blip": blip,
    "blip_itc": lambda: blip("BlipForImageTextRetrieval"),
    "align": align,
    "x_clip": x_clip,
}
SOUND: dict[str, Callable[[], Made]] = {"clap": clap, "clap_fused": lambda: clap(is_fused=True)}
FAMILIES = PICTURES | SOUND


def tokenizer(**how: Any) -> Any:
    """Words of a list, between marks of begin and end."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    vocabulary = _SPECIAL | {word: number for number, word in enumerate(WORDS, len(_SPECIAL))}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    marks = [("<s>", 1), ("</s>", 2)]
    made.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=marks)
    return _transformers().PreTrainedTokenizerFast(
        tokenizer_object=made,
        **{"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>", **how},
    )


def save_model(family: str, folder: Path, *, seed: int = 0) -> Path:
    """A folder as transformers saves a model: safetensors, configuration, vocabulary and processor."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = FAMILIES[family]()
        for parameter in made.network.parameters():  # at their own, tiny scale all rows of random weights look alike
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.2)
    logging = _transformers().utils.logging
    logging.disable_progress_bar()
    made.network.save_pretrained(folder)
    made.processor.save_pretrained(folder)
    # The pictures' tokenizers of SigLIP give no attention mask: padding is seen, as in training.
    names = ["input_ids"] if family.startswith("siglip") else ["input_ids", "attention_mask"]
    tokenizer(model_max_length=POSITIONS, model_input_names=names).save_pretrained(folder)
    logging.enable_progress_bar()
    return folder


class TinyPixelsConfig(ModelConfig):
    """Sizes, named as every model of pixels names them."""

    image_size: int = 32
    num_frames: int = 2
    vocab_size: int = 256
    max_words: int = 16
    seed: int = 0

    def all_modalities(self) -> tuple[str, ...]:
        return ("text", "video")


class TinyPixels(FusionModel):
    """A mean of frames through a convolution and a mean of word pieces, compared by NCE; draws noise in its loss.

    What `epoch_ended` changes, and the steps that draws follow from, are kept with its weights.
    """

    config_type = TinyPixelsConfig
    modalities = ("text", "video")
    takes_pixels = True

    def __init__(self, config: TinyPixelsConfig) -> None:
        super().__init__()
        self.config, self.dim = config, 12
        self.picture = nn.Conv2d(3, 12, 8, stride=8)
        self.pieces = nn.Embedding(config.vocab_size, 12)
        self.norm = nn.LayerNorm(12)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("epochs", torch.zeros((), dtype=torch.int64))
        self.seen: list[tuple[int, int]] = []

    def embed(self, name: str, tokens: Tokens) -> Tensor:
        values, mask = tokens
        if name == "text":
            if values.shape[1] > self.config.max_words:
                raise AssertionError("a text is longer than the limit")
            rows = self.pieces(values)
        else:
            if values.shape[1] > self.config.num_frames or values.shape[3] != self.config.image_size:
                raise AssertionError(f"a clip has shape {tuple(values.shape)}")
            rows = self.picture(values.flatten(0, 1).float() / 255 - 0.5).mean(dim=(2, 3)).view(*values.shape[:2], -1)
        weights = mask.to(rows.dtype)[..., None]
        return unit(self.norm((rows * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)))

    def embeddings(self, batch) -> Embeddings:
        given = {name: tokens for name, tokens in batch.items() if tokens is not None}
        nonempty = {name: tokens.mask.bool().any(dim=1) for name, tokens in given.items()}
        return Embeddings({name: self.embed(name, tokens) for name, tokens in given.items()}, nonempty)

    def encode(self, **given) -> Tensor:
        vectors = self.embeddings(given).vectors
        return unit(torch.stack(list(vectors.values())).sum(dim=0))

    def loss(self, batch):
        self.seen.append(tuple(batch["video"].values.shape[:2]))
        vectors = self.embeddings(batch).vectors
        noise = torch.Generator().manual_seed(self.config.seed * 1000 + int(self.steps))
        self.steps += 1
        video = functional.normalize(vectors["video"] + 0.01 * torch.randn(vectors["video"].shape, generator=noise))
        loss = norm_softmax_loss(video, vectors["text"], temperature=0.1)
        return loss, {"text|video": loss.detach()}

    def epoch_ended(self) -> None:
        self.epochs += 1
        with torch.no_grad():
            self.norm.bias.mul_(0.99)


def register_tiny_pixels() -> str:
    """The name of `TinyPixels`, which is registered in the processes that ask for it alone."""
    if "tiny_pixels" not in MODELS.names("*"):
        register_model("tiny_pixels", summary="for tests of pixels")(TinyPixels)
    return "tiny_pixels"


SAYS = {220.0: "telescope", 440.0: "rivers", 880.0: "Goddard", 1760.0: "running"}
"""The word for each pitch in Hz. A second of one pitch is one word."""
RATE = 16_000


def spoken(*pitches: float | None) -> NDArray[np.float32]:
    """A second (N,) of sound for each pitch, of silence for None: words with a tenth of a second around each."""
    time = np.arange(RATE) / RATE
    inside = (time > 0.1) & (time < 0.9)
    seconds = [np.zeros(RATE) if one is None else 0.4 * np.sin(2 * np.pi * one * time) * inside for one in pitches]
    return np.concatenate(seconds).astype(np.float32)


class StandIn:
    """faster-whisper's `WhisperModel`, as far as it is used: each second is heard by its loudest pitch.

    Attributes:
        made: how every one was made.
        asked: the length in samples and the options of every call.
    """

    compression_ratio, avg_logprob = 1.2, -0.3
    made: ClassVar[list[dict[str, Any]]] = []
    asked: ClassVar[list[dict[str, Any]]] = []

    def __init__(self, path: str, **how: Any) -> None:
        if (Path(path) / "model.bin").read_bytes() != b"CTRANSLATE2 MODEL":
            raise RuntimeError("Unsupported model binary version.\nThis executable supports version 6")
        self.made.append({"path": path, **how})

    def transcribe(self, audio: NDArray[np.float32], **how: Any) -> tuple[Any, Any]:
        """Segments, which a generator gives when it is asked: silence ends them."""
        assert audio.ndim == 1
        assert audio.dtype == np.float32
        self.asked.append({"num_samples": len(audio), **how})
        return self._segments(audio), SimpleNamespace(language="en")

    def _segments(self, audio: NDArray[np.float32]) -> Any:
        words: list[Any] = []
        for first in range(0, len(audio), RATE):
            block = audio[first : first + RATE]
            if np.abs(block).max() > 0.05 and len(block) > RATE // 2:
                spectrum = np.abs(np.fft.rfft(block))
                pitch = spectrum.argmax() * RATE / len(block)
                word = SAYS[min(SAYS, key=lambda one: abs(one - pitch))]
                start = np.float64(first / RATE)
                words.append(
                    SimpleNamespace(word=f" {word}", start=start + 0.1, end=start + 0.9, probability=np.float64(0.75))
                )
            elif words:
                yield self._segment(words)
                words = []
        if words:
            yield self._segment(words)

    def _segment(self, words: list[Any]) -> Any:
        return SimpleNamespace(words=words, compression_ratio=self.compression_ratio, avg_logprob=self.avg_logprob)


@pytest.fixture
def whisper(monkeypatch: pytest.MonkeyPatch) -> type[StandIn]:
    """The stand-in in the library's place."""
    module = ModuleType("faster_whisper")
    module.__spec__ = ModuleSpec("faster_whisper", None)
    module.WhisperModel = StandIn  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "faster_whisper", module)
    monkeypatch.setattr(StandIn, "made", [])
    monkeypatch.setattr(StandIn, "asked", [])
    return StandIn


def write_model(folder: Path) -> Path:
    """A folder as the stand-in reads it."""
    folder.mkdir(parents=True)
    (folder / "model.bin").write_bytes(b"CTRANSLATE2 MODEL")
    for name in ("config.json", "tokenizer.json"):
        (folder / name).write_text("{}")
    (folder / "vocabulary.txt").write_text("a\n")
    return folder
