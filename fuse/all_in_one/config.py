"""The configuration of All-in-one. The authors' names for it are in `official.py`.

Paper: Wang et al., CVPR 2023 (arXiv 2203.07303). Authors' configurations: showlab/all-in-one@ae0e288,
AllInOne/config.py.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from ..._vocabulary import ConfigError
from ..pixels import PixelConfig
from .rolling import Rolling


class AllInOneConfig(PixelConfig):
    """The published model of size B; each field of the objective names its ablation."""

    num_frames: PositiveInt = 3
    """Frames that the temporal embedding has room for; a clip may have fewer."""
    max_words: PositiveInt = 40
    """Tokens of a text, and its position embeddings. A longer text is cut and keeps [SEP]."""
    width: PositiveInt = 768
    """Width D of a token: 192, 384 and 768 in Ti, S and B."""
    depth: PositiveInt = 12
    """Blocks."""
    heads: PositiveInt = 12
    """Attention heads: 3, 6 and 12 in Ti, S and B."""
    mlp_ratio: PositiveFloat = 4.0
    """Hidden width of the MLP over `width`."""
    distilled: bool = False
    """Whether a frame has DeiT's distillation token after its class token; it then has no temporal embedding (S)."""
    deit: bool = False
    """Whether the backbone is a DeiT (Ti, S), of which the word-patch alignment leaves out the second visual token."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Of embeddings and of what attentions and MLPs give, in training."""
    drop_path: float = Field(default=0.1, ge=0, lt=1)
    """Stochastic depth of the last block; it grows from 0."""
    projection_dim: PositiveInt = 512
    """Width E of an embedding."""
    temporal: Literal["roll", "none", "flatten"] = "roll"
    """How frames meet in the joint pass: tokens roll from frame to frame before every block, frames do not meet (their
    outputs are averaged), or all frames are one sequence. The latter two are the paper's ablations."""
    rolling: Rolling = "tokens"
    """What rolls, see `rolling.py`; the first as published."""
    temporal_std: NonNegativeFloat = 0.0
    """Standard deviation of the temporal embedding in the beginning. 0 as published, where frames come after a long
    training on one; a short training from nothing then takes longer to tell frames apart."""
    patch_order: Literal["fixed", "random"] = "fixed"
    """The order of patches, on which it depends which of them roll. The authors' code draws another for every frame, in
    evaluation too ("random": two passes then differ, by about 0.05 in the pooled vector of size Ti)."""
    cotraining: bool = False
    """Whether samples of one frame are pictures: they get no temporal embedding, their objectives are computed apart
    from those of the clips in the same batch, and the two are added (section 3.4)."""

    mlm_weight: NonNegativeFloat = 1.0
    """Of masked words; 0 leaves out their head."""
    vtm_weight: NonNegativeFloat = 1.0
    """Of text-video matching; 0 leaves out its head unless `rank_head` needs it."""
    transport_weight: NonNegativeFloat = 0.1
    """Of the word-patch alignment in it, which the code has and the paper does not."""
    contrast_weight: NonNegativeFloat = 1.0
    """Of the contrast through the shared backbone (BVTC); 0 leaves out the projections."""
    order_weight: NonNegativeFloat = 0.0
    """Of the order of frames (vcop, in the code and not in the published setting); needs `frame_order_head`."""
    rank_weight: NonNegativeFloat = 0.0
    """Of the ranking of a clip's text among others, the fine-tuning for retrieval by fusion; needs `rank_head`."""
    num_false_texts: PositiveInt = 15
    """Other texts in it, of the batch; fewer where there are not so many."""
    answer_weight: NonNegativeFloat = 1.0
    """Of answers, where a batch has them: of open-ended ones, of which `num_answers` says how many there are, or of
    options. A fine-tuning for questions sets the weights of the objectives of pre-training to 0."""
    caption_weight: NonNegativeFloat = 0.0
    """Of captions that are written word by word, see `captions.py`; its head is that of masked words."""
    temperature: PositiveFloat = 0.05
    """Of the contrast, fixed."""
    mask_probability: float = Field(default=0.15, gt=0, lt=1)
    """Share of the words that are masked."""
    mask_id: NonNegativeInt = 103
    """The id of [MASK] (103: uncased WordPiece of BERT)."""

    rank_head: bool = False
    """Whether there is the head that ranks texts for a clip: retrieval by fusion, multiple choice."""
    num_answers: NonNegativeInt = 0
    """Answers of open-ended questions, or classes of a probe; 0 leaves out their head."""
    option_head: bool = False
    """Whether there is the head that scores a question's options."""
    frame_order_head: bool = False
    """Whether there is the head of the order of three frames."""
    pixel_head: bool = False
    """Whether there is the head of masked patches (mpp), which no published objective uses."""

    @model_validator(mode="after")
    def _check_sizes(self) -> AllInOneConfig:
        if self.image_size % self.patch_size:
            raise ConfigError(f"image_size {self.image_size} must be a multiple of patch_size {self.patch_size}")
        if self.width % self.heads:
            raise ConfigError(f"width {self.width} cannot be shared by {self.heads} heads; use a multiple of heads")
        if self.mask_id >= self.vocab_size:
            raise ConfigError(f"mask_id {self.mask_id} must be below vocab_size {self.vocab_size}")
        if self.rank_weight and not self.rank_head:
            raise ConfigError("rank_weight needs rank_head=True")
        if self.order_weight and not self.frame_order_head:
            raise ConfigError("order_weight needs frame_order_head=True")
        return self

    @property
    def matches(self) -> bool:
        """Whether there is the head of text-video matching."""
        return self.vtm_weight > 0 or self.rank_head
