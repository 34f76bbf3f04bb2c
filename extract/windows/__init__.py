"""TODO door of extract/windows."""

from . import sampling
from .batches import Batcher, Stopwatch, VisualBackbone
from .sampling import End, Windows
from .windows import Window, WindowCutter, stacked

__all__ = [
    "Batcher",
    "End",
    "Stopwatch",
    "VisualBackbone",
    "Window",
    "WindowCutter",
    "Windows",
    "sampling",
    "stacked",
]
