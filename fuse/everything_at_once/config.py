"""The configuration of Everything at Once. The authors' names for it are in `official.py`.

Paper: Shvetsova et al., CVPR 2022 (arXiv 2112.04446). Authors' configurations: ninatu/everything_at_once@4daeab6.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from ..._settings import Listed
from ..._vocabulary import ConfigError
from ..base import MODALITIES, ModelConfig
from ..layers import AudioCNNSpec, audio_cnn_spec
from .combinations import loss_terms, term_of

Reduction = Literal["none", "clip", "nearest", "max_pool", "avg_pool"]
_RESERVED_NAMES = (*MODALITIES, "cls", "fusion", "self")


class EverythingAtOnceConfig(ModelConfig):
    """The published model; each field names its ablation."""

    video_dim: PositiveInt = 4096
    """Width of a video feature row (4096: ResNet-152 joined with ResNeXt-101)."""
    text_dim: PositiveInt = 300
    """Width of a word vector."""
    mel_bands: PositiveInt = 40
    """Mel bands of the spectrogram."""
    modalities: Listed[str] = MODALITIES
    """Which of text, video and audio the model embeds; without audio it is the paper's "tv" model."""
    extra_dims: Mapping[str, int] = Field(default_factory=dict)
    """Further modalities of feature rows and the widths of these, such as {"speech": 300} for a second stream of words.
    They are joined after the three, in alphabetical order."""
    audio_cnn: str = "davenet_v2"
    """Registered audio CNN."""
    audio_cnn_blocks: Listed[int] = ()
    """Residual blocks of each of its stages; empty for the registered ones."""
    audio_cnn_widths: Listed[int] = ()
    """Channels of its stem and stages; empty for the registered ones."""
    audio_padding: Literal["silenced", "published"] = "silenced"
    """Whether padded frames are silenced, so that a clip's embedding does not depend on how far it is padded, or run
    through the audio CNN, as the authors let them ("published")."""
    pad_audio_to: NonNegativeInt = 0
    """Frames to which shorter audio is padded first; the authors always pad to their limit (768). Matters only where
    padding is not silenced. 0 leaves the audio as it comes."""
    audio_reduction: Reduction = "none"
    """How more audio tokens than `max_audio_frames` gives become that many; "none" keeps all."""
    max_audio_frames: PositiveInt = 768
    """Spectrogram frames that a clip has at most, where a limit applies."""
    max_video_tokens: PositiveInt = 12
    """Video rows that a clip has at most, where positional embeddings are used."""
    max_words: PositiveInt = 20
    """Words that a caption has at most, where positional embeddings are used."""
    max_extra_tokens: PositiveInt = 20
    """Rows of a further modality that a clip has at most, where positional embeddings are used."""
    token_projection: Literal["gated", "linear", "none"] = "gated"  # noqa: S105
    """Features to tokens: gated unit, one linear layer, or nothing."""
    width: PositiveInt = 4096
    """Width D of a token."""
    depth: NonNegativeInt = 1
    """Transformer blocks; 0 is "no transformers"."""
    heads: PositiveInt = 64
    """Attention heads."""
    mlp_ratio: PositiveFloat = 1.0
    """Hidden width of the MLP over `width`."""
    qkv_bias: bool = True
    """Whether queries, keys and values have a bias."""
    transformer: Literal["shared", "per_modality"] = "shared"
    """One for all modalities, or one each (which cannot fuse)."""
    fused_pairs: bool = True
    """Whether the objective sees fused pairs ("fusion without combinatorial loss": no)."""
    cls_token: bool = False
    """Embed by a class token and not by averages; needs the shared projection."""
    positional: bool = False
    """Add learned positional embeddings."""
    projection: Literal["gated", "linear", "none"] = "gated"
    """Tokens to embeddings: gated unit, one linear layer, or nothing."""
    projection_dim: PositiveInt = 6144
    """Width E of an embedding."""
    individual_projections: bool = True
    """A projection for each modality, or one for all."""
    contrast: Literal["norm_softmax", "margin_softmax", "mil_nce", "max_margin"] = "norm_softmax"
    """The contrastive loss: equation 4, or for comparison AVLnet's, MIL-NCE's or HowTo100M's, of cosines."""
    temperature: PositiveFloat = 0.05
    """Tau of equation 4, and of "mil_nce" (1 as published there, of dot products)."""
    margin: NonNegativeFloat = 0.001
    """Of "margin_softmax" (0.001 as published), and of "max_margin" (0.1)."""
    lambda_tv: NonNegativeFloat = 1.0
    """Weight of text against video in equation 2."""
    lambda_ta: NonNegativeFloat = 0.1
    """Weight of text against audio."""
    lambda_va: NonNegativeFloat = 0.1
    """Weight of video against audio."""
    lambda_t_va: NonNegativeFloat = 0.1
    """Weight of text against video+audio."""
    lambda_v_ta: NonNegativeFloat = 0.1
    """Weight of video against text+audio."""
    lambda_a_tv: NonNegativeFloat = 0.1
    """Weight of audio against text+video."""
    lambda_extra: NonNegativeFloat = 0.1
    """Weight of every term of equation 3 in which a further modality takes part."""
    lambdas: Mapping[str, NonNegativeFloat] = Field(default_factory=dict)
    """Other weights for some of those, such as {"text|video+speech": 1.0}."""
    max_modalities_per_step: int = Field(default=4, ge=2)
    """Of more modalities than this, a training step sees as many, drawn at random: with N modalities there are
    2 ** N - 2 passes and (3 ** N - 2 ** (N + 1) + 1) / 2 terms (14 and 25 of four, 62 and 301 of six), and the paper
    proposes random modality dropout beyond four."""

    @field_validator("extra_dims")
    @classmethod
    def _check_names(cls, dims: Mapping[str, int]) -> dict[str, int]:
        for name, width in dims.items():
            # A name ending in _token would share a layer's name with another modality's token projection.
            if not re.fullmatch("[a-z][a-z0-9_]*", name) or name.endswith("_token") or name in _RESERVED_NAMES:
                raise ConfigError(
                    f"extra_dims: {name!r} cannot name a modality; use small letters, digits and _, begin with a "
                    f"letter, do not end with _token, and leave out {', '.join(_RESERVED_NAMES)}"
                )
            if width <= 0:
                raise ConfigError(f"extra_dims.{name} is {width}; the width of a row must be above 0")
        return dict(sorted(dims.items()))  # mappings come back from JSON in another order

    @model_validator(mode="after")
    def _check_modalities(self) -> EverythingAtOnceConfig:
        if not set(self.modalities) <= set(MODALITIES) or len(set(self.modalities)) < len(self.modalities):
            raise ConfigError(
                f"modalities {self.modalities} must be of {', '.join(MODALITIES)}; name further ones in extra_dims"
            )
        if len(self.all_modalities()) < 2:
            raise ConfigError(f"modalities {self.modalities} are too few: two or more are brought together")
        return self

    @model_validator(mode="after")
    def _check_lambdas(self) -> EverythingAtOnceConfig:
        """Write every term in the model's order."""
        checked: dict[str, float] = {}
        for written, weight in self.lambdas.items():
            x, y = term_of(written, order=self.all_modalities(), where="lambdas")
            if (x, y) in self._published_lambdas():
                raise ConfigError(f"lambdas: {written!r} is a term of equation 2; set its own lambda_... option")
            if f"{x}|{y}" in checked:
                raise ConfigError(f"lambdas: {written!r} is there twice, in two spellings; keep one of them")
            checked[f"{x}|{y}"] = weight
        object.__setattr__(self, "lambdas", dict(sorted(checked.items())))
        return self

    @model_validator(mode="after")
    def _check_widths(self) -> EverythingAtOnceConfig:
        if self.width % self.heads:
            raise ConfigError(f"width {self.width} cannot be shared by {self.heads} heads; use a multiple of heads")
        if int(self.width * self.mlp_ratio) < 1:
            raise ConfigError(f"mlp_ratio {self.mlp_ratio} leaves the MLP no width; use {1 / self.width} or more")
        stride, limits_audio = self.audio_spec().stride, self.positional or self.audio_reduction != "none"
        if limits_audio and self.max_audio_frames < stride:
            raise ConfigError(f"max_audio_frames {self.max_audio_frames} leaves no token; use {stride} or more")
        if self.cls_token and self.individual_projections:
            raise ConfigError("cls_token=True needs individual_projections=False: the class token has no modality")
        if self.transformer == "per_modality" and (self.cls_token or self.fused_pairs):
            raise ConfigError("transformer='per_modality' cannot fuse: set fused_pairs=False and cls_token=False")
        token_widths = {*self.token_widths().values(), self.width}
        if self.token_projection == "none" and len(token_widths) > 1:  # noqa: S105
            raise ConfigError(f"token_projection='none' needs features as wide as tokens; widths are {token_widths}")
        if self.projection == "none" and self.projection_dim != self.width:
            raise ConfigError(
                f"projection='none' needs projection_dim {self.width}, as width; got {self.projection_dim}"
            )
        return self

    def __hash__(self) -> int:
        return hash(self.model_dump_json())  # mappings have no hash of their own

    def all_modalities(self) -> tuple[str, ...]:
        """The modalities that the model embeds, in its order: text, video, audio, then the further ones."""
        return (*(name for name in MODALITIES if name in self.modalities), *self.extra_dims)

    def row_dims(self) -> dict[str, int]:
        """The width of a row of each modality, of those left out too."""
        return {"text": self.text_dim, "video": self.video_dim, "audio": self.mel_bands, **self.extra_dims}

    def token_widths(self) -> dict[str, int]:
        """The width of what each modality's token projection takes."""
        return {**self.row_dims(), "audio": self.audio_spec().widths[-1]}

    def audio_spec(self) -> AudioCNNSpec:
        """The audio CNN's shape, with this configuration's own blocks and widths where it has some."""
        return audio_cnn_spec(self.audio_cnn, blocks=self.audio_cnn_blocks, widths=self.audio_cnn_widths)

    def loss_weights(self, modalities: Sequence[str] | None = None) -> dict[tuple[str, str], float]:
        """The weights of equation 3 by the embeddings that each term compares: those of equation 2, and further ones.

        Args:
            modalities: of terms among these alone, in the model's order; None: among all of the model's.
        """
        published = self._published_lambdas()
        terms = loss_terms(self.all_modalities() if modalities is None else modalities)
        own = {term: self.lambdas.get("|".join(term), self.lambda_extra) for term in terms}
        return {term: published.get(term, weight) for term, weight in own.items()}

    def _published_lambdas(self) -> dict[tuple[str, str], float]:
        return {
            ("text", "video"): self.lambda_tv,
            ("text", "audio"): self.lambda_ta,
            ("video", "audio"): self.lambda_va,
            ("text", "video+audio"): self.lambda_t_va,
            ("video", "text+audio"): self.lambda_v_ta,
            ("audio", "text+video"): self.lambda_a_tv,
        }
