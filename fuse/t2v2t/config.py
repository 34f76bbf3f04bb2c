"""The configuration of T2V2T and of VindLU. Names of the authors' configurations are in `official.py`.

Papers: Kim et al., T2V2T; Cheng et al., VindLU, CVPR 2023 (arXiv 2212.05051). Authors' code: klauscc/VindLU@3046548.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from ..._settings import Listed
from ..._vocabulary import ConfigError
from ..layers import BeitSpec
from ..pixels import PixelConfig
from .fusion import FusionSpec

HALF = (0.5, 0.5, 0.5)


class T2V2TConfig(PixelConfig):
    """T2V2T as published; the fields from `fusion_order` to `frame_class_tokens` are what its paper leaves open."""

    max_words: PositiveInt = 32
    """Tokens of a text, [CLS] and [SEP] among them (64 for paragraphs). A longer one is cut and keeps [SEP]."""
    image_mean: Listed[float] = HALF
    """Of red, green and blue from 0 to 1, taken off bytes."""
    image_std: Listed[PositiveFloat] = HALF
    """What they are divided by."""
    video_width: PositiveInt = 768
    """Width of a token of a frame."""
    video_depth: NonNegativeInt = 12
    """Layers of BEiT."""
    video_heads: PositiveInt = 12
    """Its attention heads."""
    video_hidden: PositiveInt = 3072
    """Hidden width of its MLPs."""
    video_eps: PositiveFloat = 1e-12
    """Of its layer normalisations."""
    layer_scale: NonNegativeFloat = 0.1
    """Where the factors of its residuals begin; 0: there are none."""
    relative_bias: bool = True
    """Whether its attention inside a frame knows how far patches are apart."""
    drop_path: float = Field(default=0.1, ge=0, lt=1)
    """Probability that a frame leaves out its last layer's residuals; earlier layers linearly less."""
    temporal: Literal["first", "last", "none"] = "first"
    """Where a layer attends over time: first, as both papers say, or last, as VindLU's published configurations."""
    temporal_heads: PositiveInt = 12
    """Attention heads over time."""
    temporal_drop_path: float = Field(default=0.1, ge=0, lt=1)
    """Probability that a frame leaves out what attention over time adds."""
    temporal_positions: bool = True
    """Whether frames have positions."""
    video_norm: bool = True
    """Whether frames are normalised before the joint encoder."""
    text_width: PositiveInt = 768
    """Width of a token of a text."""
    text_depth: PositiveInt = 12
    """Layers of BERT, those of the joint encoder among them."""
    first_fusion: NonNegativeInt = 9
    """The first of those, from 0, that is a round of the joint encoder: M is `text_depth` less this."""
    text_heads: PositiveInt = 12
    """Attention heads of BERT and of the joint encoder."""
    text_hidden: PositiveInt = 3072
    """Hidden width of their MLPs."""
    text_positions: PositiveInt = 512
    """Tokens that BERT has positions for."""
    text_types: PositiveInt = 2
    """Segments that BERT tells apart; all tokens are of the first."""
    text_eps: PositiveFloat = 1e-12
    """Of its layer normalisations."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Of BERT and of the joint encoder."""
    attention_dropout: float = Field(default=0.1, ge=0, lt=1)
    """Of their attention weights."""
    fusion: Literal["bypass", "naive", "unidirectional", "none"] = "bypass"
    """Equation 1: frames attend to the text and themselves ("bypass"), to the text alone ("naive", table 2), or stay as
    they are ("unidirectional", VindLU). "none" has no joint encoder: contrast alone."""
    fusion_order: Literal["cross_self", "self_cross"] = "cross_self"
    """Equation 2: text attends to frames and then to itself, or the other way round, as VindLU's code."""
    fusion_norm: Literal["post", "pre"] = "post"
    """Whether attentions and MLPs of the joint encoder normalise behind the residual, as BERT, or their input."""
    fusion_mlp: Literal["transformer", "single"] = "transformer"
    """What follows both equations: BERT's two layers with a residual, or one layer, GELU, LayerNorm."""
    fusion_keys: Literal["shared", "separate"] = "shared"
    """Whether text and frames have the same key and value projections in equation 1."""
    carry_frames: bool = True
    """Whether a round's frames are the last round's (F_T2V), or the video encoder's again."""
    shared_rounds: bool = False
    """Whether the rounds have the same weights; each is otherwise a layer of BERT with its own."""
    text_padding: Literal["masked", "seen"] = "masked"
    """Whether frames attend to the padding of a text. Where they do, a score depends on how far texts are padded."""
    frame_class_tokens: bool = False
    """Whether the joint encoder gets the class token of each frame: VindLU's does; T2V2T's count of 6,272 patches for
    32 frames has none."""
    projection_dim: PositiveInt = 256
    """Width E of an embedding."""
    temperature: float = Field(default=0.07, gt=0, le=0.5)
    """Where the learned temperature begins; it stays between 0.001 and 0.5."""
    vtc_weight: NonNegativeFloat = 1.0
    """Of the contrast of videos and texts."""
    vtm_weight: NonNegativeFloat = 1.0
    """Of matching."""
    mlm_weight: NonNegativeFloat = 1.0
    """Of masked words; 0, as in fine-tuning, builds no head for them."""
    mask_probability: float = Field(default=0.5, ge=0, le=1)
    """That a token is masked, but for [CLS] and padding."""
    hard_negatives: bool = True
    """Whether negatives of matching are drawn by their similarity, or all alike."""

    @model_validator(mode="after")
    def _check_shapes(self) -> T2V2TConfig:
        if self.first_fusion >= self.text_depth:
            raise ConfigError(
                f"first_fusion is {self.first_fusion}, and text_depth {self.text_depth} leaves no round; use less"
            )
        if self.fusion in ("bypass", "naive") and self.video_width != self.text_width:
            raise ConfigError(
                f"fusion={self.fusion!r} needs frames as wide as texts; video_width is {self.video_width}, "
                f"text_width {self.text_width}"
            )
        if self.max_words > self.text_positions:
            raise ConfigError(f"max_words is {self.max_words}; text_positions has room for {self.text_positions}")
        self.video_spec(), self.text_spec()
        return self

    def video_spec(self) -> BeitSpec:
        """The video encoder."""
        return BeitSpec(
            width=self.video_width,
            depth=self.video_depth,
            heads=self.video_heads,
            hidden=self.video_hidden,
            image_size=self.image_size,
            patch_size=self.patch_size,
            eps=self.video_eps,
            layer_scale=self.layer_scale,
            drop_path=self.drop_path,
            relative_bias=self.relative_bias,
            num_frames=self.num_frames,
            temporal_positions=self.temporal_positions,
            temporal=self.temporal,
            temporal_heads=self.temporal_heads,
            temporal_drop_path=self.temporal_drop_path,
        )

    def text_spec(self) -> FusionSpec:
        """The text encoder, and the rounds of the joint encoder."""
        return FusionSpec(
            vocabulary=self.vocab_size,
            width=self.text_width,
            depth=self.first_fusion,
            heads=self.text_heads,
            hidden=self.text_hidden,
            max_positions=self.text_positions,
            num_types=self.text_types,
            eps=self.text_eps,
            dropout=self.dropout,
            attention_dropout=self.attention_dropout,
            context_width=self.video_width,
            norm=self.fusion_norm,
            order=self.fusion_order,
            kind="unidirectional" if self.fusion == "none" else self.fusion,
            mlp=self.fusion_mlp,
            bypass_keys=self.fusion_keys,
            carry_frames=self.carry_frames,
            text_padding=self.text_padding,
        )

    @property
    def num_rounds(self) -> int:
        """M, the rounds of the joint encoder."""
        return self.text_depth - self.first_fusion

    @property
    def has_word_head(self) -> bool:
        """Whether masked words are predicted."""
        return self.mlm_weight > 0 and self.fusion != "none"
