"""Decoding media files in a subprocess, under limits of memory and time."""

from ..types import DEFAULT_LIMITS, AudioWanted, DecodedAudio, DecodedFrames, FramesWanted, Limits, MediaInfo
from .decoder import DecodeEnd, Decoder, FramesChunk, SamplesChunk, check_file
from .frame import frame_at
from .prefetch import reading_ahead

__all__ = [
    "DEFAULT_LIMITS",
    "AudioWanted",
    "DecodeEnd",
    "DecodedAudio",
    "DecodedFrames",
    "Decoder",
    "FramesChunk",
    "FramesWanted",
    "Limits",
    "MediaInfo",
    "SamplesChunk",
    "check_file",
    "frame_at",
    "reading_ahead",
]
