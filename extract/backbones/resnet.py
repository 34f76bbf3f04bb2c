"""2D ResNets over single frames: one vector for each.

He et al., "Deep Residual Learning for Image Recognition" (CVPR 2016), used as Everything at Once, AVLnet and
HowTo100M use ResNet-152: frames at 1 a second, short side 224 without a crop, ImageNet statistics, the mean over the
last stage's map. Followed: antoine77340/video_feature_extractor at 4e6c728 (model.py, preprocessing.py) with
torchvision's ResNet; built here through timm, whose key names for this family are torchvision's.

Deviations, each on purpose:
- Values are stored as the network gives them; the official ones are divided by their length first. Readers do that,
  so that a reader can also not do it.
- Pictures are upright and have square pixels. The official code scales stored pixels, which flattens anamorphic video.
- The instant of a frame that starts exactly at a grid cell's middle: see `decode/video.py`.
- Without published weights, batch normalisation at the end of each residual branch starts at 1 / sqrt(number of
  branches): random branches of weight 1 would double the variance at each of the 50 blocks of ResNet-152, past float16.

Legend: B frames, H height, W width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ..._vocabulary import FeatureSpec, WeightsSource
from ..networks import StillNetwork, still_windows, visual_spec
from ..options import checked_whole
from ..registry import register

_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)
_STD_EPSILON = 1e-8
_PAPER = "He et al., Deep Residual Learning for Image Recognition, CVPR 2016"


@dataclass(frozen=True, slots=True)
class _Variant:
    """One network of the family, by its name in timm: the width of its feature, and the size it is used at."""

    dim: int
    short_side: int


_VARIANTS = {
    "resnet152": _Variant(2048, 224),
    "resnet18": _Variant(512, 224),
    "test_resnet": _Variant(96, 64),
}
_LICENCE = "BSD-3-Clause; trained on ImageNet-1k, whose terms allow non-commercial research"
# torchvision publishes the first eight digits of each hash, in the file's name. The whole ones here are of those files.
_WEIGHTS = {
    "resnet152": (
        WeightsSource(
            tag="imagenet1k_v1",
            url="https://download.pytorch.org/models/resnet152-394f9c45.pth",
            sha256="394f9c45966e3651a89bbb78a48410a6755854ce4a5ab64927cf1c7247f85e58",
            licence=_LICENCE,
        ),
        WeightsSource(
            tag="imagenet1k_v2",
            url="https://download.pytorch.org/models/resnet152-f82ba261.pth",
            sha256="f82ba261",
            licence=_LICENCE,
        ),
    ),
    "resnet18": (
        WeightsSource(
            tag="imagenet1k_v1",
            url="https://download.pytorch.org/models/resnet18-f37072fd.pth",
            sha256="f37072fd47e89c5e827621c5baffa7500819f7896bbacec160b1a16c560e07ec",
            licence=_LICENCE,
            size_bytes=46_830_571,
        ),
    ),
}


def describe(name: str, variant: _Variant, *, rate_hz: float = 1.0, short_side: int | None = None) -> FeatureSpec:
    """The options of a 2D ResNet."""
    short_side = variant.short_side if short_side is None else short_side
    return visual_spec(
        name,
        dim=variant.dim,
        windows=still_windows(name, rate_hz),
        scale=1 / 255,
        short_side=checked_whole(name, "short_side", short_side, lowest=32, highest=2048),
        crop=None,
        mean=_MEAN,
        std=_STD,
        facts={"std_epsilon": _STD_EPSILON, "pooling": "mean"},
        paper=_PAPER,
        weights=_WEIGHTS.get(name, ()),
    )


class ResNet(StillNetwork):
    """A ResNet without its classifier. Official weights are torchvision's (``torchvision.models.resnet*``)."""

    ignored_keys = ("fc.",)

    @classmethod
    def random_network(cls, spec: FeatureSpec) -> Any:
        """Timm's network, of which the last normalisation of each residual branch starts small."""
        import timm
        import torch

        network: Any = timm.create_model(spec.name, pretrained=False, num_classes=0, zero_init_last=False)
        stages = (network.layer1, network.layer2, network.layer3, network.layer4)
        last_norms = [getattr(block, "bn3", None) or block.bn2 for stage in stages for block in stage]
        for norm in last_norms:
            torch.nn.init.constant_(norm.weight, 1 / math.sqrt(len(last_norms)))
        return network


register(_VARIANTS, describe, ResNet.build)
