"""TODO door of store/places."""

from .base import FEATURE_NAME, OURS, Listed, LocalPlace, Place, open_place

__all__ = [
    "FEATURE_NAME",
    "OURS",
    "Listed",
    "LocalPlace",
    "Place",
    "open_place",
]
