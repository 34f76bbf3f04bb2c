"""Clover's multi-modal encoder: a few layers of BERT over the patches of a video and the tokens of a text.

Source: Clover (arXiv 2207.07885), section 3.1; LeeYN-43/Clover@fa05f2e, mmaction/models/backbones/cross_transformer.py.
Attributes keep the names of its state dict.

What follows the code: tables of places and times, the type of the modality and a LayerNorm are for the video; a text
gets its type alone. `bert_embedding` is in the weights and is not applied to a text that is encoded already.

Legend: B batch, T times, S places of a picture, C channels of the video encoder, L tokens of a text, D width.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from ..._vocabulary import InputError
from ..layers import BertEmbeddings, BertEncoder, BertSpec, Linear, visible_keys


class Fused(NamedTuple):
    """The last hidden states of a pair.

    Attributes:
        sequence: (B, N, D), the video's, a token of the pair where there is one, the text's.
        cls: (B, D), of the pair.
        text: (B, L, D).
    """

    sequence: Tensor
    cls: Tensor
    text: Tensor


class CrossModalEncoder(nn.Module):
    """Self-attention over video and text together.

    Args:
        spec: of the layers.
        video_dim: C; where it is D there is no projection.
        num_times: rows of the table of times.
        num_places: S.
        text_cls: whether the pair is read off at the text's first token, or at a learned one before it.
    """

    def __init__(
        self,
        spec: BertSpec,
        *,
        video_dim: int,
        num_times: int,
        num_places: int,
        num_types: int = 2,
        text_cls: bool = True,
    ) -> None:
        super().__init__()
        self.bert_embedding = BertEmbeddings(spec).requires_grad_(requires_grad=False)
        self.bert_encoder = BertEncoder(spec)
        self.all_cls_token = None if text_cls else nn.Parameter(torch.empty(1, 1, spec.width))
        if self.all_cls_token is not None:
            nn.init.trunc_normal_(self.all_cls_token, std=0.02)
        self.vis_space_pos = nn.Parameter(0.02 * torch.randn(1, 1, num_places, spec.width))
        self.vis_tempor_pos = nn.Parameter(0.02 * torch.randn(1, num_times, 1, spec.width))
        self.token_type_embeddings = nn.Embedding(num_types, spec.width)
        self.norm = nn.LayerNorm(spec.width)
        self.fc_in = Linear(video_dim, spec.width) if video_dim != spec.width else None

    def joined(
        self,
        video: Float[Tensor, "B T S C"],
        text: Float[Tensor, "B L D"],
        *,
        times: Shaped[Tensor, "B T"],
        mask: Shaped[Tensor, "B L"],
    ) -> tuple[Float[Tensor, "B N D"], Shaped[Tensor, "B N"]]:
        """What the layers take, and which of it is real.

        Raises:
            InputError: a clip of more times or of other places than the tables have.
        """
        batch, num_times, num_places = video.shape[:3]
        tables = (self.vis_tempor_pos.shape[1], self.vis_space_pos.shape[2])
        if num_times > tables[0] or num_places != tables[1]:
            raise InputError(
                f"a clip of {num_times} times {num_places} patches does not fit the multi-modal encoder's tables of "
                f"{tables[0]} and {tables[1]}: give fewer frames, or set num_frames"
            )
        video_type, text_type = self.token_type_embeddings.weight[:2]
        x = video if self.fc_in is None else self.fc_in(video)
        x = self.norm((x + self.vis_space_pos + self.vis_tempor_pos[:, :num_times] + video_type).flatten(1, 2))
        parts = [x, text + text_type]
        real = [times.bool().repeat_interleave(num_places, dim=1), mask.bool()]
        if self.all_cls_token is not None:
            parts.insert(1, self.all_cls_token.expand(batch, -1, -1))
            real.insert(1, real[0].new_ones(batch, 1))
        return torch.cat([part.to(x.dtype) for part in parts], dim=1), torch.cat(real, dim=1)

    def forward(
        self,
        video: Float[Tensor, "B T S C"],
        text: Float[Tensor, "B L D"],
        *,
        times: Shaped[Tensor, "B T"],
        mask: Shaped[Tensor, "B L"],
    ) -> Fused:
        """Let the patches of a clip and the encoded tokens of a text attend to each other, but not to padding."""
        sequence, real = self.joined(video, text, times=times, mask=mask)
        hidden = cast(Tensor, self.bert_encoder(sequence, visible=visible_keys(real)))
        first = hidden.shape[1] - text.shape[1]
        return Fused(hidden, hidden[:, first if self.all_cls_token is None else first - 1], hidden[:, first:])
