"""Everything at Once (CVPR 2022): one transformer for the tokens of any set of modalities."""

from .combinations import combination_name
from .config import EverythingAtOnceConfig
from .model import EverythingAtOnce

__all__ = ["EverythingAtOnce", "EverythingAtOnceConfig", "combination_name"]
