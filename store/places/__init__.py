"""Where a store's files lie: in a folder, or in an object store with copies on this machine."""

from .address import Place, open_place
from .base import FEATURE_NAME, OURS, Listed
from .local import LocalPlace

__all__ = ["FEATURE_NAME", "OURS", "Listed", "LocalPlace", "Place", "open_place"]
