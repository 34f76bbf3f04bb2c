"""The configuration of Clover. The authors' names for it are in `official.py`.

Paper: Huang et al., CVPR 2023 (arXiv 2207.07885). Authors' configurations: LeeYN-43/Clover@fa05f2e, configs/exp_local.
"""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from ..._settings import Listed
from ..._vocabulary import ConfigError
from ..layers import BertSpec
from ..objectives import Reading, Replacement
from ..pixels import PixelConfig

Task = Literal["pretraining", "retrieval", "open_answer", "multiple_choice", "fill_blank"]
_TO_COMPARE_PAIRS = ("pretraining", "retrieval")


class CloverConfig(PixelConfig):
    """The published model: Video-Swin-B, BERT-base, and three layers of BERT-base that read both."""

    patch_size: PositiveInt = 4
    """Pixels of a side of a patch of the video encoder."""
    num_frames: PositiveInt = 8
    """Frames that the multi-modal encoder's table of times has room for. Retrieval does not use it: its clips may have
    more."""
    max_words: PositiveInt = 30
    """Tokens of a text, [CLS] and [SEP] among them. A longer one is cut and keeps [SEP]."""
    num_views: PositiveInt = 1
    """Equal parts of a clip's frames that are encoded apart, and whose grids of patches are averaged (TGIF: 4)."""
    patch_frames: PositiveInt = 2
    """Frames of a patch."""
    frame_step: PositiveInt = 2
    """Frames from one patch to the next."""
    swin_width: PositiveInt = 128
    """Channels of the video encoder's first stage; every further stage has twice as many."""
    swin_depths: Listed[PositiveInt] = (2, 2, 18, 2)
    """Blocks of each stage."""
    swin_heads: Listed[PositiveInt] = (4, 8, 16, 32)
    """Attention heads of each stage."""
    swin_mlp_ratio: PositiveFloat = 4.0
    """Hidden width of its MLPs over their width."""
    window: Listed[PositiveInt] = (8, 7, 7)
    """Patches of a window: frames, rows, columns."""
    drop_path: float = Field(default=0.3, ge=0, lt=1)
    """Stochastic depth of the video encoder's last block."""
    small_grid: Literal["published", "geometric"] = "published"
    """Relative positions where a grid is smaller than the window: as the authors' code takes them, or right. At 224
    pixels both are the same."""
    text_width: PositiveInt = 768
    """Width D of the text encoder and of the multi-modal encoder."""
    text_depth: PositiveInt = 12
    """Layers of the text encoder."""
    text_heads: PositiveInt = 12
    """Attention heads of both."""
    text_hidden: PositiveInt = 3072
    """Hidden width of the MLPs of both."""
    max_positions: PositiveInt = 512
    """Rows of the text encoder's table of positions."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Of both."""
    fusion_depth: PositiveInt = 3
    """Layers of the multi-modal encoder."""
    text_cls: bool = True
    """Whether a pair is read off at the text's [CLS], or at a token of its own between video and text."""
    projection_dim: PositiveInt = 768
    """Width E of an embedding."""
    video_hidden: PositiveInt = 1536
    """Hidden width of the projection of videos."""
    fused_hidden: PositiveInt = 1536
    """Hidden width of the projection of pairs with a masked video."""
    task: Task = "pretraining"
    """What the model is trained for, and so which heads it has."""
    num_answers: PositiveInt = 1500
    """Answers to choose from, of "open_answer" and "fill_blank"."""
    answer_dropout: float = Field(default=0.1, ge=0, lt=1)
    """Before the head of answers."""
    projections: bool = False
    """Whether a model of answers has the projections of retrieval, too: its clips are embedded by them. They are not
    trained, and mean something where the training began with a model that had them."""
    match_head: bool = False
    """Whether the weights hold a head of matches, which the authors' code for the blank builds and never applies."""
    temperature: PositiveFloat = 0.05
    """Tau."""
    alignment: Literal["tri_modal", "pair"] = "tri_modal"
    """What pre-training compares: video, text, their masked versions and pairs (equations 2 and 3), or video and text
    alone (the baseline of table 3)."""
    ranking: bool = True
    """Whether pre-training ranks complete samples above masked ones (equation 4); with "tri_modal"."""
    margin: NonNegativeFloat = 5.0
    """Lambda of equation 4, of similarities over tau."""
    reading: Reading = "code"
    """Equations 2 to 4 as the code computes them, or as the paper prints them: see `objectives/ranking.py`."""
    gamma: NonNegativeFloat = 2.0
    """Of the focal loss of masked words; 0 is cross entropy."""
    word_loss: Reading = "code"
    """Equation 5 with log p, over the masked words of the batch; or as printed, with p, over the samples."""
    word_masking: Literal["semantic", "random"] = "semantic"
    """Which words are masked: by their part of speech, which needs "tags" in the batch; or any token."""
    mask_phrases: bool = True
    """With "semantic", words of verb phrases as often as phrases cover them, auxiliaries too (the code); else verbs."""
    mask_adjectives: bool = False
    """With "semantic", whether adjectives are masked too (the paper)."""
    mask_share: float = Field(default=0.3, gt=0, le=1)
    """Share of the candidates, or of all tokens, that is masked."""
    mask_replacement: Replacement = "bert"
    """80 % [MASK], 10 % any word, 10 % as they are (the code); or [MASK] always (the paper)."""
    masked_cells: PositiveInt = 10
    """Cells of the video's grid (49 at 224 pixels) that are masked at most."""
    min_block: PositiveInt = 4
    """Cells of a block of the mask."""

    @model_validator(mode="after")
    def _check_clover(self) -> CloverConfig:
        if len(self.swin_depths) != len(self.swin_heads):
            raise ConfigError(f"swin_depths {self.swin_depths} and swin_heads {self.swin_heads} need the same length")
        for stage, heads in enumerate(self.swin_heads):
            if (width := self.swin_width << stage) % heads:
                raise ConfigError(f"swin_heads: stage {stage} is {width} wide, which {heads} heads cannot share")
        if len(self.window) != len(("frames", "rows", "columns")):
            raise ConfigError(f"window {self.window} needs three numbers: frames, rows, columns")
        if self.image_size % self.cell_size:
            raise ConfigError(
                f"image_size {self.image_size} must be a multiple of {self.cell_size}, a cell of the grid"
            )
        if self.ranking and self.alignment == "pair" and self.task == "pretraining":
            raise ConfigError(
                "ranking compares masked samples, which alignment='pair' does not embed: set ranking=False"
            )
        if self.max_words > self.max_positions:
            raise ConfigError(f"max_words {self.max_words} is above max_positions {self.max_positions}")
        self.text_spec()
        return self

    @property
    def cell_size(self) -> int:
        """Pixels of a side of a cell: of what the video encoder's last stage gives a token for."""
        return self.patch_size << (len(self.swin_depths) - 1)

    @property
    def grid_size(self) -> int:
        """Cells of a side of a picture."""
        return self.image_size // self.cell_size

    @property
    def num_times(self) -> int:
        """Rows of the multi-modal encoder's table of times."""
        return max(math.ceil((self.num_frames - self.patch_frames) / self.frame_step), 0) + 1

    @property
    def compares_pairs(self) -> bool:
        """Whether it is trained to compare videos and texts by their projections."""
        return self.task in _TO_COMPARE_PAIRS

    @property
    def embeds(self) -> bool:
        """Whether it has the two projections."""
        return self.compares_pairs or self.projections

    def text_spec(self) -> BertSpec:
        """The shape of the text encoder."""
        return BertSpec(
            vocabulary=self.vocab_size,
            width=self.text_width,
            depth=self.text_depth,
            heads=self.text_heads,
            hidden=self.text_hidden,
            max_positions=self.max_positions,
            dropout=self.dropout,
            attention_dropout=self.dropout,
            pooler=True,
        )
