"""S3D over windows of frames: the gated one that MIL-NCE trained on HowTo100M, and the plain one of Kinetics-400.

Xie et al., "Rethinking Spatiotemporal Feature Learning" (ECCV 2018); Miech et al., "End-to-End Learning of Visual
Representations from Uncurated Instructional Videos" (MIL-NCE, CVPR 2020). Followed: antoine77340/S3D_HowTo100M at
b8cd0bb (s3dg.py) and kylemin/S3D at ecd3786 (model.py, main.py). The text tower of the first is in `s3d_text.py`.

`s3d_howto100m`: pixels in [0, 1]. Its output ``mixed_5c`` (1024) is the mean of the last maps, which Everything at
Once uses; ``joint`` (512) is the linear layer after it, to be compared with the text tower by dot product, without
normalisation. The published weights have the stem ``space_to_depth``; MIL-NCE_HowTo100M trains the stem ``whole``.

What is known of its protocol, and what is not: windows of 32 frames (as in training) and sizes from 200 to 256 are the
authors'; 224 is what they train and test with. Their own tests sample 5 frames a second, in windows of 16. How
Everything at Once sampled is published nowhere, but for one row a second. The defaults (16 frames a second, windows of
32, stride 16, square crop) are the protocol that COOT's authors published for the same weights, at 256 pixels there.
They give one row a second, and row k looks at the seconds [k, k + 2). Everything at Once divides rows by their length
when it reads them.

`s3d_kinetics`: pixels in [-1, 1]; 1024 values, those that its classifier reads: pairs of neighbouring maps are averaged
first, so that the first and the last count half. Windows of 64 frames at 25 a second without overlap, as video_features
takes them; the authors' code names no rate. (video_features feeds the same network with [0, 1]; we do as its authors.)
The classifier stays in `network.fc`.

Deviations, each on purpose:
- The constructor's `gating` argument has no effect in the official code, and does not exist here.
- Without published weights convolutions start as He et al. propose, and what enters a gate is doubled: see
  `networks/s3d.py`.
- The instant of a frame that starts exactly at a grid cell's middle: see `decode/video.py`. The end of a video that
  does not fill a window gives no row, unless it is the only one; the option `end` says otherwise.

Legend: B windows, T frames, H height, W width, D width of the feature.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from ..._vocabulary import ConfigError, FeatureSpec, InputError, WeightsSource
from ..networks import ClipVariant, VisualNetwork, clip_spec, seeded_network
from ..options import check_choice, checked_whole
from ..registry import register
from ..windows import End

if TYPE_CHECKING:
    import torch

Output = Literal["mixed_5c", "joint"]
HowTo100MStem = Literal["space_to_depth", "whole"]
HOWTO100M_WEIGHTS = WeightsSource(
    tag="howto100m",
    url="https://www.rocq.inria.fr/cluster-willow/amiech/howto100m/s3d_howto100m.pth",
    sha256=None,
    licence="none is stated for the weights; the code that they come with is Apache-2.0",
)
_PAPER_HOWTO100M = "Miech et al., End-to-End Learning of Visual Representations (MIL-NCE), CVPR 2020"
_PAPER_KINETICS = "Xie et al., Rethinking Spatiotemporal Feature Learning, ECCV 2018"
# The classifier's pairs of maps need two maps, and the network makes an eighth of the frames, rounded up, then down.
_FEWEST_KINETICS_FRAMES = 13


def _variant(
    network: Mapping[str, Any], *, num_outputs: int, windows: tuple[float, int, int], tiny: bool = False, **use: Any
) -> ClipVariant:
    """One size of a network. Its windows are frames a second, frames, and frames from one window to the next."""
    frame_rate_hz, num_frames, stride_frames = windows
    return ClipVariant(
        network={**network, "num_outputs": num_outputs, "width": 1 / 8 if tiny else 1.0},
        dim=128 if tiny else 1024,
        frame_rate_hz=frame_rate_hz,
        num_frames=num_frames,
        stride_frames=stride_frames,
        end="drop",
        short_side=32 if tiny else 224,
        crop=32 if tiny else 224,
        std=(1.0, 1.0, 1.0),
        **use,
    )


_GATED = {"gated": True, "norm_epsilon": 1e-5, "pool_padding": "same", "temporal_mean": "plain"}
_PLAIN = {
    "stem": "separable",
    "gated": False,
    "norm_epsilon": 1e-3,
    "pool_padding": "symmetric",
    "temporal_mean": "of_pairs",
}
_USE_GATED: dict[str, Any] = {"scale": 1 / 255, "mean": (0.0, 0.0, 0.0), "paper": _PAPER_HOWTO100M}
_USE_PLAIN: dict[str, Any] = {
    "scale": 2 / 255,
    "mean": (1.0, 1.0, 1.0),
    "paper": _PAPER_KINETICS,
    "facts": {"pooling": "mean of pairs"},
}
_HOWTO100M = {
    "s3d_howto100m": _variant(
        _GATED, num_outputs=512, windows=(16.0, 32, 16), weights=(HOWTO100M_WEIGHTS,), **_USE_GATED
    ),
    "test_s3d": _variant(_GATED, num_outputs=64, windows=(4.0, 4, 4), tiny=True, **_USE_GATED),
}
_KINETICS = {
    "s3d_kinetics": _variant(_PLAIN, num_outputs=400, windows=(25.0, 64, 64), **_USE_PLAIN),
    "test_s3d_kinetics": _variant(_PLAIN, num_outputs=10, windows=(8.0, 16, 16), tiny=True, **_USE_PLAIN),
}


class S3DBackbone(VisualNetwork):
    """The base of both backbones: a last layer ``fc`` that is given the number of outputs of the weights."""

    batch_pixels = 2 * 32 * 224 * 224

    def fitted(self, weights: Mapping[str, Any]) -> Any:
        weight = weights.get("fc.weight", weights.get("module.fc.weight"))
        if weight is None or weight.ndim != 2 or len(weight) == self.network.fc.out_features:
            return self.network
        return seeded_network(lambda: self.random_network(self.spec).with_outputs(len(weight)), seed=0)

    def head(self, features: torch.Tensor) -> torch.Tensor:
        """Features (B, 1024) through the last layer: the joint embedding, or the scores of classes before softmax."""
        outputs: torch.Tensor = self.network.fc(features)
        return outputs


class S3DHowTo100M(S3DBackbone):
    """The gated S3D. Official weights are those of S3D_HowTo100M, or of MIL-NCE_HowTo100M with the stem ``whole``.

    The text tower's are left to `s3d_howto100m_text`.
    """

    ignored_keys = ("text_module.",)

    @classmethod
    def random_network(cls, spec: FeatureSpec) -> Any:
        """The gated network, whose head is as wide as the specification's joint embedding."""
        from ..networks.s3d import S3D, Architecture, initialise

        network = {**_HOWTO100M[spec.name].network, "stem": spec.preprocessing["stem"]}
        if spec.preprocessing["output"] == "joint":
            network["num_outputs"] = spec.dim
        return initialise(S3D(Architecture(**network)))

    def fitted(self, weights: Mapping[str, Any]) -> Any:
        network = super().fitted(weights)
        found = network.fc.out_features
        if self._is_joint and found != self.spec.dim:
            raise InputError(
                f"the joint embedding of these weights is {found} wide, not {self.spec.dim}; "
                f"give the backbone {self.spec.name!r} the option joint_dim: {found}"
            )
        return network

    def embed(self, inputs: torch.Tensor) -> torch.Tensor:
        """The mean of the last maps (B, 1024), or the joint embedding of it."""
        features: torch.Tensor = self.network(inputs)
        return self.head(features) if self._is_joint else features

    @property
    def _is_joint(self) -> bool:
        return bool(self.spec.preprocessing["output"] == "joint")


_KINETICS_STAGES = {
    **{0: "conv1", 2: "conv_2b", 3: "conv_2c", 5: "mixed_3b", 6: "mixed_3c", 8: "mixed_4b", 9: "mixed_4c"},
    **{10: "mixed_4d", 11: "mixed_4e", 12: "mixed_4f", 14: "mixed_5b", 15: "mixed_5c"},
}
_KINETICS_BRANCHES = {
    "branch0.0": "conv_b0",
    "branch1.0": "conv_b1_a",
    "branch1.1": "conv_b1_b",
    "branch2.0": "conv_b2_a",
    "branch2.1": "conv_b2_b",
    "branch3.1": "conv_b3_b",
}
_KINETICS_LAYERS = {"conv": "conv1", "bn": "bn1", "conv_s": "conv1", "bn_s": "bn1", "conv_t": "conv2", "bn_t": "bn2"}
_KINETICS_KEY = re.compile(r"base\.(\d+)\.(?:(branch\d\.\d)\.)?(\w+)\.(\w+)")


class S3DKinetics(S3DBackbone):
    """The plain S3D. Official weights are kylemin/S3D's, whatever the number of classes."""

    @classmethod
    def random_network(cls, spec: FeatureSpec) -> Any:
        """The plain network, with a classifier."""
        from ..networks.s3d import S3D, Architecture, initialise

        return initialise(S3D(Architecture(**_KINETICS[spec.name].network)))

    def official_names(self, state_dict: Mapping[str, Any]) -> Mapping[str, Any]:
        """Places in a sequence turned into the names of the other S3D; the classifier's kernel of 1 into a matrix."""
        named = {kinetics_name(key.removeprefix("module.")): value for key, value in state_dict.items()}
        if "fc.weight" in named and named["fc.weight"].ndim > 2:
            named["fc.weight"] = named["fc.weight"].flatten(1)
        return named

    def classify(self, features: torch.Tensor) -> torch.Tensor:
        """Features (B, D) to scores of the classes, before softmax."""
        return self.head(features)


def kinetics_name(key: str) -> str:
    """A key of kylemin/S3D in the network's names; any other is left as it is, to be named in an error."""
    match = _KINETICS_KEY.fullmatch(key)
    if match is None:
        return re.sub(r"^fc\.0\.", "fc.", key)
    stage, branch, layer, leaf = match.groups()
    try:
        parts = [
            _KINETICS_STAGES[int(stage)],
            *([_KINETICS_BRANCHES[branch]] if branch else []),
            _KINETICS_LAYERS[layer],
        ]
    except KeyError:
        return key
    return ".".join([*parts, leaf])


def describe_howto100m(
    name: str,
    variant: ClipVariant,
    *,
    output: Output = "mixed_5c",
    stem: HowTo100MStem = "space_to_depth",
    joint_dim: int | None = None,
    frame_rate_hz: float | None = None,
    num_frames: int | None = None,
    stride_frames: int | None = None,
    size: int | None = None,
    end: End = "drop",
) -> FeatureSpec:
    """The options of the gated S3D."""
    check_choice(name, "output", output, get_args(Output))
    check_choice(name, "stem", stem, get_args(HowTo100MStem))
    size = _checked(name, "size", size, lowest=32)
    joint_dim = variant.network["num_outputs"] if joint_dim is None else joint_dim
    joint_dim = checked_whole(name, "joint_dim", joint_dim, lowest=1, highest=65_536)
    spec = clip_spec(
        name,
        replace(
            variant,
            dim=joint_dim if output == "joint" else variant.dim,
            facts={"stem": stem, "output": output, "pooling": "mean"},
        ),
        frame_rate_hz=frame_rate_hz,
        num_frames=_checked(name, "num_frames", num_frames, lowest=2),
        stride_frames=stride_frames,
        end=end,
        short_side=size,
        crop=size,
    )
    sizes = {"num_frames": spec.sampling["num_frames"], "size": spec.preprocessing["crop"]}
    for option, value in sizes.items() if stem == "space_to_depth" else ():
        if value % 2:
            raise ConfigError(
                f"the option {option} of the backbone {name!r} must be even, not {value}: the stem space_to_depth"
                " takes blocks of 2 x 2 x 2 pixels"
            )
    return spec


def describe_kinetics(
    name: str,
    variant: ClipVariant,
    *,
    frame_rate_hz: float | None = None,
    num_frames: int | None = None,
    stride_frames: int | None = None,
    size: int | None = None,
    end: End = "drop",
) -> FeatureSpec:
    """The options of the plain S3D."""
    size = _checked(name, "size", size, lowest=32)
    return clip_spec(
        name,
        variant,
        frame_rate_hz=frame_rate_hz,
        num_frames=_checked(name, "num_frames", num_frames, lowest=_FEWEST_KINETICS_FRAMES),
        stride_frames=stride_frames,
        end=end,
        short_side=size,
        crop=size,
    )


def _checked(name: str, option: str, value: int | None, *, lowest: int) -> int | None:
    return None if value is None else checked_whole(name, option, value, lowest=lowest, highest=512)


register(_HOWTO100M, describe_howto100m, S3DHowTo100M.build)
register(_KINETICS, describe_kinetics, S3DKinetics.build)
