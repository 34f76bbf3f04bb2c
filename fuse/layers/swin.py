"""Video Swin: attention within 3-D windows of patches, shifted in every second block.

Source: Liu et al., "Video Swin Transformer", CVPR 2022 (arXiv 2106.13230), as Clover (arXiv 2207.07885) trains it:
LeeYN-43/Clover@fa05f2e, mmaction/models/backbones/swin_transformer_3d.py. Attributes keep the names of its state dict.

What follows the code:
* The index of the relative positions is made for the configured window. Where the grid of patches is smaller, the code
  takes the index's first rows and columns, which are wrong offsets as soon as height or width shrink (never at 224
  pixels). `small_grid="published"` does the same, "geometric" takes the right offsets.
* Places that pad the grid to whole windows are zeros after the norm, and are attended to.
* The mask replaces patches after the patch embedding and its norm, alike at every time step.

Tokens stay (B, T, H, W, D) throughout; the authors' are (B, D, T, H, W). The index is computed and not kept;
`fuse/clover/official.py` adds it to what the authors' code reads.

Legend: B batch, T H W grid of patches, D width, h heads, W windows, n places of a window.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Literal, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from ..._vocabulary import InputError
from .attention import attention
from .products import Linear

Grid = tuple[int, int, int]
SmallGrid = Literal["published", "geometric"]
_OTHER_REGION = -100.0
"""What the authors add to the score of two places of a shifted window that are no neighbours."""


class VideoSwin(nn.Module):
    """Frames to a grid of patches, each stage with half the height and width and twice the channels of the one before.

    Args:
        patch, stride: size and step of a patch in frames, rows and columns.
        width: D of the first stage; of the last it is `dim`.
        depths, heads: blocks, and attention heads, of each stage.
        window: of attention, in patches.
        drop_path: stochastic depth of the last block; it grows linearly from 0.
        mask_token: whether there is a learned token for masked patches.
        patch_norm: whether patches are normalised after their embedding.
        small_grid: offsets in a grid smaller than the window, see above.
        scale: of scores; None: one over the root of a head's width.
    """

    def __init__(
        self,
        *,
        patch: Grid = (2, 4, 4),
        stride: Grid = (2, 4, 4),
        channels: int = 3,
        width: int = 128,
        depths: Sequence[int] = (2, 2, 18, 2),
        heads: Sequence[int] = (4, 8, 16, 32),
        window: Grid = (8, 7, 7),
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        drop_path: float = 0.2,
        mask_token: bool = False,
        patch_norm: bool = True,
        small_grid: SmallGrid = "published",
        scale: float | None = None,
    ) -> None:
        super().__init__()
        self.dim = width << (len(depths) - 1)
        self.patch_embed = PatchEmbedding(patch, stride, channels=channels, width=width, norm=patch_norm)
        self.dropout = nn.Dropout(dropout)
        rates = iter(torch.linspace(0, drop_path, sum(depths), device="cpu").tolist())
        self.layers = nn.ModuleList()
        for stage, depth in enumerate(depths):
            blocks = [
                SwinBlock(
                    width << stage,
                    heads=heads[stage],
                    window=window,
                    is_shifted=index % 2 == 1,
                    mlp_ratio=mlp_ratio,
                    qkv_bias=qkv_bias,
                    dropout=dropout,
                    attention_dropout=attention_dropout,
                    drop_path=next(rates),
                    small_grid=small_grid,
                    scale=scale,
                )
                for index in range(depth)
            ]
            layer = nn.Module()
            layer.blocks = nn.ModuleList(blocks)
            if stage + 1 < len(depths):
                layer.downsample = PatchMerging(width << stage)
            self.layers.append(layer)
        self.norm = nn.LayerNorm(self.dim)
        self.mask_token = nn.Parameter(torch.zeros(1, width, 1, 1, 1)) if mask_token else None
        self.apply(_initialise)
        if self.mask_token is not None:
            nn.init.trunc_normal_(self.mask_token, std=0.02)

    def forward(
        self, video: Float[Tensor, "B C F R S"], mask: Float[Tensor, "B 1 mh mw"] | None = None
    ) -> Float[Tensor, "B T H W D"]:
        """The last stage's grid of normalised patches. `mask` is nonzero where a cell of the grid is masked."""
        return self.from_patches(self.patches(video, mask))

    def patches(
        self, video: Float[Tensor, "B C F R S"], mask: Float[Tensor, "B 1 mh mw"] | None = None
    ) -> Float[Tensor, "B T H W D"]:
        """What the blocks take: embedded patches, those of masked cells replaced."""
        embedded: Tensor = self.patch_embed(video)
        return embedded if mask is None else self.masked(embedded, mask)

    def masked(
        self, patches: Float[Tensor, "B T H W D"], mask: Float[Tensor, "B 1 mh mw"]
    ) -> Float[Tensor, "B T H W D"]:
        """Patches with the mask token in the cells of a grid, which must divide theirs.

        Raises:
            InputError: there is no mask token, or the grid does not divide that of the patches.
        """
        if self.mask_token is None:
            raise InputError("this Video Swin has no token for masked patches; build it with mask_token=True")
        weight = mask_of_patches(mask, patches.shape[1:4]).to(patches.dtype)
        return patches * (1 - weight) + self.mask_token.view(-1) * weight

    def from_patches(self, patches: Float[Tensor, "B T H0 W0 D0"]) -> Float[Tensor, "B T H W D"]:
        """All stages, and the last norm."""
        x = self.dropout(patches)
        for layer in self.layers:
            for block in cast(nn.ModuleList, layer.blocks):
                x = block(x)
            if hasattr(layer, "downsample"):
                x = cast(nn.Module, layer.downsample)(x)
        normed: Tensor = self.norm(x)
        return normed


class PatchEmbedding(nn.Module):
    """Pixels to patches by one convolution; zeros after the end make whole patches."""

    def __init__(self, patch: Grid, stride: Grid, *, channels: int, width: int, norm: bool) -> None:
        super().__init__()
        self.patch = patch
        self.proj = nn.Conv3d(channels, width, kernel_size=patch, stride=stride)
        self.norm = nn.LayerNorm(width) if norm else None

    def forward(self, video: Float[Tensor, "B C F R S"]) -> Float[Tensor, "B T H W D"]:
        x = self.proj(_padded(video, self.patch)).permute(0, 2, 3, 4, 1)
        embedded: Tensor = x if self.norm is None else self.norm(x)
        return embedded


class PatchMerging(nn.Module):
    """Two by two patches become one of twice the channels; time stays."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.reduction = Linear(4 * dim, 2 * dim, bias=False)
        self.norm = nn.LayerNorm(4 * dim)

    def forward(self, x: Float[Tensor, "B T H W D"]) -> Float[Tensor, "B T H2 W2 D2"]:
        x = functional.pad(x, (0, 0, 0, x.shape[3] % 2, 0, x.shape[2] % 2))
        quarters = [x[:, :, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        merged: Tensor = self.reduction(self.norm(torch.cat(quarters, dim=-1)))
        return merged


class WindowAttention(nn.Module):
    """Multi-head attention within windows, with a learned bias for each relative position."""

    def __init__(
        self,
        dim: int,
        *,
        heads: int,
        window: Grid,
        qkv_bias: bool,
        dropout: float,
        out: float,
        scale: float | None,
    ) -> None:
        super().__init__()
        self.heads, self.scale = heads, scale or None
        self.dropout = dropout
        places = math.prod(2 * size - 1 for size in window)
        self.relative_position_bias_table = nn.Parameter(torch.empty(places, heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.qkv = Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = Linear(dim, dim)
        self.proj_drop = nn.Dropout(out)

    def forward(
        self, x: Float[Tensor, "BW n D"], index: Int[Tensor, "n n"], regions: Float[Tensor, "W n n"] | None
    ) -> Float[Tensor, "BW n D"]:
        """Args: the windows of each sample in turn; the row of the bias table of each pair; what a shift parts."""
        num_windows, n, dim = x.shape
        q, k, v = self.qkv(x).view(num_windows, n, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        bias = self.relative_position_bias_table[index.flatten()].view(n, n, self.heads).permute(2, 0, 1)
        if regions is not None:
            shifted = bias + regions[:, None]
            bias = shifted.repeat(num_windows // len(shifted), 1, 1, 1)
        drop = self.dropout if self.training else 0.0
        attended = attention(q, k, v, mask=bias.to(q.dtype), dropout=drop, scale=self.scale)
        projected: Tensor = self.proj_drop(self.proj(attended.transpose(1, 2).reshape(num_windows, n, dim)))
        return projected


class SwinBlock(nn.Module):
    """x + attention within windows of LN x, then x + MLP(LN x)."""

    def __init__(
        self,
        dim: int,
        *,
        heads: int,
        window: Grid,
        is_shifted: bool,
        mlp_ratio: float,
        qkv_bias: bool,
        dropout: float,
        attention_dropout: float,
        drop_path: float,
        small_grid: SmallGrid,
        scale: float | None,
    ) -> None:
        super().__init__()
        self.window, self.small_grid, self.drop_path = window, small_grid, drop_path
        self.shift: Grid = (window[0] // 2, window[1] // 2, window[2] // 2) if is_shifted else (0, 0, 0)
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(
            dim, heads=heads, window=window, qkv_bias=qkv_bias, dropout=attention_dropout, out=dropout, scale=scale
        )
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = SwinMLP(dim, hidden=int(dim * mlp_ratio), dropout=dropout)

    def forward(self, x: Float[Tensor, "B T H W D"]) -> Float[Tensor, "B T H W D"]:
        x = x + stochastic_depth(self._attended(self.norm1(x)), self.drop_path, training=self.training)
        return x + stochastic_depth(self.mlp(self.norm2(x)), self.drop_path, training=self.training)

    def _attended(self, x: Float[Tensor, "B T H W D"]) -> Float[Tensor, "B T H W D"]:
        """Attention within windows; an axis no longer than the window is one window, and not shifted."""
        sizes = cast(Grid, tuple(x.shape[1:4]))
        fits = [size <= window for size, window in zip(sizes, self.window, strict=True)]
        used = cast(Grid, tuple(min(pair) for pair in zip(sizes, self.window, strict=True)))
        shift = cast(Grid, tuple(0 if fit else step for fit, step in zip(fits, self.shift, strict=True)))
        x = _padded(x.movedim(-1, 1), used).movedim(1, -1)
        grid, is_shifted = cast(Grid, tuple(x.shape[1:4])), any(shift)
        if is_shifted:
            x = torch.roll(x, [-step for step in shift], dims=(1, 2, 3))
        index = relative_index(self.window, used, small_grid=self.small_grid).to(x.device)
        regions = shifted_regions(grid, used, shift).to(x.device) if is_shifted else None
        x = from_windows(self.attn(to_windows(x, used), index, regions), used, grid)
        if is_shifted:
            x = torch.roll(x, shift, dims=(1, 2, 3))
        return x[:, : sizes[0], : sizes[1], : sizes[2]]


class SwinMLP(nn.Module):
    """Linear, exact (erf) GELU, linear."""

    def __init__(self, dim: int, *, hidden: int, dropout: float) -> None:
        super().__init__()
        self.fc1 = Linear(dim, hidden)
        self.fc2 = Linear(hidden, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        y: Tensor = self.dropout(self.fc2(self.dropout(functional.gelu(self.fc1(x)))))
        return y


def stochastic_depth(branch: Float[Tensor, "B T H W D"], rate: float, *, training: bool) -> Float[Tensor, "B T H W D"]:
    """A residual branch without some samples' share, the others scaled up so that the mean stays."""
    if not training or rate == 0:
        return branch
    kept = torch.empty(len(branch), *[1] * (branch.ndim - 1), device=branch.device, dtype=branch.dtype)
    return branch * kept.bernoulli_(1 - rate).div_(1 - rate)


def to_windows(x: Float[Tensor, "B T H W D"], window: Grid) -> Float[Tensor, "BW n D"]:
    """The windows of each sample in turn, and the places of each, in the order of time, height and width."""
    batch, *sizes, dim = x.shape
    t, h, w = (size // step for size, step in zip(sizes, window, strict=True))
    x = x.view(batch, t, window[0], h, window[1], w, window[2], dim).permute(0, 1, 3, 5, 2, 4, 6, 7)
    return x.reshape(-1, math.prod(window), dim)


def from_windows(x: Float[Tensor, "BW n D"], window: Grid, grid: Grid) -> Float[Tensor, "B T H W D"]:
    """The inverse of `to_windows` for a grid of whole windows."""
    t, h, w = (size // step for size, step in zip(grid, window, strict=True))
    x = x.view(-1, t, h, w, *window, x.shape[-1]).permute(0, 1, 4, 2, 5, 3, 6, 7)
    return x.reshape(-1, *grid, x.shape[-1])


def mask_of_patches(mask: Float[Tensor, "B 1 mh mw"], grid: Sequence[int]) -> Float[Tensor, "B T H W 1"]:
    """A mask of cells as one of patches, the same at every time step.

    Raises:
        InputError: the cells do not divide the grid of patches.
    """
    (num_frames, height, width), (rows, columns) = grid, mask.shape[2:]
    if height % rows or width % columns:
        raise InputError(f"a mask of {rows} x {columns} cells does not divide {height} x {width} patches")
    cells = mask.repeat_interleave(height // rows, dim=2).repeat_interleave(width // columns, dim=3)
    return cells[..., None].expand(-1, num_frames, -1, -1, -1)


@cache
@torch.inference_mode(mode=False)  # what is kept is for trainings as well
def relative_index(window: Grid, used: Grid, *, small_grid: SmallGrid = "published") -> Int[Tensor, "n n"]:
    """The row of the bias table, made for `window`, of each pair of places of a window of size `used`."""
    if small_grid == "published" and used != window:
        count = math.prod(used)
        return relative_index(window, window)[:count, :count].contiguous()
    places = torch.cartesian_prod(*map(torch.arange, used)).view(-1, 3)
    offsets = places[:, None] - places + torch.tensor(window) - 1
    rows, columns = 2 * window[1] - 1, 2 * window[2] - 1
    return offsets @ torch.tensor([rows * columns, columns, 1])


@cache
@torch.inference_mode(mode=False)
def shifted_regions(grid: Grid, window: Grid, shift: Grid) -> Float[Tensor, "W n n"]:
    """What is added to the scores within each window of a rolled grid: 0, or much less where the shift joined ends."""
    region = torch.zeros(1, *grid, 1)
    for axis, (size, step, by) in enumerate(zip(grid, window, shift, strict=True)):
        place = torch.arange(size)
        part = (place >= size - step).long() + (place >= size - by).long() if by else torch.zeros_like(place)
        region = region * 3 + part.view([-1 if index == axis + 1 else 1 for index in range(5)])
    ids = to_windows(region, window).squeeze(-1)
    return torch.where(ids[:, None] == ids[:, :, None], 0.0, _OTHER_REGION)


def _padded(x: Float[Tensor, "B D T H W"], to: Grid) -> Float[Tensor, "B D T2 H2 W2"]:
    """Zeros after the end of each axis, up to a multiple."""
    missing = [-size % step for size, step in zip(x.shape[2:], to, strict=True)]
    return functional.pad(x, [0, missing[2], 0, missing[1], 0, missing[0]]) if any(missing) else x


def _initialise(module: nn.Module) -> None:
    """Linear weights N(0, 0.02) cut at 2, biases 0, as in the authors' code."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
