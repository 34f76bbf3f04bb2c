"""A frozen network that looks at windows of pictures: what every visual backbone of this folder is.

A member of the family gives its specification, its network and how pixels become the network's input; cutting frames
into windows, batches, precision, devices, memory layout and the check of the values are here.

Legend: B windows, N frames of a window, H height, W width, D width of the feature.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

from ..._vocabulary import ConfigError, FeatureArray, FeatureSpec, InputError, Modality, Status, WeightsSource
from ..types import DecodedAudio, DecodedFrames
from ..weights import digest_of_weights, load_into
from ..windows import Window, WindowCutter, Windows, stacked

if TYPE_CHECKING:
    import torch

Precision = Literal["float32", "bfloat16", "float16"]
Dtype = Literal["float16", "float32"]


def visual_spec(
    name: str,
    *,
    dim: int,
    windows: Windows,
    short_side: int,
    crop: int | None,
    preprocessing: Mapping[str, Any],
    precision: Precision,
    dtype: Dtype,
    paper: str,
    weights: Sequence[WeightsSource] = (),
) -> FeatureSpec:
    """The specification of a visual backbone.

    Args:
        name: its registered name.
        dim: D.
        windows: the frames of a row.
        short_side: what the upright picture's short side is scaled to, by the decoder and nothing after it.
        crop: side of the square cut from its middle; None keeps the whole picture.
        preprocessing: every other fact that decides the numbers (scale, mean, std, pooling, ...), as plain data.
        precision: what the network computes in; float16 on a GPU alone.
        dtype: what the values are stored as.
        paper: where it was published.
        weights: published weights that can be had by tag.

    Raises:
        ConfigError: precision or dtype is not among the allowed ones.
    """
    check_choice(name, "precision", precision, get_args(Precision))
    check_choice(name, "dtype", dtype, get_args(Dtype))
    return FeatureSpec(
        name=name,
        modality=Modality.VIDEO,
        dim=dim,
        rate_hz=windows.rate_hz,
        sampling=windows.as_data(),
        preprocessing={
            "short_side": short_side,
            "crop": crop,
            "aspect": "display",
            "resize": "swscale bicubic",
            **preprocessing,
        },
        precision=precision,
        dtype=dtype,
        paper=paper,
        weights=tuple(weights),
    )


def check_choice(name: str, option: str, value: Any, allowed: tuple[str, ...]) -> None:
    """Raise ConfigError where a backbone's option is not among the allowed ones."""
    if value not in allowed:
        raise ConfigError(
            f"the option {option} of the backbone {name!r} must be one of {', '.join(allowed)}, not {value!r}"
        )


class FrozenNetwork:
    """A visual backbone. Members give `prepare` and, where calling the network is not enough, `embed`.

    Attributes:
        spec: what it computes.
        weights_digest: which weights it computes it with.
        network: the torch module, whose key names are the authors' (or are made so by `official_names`).
        windows: the frames of a row.
    """

    ignored_keys: tuple[str, ...] = ()
    """Beginnings of official key names that the network has no use for, such as a classifier's."""
    batch_pixels: int = 16 * 224 * 320
    """Pixels of one batch at most, over all its frames: what bounds the memory of a forward pass. Larger batches were
    not faster on a CPU."""

    def __init__(self, spec: FeatureSpec, network: torch.nn.Module, *, device: str, weights_digest: str) -> None:
        import torch

        self.spec = spec
        self.weights_digest = weights_digest
        self.windows = Windows.from_data(spec.sampling)
        self.network = network
        self._device = torch.device(device)
        if spec.precision == "float16" and self._device.type == "cpu":
            raise ConfigError(f"the backbone {spec.name!r} in float16 needs a GPU: use precision bfloat16 or float32")
        self._place()

    def from_official(self, state_dict: Mapping[str, Any], config: Mapping[str, Any] | None = None) -> Self:
        """Take the authors' weights, by their key names.

        Args:
            state_dict: the authors' tensors, by their key names.
            config: the authors' constructor arguments, as models take them. Not read: a backbone's shape follows from
                its options, and every shape is checked.

        Raises:
            InputError: keys, shapes or values do not fit.
        """
        del config
        load_into(self.network, self.official_names(state_dict), ignored_prefixes=self.ignored_keys)
        self.weights_digest = digest_of_weights(state_dict)
        self._place()
        return self

    def official_names(self, state_dict: Mapping[str, Any]) -> Mapping[str, Any]:
        """The authors' key names turned into the network's. By default they are the same."""
        return state_dict

    def prepare(self, frames: torch.Tensor) -> torch.Tensor:
        """uint8 pictures (B, N, H, W, 3) on the network's device to the network's input, float32."""
        raise NotImplementedError

    def embed(self, inputs: torch.Tensor) -> torch.Tensor:
        """The network's input to features (B, D)."""
        features: torch.Tensor = self.network(inputs)
        return features

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """uint8 pictures (B, N, H, W, 3) to features (B, D), float32, on the network's device."""
        import torch

        precision = getattr(torch, self.spec.precision)
        mixed = torch.autocast(self._device.type, dtype=precision, enabled=precision is not torch.float32)
        with torch.inference_mode(), mixed:
            features = self.embed(self.prepare(self._to_device(frames)))
        if features.ndim != 2:
            raise InputError(f"the network of {self.spec.name!r} gave {tuple(features.shape)}, not (B, D)")
        return features.float()

    def batch_windows(self, picture: tuple[int, ...]) -> int:
        """How many windows of pictures of this shape (H, W, 3) one forward pass takes."""
        return max(1, self.batch_pixels // (self.windows.num_frames * picture[0] * picture[1]))

    def encode_windows(self, windows: Sequence[Window]) -> NDArray[Any]:
        """Windows of one shape to stored values (B, D). What the type cannot hold comes out infinite."""
        import torch

        frames = torch.from_numpy(stacked(windows))
        with np.errstate(over="ignore"):
            values: NDArray[Any] = self.forward(frames).cpu().numpy().astype(self.spec.dtype)
        return values

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

    def _to_device(self, frames: torch.Tensor) -> torch.Tensor:
        if self._device.type == "cpu":
            return frames
        return frames.pin_memory().to(self._device, non_blocking=True)

    def _place(self) -> None:
        import torch

        layouts = {4: torch.channels_last, 5: torch.channels_last_3d}
        self.network = self.network.to(self._device).eval().requires_grad_(False)
        for parameter in self.network.parameters():
            if parameter.ndim in layouts:
                parameter.data = parameter.data.contiguous(memory_format=layouts[parameter.ndim])


def checked_rows(spec: FeatureSpec, values: NDArray[Any], times: NDArray[np.float64]) -> FeatureArray:
    """Rows as a feature, or its refusal where a value is not finite.

    Args:
        spec: what the rows are.
        values: (W, D), or (W, P, D) where each window gives P rows: they follow one another at the window's time.
        times: (W, 2).
    """
    if values.ndim == 3:
        times = np.repeat(times, values.shape[1], axis=0)
        values = values.reshape(-1, values.shape[2])
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        return FeatureArray.empty(spec, Status.NON_FINITE, f"the network gave values that {spec.dtype} cannot hold")
    return FeatureArray(values, times)


def normalised(frames: torch.Tensor, *, scale: float, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """uint8 (B, N, H, W, 3) to float32 ``(x * scale - mean) / std`` as (B, 3, N, H, W), channels last in memory."""
    import torch

    pixels = frames.to(torch.float32).mul_(scale)
    if any(mean):
        pixels.sub_(torch.tensor(mean, device=frames.device))
    if any(value != 1 for value in std):
        pixels.div_(torch.tensor(std, device=frames.device))
    return pixels.permute(0, 4, 1, 2, 3)


def seeded_network(build: Any, *, seed: int) -> Any:
    """``build()`` with random weights that the seed alone decides; torch's own generator is left as it was."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()
