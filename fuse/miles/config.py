"""The configuration of MILES and of its base, Frozen in Time. The authors' names for it are in `official.py`.

Papers: Ge et al., "MILES", ECCV 2022 (arXiv 2204.12408); Bain et al., "Frozen in Time", ICCV 2021 (arXiv 2104.00650).
No training code of MILES was published: where the paper leaves a choice, the field says so and the first value is the
reading that this repository takes.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from ..._vocabulary import ConfigError
from ..layers import TimeInit
from ..objectives import RegressionLoss
from ..pixels import PixelConfig
from .masks import Masking

Target = Literal["snapshot", "pixels", "none"]


class MILESConfig(PixelConfig):
    """The published model; each field of the objective names its ablation."""

    width: PositiveInt = 768
    """Width D of a token of the video encoder (ViT-B)."""
    depth: PositiveInt = 12
    """Its space-time blocks."""
    heads: PositiveInt = 12
    """Its attention heads."""
    mlp_ratio: PositiveFloat = 4.0
    """Hidden width of its MLP over `width`."""
    qkv_bias: bool = True
    """Whether its queries, keys and values have a bias."""
    time_init: TimeInit = "random"
    """How attentions over time begin: "zeros" is Frozen in Time's, with which a clip is at first embedded as its frames
    are; "random" is the default of MILES' class."""
    temporal_std: NonNegativeFloat = 0.0
    """Standard deviation of the temporal embedding in the beginning. 0 as published, where frames come after a long
    training on one; a short training from nothing then takes longer to tell frames apart."""
    text_width: PositiveInt = 768
    """Width of a token of the text encoder (DistilBERT)."""
    text_depth: PositiveInt = 6
    """Its layers."""
    text_heads: PositiveInt = 12
    """Its attention heads."""
    text_hidden: PositiveInt = 3072
    """Hidden width of its MLP."""
    text_positions: PositiveInt = 512
    """Its position embeddings: `max_words` is at most this."""
    text_types: NonNegativeInt = 0
    """Its segment embeddings: 0 in DistilBERT, 2 in BERT."""
    text_output: Literal["cls", "pooler"] = "cls"
    """Its output that is projected: the hidden state at [CLS], or what BERT's pooler makes of it (Frozen in Time)."""
    text_dropout: float = Field(default=0.1, ge=0, lt=1)
    """Of its embeddings, attentions and MLPs, in training."""
    projection: Literal["minimal", "none"] = "minimal"
    """Of both sides: one linear layer (the text's after a ReLU), or nothing."""
    projection_dim: PositiveInt = 256
    """Width E of an embedding."""
    temperature: PositiveFloat = 0.05
    """Tau of equation 3."""

    target: Target = "snapshot"
    """What is predicted of masked patches (table 7): the features that the snapshot encoder has of them, their
    pixels, or nothing: Frozen in Time, and MILES after pre-training. Discrete tokens and the joint encoder of that
    table need another network, of which the paper says nothing, and are not here."""
    mvm_weight: NonNegativeFloat = 1.0
    """Of the regression in equation 1."""
    mvm_loss: RegressionLoss = "sample_l2_mean"
    """What the norm of equation 4 runs over. Equations 2 and 4 both print a sum over the batch; the code of the former
    takes a mean, and a mean here keeps the ratio of the two. "sample_l2_sum" is equation 4 as printed, with which the
    regression outweighs the contrast by the batch size. Left open by the paper."""
    mvm_features: Literal["tokens", "projected"] = "tokens"
    """Whether features are compared as the encoder's last normalisation gives them, or after the video's projection.
    Left open by the paper."""
    normalise_targets: bool = False
    """Whether each target is brought to mean 0 and variance 1 (features as in data2vec, pixels as in MAE). Open."""
    regression_head: Literal["none", "linear"] = "none"
    """What makes predictions of features of masked places. The paper shows none. Pixels always have a linear layer."""
    contrast_video: Literal["masked", "raw"] = "masked"
    """Which clip the contrastive loss embeds: the masked one, whose pass there is anyway (figure 2), or a second pass
    of the whole one. Left open by the paper."""
    warmup_epochs: NonNegativeInt = 1
    """Epochs of the contrastive loss alone (section 4.3). A second stage has 0."""
    snapshot_update: Literal["epoch", "step", "current"] = "epoch"
    """When the snapshot follows the video encoder (table 8): after an epoch, after a step, or never apart from it."""
    snapshot_momentum: float = Field(default=0.996, ge=0, le=1)
    """Lambda: the share of itself that the snapshot keeps at an update; 0 copies the video encoder."""
    snapshot_start: Literal["after_warmup", "initial"] = "after_warmup"
    """Whether the snapshot is first the encoder at the end of the warm-up, or the untrained one. With a lambda of 0.996
    and twenty epochs the latter would hardly ever know a word. Left open by the paper."""
    masking: Masking = "block"
    """Table 9: blocks, single patches, or whole frames. Clips of one frame are masked in single patches."""
    mask_ratio: float = Field(default=0.75, gt=0, lt=1)
    """Share of the patches, or of the frames, that is masked."""
    tube: bool = True
    """Whether all frames of a clip have the same mask (table 9)."""
    min_block: PositiveInt = 16
    """Patches of the smallest block: 16 in BEiT's command, 4 by default of its class. Left open by the paper."""
    fill_up_masks: bool = False
    """Whether masks of blocks that fall short are filled up at random. Left open by the paper; BEiT does not."""

    @model_validator(mode="after")
    def _check_sizes(self) -> MILESConfig:
        if self.image_size % self.patch_size:
            raise ConfigError(f"image_size {self.image_size} must be a multiple of patch_size {self.patch_size}")
        for width, heads, name in ((self.width, self.heads, ""), (self.text_width, self.text_heads, "text_")):
            if width % heads:
                raise ConfigError(
                    f"{name}width {width} cannot be shared by {heads} heads; use a multiple of {name}heads"
                )
        if self.max_words > self.text_positions:
            raise ConfigError(f"max_words {self.max_words} must be at most text_positions {self.text_positions}")
        if self.text_output == "pooler" and not self.text_types:
            raise ConfigError("text_output='pooler' needs BERT (text_types=2): DistilBERT has no pooler")
        if self.projection == "none" and len({self.width, self.text_width, self.projection_dim}) > 1:
            raise ConfigError("projection='none' needs width, text_width and projection_dim to be the same")
        if self.target == "pixels" and (self.mvm_features, self.regression_head) != ("tokens", "none"):
            raise ConfigError(
                "target='pixels' has a linear layer of its own: leave mvm_features and regression_head out"
            )
        return self
