"""TODO door of store/places."""

from .base import FEATURE_NAME, OURS, Listed, LocalPlace, Place, file_sha256, open_place
from .copies import cache_folder

__all__ = [
    "FEATURE_NAME",
    "OURS",
    "Listed",
    "LocalPlace",
    "Place",
    "cache_folder",
    "file_sha256",
    "open_place",
]
