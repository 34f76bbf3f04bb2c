"""Synthetic data sets of captioned clips: real H.264/AAC files whose right answers are known."""

from .long_clips import LONG_NAME, LongClip, LongWorld, make_long_clips, plan_long_clips
from .questions import QUESTIONS_NAME, answers_of
from .world import MANIFEST_NAME, VIDEOS_NAME, World, make_collection

__all__ = [
    "LONG_NAME",
    "MANIFEST_NAME",
    "QUESTIONS_NAME",
    "VIDEOS_NAME",
    "LongClip",
    "LongWorld",
    "World",
    "answers_of",
    "make_collection",
    "make_long_clips",
    "plan_long_clips",
]
