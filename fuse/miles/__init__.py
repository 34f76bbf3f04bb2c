"""MILES (ECCV 2022) and its base, Frozen in Time (ICCV 2021): dual encoders from pixels."""

from .config import MILESConfig
from .masks import block_mask
from .model import MILES

__all__ = ["MILES", "MILESConfig", "block_mask"]
