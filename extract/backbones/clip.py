"""CLIP: pictures and sentences in one space, one vector for a frame and one for a text.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision" (ICML 2021). Followed:
openai/CLIP (clip/model.py, clip/clip.py); the networks and tokenizers are those of transformers
(models/clip). Everything at Once uses ViT-B/32: one frame a second, and the text tower's single tokens, which is the
option ``pooling: tokens``: the projected vectors after the start token and before the end token.

Weights are a folder as transformers saves it, or, for pictures, also a single file of a state dict, by transformers'
or by the authors' key names. The authors' own files are TorchScript archives, which hold code and are not read: save
their ``state_dict()``. The vocabulary lies in the folder, so that texts need a folder.

Deviations, each on purpose:
- Vectors are stored as the projection gives them; CLIP divides them by their length before it compares. Readers do.
- Pictures are scaled once, by the decoder, by swscale's bicubic filter instead of PIL's; the corner of the square in
  the middle is rounded down. Pixels are upright and square.
- A text that is too long is cut before its end token, as transformers does; the authors' code refuses it.
- Without weights, the vocabulary is CLIP's first 512 entries (each byte, inside and at the end of a word) without the
  merges, so that any text can be read: a letter a token. Random weights are transformers' initialisation, which shrinks
  with depth.

Legend: B frames, N tokens, D width of the common space.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from ..._vocabulary import FeatureSpec
from ..networks import StillNetwork, TextNetwork, read_tokenizer, still_windows, text_spec, visual_spec
from ..registry import register
from ..weights import check_configuration

if TYPE_CHECKING:
    import torch

Pooling = Literal["sentence", "tokens"]
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)
_PAPER = "Radford et al., Learning Transferable Visual Models From Natural Language Supervision, ICML 2021"
_START, _END = "<|startoftext|>", "<|endoftext|>"
_VOCABULARY_FILES = (("tokenizer.json",), ("vocab.json", "merges.txt"))


@dataclass(frozen=True, slots=True)
class _Tower:
    """One of the two transformers of a CLIP."""

    width: int
    depth: int
    num_heads: int

    def as_config(self, dim: int) -> dict[str, Any]:
        """The tower in the words of its configuration, with the common width."""
        return {
            "hidden_size": self.width,
            "intermediate_size": 4 * self.width,
            "num_hidden_layers": self.depth,
            "num_attention_heads": self.num_heads,
            "hidden_act": "quick_gelu",
            "layer_norm_eps": 1e-5,
            "projection_dim": dim,
        }

    def hidden_facts(self) -> dict[str, Any]:
        """The tower's settings that decide its numbers and do not follow from the shapes of its weights."""
        return {name: self.as_config(0)[name] for name in ("hidden_act", "num_attention_heads", "layer_norm_eps")}


@dataclass(frozen=True, slots=True)
class _Variant:
    """One CLIP: the common width, its towers, the picture that it reads, and its vocabulary."""

    dim: int
    vision: _Tower
    text: _Tower
    patch: int
    size: int = 224
    num_embeddings: int = 49_408
    max_tokens: int = 77


_VARIANTS = {
    "clip_vit_b32": _Variant(512, _Tower(768, 12, 12), _Tower(512, 12, 8), patch=32),
    "clip_vit_l14": _Variant(768, _Tower(1024, 24, 16), _Tower(768, 12, 12), patch=14),
    "test_clip": _Variant(24, _Tower(32, 2, 2), _Tower(16, 2, 2), patch=8, size=32, num_embeddings=514, max_tokens=16),
}
# A part of an authors' key name, and transformers' word for it.
_OPENAI_WORDS = {
    "transformer.resblocks.": "encoder.layers.",
    "attn.out_proj.": "self_attn.out_proj.",
    "ln_1.": "layer_norm1.",
    "ln_2.": "layer_norm2.",
    "mlp.c_fc.": "mlp.fc1.",
    "mlp.c_proj.": "mlp.fc2.",
    "ln_pre.": "pre_layrnorm.",
    "ln_post.": "post_layernorm.",
    "ln_final.": "final_layer_norm.",
    "class_embedding": "embeddings.class_embedding",
    "conv1.": "embeddings.patch_embedding.",
    "positional_embedding": "embeddings.position_embedding.weight",
    "token_embedding.": "embeddings.token_embedding.",
}
_OPENAI_PROJECTIONS = {"visual.proj": "visual_projection.weight", "text_projection": "text_projection.weight"}
_OPENAI_SETTINGS = ("input_resolution", "context_length", "vocab_size")


def transformers_names(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """CLIP's tensors by transformers' key names, whether they have these or the authors'."""
    if "positional_embedding" not in state_dict and "visual.proj" not in state_dict:
        return dict(state_dict)
    renamed: dict[str, Any] = {}
    for key, value in state_dict.items():
        if key in _OPENAI_PROJECTIONS:
            renamed[_OPENAI_PROJECTIONS[key]] = value.T
        elif key not in (*_OPENAI_SETTINGS, "logit_scale"):
            name = ("vision_model." if key.startswith("visual.") else "text_model.") + key.removeprefix("visual.")
            for theirs, ours in _OPENAI_WORDS.items():
                name = name.replace(theirs, ours)
            layer, found, kind = name.partition("attn.in_proj_")
            if not found:
                renamed[name] = value
                continue
            for part, third in zip(("q_proj", "k_proj", "v_proj"), value.chunk(3), strict=True):
                renamed[f"{layer}self_attn.{part}.{kind}"] = third
    return renamed


class ClipPictures(StillNetwork):
    """CLIP's image tower with its projection."""

    ignored_keys = ("text_model.", "text_projection.", "logit_scale", "vision_model.embeddings.position_ids")

    def official_names(self, state_dict: Mapping[str, Any]) -> Mapping[str, Any]:
        """The key names of transformers or of the authors, as transformers has them."""
        return transformers_names(state_dict)

    @classmethod
    def random_network(cls, spec: FeatureSpec) -> Any:
        """Transformers' image tower."""
        from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

        variant = _VARIANTS[spec.name]
        config = CLIPVisionConfig(
            image_size=variant.size, patch_size=variant.patch, **variant.vision.as_config(variant.dim)
        )
        network: torch.nn.Module = CLIPVisionModelWithProjection(config)
        return network

    @classmethod
    def check_weights(cls, spec: FeatureSpec, weights: Path) -> None:
        check_configuration(weights, _VARIANTS[spec.name].vision.hidden_facts(), section="vision_config")

    def embed(self, inputs: torch.Tensor) -> torch.Tensor:
        """Normalised pictures (B, 3, H, W) to projected vectors (B, D)."""
        features: torch.Tensor = self.network(pixel_values=inputs).image_embeds
        return features


class ClipTexts(TextNetwork):
    """CLIP's text tower with its projection."""

    ignored_keys = ("vision_model.", "visual_projection.", "logit_scale", "text_model.embeddings.position_ids")

    def official_names(self, state_dict: Mapping[str, Any]) -> Mapping[str, Any]:
        """The key names of transformers or of the authors, as transformers has them."""
        return transformers_names(state_dict)

    def rows(self, tokens: torch.Tensor, is_of_text: torch.Tensor) -> torch.Tensor:
        """Token numbers (N,) to the projected end token (1, D), or to the projected tokens of the text (R, D)."""
        output = self.network(input_ids=tokens[None])
        rows: torch.Tensor = output.text_embeds
        if self.spec.sampling["pooling"] == "tokens":
            rows = self.network.get_submodule("text_projection")(output.last_hidden_state[0, is_of_text])
        return rows

    @classmethod
    def read_tokenizer(cls, spec: FeatureSpec, weights: Path | None) -> Any:
        """The weights' tokenizer; without weights CLIP's without its merges.

        There every byte is a symbol, with the number that CLIP gives it.
        """
        from tokenizers.pre_tokenizers import ByteLevel
        from transformers import CLIPTokenizer

        num_embeddings = text_variant(spec).num_embeddings
        if weights is not None:
            return read_tokenizer(CLIPTokenizer, weights, needs=_VOCABULARY_FILES, num_embeddings=num_embeddings)
        symbols = sorted(ByteLevel.alphabet())  # by code point, which is the order of CLIP's own vocabulary
        words = [*symbols, *(f"{symbol}</w>" for symbol in symbols)]
        vocabulary = {word: number for number, word in enumerate(words)}
        vocabulary |= {_START: num_embeddings - 2, _END: num_embeddings - 1}
        return CLIPTokenizer(vocab=vocabulary, merges=[])

    @classmethod
    def random_network(cls, spec: FeatureSpec, tokenizer: Any = None) -> Any:
        """Transformers' text tower."""
        from transformers import CLIPTextConfig, CLIPTextModelWithProjection

        variant = text_variant(spec)
        config = CLIPTextConfig(
            vocab_size=variant.num_embeddings,
            max_position_embeddings=variant.max_tokens,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            **variant.text.as_config(variant.dim),
        )
        network: torch.nn.Module = CLIPTextModelWithProjection(config)
        return network

    @classmethod
    def check_weights(cls, spec: FeatureSpec, weights: Path) -> None:
        check_configuration(weights, text_variant(spec).text.hidden_facts(), section="text_config")


def text_variant(spec: FeatureSpec) -> _Variant:
    """The CLIP whose text tower a specification is of."""
    return _VARIANTS[spec.name.removesuffix("_text")]


def describe_pictures(name: str, variant: _Variant, *, rate_hz: float = 1.0) -> FeatureSpec:
    """The options of an image tower."""
    return visual_spec(
        name,
        dim=variant.dim,
        windows=still_windows(name, rate_hz),
        scale=1 / 255,
        short_side=variant.size,
        crop=variant.size,
        mean=_MEAN,
        std=_STD,
        facts={"pooling": "class token, projected", "activation": "quick_gelu"},
        paper=_PAPER,
    )


def describe_texts(name: str, variant: _Variant, *, pooling: Pooling = "sentence") -> FeatureSpec:
    """The options of a text tower."""
    return text_spec(
        name,
        dim=variant.dim,
        max_tokens=variant.max_tokens,
        tokens="byte-level BPE, lower case",
        seeded_tokens="byte-level BPE of the 256 bytes without merges",
        pooling=pooling,
        poolings=get_args(Pooling),
        network={"activation": "quick_gelu", "projected": True},
        paper=_PAPER,
    )


register(_VARIANTS, describe_pictures, ClipPictures.build, takes_folder=True)
register(
    {f"{name}_text": variant for name, variant in _VARIANTS.items()}, describe_texts, ClipTexts.build, takes_folder=True
)
