"""Synthetic data sets of captioned clips: real H.264/AAC files whose right answers are known."""

from .files import SAMPLE_RATE_HZ
from .long_clips import LONG_NAME, LongClip, LongWorld, make_long_clips, plan_long_clips
from .world import MANIFEST_NAME, VIDEOS_NAME, ClipAnswer, Collection, World, make_collection, plan_clips

__all__ = [
    "LONG_NAME",
    "MANIFEST_NAME",
    "SAMPLE_RATE_HZ",
    "VIDEOS_NAME",
    "ClipAnswer",
    "Collection",
    "LongClip",
    "LongWorld",
    "World",
    "make_collection",
    "make_long_clips",
    "plan_clips",
    "plan_long_clips",
]
