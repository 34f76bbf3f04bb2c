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

from typing import Any

from ..._vocabulary import FeatureSpec, WeightsSource
from ..networks import ClipVariant, VisualNetwork, clip_spec
from ..registry import register

_TERMS = "Apache-2.0 (SwinTransformer/Video-Swin-Transformer, ported by torchvision under BSD-3-Clause); trained on"
_TERMS_IMAGENET22K = f"{_TERMS} ImageNet-22k, whose terms allow non-commercial research, and Kinetics-400"


def _variant(
    width: int,
    depths: tuple[int, ...],
    num_heads: tuple[int, ...],
    *,
    dim: int,
    window_size: tuple[int, int, int] = (8, 7, 7),
    num_frames: int = 32,
    short_side: int = 256,
    crop: int = 224,
    weights: tuple[WeightsSource, ...] = (),
) -> ClipVariant:
    """One member: what torchvision's class takes for it, and how it is used."""
    return ClipVariant(
        network={
            "patch_size": [2, 4, 4],
            "embed_dim": width,
            "depths": list(depths),
            "num_heads": list(num_heads),
            "window_size": list(window_size),
        },
        dim=dim,
        frame_rate_hz=15.0,
        num_frames=num_frames,
        end="repeat",
        short_side=short_side,
        crop=crop,
        scale=1 / 255,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        paper="Liu et al., Video Swin Transformer, CVPR 2022",
        weights=weights,
    )


def _published(file: str, *, tag: str = "kinetics400_v1", licence: str = f"{_TERMS} Kinetics-400") -> WeightsSource:
    """From torchvision, which publishes the first eight digits of the hash, in the file's name."""
    url = f"https://download.pytorch.org/models/{file}.pth"
    return WeightsSource(tag=tag, url=url, sha256=file.rsplit("-", 1)[1], licence=licence)


_VARIANTS = {
    "swin3d_t": _variant(96, (2, 2, 6, 2), (3, 6, 12, 24), dim=768, weights=(_published("swin3d_t-7615ae03"),)),
    "swin3d_s": _variant(96, (2, 2, 18, 2), (3, 6, 12, 24), dim=768, weights=(_published("swin3d_s-da41c237"),)),
    "swin3d_b": _variant(
        128,
        (2, 2, 18, 2),
        (4, 8, 16, 32),
        dim=1024,
        weights=(
            _published("swin3d_b_1k-24f7c7c6"),
            _published("swin3d_b_22k-7c6ae6fa", tag="kinetics400_imagenet22k_v1", licence=_TERMS_IMAGENET22K),
        ),
    ),
    "test_swin3d": _variant(16, (2, 2), (1, 2), dim=32, window_size=(2, 4, 4), num_frames=8, short_side=40, crop=32),
}


class Swin3d(VisualNetwork):
    """A Video Swin Transformer without its classifier. Official weights are torchvision's (``swin3d_*``)."""

    ignored_keys = ("head.",)

    @classmethod
    def random_network(cls, spec: FeatureSpec) -> Any:
        """Torchvision's network without its head."""
        import torch
        from torchvision.models.video import SwinTransformer3d

        network: Any = SwinTransformer3d(**_VARIANTS[spec.name].network)
        network.head = torch.nn.Identity()
        return network


register(_VARIANTS, clip_spec, Swin3d.build)
