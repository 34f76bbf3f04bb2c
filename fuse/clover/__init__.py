"""Clover (CVPR 2023): video, text and their pairs aligned in one space."""

from .config import CloverConfig
from .masking import WordTag
from .model import Clover

__all__ = ["Clover", "CloverConfig", "WordTag"]
