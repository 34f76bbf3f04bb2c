"""Vision transformers on patches: the plain block, and the space-time encoder of Frozen in Time and MILES.

Sources: Dosovitskiy et al., "An Image is Worth 16x16 Words" (ICLR 2021), with timm's names of weights; Bain et al.,
"Frozen in Time" (ICCV 2021, arXiv 2104.00650), m-bain/frozen-in-time@e1f13e1, model/video_transformer.py, which
TencentARC/MCQ@3555a9b (MILES/model/video_encoder_MILES.py) repeats. Layer normalisation has eps 1e-6, GELU is exact.

Space-time block, of tokens x: t = time(norm3 x); s = space(norm1(x + t)); x + s, and not x + t + s: what the time
attention gives enters the space attention and nothing else; then + MLP(norm2). In both attentions the class token sees
every token, a patch the class token and its own group: the same place in all frames (time), its own frame (space).

Deviations, none of which changes a number: a patch is projected by one product, and a masked one not at all; the last
block computes its second half for the tokens alone that somebody reads; frames that are padding are seen by nobody (the
authors fill up with black frames, which are seen).

Legend: B batch, T frames, N patches of a frame, S = 1 + T N tokens, D width, H heads, R rows that somebody reads.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from ..._vocabulary import InputError
from .attention import attention
from .products import Linear, linear
from .transformer import LAYER_NORM_EPS, MLP

TimeInit = Literal["random", "zeros"]
Inflation = Literal["zeros", "nearest", "bilinear"]


class PatchEmbedding(nn.Module):
    """Square patches that do not overlap, each projected to a token. `proj` has the weights of timm's convolution."""

    def __init__(self, dim: int, *, patch_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, kernel_size=patch_size, stride=patch_size)

    def forward(
        self, pictures: Float[Tensor, "*B 3 H W"], *, seen: Bool[Tensor, "*B N"] | None = None
    ) -> Float[Tensor, "*B N D"]:
        """Patches in the order of reading; those that are not seen are zeros, and are not computed."""
        weight = self.proj.weight
        patches = patches_of(pictures, patch_size=weight.shape[-1])
        if seen is None:
            return linear(patches, weight.flatten(1), self.proj.bias)
        rows = linear(patches[seen], weight.flatten(1), self.proj.bias)
        return rows.new_zeros(*seen.shape, len(weight)).masked_scatter(seen[..., None], rows)


def patches_of(pictures: Float[Tensor, "*B 3 H W"], *, patch_size: int) -> Float[Tensor, "*B N P"]:
    """The numbers of each patch, colour before row before column, as a convolution's weights have them."""
    *batch, colours, height, width = pictures.shape
    cut = pictures.reshape(*batch, colours, height // patch_size, patch_size, width // patch_size, patch_size)
    dims = range(len(batch))
    c, y, dy, x, dx = (len(batch) + index for index in range(5))
    return cut.permute(*dims, y, x, c, dy, dx).flatten(-3).flatten(-3, -2)


class SelfAttention(nn.Module):
    """Multi-head self-attention of padded sequences, under timm's names."""

    def __init__(self, dim: int, *, heads: int, qkv_bias: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = Linear(dim, dim)

    def split(self, x: Float[Tensor, "B N D"]) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, (B, H, N, D/H) each."""
        shape = (*x.shape[:-1], 3, self.heads, x.shape[-1] // self.heads)
        q, k, v = self.qkv(x).view(shape).permute(2, 0, 3, 1, 4)
        return q, k, v

    def forward(
        self, x: Float[Tensor, "B N D"], visible: Bool[Tensor, "B *N N"] | None = None
    ) -> Float[Tensor, "B N D"]:
        """`visible`: the tokens that are attended to, by all (B, N) or by each (B, N, N); None: all."""
        mask = None if visible is None else visible[:, None, None] if visible.dim() == 2 else visible[:, None]
        attended = attention(*self.split(x), mask=mask)
        projected: Tensor = self.proj(attended.transpose(1, 2).flatten(2))
        return projected


class DropPath(nn.Module):
    """Stochastic depth: in training, a sample's branch is left out with probability `rate`, and scaled up otherwise."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        if not (self.rate and self.training):
            return x
        kept = torch.rand(len(x), 1, 1, device=x.device) >= self.rate
        return x * kept.to(x.dtype) / (1.0 - self.rate)


class ViTBlock(nn.Module):
    """x + attention(LN x), then x + MLP(LN x); dropout is of what the two give."""

    def __init__(
        self,
        dim: int,
        *,
        heads: int,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        drop_path: float = 0.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.attn = SelfAttention(dim, heads=heads, qkv_bias=qkv_bias)
        self.norm2 = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.mlp = MLP(dim, hidden=int(dim * mlp_ratio))
        self.drop_path = nn.Sequential(nn.Dropout(dropout), DropPath(drop_path))

    def forward(
        self, x: Float[Tensor, "B N D"], visible: Bool[Tensor, "B *N N"] | None = None
    ) -> Float[Tensor, "B N D"]:
        x = x + self.drop_path(self.attn(self.norm1(x), visible))
        y: Tensor = x + self.drop_path(self.mlp(self.norm2(x)))
        return y


class DividedAttention(SelfAttention):
    """The attention of a space-time block: the class token sees all, a patch the class token and its group."""

    def forward(  # type: ignore[override]  # another kind of sequence
        self,
        x: Float[Tensor, "B S D"],
        *,
        num_frames: int,
        frames: Bool[Tensor, "B T"] | None,
        over: Literal["time", "space"],
        rows: Int[Tensor, " R"] | None = None,
    ) -> Float[Tensor, "*S D"]:
        """All tokens (B, S, D), or those in the places `rows` of the batch laid out flat (R, D).

        Args:
            x: the class token, then the patches of one frame after the other.
            num_frames: T.
            frames: which frames are real; None: all.
            over: what a patch's group runs over.
            rows: None: all.
        """
        q, k, v = self.split(x)
        num_patches = (x.shape[1] - 1) // num_frames
        of_all = of_time = None
        if frames is not None:  # a group of space is one frame: of padding, nobody reads it
            of_all = functional.pad(frames.repeat_interleave(num_patches, dim=1), (1, 0), value=True)[:, None, None]
            of_time = functional.pad(frames, (1, 0), value=True)[:, None, None].repeat_interleave(num_patches, dim=0)
        of_cls = attention(q[:, :, :1], k, v, mask=of_all)

        def grouped(each: Tensor) -> Tensor:
            """(B, groups, H, members, D/H) of the patches."""
            by_frame = each[:, :, 1:].reshape(*each.shape[:2], num_frames, num_patches, each.shape[-1])
            return by_frame.permute(0, 3, 1, 2, 4) if over == "time" else by_frame.transpose(1, 2)

        def with_cls(each: Tensor) -> Tensor:
            groups = grouped(each)
            cls = each[:, None, :, :1].expand(-1, groups.shape[1], -1, -1, -1)
            return torch.cat([cls, groups], dim=3).flatten(0, 1)

        queries = grouped(q)
        of_patches = attention(
            queries.flatten(0, 1), with_cls(k), with_cls(v), mask=of_time if over == "time" else None
        ).view(queries.shape)
        order = (0, 3, 1, 2, 4) if over == "time" else (0, 1, 3, 2, 4)
        tokens = torch.cat([of_cls.transpose(1, 2).flatten(2), of_patches.permute(*order).flatten(3).flatten(1, 2)], 1)
        projected: Tensor = self.proj(tokens if rows is None else tokens.flatten(0, 1).index_select(0, rows))
        return projected


class SpaceTimeBlock(nn.Module):
    """The block of Frozen in Time, see the head of this file."""

    def __init__(self, dim: int, *, heads: int, mlp_ratio: float = 4.0, qkv_bias: bool = True) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.attn = DividedAttention(dim, heads=heads, qkv_bias=qkv_bias)
        self.timeattn = DividedAttention(dim, heads=heads, qkv_bias=qkv_bias)
        self.norm2 = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.mlp = MLP(dim, hidden=int(dim * mlp_ratio))
        self.norm3 = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)

    def forward(
        self,
        x: Float[Tensor, "B S D"],
        *,
        num_frames: int,
        frames: Bool[Tensor, "B T"] | None,
        rows: Int[Tensor, " R"] | None = None,
    ) -> Float[Tensor, "*S D"]:
        """All tokens (B, S, D), or those in the places `rows` of the batch laid out flat (R, D)."""
        timed = self.timeattn(self.norm3(x), num_frames=num_frames, frames=frames, over="time")
        spaced = self.attn(self.norm1(x + timed), num_frames=num_frames, frames=frames, over="space", rows=rows)
        x = (x if rows is None else x.flatten(0, 1).index_select(0, rows)) + spaced
        y: Tensor = x + self.mlp(self.norm2(x))
        return y


class SpaceTimeTransformer(nn.Module):
    """The video encoder of Frozen in Time: one class token for a clip, positions in space and in time.

    Args:
        image_size: pixels of a side of a picture.
        patch_size: pixels of a side of a patch.
        dim: width D.
        depth: blocks.
        heads: of an attention.
        num_frames: frames that the temporal embedding has room for.
        mlp_ratio: hidden width of the MLP over D.
        qkv_bias: whether queries, keys and values have a bias.
        time_init: of the attentions over time: "zeros" lets them give zero at first (Frozen in Time: queries, keys and
            values 0, projection all ones; undone where there is one frame, as in the code), "random" as all others.
        mask_token: whether patches can be masked.
    """

    def __init__(
        self,
        *,
        image_size: int = 224,
        patch_size: int = 16,
        dim: int = 768,
        depth: int = 12,
        heads: int = 12,
        num_frames: int = 4,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        time_init: TimeInit = "random",
        mask_token: bool = False,
    ) -> None:
        super().__init__()
        self.grid = (image_size // patch_size, image_size // patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + self.grid[0] * self.grid[1], dim))
        self.temporal_embed = nn.Parameter(torch.zeros(1, num_frames, dim))
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim)) if mask_token else None
        self.patch_embed = PatchEmbedding(dim, patch_size=patch_size)
        self.blocks = nn.ModuleList(
            SpaceTimeBlock(dim, heads=heads, mlp_ratio=mlp_ratio, qkv_bias=qkv_bias) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        initialise_as_vit(self, tokens=(self.cls_token, self.pos_embed, self.mask_token))
        if time_init == "zeros" and num_frames > 1:
            for name, parameter in self.named_parameters():
                if ".timeattn." in name:
                    nn.init.constant_(parameter, 1.0 if name.endswith("proj.weight") else 0.0)

    def embed(
        self, video: Float[Tensor, "B T 3 H W"], masked: Bool[Tensor, "B T N"] | None = None
    ) -> Float[Tensor, "B S D"]:
        """Patches, the masked ones replaced by the mask token, with their positions; the class token before them.

        Raises:
            InputError: more frames than the temporal embedding has room for.
        """
        num_frames, room = video.shape[1], self.temporal_embed.shape[1]
        if num_frames > room:
            raise InputError(
                f"video has {num_frames} frames and this model's temporal embedding ends at {room}; "
                "sample fewer frames, or set num_frames"
            )
        if masked is None:
            patches = self.patch_embed(video)
        elif self.mask_token is None:
            raise InputError("this video encoder has no mask token: build it with mask_token=True")
        else:
            visible = self.patch_embed(video, seen=~masked)
            patches = torch.where(masked[..., None], self.mask_token.to(visible.dtype), visible)
        placed = patches + self.pos_embed[:, None, 1:] + self.temporal_embed[:, :num_frames, None]
        cls = (self.cls_token + self.pos_embed[:, :1]).expand(len(video), -1, -1)
        return torch.cat([cls, placed.flatten(1, 2)], dim=1)

    def forward(
        self,
        video: Float[Tensor, "B T 3 H W"],
        frames: Bool[Tensor, "B T"],
        *,
        masked: Bool[Tensor, "B T N"] | None = None,
        rows: Int[Tensor, " R"] | None = None,
    ) -> Float[Tensor, "*S D"]:
        """Tokens after the last normalisation: all (B, S, D), or those that are asked for (R, D).

        Args:
            video: normalised pictures.
            frames: which frames are real; the others are seen by nobody.
            masked: which patches are replaced by the mask token.
            rows: places in the batch of tokens laid out flat, `b * S + s`; None: all.
        """
        x, real = self.embed(video, masked), None if frames.all() else frames
        for number, block in enumerate(self.blocks, start=1):
            asked = rows if number == len(self.blocks) else None
            x = block(x, num_frames=video.shape[1], frames=real, rows=asked)
        y: Tensor = self.norm(x)
        return y


def initialise_as_vit(module: nn.Module, *, tokens: tuple[Tensor | None, ...]) -> None:
    """The initialisation of timm: linear weights and the tokens N(0, 0.02) cut at 2, biases 0."""
    for each in module.modules():
        if isinstance(each, nn.Linear):
            nn.init.trunc_normal_(each.weight, std=0.02)
            if each.bias is not None:
                nn.init.zeros_(each.bias)
    for token in tokens:
        if token is not None:
            nn.init.trunc_normal_(token, std=0.02)


def inflated_frames(
    table: Float[Tensor, "1 T D"], num_frames: int, *, how: Inflation = "zeros"
) -> Float[Tensor, "1 num_frames D"]:
    """A temporal embedding for another number of frames, as Frozen in Time loads one.

    Of more frames than wanted the first are kept. Of fewer, the rest is zeros, or the table is resampled over time
    ("nearest", "bilinear"; the authors call the first "interp").
    """
    missing = num_frames - table.shape[1]
    if missing <= 0:
        return table[:, :num_frames]
    if how == "zeros":
        return functional.pad(table, (0, 0, 0, missing))
    size = (num_frames, table.shape[2])
    aligned = {"align_corners": False} if how == "bilinear" else {}
    return functional.interpolate(table[:, None], size=size, mode=how, **aligned)[:, 0]
