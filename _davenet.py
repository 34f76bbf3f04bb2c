"""The audio CNN of AVLnet and Everything at Once: a residual network over time on a log-mel spectrogram.

Papers: Rouditchenko et al., "AVLnet" (arXiv 2006.09199), version 1; Shvetsova et al., "Everything at Once"
(arXiv 2112.04446), version 2, whose last two stages are new so that about 1.5 tokens a second come out. Authors' code:
ninatu/everything_at_once@4daeab6, "ResDavenet". Attributes keep the names of its state dict.

Legend: B batch, F mel bands, T frames, C channels, S = 2 ** stages frames that become one token.

Deviation, by choice of an argument:
* `frame_mask` in `forward`: the authors let the padding of a batch (0 dB, the loudest value) run through the
  convolutions, so that a clip's tokens depend on how far it was padded. With a frame mask the padding is silenced
  before every convolution, and a padded clip gives the tokens of the clip alone. Without one, the authors' numbers
  come out.

It is here, at the root, because two folders that know nothing of each other need it: `extract` as a frozen extractor,
`fuse` as a part that is trained. Its sizes are in `_audio_cnns.py`, which loads no torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn import functional


class ResidualBlock(nn.Module):
    """Two convolutions over time, each with batch normalisation, around a shortcut."""

    def __init__(self, channels_in: int, channels_out: int, *, stride: int, kernel: int) -> None:
        super().__init__()
        self.conv1 = _convolution(channels_in, channels_out, kernel=kernel, stride=stride)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.conv2 = _convolution(channels_out, channels_out, kernel=kernel)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.stride = stride
        self.downsample: nn.Sequential | None = None
        if stride != 1 or channels_in != channels_out:
            shortcut = _convolution(channels_in, channels_out, kernel=1, stride=stride)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(channels_out))

    def forward(
        self, x: Float[Tensor, "B C 1 T"], mask: Float[Tensor, "B 1 1 T"] | None = None
    ) -> tuple[Float[Tensor, "B C2 1 T2"], Float[Tensor, "B 1 1 T2"] | None]:
        """Convolve; where a mask (1 real, 0 padding) is given, the padding leaves as zeros. Returns x and its mask."""
        if mask is not None:
            mask = mask[..., :: self.stride]
        y = _silence(functional.relu(self.bn1(self.conv1(x))), mask)
        y = self.bn2(self.conv2(y))
        shortcut = x if self.downsample is None else self.downsample(x)
        return _silence(functional.relu(y + shortcut), mask), mask


class DAVEnet(nn.Module):
    """Log-mel frames in, one token for every S frames out.

    `batchnorm1` is in the published weights and is never applied, by the authors or here.

    Attributes:
        stride: S, the frames that become one token.
        dim: channels of a token.
    """

    def __init__(self, *, mel_bands: int = 40, blocks: Sequence[int], widths: Sequence[int], kernel: int = 9) -> None:
        super().__init__()
        self.batchnorm1 = nn.BatchNorm2d(1).requires_grad_(requires_grad=False)
        self.conv1 = nn.Conv2d(1, widths[0], kernel_size=(mel_bands, 1), bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.num_stages = len(blocks)
        for stage, (num_blocks, channels_in, channels_out) in enumerate(
            zip(blocks, widths[:-1], widths[1:], strict=True), start=1
        ):
            layers = [ResidualBlock(channels_in, channels_out, stride=2, kernel=kernel)]
            layers += [
                ResidualBlock(channels_out, channels_out, stride=1, kernel=kernel) for _ in range(num_blocks - 1)
            ]
            setattr(self, f"layer{stage}", nn.ModuleList(layers))
        self.stride = 2**self.num_stages
        self.dim = widths[-1]
        self.apply(_initialise)

    def forward(
        self, mel: Float[Tensor, "B T F"], frame_mask: Shaped[Tensor, "B T"] | None = None
    ) -> Float[Tensor, "B N C"]:
        """Tokens of a spectrogram, time-major in and out; N = ceil(T / S)."""
        x = mel.transpose(1, 2).unsqueeze(1)  # (B, 1, F, T)
        mask = None
        if frame_mask is not None and not frame_mask.bool().all():
            mask = frame_mask.to(x.dtype)[:, None, None, :]
        x = _silence(functional.relu(self.bn1(self.conv1(x))), mask)  # (B, C, 1, T)
        for stage in range(1, self.num_stages + 1):
            for block in getattr(self, f"layer{stage}"):
                x, mask = block(x, mask)
        return x.squeeze(2).transpose(1, 2)


def token_mask(frame_mask: Shaped[Tensor, "B T"], *, stride: int) -> Shaped[Tensor, "B N"]:
    """Which tokens saw a real frame: the frame mask, max-pooled. N = ceil(T / stride), one for every token.

    The authors pool with kernel ceil(T / N), which is the stride where T is a multiple of it, and lose the last token
    where the kernel does not divide T.
    """
    pooled = functional.max_pool1d(frame_mask.float().unsqueeze(1), stride, ceil_mode=True)
    return pooled.squeeze(1).bool()


def _convolution(channels_in: int, channels_out: int, *, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(
        channels_in,
        channels_out,
        kernel_size=(1, kernel),
        stride=(1, stride),
        padding=(0, kernel // 2),
        bias=False,
    )


def _silence(x: Tensor, mask: Tensor | None) -> Tensor:
    return x if mask is None else x * mask


def _initialise(module: nn.Module) -> None:
    """Convolutions N(0, sqrt(2 / fan_out)), as in the authors' code; batch normalisation keeps 1 and 0."""
    if isinstance(module, nn.Conv2d):
        fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
        nn.init.normal_(module.weight, std=math.sqrt(2.0 / fan_out))
