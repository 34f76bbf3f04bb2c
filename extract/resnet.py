"""2D ResNets over single frames: one vector for each.

He et al., "Deep Residual Learning for Image Recognition" (CVPR 2016), used as Everything at Once, AVLnet and
HowTo100M use ResNet-152: frames at 1 a second, short side 224 without a crop, ImageNet statistics, the mean over the
last stage's map. Followed: antoine77340/video_feature_extractor at 4e6c728 (model.py, preprocessing.py) with
torchvision's ResNet; built here through timm, whose key names for this family are torchvision's.

Deviations, each on purpose:
- Values are stored as the network gives them; the official ones are divided by their length first. Readers do that,
  so that a reader can also not do it.
- Pictures are upright and have square pixels. The official code scales stored pixels, which flattens anamorphic video.
- The instant of a frame that starts exactly at a grid cell's middle: see `_video`.
- Without published weights, batch normalisation at the end of each residual branch starts at 1 / sqrt(number of
  branches): random branches of weight 1 would double the variance at each of the 50 blocks of ResNet-152, past float16.

Legend: B frames, H height, W width, D width of the feature.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .._vocabulary import FeatureArray, FeatureSpec, InputError, Modality, Status
from ._media import DecodedAudio, DecodedFrames
from ._registry import BACKBONES, Backbone, BackboneEntry, checked_number
from ._weights import load_into, read_state_dict

if TYPE_CHECKING:
    import torch

_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)
_STD_EPSILON = 1e-8
_BATCH_FRAMES = 16
_PAPER = "He et al., Deep Residual Learning for Image Recognition, CVPR 2016"
_CLASSIFIER = ("fc.",)


@dataclass(frozen=True, slots=True)
class _Variant:
    """One network of the family: its name in timm, the width of its feature, and the size it is used at."""

    network: str
    dim: int
    short_side: int


_VARIANTS = {
    "resnet152": _Variant("resnet152", 2048, 224),
    "resnet18": _Variant("resnet18", 512, 224),
    "test_resnet": _Variant("test_resnet", 96, 64),
}


def _spec(name: str, *, rate_hz: float, short_side: int) -> FeatureSpec:
    rate_hz = checked_number(name, "rate_hz", rate_hz, lowest=0.01, highest=120)
    short_side = int(checked_number(name, "short_side", short_side, lowest=32, highest=2048, whole=True))
    return FeatureSpec(
        name=name,
        modality=Modality.VIDEO,
        dim=_VARIANTS[name].dim,
        rate_hz=rate_hz,
        sampling={"instants": "grid middles", "rate_hz": rate_hz, "frames_per_row": 1},
        preprocessing={
            "short_side": short_side,
            "crop": None,
            "aspect": "display",
            "resize": "swscale bicubic",
            "scale": 1 / 255,
            "mean": list(_MEAN),
            "std": list(_STD),
            "std_epsilon": _STD_EPSILON,
            "pooling": "mean",
            "l2_normalised": False,
        },
        dtype="float16",
        paper=_PAPER,
    )


class ResNet:
    """A ResNet without its classifier. `encode` gives float16 (T, D); `forward` the float32 values before rounding."""

    def __init__(self, spec: FeatureSpec, *, seed: int, device: str, weights_digest: str) -> None:
        import torch

        self.spec = spec
        self.weights_digest = weights_digest
        self._device = torch.device(device)
        self.network = _random_network(_VARIANTS[spec.name].network, seed=seed)
        self._place()

    def from_official(self, state_dict: Mapping[str, Any]) -> ResNet:
        """Take torchvision's weights (key names of ``torchvision.models.resnet*``; the classifier's are left out).

        Raises:
            InputError: keys, shapes or values do not fit.
        """
        load_into(self.network, state_dict, ignored_prefixes=_CLASSIFIER)
        self._place()
        return self

    def encode(self, item: DecodedFrames | DecodedAudio | str) -> FeatureArray:
        """One row for each frame, with the frame's time on display."""
        import torch

        if not isinstance(item, DecodedFrames):
            raise InputError(f"the backbone {self.spec.name!r} reads frames, not {type(item).__name__}")
        batches = [
            self.forward(torch.from_numpy(item.frames[start : start + _BATCH_FRAMES]))
            for start in range(0, len(item.frames), _BATCH_FRAMES)
        ]
        if not batches:
            return FeatureArray.empty(self.spec, Status.NO_FRAMES, "no frames were given")
        values: NDArray[Any] = torch.cat(batches).to(torch.float16).cpu().numpy()
        if not np.isfinite(values).all():
            return FeatureArray.empty(self.spec, Status.NON_FINITE, "the network gave values that float16 cannot hold")
        return FeatureArray(values, item.times)

    def preprocess(self, frames: torch.Tensor) -> torch.Tensor:
        """uint8 pictures (B, H, W, 3) to normalised float32 (B, 3, H, W)."""
        import torch

        frames = frames.to(self._device).permute(0, 3, 1, 2)  # already channels-last in memory
        scaled = frames.to(torch.float32, memory_format=torch.channels_last).mul_(1 / 255)
        mean = torch.tensor(_MEAN, device=self._device).view(3, 1, 1)
        std = torch.tensor(_STD, device=self._device).view(3, 1, 1)
        return scaled.sub_(mean).div_(std + _STD_EPSILON)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """uint8 pictures (B, H, W, 3) to features (B, D), float32."""
        import torch

        with torch.inference_mode():
            features: torch.Tensor = self.network(self.preprocess(frames))
            return features.float()

    def _place(self) -> None:
        import torch

        self.network = self.network.to(self._device, memory_format=torch.channels_last).eval().requires_grad_(False)


def _random_network(name: str, *, seed: int) -> Any:
    """A network whose random weights the seed alone decides; torch's own generator is left as it was."""
    import timm
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = timm.create_model(name, pretrained=False, num_classes=0, zero_init_last=False)
    last_norms = _last_norms(network)
    for norm in last_norms:
        torch.nn.init.constant_(norm.weight, 1 / math.sqrt(len(last_norms)))
    return network


def _last_norms(network: Any) -> list[Any]:
    """The batch normalisation at the end of each residual branch."""
    blocks = [block for stage in (network.layer1, network.layer2, network.layer3, network.layer4) for block in stage]
    return [getattr(block, "bn3", None) or block.bn2 for block in blocks]


def _build(spec: FeatureSpec, *, weights: Path | None, weights_digest: str, seed: int, device: str) -> Backbone:
    backbone = ResNet(spec, seed=seed, device=device, weights_digest=weights_digest)
    return backbone if weights is None else backbone.from_official(read_state_dict(weights))


def _register(name: str, variant: _Variant) -> None:
    def describe(*, rate_hz: float = 1.0, short_side: int = variant.short_side) -> FeatureSpec:
        return _spec(name, rate_hz=rate_hz, short_side=short_side)

    BACKBONES.add(name, BackboneEntry(describe, _build))


for _name, _variant in _VARIANTS.items():
    _register(_name, _variant)
