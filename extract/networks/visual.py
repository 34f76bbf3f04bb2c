"""A frozen network that looks at windows of pictures.

A member of the family gives its specification and its network; cutting frames into windows, batches, pixels and memory
layout are here. A specification says everything about its pixels: they are ``(x * scale - mean) / std``.

Legend: B windows, N frames of a window, H height, W width, D width of the feature.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..._vocabulary import FeatureArray, FeatureSpec, InputError, Modality, Status, WeightsSource
from ..options import checked_number, checked_whole
from ..types import DecodedAudio, DecodedFrames
from ..windows import End, Window, WindowCutter, Windows, stacked
from .frozen import FrozenNetwork, checked_rows

if TYPE_CHECKING:
    import torch

_MOST_FRAMES = 1024


def visual_spec(
    name: str,
    *,
    dim: int,
    windows: Windows,
    short_side: int,
    crop: int | None,
    scale: float,
    mean: Sequence[float],
    std: Sequence[float],
    facts: Mapping[str, Any],
    paper: str,
    weights: Sequence[WeightsSource] = (),
) -> FeatureSpec:
    """The specification of a visual backbone, whose pixels are ``(x * scale - mean) / std``.

    Args:
        name: its registered name.
        dim: D.
        windows: the frames of a row.
        short_side: what the upright picture's short side is scaled to, by the decoder and nothing after it.
        crop: side of the square cut from its middle; None keeps the whole picture.
        scale: of pixels from 0 to 255.
        mean: of each channel, R, G, B.
        std: of each channel.
        facts: every other fact that decides the numbers, as plain data.
        paper: where it was published.
        weights: published weights that can be had by tag.
    """
    has_context = windows.context_frames > 0
    return FeatureSpec(
        name=name,
        modality=Modality.VIDEO,
        dim=dim,
        rate_hz=windows.frame_rate_hz if has_context else windows.rate_hz,
        sampling=windows.as_data() | ({"rows_per_window": windows.stride_frames} if has_context else {}),
        preprocessing={
            "short_side": short_side,
            "crop": crop,
            "aspect": "display",
            "resize": "swscale bicubic",
            "scale": scale,
            "mean": list(mean),
            "std": list(std),
            "l2_normalised": False,
            **facts,
        },
        paper=paper,
        weights=tuple(weights),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipVariant:
    """One network over short clips: what its class takes, the width of its feature, and how it is used.

    Without a stride, clips follow one another without overlap. ``facts`` are of its preprocessing besides the pixels.
    """

    network: Mapping[str, Any]
    dim: int
    frame_rate_hz: float
    num_frames: int
    end: End
    short_side: int
    crop: int
    scale: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    paper: str
    weights: tuple[WeightsSource, ...] = ()
    stride_frames: int | None = None
    facts: Mapping[str, Any] = field(default_factory=lambda: {"pooling": "mean"})


def clip_spec(
    name: str,
    variant: ClipVariant,
    *,
    frame_rate_hz: float | None = None,
    num_frames: int | None = None,
    stride_frames: int | None = None,
    end: End | None = None,
    short_side: int | None = None,
    crop: int | None = None,
) -> FeatureSpec:
    """The specification of a backbone over short clips. None is as the variant has it.

    Raises:
        ConfigError: an option has a value that is not allowed.
    """
    options: dict[str, Any] = {
        "frame_rate_hz": frame_rate_hz,
        "num_frames": num_frames,
        "stride_frames": stride_frames,
        "end": end,
        "short_side": short_side,
        "crop": crop,
    }
    use = replace(variant, **{option: value for option, value in options.items() if value is not None})
    num_frames = checked_whole(name, "num_frames", use.num_frames, lowest=1, highest=_MOST_FRAMES)
    stride_frames = num_frames if use.stride_frames is None else use.stride_frames
    short_side = checked_whole(name, "short_side", use.short_side, lowest=32, highest=2048)
    return visual_spec(
        name,
        dim=use.dim,
        windows=Windows(
            frame_rate_hz=checked_number(name, "frame_rate_hz", use.frame_rate_hz, lowest=0.01, highest=120),
            num_frames=num_frames,
            stride_frames=checked_whole(name, "stride_frames", stride_frames, lowest=1, highest=_MOST_FRAMES),
            end=use.end,
        ),
        short_side=short_side,
        crop=checked_whole(name, "crop", use.crop, lowest=32, highest=short_side),
        scale=use.scale,
        mean=use.mean,
        std=use.std,
        facts=use.facts,
        paper=use.paper,
        weights=use.weights,
    )


def still_windows(name: str, rate_hz: float) -> Windows:
    """Windows of single frames, ``rate_hz`` of them a second. Raises ConfigError for a rate that is not allowed."""
    return Windows(frame_rate_hz=checked_number(name, "rate_hz", rate_hz, lowest=0.01, highest=120))


class VisualNetwork(FrozenNetwork):
    """A visual backbone. Where calling the network is not enough, members give `embed`.

    Attributes:
        windows: the frames of a row.
    """

    batch_pixels: int = 16 * 224 * 320
    """Pixels of one batch at most, over all its frames: what bounds the memory of a forward pass. Larger batches were
    not faster on a CPU."""

    def __init__(self, spec: FeatureSpec, network: torch.nn.Module, *, device: str, weights_digest: str) -> None:
        self.windows = Windows.from_data(spec.sampling)
        super().__init__(spec, network, device=device, weights_digest=weights_digest)

    def prepare(self, frames: torch.Tensor) -> torch.Tensor:
        """uint8 pictures (B, N, H, W, 3) on the network's device to its input, float32 (B, 3, N, H, W)."""
        facts = self.spec.preprocessing
        return normalised(frames, scale=facts["scale"], mean=facts["mean"], std=facts["std"])

    def embed(self, inputs: torch.Tensor) -> torch.Tensor:
        """The network's input to features (B, D)."""
        features: torch.Tensor = self.network(inputs)
        return features

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """uint8 pictures (B, N, H, W, 3) to features (B, D), float32, on the network's device."""
        if self._device.type != "cpu":
            frames = frames.pin_memory().to(self._device, non_blocking=True)
        with self.computing():
            features = self.embed(self.prepare(frames))
        if features.ndim != (3 if self.windows.context_frames else 2):
            raise InputError(f"the network of {self.spec.name!r} gave {tuple(features.shape)}, not (B, D)")
        return features.float()

    def batch_windows(self, picture: tuple[int, ...]) -> int:
        """How many windows of pictures of this shape (H, W, 3) one forward pass takes."""
        return max(1, self.batch_pixels // (self.windows.num_frames * picture[0] * picture[1]))

    def encode_windows(self, windows: Sequence[Window]) -> NDArray[Any]:
        """Windows of one shape to stored values (B, D)."""
        import torch

        return self.stored(self.forward(torch.from_numpy(stacked(windows))))

    def encode(self, item: DecodedFrames | DecodedAudio | str) -> FeatureArray:
        """One row for each window of frames that follow one another, with the time that they were on display."""
        if not isinstance(item, DecodedFrames):
            raise InputError(f"the backbone {self.spec.name!r} reads frames, not {type(item).__name__}")
        cutter = WindowCutter(self.windows)
        windows = [*cutter.push(item), *cutter.finish()]
        if not windows:
            return FeatureArray.empty(self.spec, Status.NO_FRAMES, "no frames were given")
        size = self.batch_windows(windows[0].picture_shape)
        batches = [self.encode_windows(windows[first : first + size]) for first in range(0, len(windows), size)]
        return checked_rows(self.spec, np.concatenate(batches), np.array([window.times for window in windows]))

    def after_load(self) -> None:
        """Also lay convolutions' weights out as oneDNN and cuDNN read them."""
        import torch

        super().after_load()
        layouts = {4: torch.channels_last, 5: torch.channels_last_3d}
        for parameter in self.network.parameters():
            if parameter.ndim in layouts:
                parameter.data = parameter.data.contiguous(memory_format=layouts[parameter.ndim])


class StillNetwork(VisualNetwork):
    """A visual backbone whose windows are single frames."""

    def prepare(self, frames: torch.Tensor) -> torch.Tensor:
        """uint8 pictures (B, 1, H, W, 3) to normalised float32 (B, 3, H, W), of the specification's crop.

        The decoder has cut the square in the middle already; pictures from elsewhere may be larger.
        """
        facts = self.spec.preprocessing
        if (side := facts["crop"]) is not None:
            height, width = frames.shape[2:4]
            if min(height, width) < side:
                raise InputError(
                    f"the backbone {self.spec.name!r} reads pictures of {side} x {side} pixels;"
                    f" {height} x {width} is less"
                )
            top, left = (height - side) // 2, (width - side) // 2
            frames = frames[:, :, top : top + side, left : left + side]
        std = [value + facts.get("std_epsilon", 0.0) for value in facts["std"]]
        return normalised(frames, scale=facts["scale"], mean=facts["mean"], std=std).squeeze(2)


def normalised(frames: torch.Tensor, *, scale: float, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """uint8 (B, N, H, W, 3) to float32 ``(x * scale - mean) / std`` as (B, 3, N, H, W), channels last in memory."""
    import torch

    pixels = frames.to(torch.float32).mul_(scale)
    if any(mean):
        pixels.sub_(torch.tensor(mean, device=frames.device))
    if any(value != 1 for value in std):
        pixels.div_(torch.tensor(std, device=frames.device))
    return pixels.permute(0, 4, 1, 2, 3)
