"""Batches of windows that cross the borders of files: a short clip does not pay for a batch of its own.

Batches are formed by the order of windows alone, so the same files in the same order give the same batches, and with
them the same bytes, however fast decoding was.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from numpy.typing import NDArray

from ..types import Backbone
from .sampling import Windows
from .windows import Window

MAX_WAITING_BYTES = 256 * 1024**2


@runtime_checkable
class VisualBackbone(Backbone, Protocol):
    """A backbone over windows of pictures, fed with batches from several files.

    Attributes:
        windows: how frames are gathered into rows.
    """

    windows: Windows

    def batch_windows(self, picture: tuple[int, ...]) -> int:
        """How many windows of pictures of this shape (H, W, 3) it takes at once."""

    def encode_windows(self, windows: list[Window]) -> NDArray[Any]:
        """Windows of one shape to stored values: (B, D), or (B, P, D) where a window gives P rows."""


@dataclass(slots=True)
class Stopwatch:
    """Where the time of an extraction went, in seconds.

    Attributes:
        waiting: for the decoder, with nothing else to do.
        visual: in networks over pictures, by backbone, preprocessing included.
        audio: in audio backbones, by backbone.
        num_frames: pictures decoded and handed on, over all requests.
    """

    waiting: float = 0.0
    visual: dict[str, float] = field(default_factory=dict)
    audio: dict[str, float] = field(default_factory=dict)
    num_frames: int = 0


@dataclass(slots=True)
class _Batch:
    backbone: VisualBackbone
    windows: list[Window] = field(default_factory=list)
    keep: list[Callable[[NDArray[Any]], None]] = field(default_factory=list)
    num_bytes: int = 0


class Batcher:
    """Gathers windows of one backbone and one size into full batches, and hands their rows back."""

    def __init__(self, *, stopwatch: Stopwatch) -> None:
        self._batches: dict[tuple[str, tuple[int, ...]], _Batch] = {}
        self._stopwatch = stopwatch
        self._waiting_bytes = 0

    def add(self, backbone: VisualBackbone, window: Window, keep: Callable[[NDArray[Any]], None]) -> None:
        """Take a window; its row (D,) is given to ``keep``, now or later."""
        shape = window.picture_shape
        batch = self._batches.setdefault((backbone.spec.name, shape), _Batch(backbone))
        batch.windows.append(window)
        batch.keep.append(keep)
        batch.num_bytes += window.num_bytes
        self._waiting_bytes += window.num_bytes
        if len(batch.windows) >= backbone.batch_windows(shape):
            self._run(batch)
        while self._waiting_bytes > MAX_WAITING_BYTES:
            self._run(max(self._batches.values(), key=lambda waiting: waiting.num_bytes))

    def flush(self) -> None:
        """Run what is left."""
        for batch in self._batches.values():
            if batch.windows:
                self._run(batch)

    def _run(self, batch: _Batch) -> None:
        begun = time.perf_counter()
        rows = batch.backbone.encode_windows(batch.windows)
        name = batch.backbone.spec.name
        self._stopwatch.visual[name] = self._stopwatch.visual.get(name, 0.0) + time.perf_counter() - begun
        for keep, row in zip(batch.keep, rows, strict=True):
            keep(row)
        self._waiting_bytes -= batch.num_bytes
        batch.windows, batch.keep, batch.num_bytes = [], [], 0
