"""All-in-one (CVPR 2023): one transformer for text, video and both."""

from .config import AllInOneConfig
from .model import AllInOne

__all__ = ["AllInOne", "AllInOneConfig"]
