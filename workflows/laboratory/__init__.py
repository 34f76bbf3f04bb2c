"""Synthetic data sets of captioned clips: real H.264/AAC files whose right answers are known."""

from .attributes import ATTRIBUTES
from .captions import write_caption
from .long_clips import LONG_NAME, LongClip, LongWorld, make_long_clips, plan_long_clips
from .pictures import displacement, render_frames
from .questions import QUESTIONS_NAME, answers_of
from .world import MANIFEST_NAME, VIDEOS_NAME, ClipAnswer, World, make_collection, plan_clips

__all__ = [
    "ATTRIBUTES",
    "LONG_NAME",
    "MANIFEST_NAME",
    "QUESTIONS_NAME",
    "VIDEOS_NAME",
    "ClipAnswer",
    "LongClip",
    "LongWorld",
    "World",
    "answers_of",
    "displacement",
    "make_collection",
    "make_long_clips",
    "plan_clips",
    "plan_long_clips",
    "render_frames",
    "write_caption",
]
