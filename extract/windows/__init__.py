"""Which frames of a video are sampled, how they are gathered into windows, and windows into batches."""

from .batches import Batcher, Stopwatch, VisualBackbone
from .sampling import End, Segments, Windows
from .windows import Window, WindowCutter, stacked

__all__ = [
    "Batcher",
    "End",
    "Segments",
    "Stopwatch",
    "VisualBackbone",
    "Window",
    "WindowCutter",
    "Windows",
    "stacked",
]
