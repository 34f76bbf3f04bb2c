"""The backbone of All-in-one: the vision transformer that reads a text, the frames of a clip, or both together.

Paper: Wang et al., CVPR 2023 (arXiv 2203.07303), sections 3.1 and 3.2; authors' code: showlab/all-in-one@ae0e288,
AllInOne/modules/base_vision_transformer.py and allinone_module.py (infer), whose names of weights the attributes keep.

Legend: B batch, T frames, W tokens of a text, L visual tokens of a frame, N patches among them, D width.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..._vocabulary import InputError
from ..layers import LAYER_NORM_EPS, PatchEmbedding, ViTBlock, initialise_as_vit
from .config import AllInOneConfig
from .rolling import rolled


class Backbone(nn.Module):
    """Visual tokens, blocks, and the last normalisation."""

    def __init__(self, config: AllInOneConfig) -> None:
        super().__init__()
        self.config = config
        side, dim = config.image_size // config.patch_size, config.width
        self.grid = (side, side)
        self.num_first = 2 if config.distilled else 1  # tokens of a frame before its patches
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.dist_token = nn.Parameter(torch.zeros(1, 1, dim)) if config.distilled else None
        self.pos_embed = nn.Parameter(torch.zeros(1, self.num_first + side * side, dim))
        self.temporal_embed = nn.Parameter(torch.zeros(1, config.num_frames, dim))
        if config.distilled:
            self.temporal_embed.requires_grad = False  # in the weights, and never added
        self.patch_embed = PatchEmbedding(dim, patch_size=config.patch_size)
        self.dropout = nn.Dropout(config.dropout)
        rates = torch.linspace(0, config.drop_path, config.depth, device="cpu").tolist()
        self.blocks = nn.ModuleList(
            ViTBlock(dim, heads=config.heads, mlp_ratio=config.mlp_ratio, drop_path=rate, dropout=config.dropout)
            for rate in rates
        )
        self.norm = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        initialise_as_vit(self, tokens=(self.cls_token, self.dist_token, self.pos_embed))
        if config.temporal_std:
            nn.init.normal_(self.temporal_embed, std=config.temporal_std)

    def visual_tokens(
        self, video: Float[Tensor, "B T 3 H W"], *, order: Int[Tensor, "B T N"] | None = None
    ) -> Float[Tensor, "B T L D"]:
        """The class token of each frame, the distillation token where there is one, and the patches.

        Patches have positions in space and time, the class token in space alone. With `cotraining` one frame is a
        picture, without a time.

        Args:
            video: normalised pictures.
            order: in which order the patches of each frame are; None: that of reading.

        Raises:
            InputError: more frames than the temporal embedding has room for.
        """
        num_frames, room = video.shape[1], self.temporal_embed.shape[1]
        if num_frames > room:
            raise InputError(
                f"video has {num_frames} frames and this model's temporal embedding ends at {room}; "
                "sample fewer frames, or set num_frames"
            )
        patches = self.patch_embed(video) + self.pos_embed[:, None, self.num_first :]
        is_picture = self.config.cotraining and num_frames == 1
        if not (self.config.distilled or is_picture):
            patches = patches + self.temporal_embed[:, :num_frames, None]
        if order is not None:
            patches = patches.gather(2, order[..., None].expand_as(patches))
        first: Tensor = self.cls_token
        if self.dist_token is not None:
            first = torch.cat([first, self.dist_token], dim=1)
        placed = (first + self.pos_embed[:, : self.num_first]).expand(*video.shape[:2], -1, -1)
        tokens: Tensor = self.dropout(torch.cat([placed, patches], dim=2))
        return tokens

    def forward(
        self,
        *,
        text: Float[Tensor, "B W D"] | None,
        text_real: Bool[Tensor, "B W"] | None,
        video: Float[Tensor, "B T L D"] | None,
        frames: Bool[Tensor, "B T"] | None,
        causal: bool = False,
    ) -> Float[Tensor, "B F S D"]:
        """Tokens after the last normalisation, a sequence for each frame: those of the text, then the visual ones.

        A text alone is a clip of one frame; in a clip alone nothing rolls. Flattened, all visual tokens follow the text
        in one sequence (B, 1, W + T L, D).

        Args:
            text: embedded words.
            text_real: which are real.
            video: visual tokens.
            frames: which frames are real.
            causal: whether a word sees the words before it and the clip alone, and the clip no word.
        """
        if video is None:
            assert text is not None
            assert text_real is not None
            return self._attended(text, None if text_real.all() else text_real)[:, None]
        assert frames is not None
        batch, num_frames, num_tokens, _ = video.shape
        all_real = bool(frames.all())
        flat = self.config.temporal == "flatten" and text is not None
        num_sequences = 1 if flat else num_frames
        x, visible = video, None
        if text is not None and text_real is not None:
            if flat:
                seen = frames.repeat_interleave(num_tokens, dim=1)
                x = torch.cat([text, video.flatten(1, 2)], dim=1)
                visible = torch.cat([text_real, seen], dim=1)
            else:
                x = torch.cat([text[:, None].expand(-1, num_frames, -1, -1), video], dim=2).flatten(0, 1)
                seen = text_real[:, None].expand(-1, num_frames, -1)
                visible = torch.cat([seen, seen.new_ones(batch, num_frames, num_tokens)], dim=2).flatten(0, 1)
            if causal:
                visible = visible[:, None] & words_in_turn(text.shape[1], x.shape[1], device=x.device)
            visible = None if visible.all() else visible
        else:
            x = video.flatten(0, 1)
        rolls = text is not None and self.config.temporal == "roll" and num_frames > 1
        num_words = 0 if text is None else text.shape[1]
        for layer, block in enumerate(self.blocks):
            if rolls:
                parts = x.view(batch, num_frames, *x.shape[1:])
                moved = rolled(
                    parts[:, :, num_words:], None if all_real else frames, how=self.config.rolling, layer=layer
                )
                x = torch.cat([parts[:, :, :num_words], moved], dim=2).flatten(0, 1)
            x = block(x, visible)
        y: Tensor = self.norm(x)
        return y.view(batch, num_sequences, *y.shape[1:])

    def _attended(self, x: Tensor, visible: Tensor | None) -> Tensor:
        for block in self.blocks:
            x = block(x, visible)
        y: Tensor = self.norm(x)
        return y


def words_in_turn(num_words: int, num_tokens: int, *, device: torch.device) -> Bool[Tensor, "S S"]:
    """Which token (column) each token (row) may see: a word those up to itself and the clip, the clip itself."""
    allowed = torch.ones(num_tokens, num_tokens, dtype=torch.bool, device=device)
    allowed[:num_words, :num_words].tril_()
    allowed[num_words:, :num_words] = False
    return allowed
