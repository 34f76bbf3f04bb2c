"""3D ResNets over short windows of frames: one vector for each.

Hara et al., "Can Spatiotemporal 3D CNNs Retrace the History of 2D CNNs and ImageNet?" (CVPR 2018).

``resnext101_3d`` is used as Everything at Once, AVLnet and HowTo100M use it: 24 frames a second, short side 112, the
square in the middle, values of 0 to 255 less the mean, windows of 16 without overlap, 1.5 rows a second. Followed:
antoine77340/video_feature_extractor at 4e6c728 (video_loader.py, preprocessing.py, videocnn/models/resnext.py).
``resnet18_3d`` is the authors' present network and preprocessing: kenshohara/3D-ResNets-PyTorch at 540a0ea
(models/resnet.py, main.py's inference).

Deviations, each on purpose:
- Values are stored as the network gives them; the extractor's are divided by their length first. Readers do that.
- The feature is the mean of the last map, whatever its size. The extractor's pooling window is (1, 4, 4) at stride 1,
  which is the same for its 16 frames of 112 x 112.
- A file's last window is filled with black pictures, so with -mean after the subtraction, as the extractor does it.
  The authors' own inference fills it by beginning the window again; ``resnet18_3d`` repeats its last frame.
- The authors' inference takes the frames as they are in the file. ``resnet18_3d`` takes 24 a second, so that a row
  stands for the same time in every file, and one decoding serves both members.
- Pictures are upright and have square pixels, and are scaled bicubically from the decoded picture, once.
- Without published weights, convolutions start from He's normal distribution by what comes in, since by what goes out,
  which the authors take, a convolution of 32 groups shrinks what passes; and batch normalisation at the end of each
  residual branch starts at 1 / sqrt(number of branches), since branches of weight 1 would grow past float16.

Legend: B windows, N frames, H height, W width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..._vocabulary import FeatureSpec, WeightsSource
from ..networks import Dtype, FrozenNetwork, Precision, normalised, seeded_network, visual_spec
from ..options import checked_size, checked_windows
from ..registry import BACKBONES, Backbone, BackboneEntry
from ..weights import read_state_dict
from ..windows import End

if TYPE_CHECKING:
    import torch

_FRAME_RATE_HZ = 24.0
_NUM_FRAMES = 16
_PAPER = "Hara et al., Can Spatiotemporal 3D CNNs Retrace the History of 2D CNNs and ImageNet?, CVPR 2018"


@dataclass(frozen=True, slots=True)
class _Pixels:
    """How pixels become numbers: ``(x * scale - mean) / std``."""

    scale: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


# To the extractor's std of 1 its code adds 1e-8, which float32 cannot tell from 1.
_EXTRACTOR_PIXELS = _Pixels(1.0, (110.6, 103.2, 96.3), (1.0, 1.0, 1.0))
_KINETICS_PIXELS = _Pixels(1 / 255, (0.4345, 0.4051, 0.3775), (0.2768, 0.2713, 0.2737))


@dataclass(frozen=True, slots=True)
class _Variant:
    """One member: what `ResNet3d` takes for it, the width of its feature, and how it is used."""

    network: Mapping[str, Any]
    dim: int
    pixels: _Pixels
    end: End
    size: int = 112
    weights: tuple[WeightsSource, ...] = ()


_VARIANTS = {
    "resnext101_3d": _Variant(
        {"depth": 101, "cardinality": 32},
        2048,
        _EXTRACTOR_PIXELS,
        "zeros",
        weights=(
            WeightsSource(
                tag="kinetics400",
                url="https://www.rocq.inria.fr/cluster-willow/amiech/howto100m/models/resnext101.pth",
                sha256=None,
                licence="MIT (kenshohara/3D-ResNets-PyTorch); trained on Kinetics-400",
            ),
        ),
    ),
    # The authors publish these by hand, behind a page of confirmation: there is no address to name.
    "resnet18_3d": _Variant({"depth": 18}, 512, _KINETICS_PIXELS, "repeat"),
    "test_resnet3d": _Variant(
        {"depth": 10, "cardinality": 8, "widen_factor": 0.25}, 512, _EXTRACTOR_PIXELS, "zeros", size=32
    ),
}


class ResNet3dBackbone(FrozenNetwork):
    """A 3D ResNet without its classifier. Official weights are those of either repository."""

    ignored_keys = ("fc.",)
    batch_pixels = 8 * 16 * 112 * 112

    def prepare(self, frames: torch.Tensor) -> torch.Tensor:
        """uint8 pictures (B, N, H, W, 3) to normalised float32 (B, 3, N, H, W)."""
        facts = self.spec.preprocessing
        return normalised(frames, scale=facts["scale"], mean=facts["mean"], std=facts["std"])


def _build(spec: FeatureSpec, *, weights: Path | None, weights_digest: str, seed: int, device: str) -> Backbone:
    from ..networks.resnet3d import ResNet3d, randomise

    architecture = _VARIANTS[spec.name].network
    network = seeded_network(lambda: randomise(ResNet3d(**architecture)), seed=seed)
    backbone = ResNet3dBackbone(spec, network, device=device, weights_digest=weights_digest)
    return backbone if weights is None else backbone.from_official(read_state_dict(weights))


def _register(name: str, variant: _Variant) -> None:
    def describe(
        *,
        frame_rate_hz: float = _FRAME_RATE_HZ,
        num_frames: int = _NUM_FRAMES,
        stride_frames: int | None = None,
        end: End = variant.end,
        short_side: int = variant.size,
        crop: int = variant.size,
        precision: Precision = "float32",
        dtype: Dtype = "float16",
    ) -> FeatureSpec:
        windows = checked_windows(
            name, frame_rate_hz=frame_rate_hz, num_frames=num_frames, stride_frames=stride_frames, end=end
        )
        short_side, crop = checked_size(name, short_side=short_side, crop=crop)
        return visual_spec(
            name,
            dim=variant.dim,
            windows=windows,
            short_side=short_side,
            crop=crop,
            preprocessing={
                "scale": variant.pixels.scale,
                "mean": list(variant.pixels.mean),
                "std": list(variant.pixels.std),
                "pooling": "mean",
                "l2_normalised": False,
            },
            precision=precision,
            dtype=dtype,
            paper=_PAPER,
            weights=variant.weights,
        )

    BACKBONES.add(name, BackboneEntry(describe, _build))


for _name, _variant in _VARIANTS.items():
    _register(_name, _variant)
