"""The networks of the S3D family: the gated one of MIL-NCE, the plain one of Kinetics, and MIL-NCE's text tower.

`s3d.py` and `s3d_text.py` say where the facts come from. Attribute names are those of S3D_HowTo100M, and so are the
keys of a state dict.

Written for speed on CPUs without changing a number by more than float32's rounding: batch normalisation is folded
into its convolution (it is frozen), temporal convolutions run as two-dimensional ones over (T, H * W), a gate writes
its branch straight into the block's output, and all of it stays channels last.

Legend: B windows, C channels, T frames, H height, W width, N words, D width of the feature.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..._vocabulary import InputError

Stem = Literal["space_to_depth", "whole", "separable"]
_BLOCK = 2
_COLOURS = 3


@dataclass(frozen=True, slots=True)
class Widths:
    """Channels of an Inception block's branches: b0; b1 and b2 before and after the separable convolution; b3."""

    b0: int
    b1_a: int
    b1_b: int
    b2_a: int
    b2_b: int
    b3: int

    @property
    def outputs(self) -> tuple[int, int, int, int]:
        """Channels that each branch gives."""
        return self.b0, self.b1_b, self.b2_b, self.b3


MIXED = {
    "mixed_3b": Widths(64, 96, 128, 16, 32, 32),
    "mixed_3c": Widths(128, 128, 192, 32, 96, 64),
    "mixed_4b": Widths(192, 96, 208, 16, 48, 64),
    "mixed_4c": Widths(160, 112, 224, 24, 64, 64),
    "mixed_4d": Widths(128, 128, 256, 24, 64, 64),
    "mixed_4e": Widths(112, 144, 288, 32, 64, 64),
    "mixed_4f": Widths(256, 160, 320, 32, 128, 128),
    "mixed_5b": Widths(256, 160, 320, 32, 128, 128),
    "mixed_5c": Widths(384, 192, 384, 48, 128, 128),
}
ORDER = (
    *("conv1", "maxpool_2a", "conv_2b", "conv_2c", "gating", "maxpool_3a", "mixed_3b", "mixed_3c", "maxpool_4a"),
    *("mixed_4b", "mixed_4c", "mixed_4d", "mixed_4e", "mixed_4f", "maxpool_5a", "mixed_5b", "mixed_5c"),
)
"""The stages by name, in the order in which they run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """The differences between the networks of the family.

    Attributes:
        stem: the first convolution: ``space_to_depth``, or 7x7 pixels in one piece (``whole``) or ``separable``.
        gated: whether branches are self-gated.
        norm_epsilon: of batch normalisation.
        pool_padding: of max pools: ``same`` as TensorFlow does it (behind first), or ``symmetric``.
        temporal_mean: over all maps alike (``plain``), or over means of neighbours (``of_pairs``), in which the first
            and the last map count half.
        num_outputs: of the last linear layer.
        width: what every number of channels is multiplied by.
    """

    stem: Stem
    gated: bool
    norm_epsilon: float
    pool_padding: Literal["same", "symmetric"]
    temporal_mean: Literal["plain", "of_pairs"]
    num_outputs: int
    width: float = 1.0

    def channels(self, count: int) -> int:
        """A published number of channels at this width."""
        return max(1, round(count * self.width))


class Convolution(nn.Module):
    """Convolution, batch normalisation, ReLU; a ``separable`` one does the three over space and then over time."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        kernel: tuple[int, int, int] = (1, 1, 1),
        stride: int = 1,
        padding: tuple[int, int, int] = (0, 0, 0),
        is_separable: bool = False,
        epsilon: float,
    ) -> None:
        super().__init__()
        if not is_separable:
            self.conv1 = nn.Conv3d(inputs, outputs, kernel, stride, padding, bias=False)
            self.bn1 = nn.BatchNorm3d(outputs, eps=epsilon)
            return
        self.conv1 = nn.Conv3d(inputs, outputs, (1, *kernel[1:]), (1, stride, stride), (0, *padding[1:]), bias=False)
        self.bn1 = nn.BatchNorm3d(outputs, eps=epsilon)
        self.conv2 = nn.Conv3d(outputs, outputs, (kernel[0], 1, 1), (stride, 1, 1), (padding[0], 0, 0), bias=False)
        self.bn2 = nn.BatchNorm3d(outputs, eps=epsilon)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, T, H, W) to the same with other C and, with a stride, smaller."""
        maps = _convolved(maps, self.conv1, self.bn1)
        return _convolved(maps, self.conv2, self.bn2) if hasattr(self, "conv2") else maps

    @property
    def last_norm(self) -> nn.BatchNorm3d:
        """The normalisation before the output."""
        return self.bn2 if hasattr(self, "conv2") else self.bn1


def _convolved(maps: Tensor, conv: nn.Conv3d, norm: nn.BatchNorm3d, padding: Sequence[int] | None = None) -> Tensor:
    """ReLU of the normalised convolution, with the frozen normalisation inside the convolution's weights."""
    if padding is None:
        assert not isinstance(conv.padding, str)
        padding = conv.padding
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    weight = conv.weight * scale.view(-1, 1, 1, 1, 1)
    bias = norm.bias - norm.running_mean * scale
    if conv.kernel_size[1:] != (1, 1) or conv.kernel_size[0] == 1:
        return functional.conv3d(maps, weight, bias, conv.stride, tuple(padding)).relu_()
    # Twice as fast as the three-dimensional convolution of oneDNN; the views cost nothing.
    flat = functional.conv2d(maps.flatten(3), weight.flatten(3), bias, (conv.stride[0], 1), (padding[0], 0))
    return flat.relu_().view(*flat.shape[:3], *maps.shape[3:])


class SelfGating(nn.Module):
    """Channels multiplied by ``sigmoid(W mean(x) + b)``, the mean being over time and space."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Linear(channels, channels)

    def forward(self, maps: Tensor, out: Tensor | None = None) -> Tensor:
        """(B, C, T, H, W) to the same, into ``out`` where it is given."""
        gates = torch.sigmoid(self.fc(maps.mean((2, 3, 4))))
        return torch.mul(maps, gates[:, :, None, None, None].to(maps.dtype), out=out)


class SamePool(nn.Module):
    """Max pooling as TensorFlow's SAME does it: half of the missing places in front, rounded down, the rest behind.

    The official code pads with zeros everywhere and rounds sizes up. For the kernels of this network (3 and 2, with
    stride 2) that changes a result only for an odd size under a kernel of 3, so only that is padded: copying the
    largest maps of the network would cost more than pooling them.
    """

    def __init__(self, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, T, H, W) to the same, smaller. Inputs are not negative."""
        axes = zip(maps.shape[2:], self.kernel, self.stride, strict=True)
        behind = [size % 2 if kernel > stride else 0 for size, kernel, stride in axes]
        if any(behind):
            maps = functional.pad(maps, (0, behind[2], 0, behind[1], 0, behind[0]))
        return functional.max_pool3d(maps, self.kernel, self.stride, ceil_mode=True)


class Inception(nn.Module):
    """Four branches side by side: 1x1x1; two of 1x1x1 and a separable 3x3x3; a max pool and 1x1x1."""

    def __init__(self, inputs: int, widths: Widths, *, gated: bool, epsilon: float) -> None:
        super().__init__()

        def pointwise(inputs: int, outputs: int) -> Convolution:
            return Convolution(inputs, outputs, epsilon=epsilon)

        def separable(inputs: int, outputs: int) -> Convolution:
            return Convolution(inputs, outputs, kernel=(3, 3, 3), padding=(1, 1, 1), is_separable=True, epsilon=epsilon)

        self.conv_b0 = pointwise(inputs, widths.b0)
        self.conv_b1_a = pointwise(inputs, widths.b1_a)
        self.conv_b1_b = separable(widths.b1_a, widths.b1_b)
        self.conv_b2_a = pointwise(inputs, widths.b2_a)
        self.conv_b2_b = separable(widths.b2_a, widths.b2_b)
        self.maxpool_b3 = nn.MaxPool3d(3, stride=1, padding=1)
        self.conv_b3_b = pointwise(inputs, widths.b3)
        self.widths = widths
        self.is_gated = gated
        if gated:
            for branch, channels in enumerate(widths.outputs):
                self.add_module(f"gating_b{branch}", SelfGating(channels))

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, T, H, W) to (B, sum of the branches' widths, T, H, W)."""
        branches = (
            self.conv_b0(maps),
            self.conv_b1_b(self.conv_b1_a(maps)),
            self.conv_b2_b(self.conv_b2_a(maps)),
            self.conv_b3_b(self.maxpool_b3(maps)),
        )
        like = branches[0]
        shape = (like.shape[0], sum(self.widths.outputs), *like.shape[2:])
        outputs = torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last_3d)
        for index, (branch, place) in enumerate(
            zip(branches, torch.split(outputs, list(self.widths.outputs), dim=1), strict=True)
        ):
            if self.is_gated:
                getattr(self, f"gating_b{index}")(branch, out=place)
            else:
                place.copy_(branch)
        return outputs

    @property
    def last_norms(self) -> list[nn.BatchNorm3d]:
        """The normalisation at the end of each branch."""
        return [conv.last_norm for conv in (self.conv_b0, self.conv_b1_b, self.conv_b2_b, self.conv_b3_b)]


class S3D(nn.Module):
    """Pictures (B, 3, T, H, W) to the mean of the last maps (B, D); `fc` makes the joint embedding or classes of it."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        widened, epsilon = architecture.channels, architecture.norm_epsilon
        self.conv1 = _stem(architecture)
        self.maxpool_2a = _pool(architecture, (1, 3, 3), (1, 2, 2))
        self.conv_2b = Convolution(widened(64), widened(64), epsilon=epsilon)
        self.conv_2c = Convolution(
            widened(64), widened(192), kernel=(3, 3, 3), padding=(1, 1, 1), is_separable=True, epsilon=epsilon
        )
        self.gating = SelfGating(widened(192)) if architecture.gated else nn.Identity()
        self.maxpool_3a = _pool(architecture, (1, 3, 3), (1, 2, 2))
        self.maxpool_4a = _pool(architecture, (3, 3, 3), (2, 2, 2))
        self.maxpool_5a = _pool(architecture, (2, 2, 2), (2, 2, 2))
        channels = widened(192)
        for name, published in MIXED.items():
            widths = Widths(*(widened(getattr(published, field)) for field in Widths.__slots__))
            self.add_module(name, Inception(channels, widths, gated=architecture.gated, epsilon=epsilon))
            channels = sum(widths.outputs)
        self.fc = nn.Linear(channels, architecture.num_outputs)

    @property
    def dim(self) -> int:
        return self.fc.in_features

    def forward(self, video: Tensor) -> Tensor:
        """(B, 3, T, H, W) to (B, D). InputError where space-to-depth meets an odd size."""
        maps = self.first_maps(video)
        for name in ORDER[1:]:
            maps = getattr(self, name)(maps)
        rows = maps.mean((3, 4))
        if self.architecture.temporal_mean == "of_pairs":
            rows = (rows[..., :-1] + rows[..., 1:]) / 2
        return rows.mean(2)

    def first_maps(self, video: Tensor) -> Tensor:
        """The first convolution.

        After space-to-depth the official one pads on both sides and drops the first plane of each axis. Without that
        plane it is the convolution with one place less in front, which saves copying the largest map of the network.
        """
        if self.architecture.stem != "space_to_depth":
            maps: Tensor = self.conv1(video)
            return maps
        return _convolved(space_to_depth(video, behind=1), self.conv1.conv1, self.conv1.bn1, padding=(0, 1, 1))

    def with_outputs(self, num_outputs: int) -> S3D:
        """This network with a new last linear layer, of another number of outputs."""
        self.fc = nn.Linear(self.dim, num_outputs)
        return self


def space_to_depth(video: Tensor, *, behind: int = 0) -> Tensor:
    """Blocks of 2 x 2 x 2 pixels as channels: (B, C, T, H, W) to (B, 8 C, T / 2, H / 2, W / 2), channels last.

    Args:
        video: T, H and W are even.
        behind: planes of zeros to add at the end of each axis.

    Raises:
        InputError: T, H or W is odd.
    """
    if any(size % _BLOCK for size in video.shape[2:]):
        raise InputError(f"space-to-depth needs even numbers of frames, rows and columns, not {tuple(video.shape[2:])}")
    num, colours, *sizes = video.shape
    t, h, w = (size // _BLOCK for size in sizes)
    blocks = video.permute(0, 2, 3, 4, 1).reshape(num, t, _BLOCK, h, _BLOCK, w, _BLOCK, colours)
    depth = video.new_zeros((num, t + behind, h + behind, w + behind, _BLOCK, _BLOCK, _BLOCK, colours))
    depth[:, :t, :h, :w] = blocks.permute(0, 1, 3, 5, 2, 4, 6, 7)
    return depth.flatten(4).permute(0, 4, 1, 2, 3)


def _stem(architecture: Architecture) -> Convolution:
    outputs, epsilon = architecture.channels(64), architecture.norm_epsilon
    if architecture.stem == "space_to_depth":
        return Convolution(_COLOURS * _BLOCK**3, outputs, kernel=(2, 4, 4), padding=(1, 2, 2), epsilon=epsilon)
    is_separable = architecture.stem == "separable"
    frames = 7 if is_separable else 3
    return Convolution(
        _COLOURS,
        outputs,
        kernel=(frames, 7, 7),
        stride=2,
        padding=(frames // 2, 3, 3),
        is_separable=is_separable,
        epsilon=epsilon,
    )


def _pool(architecture: Architecture, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> nn.Module:
    if architecture.pool_padding == "same":
        return SamePool(kernel, stride)
    t, h, w = ((k - 1) // 2 for k in kernel)
    return nn.MaxPool3d(kernel, stride, padding=(t, h, w))


def initialise(network: S3D) -> S3D:
    """Random weights that keep the activations' size from the first layer to the last.

    torch's own would shrink them by ten orders of magnitude on the way, and every input would give the biases. Gates of
    random weights let about half through, so what comes before a gate is doubled.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    if network.architecture.gated:
        blocks = [module for module in network.modules() if isinstance(module, Inception)]
        for norm in [network.conv_2c.last_norm, *(norm for block in blocks for norm in block.last_norms)]:
            nn.init.constant_(norm.weight, 2.0)
    return network


class SentenceTower(nn.Module):
    """MIL-NCE's text tower: word vectors, a linear layer, ReLU, the maximum over the words, a linear layer."""

    def __init__(self, *, num_rows: int, word_dim: int, hidden_dim: int, dim: int) -> None:
        super().__init__()
        self.word_embd = nn.Embedding(num_rows, word_dim)
        self.fc1 = nn.Linear(word_dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, dim)

    def forward(self, ids: Tensor) -> Tensor:
        """Word numbers (B, N) to (B, D). Padding is a word like any other and takes part in the maximum."""
        words: Tensor = self.fc1(self.word_embd(ids))
        sentences: Tensor = self.fc2(words.relu_().amax(1))
        return sentences
