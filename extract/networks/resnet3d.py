"""The network of the 3D ResNets: every depth, block and shortcut that their authors' builders can make.

Legend: B windows, C channels, T frames, H height, W width. Pictures are expected channels last in memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import nn

_BLOCKS_OF_STAGES = {
    10: (1, 1, 1, 1),
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
}
_FIRST_DEPTH_WITH_BOTTLENECKS = 50
_STEM_WIDTH = 64
_MakeBlock = Callable[[int, int, int, nn.Module | None], nn.Module]


class ZeroPaddedShortcut(nn.Module):
    """Shortcut A: every ``stride``-th place, and channels of zeros after those that are there."""

    def __init__(self, num_new_channels: int, stride: int) -> None:
        super().__init__()
        self.num_new_channels = num_new_channels
        self.stride = stride

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, T, H, W) to (B, C + new, T', H', W')."""
        kept = x[:, :, :: self.stride, :: self.stride, :: self.stride]
        return nn.functional.pad(kept, (0, 0, 0, 0, 0, 0, 0, self.num_new_channels))


class BasicBlock(nn.Module):
    """Two 3x3x3 convolutions and a shortcut; the first convolution has the stride, in time too."""

    expansion = 1

    def __init__(self, in_width: int, width: int, stride: int, downsample: nn.Module | None) -> None:
        super().__init__()
        self.conv1 = _conv(in_width, width, 3, stride=stride)
        self.bn1 = nn.BatchNorm3d(width)
        self.conv2 = _conv(width, width, 3)
        self.bn2 = nn.BatchNorm3d(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    @property
    def last_norm(self) -> nn.BatchNorm3d:
        """The normalisation at the end of the residual branch."""
        return self.bn2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, T, H, W) to (B, C', T', H', W')."""
        branch = self.relu(self.bn1(self.conv1(x)))
        branch = self.bn2(self.conv2(branch))
        branch += x if self.downsample is None else self.downsample(x)
        out: torch.Tensor = self.relu(branch)
        return out


class Bottleneck(nn.Module):
    """1x1x1, 3x3x3 and 1x1x1 convolutions and a shortcut; the middle one has the stride and any groups."""

    expansion = 4

    def __init__(
        self, in_width: int, width: int, stride: int, downsample: nn.Module | None, *, num_groups: int = 1
    ) -> None:
        super().__init__()
        out_width = width * self.expansion
        middle = self._middle_width(width, num_groups)
        self.conv1 = _conv(in_width, middle, 1)
        self.bn1 = nn.BatchNorm3d(middle)
        self.conv2 = _conv(middle, middle, 3, stride=stride, num_groups=num_groups)
        self.bn2 = nn.BatchNorm3d(middle)
        self.conv3 = _conv(middle, out_width, 1)
        self.bn3 = nn.BatchNorm3d(out_width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    @property
    def last_norm(self) -> nn.BatchNorm3d:
        """The normalisation at the end of the residual branch."""
        return self.bn3

    @staticmethod
    def _middle_width(width: int, _num_groups: int) -> int:
        return width

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, T, H, W) to (B, C', T', H', W')."""
        branch = self.relu(self.bn1(self.conv1(x)))
        branch = self.relu(self.bn2(self.conv2(branch)))
        branch = self.bn3(self.conv3(branch))
        branch += x if self.downsample is None else self.downsample(x)
        out: torch.Tensor = self.relu(branch)
        return out


class ResNeXtBottleneck(Bottleneck):
    """A bottleneck that expands twice, with ``num_groups * (width // 32)`` channels in its middle."""

    expansion = 2

    @staticmethod
    def _middle_width(width: int, num_groups: int) -> int:
        return num_groups * (width // 32)


class ResNet3d(nn.Module):
    """A 3D ResNet up to its pooled feature; key names are the authors', less the classifier's ``fc``.

    Args:
        depth: 10, 18, 34, 50, 101, 152 or 200. Without groups, bottlenecks begin at 50.
        cardinality: groups of a ResNeXt's convolutions, whose blocks are bottlenecks at every depth; None for a ResNet.
        shortcut: where sizes change, ``A`` pads with zeros and ``B`` learns a 1x1x1 convolution.
        widen_factor: multiplies every width.
        conv1_t_size: frames that the first convolution looks at.
        conv1_t_stride: frames from one of its places to the next.
        no_max_pool: leave out the pooling after it.
        n_input_channels: 3 for pictures.

    Attributes:
        dim: width D of the feature.

    Raises:
        ValueError: the depth or the shortcut is not among those.
    """

    def __init__(
        self,
        *,
        depth: int,
        cardinality: int | None = None,
        shortcut: Literal["A", "B"] = "B",
        widen_factor: float = 1.0,
        conv1_t_size: int = 7,
        conv1_t_stride: int = 1,
        no_max_pool: bool = False,
        n_input_channels: int = 3,
    ) -> None:
        super().__init__()
        if depth not in _BLOCKS_OF_STAGES or shortcut not in ("A", "B"):
            raise ValueError(f"3D ResNets have depth {', '.join(map(str, _BLOCKS_OF_STAGES))} and shortcut A or B")
        stem = int(_STEM_WIDTH * widen_factor)
        expansion, make_block = _block_kind(depth, cardinality)
        widths = [int(_STEM_WIDTH * (2 if cardinality else 1) * 2**k * widen_factor) for k in range(4)]
        in_widths = [stem, *(width * expansion for width in widths)]
        self.conv1 = _conv(n_input_channels, stem, (conv1_t_size, 7, 7), stride=(conv1_t_stride, 2, 2))
        self.bn1 = nn.BatchNorm3d(stem)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.Identity() if no_max_pool else nn.MaxPool3d(3, stride=2, padding=1)
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            nn.Sequential(
                make_block(
                    in_widths[k], widths[k], stride, _shortcut(in_widths[k], in_widths[k + 1], stride, shortcut)
                ),
                *(make_block(in_widths[k + 1], widths[k], 1, None) for _ in range(num_blocks - 1)),
            )
            for k, (num_blocks, stride) in enumerate(zip(_BLOCKS_OF_STAGES[depth], (1, 2, 2, 2), strict=True))
        )
        self.dim = in_widths[-1]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, T, H, W) to features (B, D): the mean of the last stage's map."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        features: torch.Tensor = x.mean(dim=(2, 3, 4))
        return features


def randomise(network: ResNet3d) -> ResNet3d:
    """Give weights that keep the size of what passes through: He's for convolutions, less at the end of each branch."""
    for module in network.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
    branches = [module for module in network.modules() if isinstance(module, BasicBlock | Bottleneck)]
    for block in branches:
        nn.init.constant_(block.last_norm.weight, 1 / math.sqrt(len(branches)))
    return network


def _block_kind(depth: int, cardinality: int | None) -> tuple[int, _MakeBlock]:
    """How much wider a block's output is than its stage, and what makes it."""
    if cardinality is not None:
        return ResNeXtBottleneck.expansion, partial(ResNeXtBottleneck, num_groups=cardinality)
    if depth < _FIRST_DEPTH_WITH_BOTTLENECKS:
        return BasicBlock.expansion, BasicBlock
    return Bottleneck.expansion, Bottleneck


def _shortcut(in_width: int, out_width: int, stride: int, kind: Literal["A", "B"]) -> nn.Module | None:
    """The layer that resizes a block's input to its output; None where both have the same size."""
    if stride == 1 and in_width == out_width:
        return None
    if kind == "A":
        return ZeroPaddedShortcut(out_width - in_width, stride)
    return nn.Sequential(_conv(in_width, out_width, 1, stride=stride), nn.BatchNorm3d(out_width))


def _conv(
    in_width: int,
    out_width: int,
    size: int | tuple[int, int, int],
    *,
    stride: int | tuple[int, int, int] = 1,
    num_groups: int = 1,
) -> nn.Conv3d:
    """A convolution without bias that keeps the size but for its stride."""
    sizes = (size, size, size) if isinstance(size, int) else size
    padding = (sizes[0] // 2, sizes[1] // 2, sizes[2] // 2)
    return nn.Conv3d(in_width, out_width, sizes, stride, padding, groups=num_groups, bias=False)
