"""TODO door of fuse/everything_at_once."""

from . import model
from .combinations import combination_name
from .config import EverythingAtOnceConfig
from .model import EverythingAtOnce

__all__ = ["EverythingAtOnce", "EverythingAtOnceConfig", "combination_name", "model"]
