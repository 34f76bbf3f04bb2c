"""Raw pixels: what models that are trained end to end read, as whole frames or cut into patches.

There is no network and no paper; the bytes are those that the decoder gives: upright RGB pictures of square pixels,
whose short side is scaled to ``size``, and their middle square.

- `pixels`: one row for each frame, its size x size x 3 bytes in the order rows, columns, channels.
- `pixel_tokens`: one row for each patch, patch x patch x 3 bytes in the same order. The patches of a frame follow one
  another in raster order, all at the frame's time; the (T, D) values become (frames, patches, D) by
  ``reshape(-1, spec.sampling["rows_per_window"], spec.dim)``.

Legend: B frames, S size, P patch, G = S / P patches along a side.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..._vocabulary import ConfigError, FeatureArray, FeatureSpec, InputError, Modality, Status
from ..networks import checked_rows
from ..options import checked_number
from ..registry import BACKBONES, BackboneEntry
from ..types import Backbone, DecodedAudio, DecodedFrames
from ..windows import Window, Windows, stacked

_SMALLEST, _LARGEST = 32, 1024


class RawPixels:
    """Frames as rows of bytes: (B, S * S * 3), or (B, G * G, P * P * 3) as patches."""

    def __init__(self, spec: FeatureSpec, *, weights_digest: str) -> None:
        self.spec = spec
        self.weights_digest = weights_digest
        self.windows = Windows.from_data(spec.sampling)
        self._size = int(spec.preprocessing["crop"])
        self._patch: int | None = spec.preprocessing["patch"]

    def batch_windows(self, picture: tuple[int, ...]) -> int:
        """One: nothing is gained by waiting for more."""
        del picture
        return 1

    def encode_windows(self, windows: Sequence[Window]) -> NDArray[np.uint8]:
        """Windows of one frame each to their rows."""
        return self._rows(np.concatenate(stacked(windows)))

    def encode(self, item: DecodedFrames | DecodedAudio | str) -> FeatureArray:
        """The rows of frames whose short side is S, each with the time that its frame was on display."""
        if not isinstance(item, DecodedFrames):
            raise InputError(f"the backbone {self.spec.name!r} reads frames, not {type(item).__name__}")
        if len(item.frames) == 0:
            return FeatureArray.empty(self.spec, Status.NO_FRAMES, "no frames were given")
        return checked_rows(self.spec, self._rows(item.frames), item.times)

    def _rows(self, frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
        square = self._square(frames)
        if self._patch is None:
            return square.reshape(len(square), -1)
        side = self._size // self._patch
        patches = square.reshape(len(square), side, self._patch, side, self._patch, 3).swapaxes(2, 3)
        return patches.reshape(len(square), side * side, -1)

    def _square(self, frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The middle of (B, H, W, 3) frames, its corner rounded down as the decoder does it."""
        height, width = frames.shape[1:3]
        if min(height, width) != self._size:
            raise InputError(
                f"the backbone {self.spec.name!r} reads pictures whose short side is {self._size} pixels, not"
                f" {width} x {height}: have them scaled by the decoder, or set the option size"
            )
        top, left = (height - self._size) // 2, (width - self._size) // 2
        return frames[:, top : top + self._size, left : left + self._size]


def _spec(name: str, *, rate_hz: float, size: int, patch: int | None) -> FeatureSpec:
    windows = Windows(frame_rate_hz=checked_number(name, "rate_hz", rate_hz, lowest=0.01, highest=120))
    size = int(checked_number(name, "size", size, lowest=_SMALLEST, highest=_LARGEST, whole=True))
    side, layout = size, "rows, columns, channels"
    num_rows = 1
    if patch is not None:
        side = int(checked_number(name, "patch", patch, lowest=1, highest=size, whole=True))
        if size % side:
            raise ConfigError(f"the options of the backbone {name!r} need a size that is a multiple of patch: {size}")
        num_rows, layout = (size // side) ** 2, f"patches in raster order; in each {layout}"
    return FeatureSpec(
        name=name,
        modality=Modality.VIDEO,
        dim=side * side * 3,
        rate_hz=windows.rate_hz * num_rows,
        sampling={**windows.as_data(), "rows_per_window": num_rows},
        preprocessing={
            "short_side": size,
            "crop": size,
            "aspect": "display",
            "resize": "swscale bicubic",
            "channels": "RGB",
            "patch": None if patch is None else side,
            "layout": layout,
        },
        dtype="uint8",
        paper="none: the decoder's pictures as they are",
    )


def _build(spec: FeatureSpec, *, weights: Path | None, weights_digest: str, seed: int, device: str) -> Backbone:
    del weights, seed, device  # nothing is computed
    return RawPixels(spec, weights_digest=weights_digest)


def _register(pixels: str, tokens: str, *, default_size: int) -> None:
    def describe(*, rate_hz: float = 1.0, size: int = default_size) -> FeatureSpec:
        return _spec(pixels, rate_hz=rate_hz, size=size, patch=None)

    def describe_tokens(*, rate_hz: float = 1.0, size: int = default_size, patch: int = 16) -> FeatureSpec:
        return _spec(tokens, rate_hz=rate_hz, size=size, patch=patch)

    BACKBONES.add(pixels, BackboneEntry(describe, _build, weights="none", number_types=()))
    BACKBONES.add(tokens, BackboneEntry(describe_tokens, _build, weights="none", number_types=()))


_register("pixels", "pixel_tokens", default_size=224)
_register("test_pixels", "test_pixel_tokens", default_size=64)
