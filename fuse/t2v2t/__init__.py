"""T2V2T: text-to-video-to-text fusion, with VindLU as its unidirectional configuration, and VindLU's QA."""

from .config import T2V2TConfig
from .model import T2V2T
from .qa import VindLUQA

__all__ = ["T2V2T", "T2V2TConfig", "VindLUQA"]
