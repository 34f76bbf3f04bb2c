"""Raw pixels: what models that are trained end to end read, as whole frames or cut into patches.

It has no network and no paper. The bytes are those that the decoder gives: upright RGB pictures of square pixels,
whose short side is scaled to ``size``, and their middle square.

- `pixels`: one row for each frame, its size x size x 3 bytes in the order rows, columns, channels. With
  ``frames="jpeg"`` a frame is a JPEG picture (Pillow's libjpeg-turbo, whose version is part of the fingerprint, as is
  the quality) in rows of 1,024 bytes, all at the frame's time, the last one filled up with zeros; frames have different
  numbers of rows. Some seven times smaller than raw.
- `pixel_tokens`: one row for each patch, patch x patch x 3 bytes in the same order. The patches of a frame follow one
  another in raster order, all at the frame's time; the (T, D) values become (frames, patches, D) by
  ``reshape(-1, spec.sampling["rows_per_window"], spec.dim)``.

The same picture gives the same JPEG: libjpeg-turbo's default transform has the same results on every processor. pillow
is a dependency of torchvision and matplotlib as well, and is loaded only for JPEG.

Legend: B frames, S size, P patch, G = S / P patches along a side.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ..._vocabulary import ConfigError, FeatureArray, FeatureSpec, InputError, Modality, Status
from ..networks import Transform, checked_rows, still_windows
from ..options import checked_whole
from ..registry import BACKBONES, BackboneEntry
from ..types import DecodedAudio, DecodedFrames
from ..windows import Window, Windows, stacked

_SMALLEST, _LARGEST = 32, 1024
JPEG_ROW_BYTES = 1024
_QUALITY = 90
Frames = Literal["raw", "jpeg"]


class RawPixels(Transform):
    """Frames as rows of bytes: (B, S * S * 3), (B, G * G, P * P * 3) as patches, or for each its JPEG's rows."""

    def __init__(self, spec: FeatureSpec, *, weights_digest: str) -> None:
        super().__init__(spec, weights_digest=weights_digest)
        self.windows = Windows.from_data(spec.sampling)
        self._size = int(spec.preprocessing["crop"])
        self._patch: int | None = spec.preprocessing["patch"]
        self._quality: int | None = spec.preprocessing.get("quality")
        self.is_ragged = self._quality is not None

    def batch_windows(self, picture: tuple[int, ...]) -> int:
        """One: nothing is gained by waiting for more."""
        del picture
        return 1

    def encode_windows(self, windows: Sequence[Window]) -> NDArray[np.uint8] | list[NDArray[np.uint8]]:
        """Windows of one frame each to their rows."""
        return self._rows(np.concatenate(stacked(windows)))

    def encode(self, item: DecodedFrames | DecodedAudio | str) -> FeatureArray:
        """The rows of frames whose short side is S, each with the time that its frame was on display."""
        if not isinstance(item, DecodedFrames):
            raise InputError(f"the backbone {self.spec.name!r} reads frames, not {type(item).__name__}")
        if len(item.frames) == 0:
            return FeatureArray.empty(self.spec, Status.NO_FRAMES, "no frames were given")
        return checked_rows(self.spec, self._rows(item.frames), item.times)

    def _rows(self, frames: NDArray[np.uint8]) -> NDArray[np.uint8] | list[NDArray[np.uint8]]:
        square = self._square(frames)
        if self._quality is not None:
            return [jpeg_rows(frame, quality=self._quality) for frame in square]
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


def jpeg_rows(frame: NDArray[np.uint8], *, quality: int) -> NDArray[np.uint8]:
    """One frame (H, W, 3) as JPEG, (P, JPEG_ROW_BYTES)."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(frame)).save(file, "JPEG", quality=quality, subsampling="4:2:0")
    data = file.getvalue()
    rows = np.zeros((-(-len(data) // JPEG_ROW_BYTES), JPEG_ROW_BYTES), np.uint8)
    rows.reshape(-1)[: len(data)] = np.frombuffer(data, np.uint8)
    return rows


def jpeg_facts(name: str, quality: int) -> dict[str, str | int]:
    """The settings that decide the bytes of a JPEG, for the fingerprint."""
    from PIL import features

    if (version := features.version("libjpeg_turbo")) is None:
        raise ConfigError("frames='jpeg' needs libjpeg-turbo, and this pillow has none: install pillow from PyPI")
    return {
        "frames": "jpeg",
        "quality": checked_whole(name, "quality", quality, lowest=1, highest=95),
        "subsampling": "4:2:0",
        "encoder": f"libjpeg-turbo {version}",
        "layout": f"JPEG in rows of {JPEG_ROW_BYTES} bytes, the last filled up with zeros",
    }


def _spec(
    name: str, *, rate_hz: float, size: int, patch: int | None, frames: Frames = "raw", quality: int | None = None
) -> FeatureSpec:
    windows = still_windows(name, rate_hz)
    size = checked_whole(name, "size", size, lowest=_SMALLEST, highest=_LARGEST)
    side, layout = size, "rows, columns, channels"
    num_rows = 1
    if patch is not None:
        side = checked_whole(name, "patch", patch, lowest=1, highest=size)
        if size % side:
            raise ConfigError(f"the options of the backbone {name!r} need a size that is a multiple of patch: {size}")
        num_rows, layout = (size // side) ** 2, f"patches in raster order; in each {layout}"
    if frames not in get_args(Frames):
        raise ConfigError(f"the option frames of the backbone {name!r} is {frames!r}: allowed are raw and jpeg")
    is_jpeg = frames == "jpeg"
    if quality is not None and not is_jpeg:
        raise ConfigError(f"the option quality of the backbone {name!r} needs frames: jpeg; remove it, or set that")
    return FeatureSpec(
        name=name,
        modality=Modality.VIDEO,
        dim=JPEG_ROW_BYTES if is_jpeg else side * side * 3,
        rate_hz=windows.rate_hz * num_rows,
        sampling=windows.as_data() if is_jpeg else {**windows.as_data(), "rows_per_window": num_rows},
        preprocessing={
            "short_side": size,
            "crop": size,
            "aspect": "display",
            "resize": "swscale bicubic",
            "channels": "RGB",
            "patch": None if patch is None else side,
            "layout": layout,
            **(jpeg_facts(name, _QUALITY if quality is None else quality) if is_jpeg else {}),
        },
        dtype="uint8",
        paper="none: the decoder's pictures as they are",
    )


def _register(pixels: str, tokens: str, *, default_size: int) -> None:
    def describe(
        *, rate_hz: float = 1.0, size: int = default_size, frames: Frames = "raw", quality: int | None = None
    ) -> FeatureSpec:
        return _spec(pixels, rate_hz=rate_hz, size=size, patch=None, frames=frames, quality=quality)

    def describe_tokens(*, rate_hz: float = 1.0, size: int = default_size, patch: int = 16) -> FeatureSpec:
        return _spec(tokens, rate_hz=rate_hz, size=size, patch=patch)

    BACKBONES.add(pixels, BackboneEntry(describe, RawPixels.build, weights="none", number_types=()))
    BACKBONES.add(tokens, BackboneEntry(describe_tokens, RawPixels.build, weights="none", number_types=()))


_register("pixels", "pixel_tokens", default_size=224)
_register("test_pixels", "test_pixel_tokens", default_size=64)
