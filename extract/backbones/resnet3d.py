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
  covers the same duration in every file, and one decoding serves both members.
- Pictures are upright and have square pixels, and are scaled bicubically from the decoded picture, once.
- Without published weights, convolutions start from He's normal distribution by what comes in, since by what goes out,
  which the authors take, a convolution of 32 groups shrinks what passes; and batch normalisation at the end of each
  residual branch starts at 1 / sqrt(number of branches), since branches of weight 1 would grow past float16.

Legend: B windows, N frames, H height, W width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..._vocabulary import FeatureSpec, WeightsSource
from ..networks import ClipVariant, VisualNetwork, clip_spec
from ..registry import register
from ..windows import End

_PAPER = "Hara et al., Can Spatiotemporal 3D CNNs Retrace the History of 2D CNNs and ImageNet?, CVPR 2018"
# To the extractor's std of 1 its code adds 1e-8, which float32 cannot tell from 1.
_EXTRACTOR_PIXELS = {"scale": 1.0, "mean": (110.6, 103.2, 96.3), "std": (1.0, 1.0, 1.0)}
_KINETICS_PIXELS = {"scale": 1 / 255, "mean": (0.4345, 0.4051, 0.3775), "std": (0.2768, 0.2713, 0.2737)}


def _variant(
    network: Mapping[str, Any], *, dim: int, pixels: Mapping[str, Any], end: End, size: int = 112, **facts: Any
) -> ClipVariant:
    """One member: what `ResNet3d` takes for it, and how it is used."""
    return ClipVariant(
        network=network,
        dim=dim,
        frame_rate_hz=24.0,
        num_frames=16,
        end=end,
        short_side=size,
        crop=size,
        paper=_PAPER,
        **pixels,
        **facts,
    )


_VARIANTS = {
    "resnext101_3d": _variant(
        {"depth": 101, "cardinality": 32},
        dim=2048,
        pixels=_EXTRACTOR_PIXELS,
        end="zeros",
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
    "resnet18_3d": _variant({"depth": 18}, dim=512, pixels=_KINETICS_PIXELS, end="repeat"),
    "test_resnet3d": _variant(
        {"depth": 10, "cardinality": 8, "widen_factor": 0.25}, dim=512, pixels=_EXTRACTOR_PIXELS, end="zeros", size=32
    ),
}


class ResNet3dBackbone(VisualNetwork):
    """A 3D ResNet without its classifier. Official weights are those of either repository."""

    ignored_keys = ("fc.",)
    batch_pixels = 8 * 16 * 112 * 112

    @classmethod
    def random_network(cls, spec: FeatureSpec) -> Any:
        """He's weights."""
        from ..networks.resnet3d import ResNet3d, randomise

        return randomise(ResNet3d(**_VARIANTS[spec.name].network))


register(_VARIANTS, clip_spec, ResNet3dBackbone.build)
