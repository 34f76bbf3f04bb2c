"""Models of frozen towers that share one space: nothing is trained, a folder of videos can be asked at once."""

from .model import DualEncoder, ImagenetLabels

__all__ = ["DualEncoder", "ImagenetLabels"]
