"""BEiT over the frames of a video, with attention over time: VindLU's video encoder, and so T2V2T's.

Papers: BEiT (arXiv 2106.08254); VindLU (arXiv 2212.05051), authors' code klauscc/VindLU@3046548, files st_beit and
temporal_model. Attributes keep the names of their state dict, which are HuggingFace's with `temp_model` and
`temporal_position_embeddings` added.

* Attention over time comes before the spatial one in both papers ("first"); VindLU's published configurations have it
  after the MLP of each layer ("last"). Its gate is one scalar that begins at 0, without tanh. A video of one frame goes
  past it. Its `linear` is in the weights and never applied.
* Temporal positions are added to the class token too. More frames than there are positions: those are interpolated.
* The authors have no frames that are padding. Here padded frames are not attended to and a sample's positions follow
  its own number of frames, so that a sample's output does not depend on the batch it is in.

Legend: B batch, T frames, N tokens of a frame (the class token, then P patches), D width, H heads.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int, Shaped
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn
from torch.nn import functional

from ..._settings import Settings
from ..._vocabulary import ConfigError
from .attention import attention
from .products import Linear, linear
from .vit import DropPath


class BeitSpec(Settings):
    """The shape of a BEiT over frames; the defaults are beit-base-patch16-224 and four frames."""

    width: PositiveInt = 768
    """Width D of a token."""
    depth: NonNegativeInt = 12
    """Layers."""
    heads: PositiveInt = 12
    """Attention heads inside a frame."""
    hidden: PositiveInt = 3072
    """Hidden width of the MLP."""
    image_size: PositiveInt = 224
    """Pixels of a side of a frame."""
    patch_size: PositiveInt = 16
    """Pixels of a side of a patch."""
    channels: PositiveInt = 3
    """Colours of a pixel."""
    eps: PositiveFloat = 1e-12
    """Of the layer normalisations."""
    layer_scale: NonNegativeFloat = 0.1
    """Where the factors of each residual begin; 0: there are none."""
    drop_path: float = Field(default=0.1, ge=0, lt=1)
    """Probability that a frame leaves out the last layer's residuals; earlier layers linearly less."""
    relative_bias: bool = True
    """Whether attention inside a frame knows how far patches are apart."""
    num_frames: PositiveInt = 4
    """Temporal positions T."""
    temporal_positions: bool = True
    """Whether frames have positions."""
    temporal: Literal["first", "last", "none"] = "last"
    """Where a layer attends over time: before attention inside a frame, after the MLP, or nowhere."""
    temporal_heads: PositiveInt = 12
    """Attention heads over time; the authors take one for every 64 of the width."""
    temporal_drop_path: float = Field(default=0.1, ge=0, lt=1)
    """Probability that a frame leaves out what attention over time adds."""

    @model_validator(mode="after")
    def _check(self) -> BeitSpec:
        for name in ("heads", "temporal_heads"):
            if self.width % getattr(self, name):
                raise ConfigError(f"width {self.width} cannot be shared by {getattr(self, name)} {name}; use a divisor")
        if self.image_size % self.patch_size:
            raise ConfigError(f"image_size {self.image_size} must be a multiple of patch_size {self.patch_size}")
        return self

    @property
    def grid(self) -> int:
        """Patches of a row of a frame."""
        return self.image_size // self.patch_size


def relative_position_index(grid: int) -> Int[Tensor, "N N"]:
    """The row of the bias table for each pair of tokens: a row for every offset of two patches.

    Then three: from the class token to a patch, from a patch to it, and to itself.
    """
    places = torch.arange(grid)
    rows, columns = (each.flatten() for each in torch.meshgrid(places, places, indexing="ij"))
    side = 2 * grid - 1
    offsets = (rows[:, None] - rows + grid - 1) * side + (columns[:, None] - columns + grid - 1)
    index = torch.full((grid**2 + 1, grid**2 + 1), side**2 + 2)
    index[0, 1:], index[1:, 0], index[1:, 1:] = side**2, side**2 + 1, offsets
    return index


class _RelativePositionBias(nn.Module):
    def __init__(self, spec: BeitSpec) -> None:
        super().__init__()
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * spec.grid - 1) ** 2 + 3, spec.heads))
        self.register_buffer("relative_position_index", relative_position_index(spec.grid), persistent=False)
        self.relative_position_index: Tensor

    def forward(self) -> Float[Tensor, "1 H N N"]:
        bias: Tensor = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1).unsqueeze(0)
        return bias


class _SelfAttention(nn.Module):
    """Heads inside a frame; keys have no bias."""

    def __init__(self, spec: BeitSpec) -> None:
        super().__init__()
        self.heads = spec.heads
        self.query = Linear(spec.width, spec.width)
        self.key = Linear(spec.width, spec.width, bias=False)
        self.value = Linear(spec.width, spec.width)
        self.relative_position_bias = _RelativePositionBias(spec) if spec.relative_bias else None

    def forward(self, x: Float[Tensor, "F N D"]) -> Float[Tensor, "F N D"]:
        q, k, v = (
            each(x).view(*x.shape[:2], self.heads, x.shape[2] // self.heads).transpose(1, 2)
            for each in (self.query, self.key, self.value)
        )
        bias = None if self.relative_position_bias is None else self.relative_position_bias().to(q.dtype)
        attended = attention(q, k, v, mask=bias)
        joined: Tensor = attended.transpose(1, 2).flatten(2)
        return joined


class _Dense(nn.Module):
    """A linear layer under the name "dense"."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.dense = Linear(width_in, width_out)

    def forward(self, x: Float[Tensor, "*B E"]) -> Float[Tensor, "*B D"]:
        y: Tensor = self.dense(x)
        return y


class _Attention(nn.Module):
    def __init__(self, spec: BeitSpec) -> None:
        super().__init__()
        self.attention = _SelfAttention(spec)
        self.output = _Dense(spec.width, spec.width)

    def forward(self, x: Float[Tensor, "F N D"]) -> Float[Tensor, "F N D"]:
        y: Tensor = self.output(self.attention(x))
        return y


class _MultiHead(nn.Module):
    """Self-attention under the names of `nn.MultiheadAttention`."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(3 * width, width)))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = Linear(width, width)

    def forward(self, x: Float[Tensor, "B T N D"], visible: Bool[Tensor, "B 1 1 T"] | None) -> Float[Tensor, "B T N D"]:
        """Over T, for each of the N places by itself."""
        b, t, n, d = x.shape
        qkv = linear(x, self.in_proj_weight, self.in_proj_bias).view(b, t, n, 3, self.heads, d // self.heads)
        q, k, v = qkv.permute(3, 0, 2, 4, 1, 5).flatten(1, 2)  # each (B N, H, T, D/H)
        mask = None if visible is None else visible.repeat_interleave(n, dim=0)
        attended = attention(q, k, v, mask=mask)
        y: Tensor = self.out_proj(attended.view(b, n, self.heads, t, d // self.heads).permute(0, 3, 1, 2, 4).flatten(3))
        return y


class TemporalAttention(nn.Module):
    """x + scale * attention over time of LayerNorm(x), for every place of the frame; nothing is added to one frame."""

    def __init__(self, spec: BeitSpec) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(()))
        self.temporal_attn = _MultiHead(spec.width, spec.temporal_heads)
        self.norm = nn.LayerNorm(spec.width, eps=1e-12)  # the authors' own, whatever the encoder's is
        self.linear = nn.Linear(spec.width, spec.width).requires_grad_(requires_grad=False)
        self.drop_path = DropPath(spec.temporal_drop_path)

    def forward(self, x: Float[Tensor, "B T N D"], frames: Frames) -> Float[Tensor, "B T N D"]:
        if x.shape[1] == 1:
            return x
        attended: Tensor = self.temporal_attn(self.norm(x), frames.visible)
        added: Tensor = self.drop_path(attended.flatten(1, 2)).view_as(x)
        if frames.several is not None:
            added = added * frames.several
        y: Tensor = x + self.scale * added
        return y


class Frames:
    """Which frames of a batch are real, in the shapes that layers need. Nothing to mask where all are.

    Attributes:
        rank: (B, T), the place of each real frame among those of its sample.
        counts: (B,), real frames of each sample.
        visible: (B, 1, 1, T) bool, the frames attended to (the first one where none is real); None: all.
        several: (B, 1, 1, 1), 0 for samples of one frame, which pass attention over time; None: without one.
    """

    def __init__(self, mask: Shaped[Tensor, "B T"]) -> None:
        real = mask.bool()
        counts = real.sum(dim=1)
        self.counts = counts
        self.rank = (real.cumsum(dim=1) - 1).clamp(min=0)
        self.visible: Tensor | None = None
        self.several: Tensor | None = None
        if not bool(real.all()):
            real = real.clone()
            real[:, :1] |= (counts == 0)[:, None]
            self.visible = real[:, None, None, :]
            self.several = (counts > 1).float()[:, None, None, None]


class BeitLayer(nn.Module):
    """x + lambda_1 * attention(LN x), then x + lambda_2 * MLP(LN x), and attention over time first or last."""

    def __init__(self, spec: BeitSpec, *, drop_path: float) -> None:
        super().__init__()
        self.temporal = spec.temporal
        scaled = spec.layer_scale > 0
        self.lambda_1 = nn.Parameter(torch.full((spec.width,), spec.layer_scale)) if scaled else None
        self.lambda_2 = nn.Parameter(torch.full((spec.width,), spec.layer_scale)) if scaled else None
        self.attention = _Attention(spec)
        self.intermediate = _Dense(spec.width, spec.hidden)
        self.output = _Dense(spec.hidden, spec.width)
        self.layernorm_before = nn.LayerNorm(spec.width, eps=spec.eps)
        self.layernorm_after = nn.LayerNorm(spec.width, eps=spec.eps)
        self.temp_model = None if spec.temporal == "none" else TemporalAttention(spec)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Float[Tensor, "B T N D"], frames: Frames) -> Float[Tensor, "B T N D"]:
        shape = x.shape
        if self.temp_model is not None and self.temporal == "first":
            x = self.temp_model(x, frames)
        y = x.flatten(0, 1)
        y = y + self.drop_path(_scaled(self.attention(self.layernorm_before(y)), self.lambda_1))
        hidden = functional.gelu(self.intermediate(self.layernorm_after(y)))
        y = y + self.drop_path(_scaled(self.output(hidden), self.lambda_2))
        x = y.view(shape)
        return self.temp_model(x, frames) if self.temp_model is not None and self.temporal == "last" else x


def _scaled(x: Tensor, factors: Tensor | None) -> Tensor:
    return x if factors is None else x * factors


class _PatchEmbeddings(nn.Module):
    def __init__(self, spec: BeitSpec) -> None:
        super().__init__()
        self.projection = nn.Conv2d(spec.channels, spec.width, kernel_size=spec.patch_size, stride=spec.patch_size)


class BeitEmbeddings(nn.Module):
    """Patches of each frame behind a class token, plus the position of the frame."""

    def __init__(self, spec: BeitSpec) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, spec.width))
        self.patch_embeddings = _PatchEmbeddings(spec)
        positions = nn.Parameter(torch.zeros(1, spec.num_frames, 1, spec.width)) if spec.temporal_positions else None
        self.temporal_position_embeddings = positions

    def forward(self, pixels: Float[Tensor, "B T C S S"], frames: Frames) -> Float[Tensor, "B T N D"]:
        patches = self.patch_embeddings.projection(pixels.flatten(0, 1)).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(patches), -1, -1), patches], dim=1)
        x = x.view(*pixels.shape[:2], *x.shape[1:])
        return x if self.temporal_position_embeddings is None else x + self._positions(frames)

    def _positions(self, frames: Frames) -> Float[Tensor, "B T 1 D"]:
        """The position of each frame among those of its sample; padded frames have some position."""
        table = self.temporal_position_embeddings[0, :, 0]  # type: ignore[index]  # asked for where there is one
        num_positions = len(table)
        if frames.rank.shape[1] <= num_positions:
            return table[frames.rank].unsqueeze(2)
        rows = []
        for count, rank in zip(frames.counts.tolist(), frames.rank, strict=True):
            fitting = table if count <= num_positions else interpolated_positions(table, count)
            rows.append(fitting[rank])
        return torch.stack(rows).unsqueeze(2)


def interpolated_positions(table: Float[Tensor, "T D"], count: int) -> Float[Tensor, "M D"]:
    """Positions of more frames than were trained on, linearly between those there are."""
    return functional.interpolate(table.T.unsqueeze(0), count, mode="linear", align_corners=False)[0].T


class BeitEncoder(nn.Module):
    """Layers one after the other, the later the more often left out; nothing is normalised at the end."""

    def __init__(self, spec: BeitSpec) -> None:
        super().__init__()
        rates = torch.linspace(0, spec.drop_path, spec.depth, device="cpu").tolist()
        self.layer = nn.ModuleList(BeitLayer(spec, drop_path=rate) for rate in rates)

    def forward(self, x: Float[Tensor, "B T N D"], frames: Frames) -> Float[Tensor, "B T N D"]:
        for layer in self.layer:
            x = layer(x, frames)
        return x


class _Pooler(nn.Module):
    """LayerNorm of the mean of a frame's patches, without the class token."""

    def __init__(self, spec: BeitSpec) -> None:
        super().__init__()
        self.layernorm = nn.LayerNorm(spec.width, eps=spec.eps)

    def forward(self, x: Float[Tensor, "B T N D"]) -> Float[Tensor, "B T D"]:
        pooled: Tensor = self.layernorm(x[:, :, 1:].mean(dim=2))
        return pooled


class VideoBeit(nn.Module):
    """The frames of a video as tokens."""

    def __init__(self, spec: BeitSpec) -> None:
        super().__init__()
        self.spec = spec
        self.embeddings = BeitEmbeddings(spec)
        self.encoder = BeitEncoder(spec)
        self.pooler = _Pooler(spec)
        self.apply(_initialise)

    def forward(
        self, pixels: Float[Tensor, "B T C S S"], mask: Shaped[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T N D"], Float[Tensor, "B T D"]]:
        """All tokens of the frames, not normalised, and one pooled vector of each frame.

        Args:
            pixels: normalised; what padded frames hold must be finite.
            mask: nonzero where a frame is real.
        """
        frames = Frames(mask)
        hidden = self.encoder(self.embeddings(pixels, frames), frames)
        return hidden, self.pooler(hidden)


def _initialise(module: nn.Module) -> None:
    """HuggingFace's N(0, 0.02) and biases of 0; attention over time keeps the initialisation of torch."""
    if isinstance(module, TemporalAttention):
        for part in (module.temporal_attn.out_proj, module.linear):
            part.reset_parameters()
        nn.init.zeros_(module.temporal_attn.out_proj.bias)
    elif isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
