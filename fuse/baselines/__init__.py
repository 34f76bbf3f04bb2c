"""The systems without a transformer that papers compare with."""

from .avlnet import AVLnet
from .howto100m import HowTo100M
from .mcn import MCN
from .mil_nce import MILNCE
from .separate import SeparateModel

__all__ = ["MCN", "MILNCE", "AVLnet", "HowTo100M", "SeparateModel"]
