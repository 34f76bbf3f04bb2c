"""Video Swin Transformers over windows of frames: one vector for each.

Liu et al., "Video Swin Transformer" (CVPR 2022). Followed: torchvision's port, whose network this is and whose weights
it takes (torchvision/models/video/swin_transformer.py, 0.26), and the facts that its weights carry: short side 256,
the square of 224 in the middle, values of 0 to 1, ImageNet statistics, 32 frames at 15 a second. The feature is the
mean of the last map after the last LayerNorm: what the classifier is given.

Deviations, each on purpose:
- Pictures are scaled once, from the decoded size to the short side, by swscale's bicubic filter. torchvision's
  transforms scale bilinearly without a filter against aliasing, usually from pictures of another size than the file's.
- Pictures are upright and have square pixels, and the corner of the square is rounded down; torchvision rounds it to
  the nearest, half to even, so that it may lie one pixel further.
- Windows do not overlap, and the last one of a file is filled by repeating its last frame, so that no second of the
  content is left out; torchvision's evaluation drops what does not fill a clip and averages over clips.
- Random weights need no care beyond torchvision's own: a LayerNorm comes last, whatever the depth.

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

_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)
_FRAME_RATE_HZ = 15.0
_PAPER = "Liu et al., Video Swin Transformer, CVPR 2022"
_TERMS = "Apache-2.0 (SwinTransformer/Video-Swin-Transformer, ported by torchvision under BSD-3-Clause); trained on"
_TERMS_IMAGENET22K = f"{_TERMS} ImageNet-22k, whose terms allow non-commercial research, and Kinetics-400"


@dataclass(frozen=True, slots=True)
class _Variant:
    """One member: what torchvision's class takes for it, the width of its feature, and how it is used."""

    network: Mapping[str, Any]
    dim: int
    num_frames: int = 32
    short_side: int = 256
    crop: int = 224
    weights: tuple[WeightsSource, ...] = ()


def _network(width: int, depths: tuple[int, ...], num_heads: tuple[int, ...]) -> dict[str, Any]:
    return {
        "patch_size": [2, 4, 4],
        "embed_dim": width,
        "depths": list(depths),
        "num_heads": list(num_heads),
        "window_size": [8, 7, 7],
    }


def _published(file: str, *, tag: str = "kinetics400_v1", licence: str = f"{_TERMS} Kinetics-400") -> WeightsSource:
    """From torchvision, which publishes the first eight digits of the hash, in the file's name."""
    url = f"https://download.pytorch.org/models/{file}.pth"
    return WeightsSource(tag=tag, url=url, sha256=file.rsplit("-", 1)[1], licence=licence)


_VARIANTS = {
    "swin3d_t": _Variant(_network(96, (2, 2, 6, 2), (3, 6, 12, 24)), 768, weights=(_published("swin3d_t-7615ae03"),)),
    "swin3d_s": _Variant(_network(96, (2, 2, 18, 2), (3, 6, 12, 24)), 768, weights=(_published("swin3d_s-da41c237"),)),
    "swin3d_b": _Variant(
        _network(128, (2, 2, 18, 2), (4, 8, 16, 32)),
        1024,
        weights=(
            _published("swin3d_b_1k-24f7c7c6"),
            _published("swin3d_b_22k-7c6ae6fa", tag="kinetics400_imagenet22k_v1", licence=_TERMS_IMAGENET22K),
        ),
    ),
    "test_swin3d": _Variant(
        {**_network(16, (2, 2), (1, 2)), "window_size": [2, 4, 4]}, 32, num_frames=8, short_side=40, crop=32
    ),
}


class Swin3d(FrozenNetwork):
    """A Video Swin Transformer without its classifier. Official weights are torchvision's (``swin3d_*``)."""

    ignored_keys = ("head.",)

    def prepare(self, frames: torch.Tensor) -> torch.Tensor:
        """uint8 pictures (B, N, H, W, 3) to normalised float32 (B, 3, N, H, W)."""
        return normalised(frames, scale=1 / 255, mean=_MEAN, std=_STD)


def _random_network(name: str) -> Any:
    import torch
    from torchvision.models.video import SwinTransformer3d

    network = SwinTransformer3d(**_VARIANTS[name].network)
    network.head = torch.nn.Identity()
    return network


def _build(spec: FeatureSpec, *, weights: Path | None, weights_digest: str, seed: int, device: str) -> Backbone:
    network = seeded_network(lambda: _random_network(spec.name), seed=seed)
    backbone = Swin3d(spec, network, device=device, weights_digest=weights_digest)
    return backbone if weights is None else backbone.from_official(read_state_dict(weights))


def _register(name: str, variant: _Variant) -> None:
    def describe(
        *,
        frame_rate_hz: float = _FRAME_RATE_HZ,
        num_frames: int = variant.num_frames,
        stride_frames: int | None = None,
        end: End = "repeat",
        short_side: int = variant.short_side,
        crop: int = variant.crop,
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
                "scale": 1 / 255,
                "mean": list(_MEAN),
                "std": list(_STD),
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
