"""The network of TransNet V2: for every frame, whether a shot ends with it.

Souček and Lokoč, "TransNet V2: An effective deep network architecture for fast shot transition detection" (2020,
arXiv 2008.04838). Numbers and key names are those of the authors' weights for PyTorch (github.com/soCzech/TransNetV2,
folder inference-pytorch). The head for every frame of a long transition is left out: nothing reads it.

Legend: B windows, T frames of a window, H and W height and width, C channels, F filters, L frames in reach.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn
from torch.nn import functional

DILATIONS = (1, 2, 4, 8)
REACH = 50
"""A frame is compared with as many before it, and as many after it."""
_BINS = 8  # of each colour, in the histogram of a frame
_SIMILARITY_DIM = 128


def separable_convolution(channels: int, filters: int, *, dilation: int) -> nn.Module:
    """A convolution over the picture, then one over time that skips frames."""
    space = nn.Conv3d(channels, 2 * filters, (1, 3, 3), padding=(0, 1, 1), bias=False)
    time = nn.Conv3d(2 * filters, filters, (3, 1, 1), padding=(dilation, 0, 0), dilation=(dilation, 1, 1), bias=False)
    return nn.Sequential(OrderedDict(layers=nn.Sequential(space, time)))


class DilatedCell(nn.Module):
    """Convolutions of several dilations next to each other: (B, C, T, H, W) to (B, 4 F, T, H, W)."""

    def __init__(self, channels: int, filters: int) -> None:
        super().__init__()
        self.names = [f"Conv3D_{dilation}" for dilation in DILATIONS]
        for name, dilation in zip(self.names, DILATIONS, strict=True):
            self.add_module(name, separable_convolution(channels, filters, dilation=dilation))
        self.bn = nn.BatchNorm3d(len(DILATIONS) * filters, eps=1e-3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        several = torch.cat([getattr(self, name)(x) for name in self.names], dim=1)
        return self.bn(several)  # type: ignore[no-any-return]


class DilatedBlock(nn.Module):
    """Two cells with a shortcut around the second, then half the height and width."""

    def __init__(self, channels: int, filters: int) -> None:
        super().__init__()
        self.DDCNN = nn.ModuleList([DilatedCell(channels, filters), DilatedCell(len(DILATIONS) * filters, filters)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = functional.relu(self.DDCNN[0](x))
        return functional.avg_pool3d(functional.relu(self.DDCNN[1](first)) + first, (1, 2, 2))


def similarities(rows: torch.Tensor) -> torch.Tensor:
    """Cosines of every frame with those in reach, (B, T, D) to (B, T, L); 0 before the first frame and after the last.

    L is ``2 * REACH + 1``: the frames from ``t - REACH`` to ``t + REACH``.
    """
    unit = functional.normalize(rows, dim=2)
    padded = functional.pad(unit @ unit.transpose(1, 2), (REACH, REACH))
    num_frames, offsets = rows.shape[1], torch.arange(2 * REACH + 1, device=rows.device)
    where = torch.arange(num_frames, device=rows.device)[:, None] + offsets
    return padded.gather(2, where.expand(len(rows), -1, -1))


def colour_histograms(frames: torch.Tensor) -> torch.Tensor:
    """How many pixels of each frame have each of 512 colours: uint8 (B, T, H, W, 3) to (B, T, 512)."""
    red, green, blue = (frames // (256 // _BINS)).long().flatten(2, 3).unbind(-1)
    colours = (red * _BINS + green) * _BINS + blue
    counts = torch.zeros(*colours.shape[:2], _BINS**3, device=frames.device)
    return counts.scatter_add_(2, colours, torch.ones_like(colours, dtype=counts.dtype))


class FrameSimilarity(nn.Module):
    """Compares frames by what the blocks saw in them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.projection = nn.Linear(channels, _SIMILARITY_DIM)
        self.fc = nn.Linear(2 * REACH + 1, _SIMILARITY_DIM)

    def forward(self, blocks: list[torch.Tensor]) -> torch.Tensor:
        means = torch.cat([block.mean(dim=(3, 4)) for block in blocks], dim=1).transpose(1, 2)
        return functional.relu(self.fc(similarities(self.projection(means))))


class ColourSimilarity(nn.Module):
    """Compares frames by their colours."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(2 * REACH + 1, _SIMILARITY_DIM)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        return functional.relu(self.fc(similarities(colour_histograms(frames))))


class TransNetV2(nn.Module):
    """Frames, uint8 (B, T, H, W, 3), to the probability that a shot ends with each, (B, T).

    Args:
        height: H.
        width: W.
        filters: F of the first block; each block after it has twice as many as the one before.
        hidden: width of the layer before the last.
        num_blocks: how many blocks.
    """

    def __init__(
        self, *, height: int = 27, width: int = 48, filters: int = 16, hidden: int = 1024, num_blocks: int = 3
    ) -> None:
        super().__init__()
        wide = [len(DILATIONS) * filters * 2**number for number in range(num_blocks)]
        self.SDDCNN = nn.ModuleList(
            DilatedBlock(channels, out // len(DILATIONS)) for channels, out in zip((3, *wide), wide, strict=False)
        )
        self.frame_sim_layer = FrameSimilarity(sum(wide))
        self.color_hist_layer = ColourSimilarity()
        cells = (height >> num_blocks) * (width >> num_blocks)
        self.fc1 = nn.Linear(2 * _SIMILARITY_DIM + cells * wide[-1], hidden)
        self.cls_layer1 = nn.Linear(hidden, 1)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        x = frames.permute(0, 4, 1, 2, 3).float() / 255
        blocks = []
        for block in self.SDDCNN:
            x = block(x)
            blocks.append(x)
        seen = x.permute(0, 2, 3, 4, 1).flatten(2)
        rows = torch.cat([self.color_hist_layer(frames), self.frame_sim_layer(blocks), seen], dim=2)
        logits: torch.Tensor = self.cls_layer1(functional.relu(self.fc1(rows))).squeeze(2)
        return logits.sigmoid()
