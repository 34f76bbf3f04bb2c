"""TODO door of workflows/laboratory."""

from .attributes import ATTRIBUTES, STATIC_ATTRIBUTES
from .files import SAMPLE_RATE_HZ, encode_clip, write_aside
from .pictures import render_frames
from .sounds import render_sound
from .world import MANIFEST_NAME, VIDEOS_NAME, World, make_collection

__all__ = [
    "ATTRIBUTES",
    "MANIFEST_NAME",
    "SAMPLE_RATE_HZ",
    "STATIC_ATTRIBUTES",
    "VIDEOS_NAME",
    "World",
    "encode_clip",
    "make_collection",
    "render_frames",
    "render_sound",
    "write_aside",
]
