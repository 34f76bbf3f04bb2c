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
  `_s3d_network.initialise`.
- The instant of a frame that starts exactly at a grid cell's middle: see `_video`. The end of a video that does not
  fill a window gives no row, unless it is the only one; the option `end` says otherwise.

Legend: B windows, T frames, H height, W width, D width of the feature.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

from ..._vocabulary import ConfigError, FeatureSpec, InputError, WeightsSource
from ..networks import Dtype, FrozenNetwork, Precision, check_choice, normalised, seeded_network, visual_spec
from ..registry import BACKBONES, Backbone, BackboneEntry, checked_number
from ..weights import read_state_dict
from ..windows import End, Windows

if TYPE_CHECKING:
    import torch

    from ..networks.s3d import Architecture

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


@dataclass(frozen=True, slots=True)
class _Variant:
    """One size of network, and the windows that it is used with."""

    width: float
    dim: int
    num_outputs: int
    frame_rate_hz: float
    num_frames: int
    stride_frames: int
    size: int
    weights: tuple[WeightsSource, ...] = ()


_HOWTO100M = {
    "s3d_howto100m": _Variant(1.0, 1024, 512, 16.0, 32, 16, 224, (HOWTO100M_WEIGHTS,)),
    "test_s3d": _Variant(1 / 8, 128, 64, 4.0, 4, 4, 32),
}
_KINETICS = {
    "s3d_kinetics": _Variant(1.0, 1024, 400, 25.0, 64, 64, 224),
    "test_s3d_kinetics": _Variant(1 / 8, 128, 10, 8.0, 16, 16, 32),
}


class S3DHowTo100M(FrozenNetwork):
    """The gated S3D. Official weights are those of S3D_HowTo100M, or of MIL-NCE_HowTo100M with the stem ``whole``."""

    ignored_keys = ("text_module.",)
    batch_pixels = 2 * 32 * 224 * 224

    def from_official(self, state_dict: Mapping[str, Any], config: Mapping[str, Any] | None = None) -> Self:
        """Take the authors' weights, by their key names. The text tower's are left to `s3d_howto100m_text`.

        Args:
            state_dict: the authors' tensors, by their key names.
            config: the authors' constructor arguments, as models take them. Not read: a backbone's shape follows from
                its options, and every shape is checked.

        Raises:
            InputError: keys, shapes or values do not fit.
        """
        head = _fitted_head(self, state_dict, "fc.weight")
        if self._is_joint and head not in (None, self.spec.dim):
            raise InputError(
                f"the joint embedding of these weights is {head} wide, not {self.spec.dim}; "
                f"give the backbone {self.spec.name!r} the option joint_dim: {head}"
            )
        return super().from_official(state_dict, config)

    def prepare(self, frames: torch.Tensor) -> torch.Tensor:
        """uint8 pictures (B, T, H, W, 3) to float32 in [0, 1], (B, 3, T, H, W)."""
        return normalised(frames, scale=1 / 255, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))

    def embed(self, inputs: torch.Tensor) -> torch.Tensor:
        """The mean of the last maps (B, 1024), or the joint embedding of it."""
        features: torch.Tensor = self.network(inputs)
        return _headed(self, features) if self._is_joint else features

    @property
    def _is_joint(self) -> bool:
        return bool(self.spec.preprocessing["output"] == "joint")


class S3DKinetics(FrozenNetwork):
    """The plain S3D. Official weights are kylemin/S3D's, whatever the number of classes."""

    batch_pixels = 2 * 32 * 224 * 224

    def from_official(self, state_dict: Mapping[str, Any], config: Mapping[str, Any] | None = None) -> Self:
        """Take the authors' weights, by their key names.

        Args:
            state_dict: the authors' tensors, by their key names.
            config: the authors' constructor arguments, as models take them. Not read: a backbone's shape follows from
                its options, and every shape is checked.

        Raises:
            InputError: keys, shapes or values do not fit.
        """
        _fitted_head(self, self.official_names(state_dict), "fc.weight")
        return super().from_official(state_dict, config)

    def official_names(self, state_dict: Mapping[str, Any]) -> Mapping[str, Any]:
        """Places in a sequence turned into the names of the other S3D; the classifier's kernel of 1 into a matrix."""
        named = {_kinetics_name(key.removeprefix("module.")): value for key, value in state_dict.items()}
        if "fc.weight" in named:
            named["fc.weight"] = named["fc.weight"].flatten(1)
        return named

    def prepare(self, frames: torch.Tensor) -> torch.Tensor:
        """uint8 pictures (B, T, H, W, 3) to float32 in [-1, 1], (B, 3, T, H, W)."""
        return normalised(frames, scale=2 / 255, mean=(1.0, 1.0, 1.0), std=(1.0, 1.0, 1.0))

    def classify(self, features: torch.Tensor) -> torch.Tensor:
        """Features (B, D) to scores of the classes, before softmax."""
        return _headed(self, features)


def _headed(backbone: FrozenNetwork, features: torch.Tensor) -> torch.Tensor:
    """Features (B, D) through the network's last layer."""
    outputs: torch.Tensor = backbone.network.get_submodule("fc")(features)
    return outputs


def _fitted_head(backbone: FrozenNetwork, state_dict: Mapping[str, Any], key: str) -> int | None:
    """Give the network's last layer the number of outputs that these weights have; None where they lack it."""
    weight = state_dict.get(key, state_dict.get(f"module.{key}"))
    if weight is None:
        return None
    network: Any = backbone.network
    network.fit_head(len(weight))
    return len(weight)


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


def _kinetics_name(key: str) -> str:
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


def _windows(name: str, frame_rate_hz: float, num_frames: int, stride_frames: int, end: End, *, fewest: int) -> Windows:
    return Windows(
        frame_rate_hz=checked_number(name, "frame_rate_hz", frame_rate_hz, lowest=0.1, highest=120),
        num_frames=int(checked_number(name, "num_frames", num_frames, lowest=fewest, highest=512, whole=True)),
        stride_frames=int(checked_number(name, "stride_frames", stride_frames, lowest=1, highest=4096, whole=True)),
        end=end,
    )


def _size(name: str, size: int) -> int:
    return int(checked_number(name, "size", size, lowest=32, highest=512, whole=True))


def _check_even(name: str, **values: int) -> None:
    for option, value in values.items():
        if value % 2:
            raise ConfigError(
                f"the option {option} of the backbone {name!r} must be even, not {value}: the stem space_to_depth"
                " takes blocks of 2 x 2 x 2 pixels"
            )


def _pixels(scale: float, mean: float) -> dict[str, Any]:
    return {"scale": scale, "mean": [mean] * 3, "std": [1.0] * 3, "l2_normalised": False}


def _register_howto100m(name: str, variant: _Variant) -> None:
    def describe(
        *,
        output: Output = "mixed_5c",
        stem: HowTo100MStem = "space_to_depth",
        joint_dim: int = variant.num_outputs,
        frame_rate_hz: float = variant.frame_rate_hz,
        num_frames: int = variant.num_frames,
        stride_frames: int = variant.stride_frames,
        size: int = variant.size,
        end: End = "drop",
        precision: Precision = "float32",
        dtype: Dtype = "float16",
    ) -> FeatureSpec:
        check_choice(name, "output", output, get_args(Output))
        check_choice(name, "stem", stem, get_args(HowTo100MStem))
        joint_dim = int(checked_number(name, "joint_dim", joint_dim, lowest=1, highest=65_536, whole=True))
        size = _size(name, size)
        windows = _windows(name, frame_rate_hz, num_frames, stride_frames, end, fewest=2)
        if stem == "space_to_depth":
            _check_even(name, num_frames=windows.num_frames, size=size)
        return visual_spec(
            name,
            dim=joint_dim if output == "joint" else variant.dim,
            windows=windows,
            short_side=size,
            crop=size,
            preprocessing={**_pixels(1 / 255, 0.0), "stem": stem, "output": output, "pooling": "mean"},
            precision=precision,
            dtype=dtype,
            paper=_PAPER_HOWTO100M,
            weights=variant.weights,
        )

    BACKBONES.add(name, BackboneEntry(describe, _build_howto100m))


def _register_kinetics(name: str, variant: _Variant) -> None:
    def describe(
        *,
        frame_rate_hz: float = variant.frame_rate_hz,
        num_frames: int = variant.num_frames,
        stride_frames: int = variant.stride_frames,
        size: int = variant.size,
        end: End = "drop",
        precision: Precision = "float32",
        dtype: Dtype = "float16",
    ) -> FeatureSpec:
        size = _size(name, size)
        return visual_spec(
            name,
            dim=variant.dim,
            windows=_windows(name, frame_rate_hz, num_frames, stride_frames, end, fewest=_FEWEST_KINETICS_FRAMES),
            short_side=size,
            crop=size,
            preprocessing={**_pixels(2 / 255, 1.0), "pooling": "mean of pairs"},
            precision=precision,
            dtype=dtype,
            paper=_PAPER_KINETICS,
            weights=variant.weights,
        )

    BACKBONES.add(name, BackboneEntry(describe, _build_kinetics))


def _build_howto100m(
    spec: FeatureSpec, *, weights: Path | None, weights_digest: str, seed: int, device: str
) -> Backbone:
    from ..networks.s3d import Architecture

    variant = _HOWTO100M[spec.name]
    architecture = Architecture(
        stem=spec.preprocessing["stem"],
        gated=True,
        norm_epsilon=1e-5,
        pool_padding="same",
        temporal_mean="plain",
        num_outputs=spec.dim if spec.preprocessing["output"] == "joint" else variant.num_outputs,
        width=variant.width,
    )
    backbone = S3DHowTo100M(spec, _random(architecture, seed), device=device, weights_digest=weights_digest)
    return backbone if weights is None else backbone.from_official(read_state_dict(weights))


def _build_kinetics(
    spec: FeatureSpec, *, weights: Path | None, weights_digest: str, seed: int, device: str
) -> Backbone:
    from ..networks.s3d import Architecture

    variant = _KINETICS[spec.name]
    architecture = Architecture(
        stem="separable",
        gated=False,
        norm_epsilon=1e-3,
        pool_padding="symmetric",
        temporal_mean="of_pairs",
        num_outputs=variant.num_outputs,
        width=variant.width,
    )
    backbone = S3DKinetics(spec, _random(architecture, seed), device=device, weights_digest=weights_digest)
    return backbone if weights is None else backbone.from_official(read_state_dict(weights))


def _random(architecture: Architecture, seed: int) -> Any:
    from ..networks.s3d import S3D, initialise

    return seeded_network(lambda: initialise(S3D(architecture)), seed=seed)


for _name, _variant in _HOWTO100M.items():
    _register_howto100m(_name, _variant)
for _name, _variant in _KINETICS.items():
    _register_kinetics(_name, _variant)
